//! Open vSwitch's view of a NIC's port, read from OVSDB over its unix socket (RFC 7047).
//!
//! OVS isn't required: if nothing listens at the socket, another data plane may serve the NIC. If OVSDB answers, its
//! answer counts.
//!
//! - [`rpc`]: one JSON-RPC connection, bounded in bytes and in time
//! - [`database`]: the rows that are read, and the removal of a port
//! - [`path`]: whether two paths name the same socket
//! - [`port`]: problems of a NIC's port
//! - [`stale`]: ports of dead sandboxes
//! - [`daemon`]: whether ovs-vswitchd runs and answers

#![allow(missing_docs, reason = "a field that its name explains needs no comment")]

pub mod daemon;
pub mod database;
pub mod path;
pub mod port;
pub mod rpc;
pub mod stale;

use std::cell::OnceCell;
use std::path::Path;
use std::time::Duration;

use crate::dataplane::access;
use crate::deadline::Deadline;
use crate::quote;
use daemon::State;
use database::{Database, Interface, Snapshot};
use port::Nic;
use rpc::Error;

/// How long OVSDB may take to answer. It needs 1 ms.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Least time for a query.
const LEAST: Duration = Duration::from_millis(200);

/// The state of OVS. It is queried at most once.
#[derive(Debug)]
pub struct Ovs<'a> {
    socket: &'a Path,
    snapshot: OnceCell<Result<Snapshot, Error>>,
    vswitchd: OnceCell<State>,
}

impl<'a> Ovs<'a> {
    /// Creates it for the OVSDB at this socket.
    #[must_use]
    pub fn new(socket: &'a Path) -> Self {
        Self { socket, snapshot: OnceCell::new(), vswitchd: OnceCell::new() }
    }

    /// Returns the rows of OVSDB.
    ///
    /// # Errors
    /// Those of asking; [`Error::Absent`] if there is no OVSDB.
    pub fn snapshot(&self, deadline: Deadline) -> Result<&Snapshot, &Error> {
        let ask = || {
            let deadline = deadline.at_most(PATIENCE);
            Database::open(self.socket, deadline)?.snapshot(deadline)
        };
        self.snapshot.get_or_init(ask).as_ref()
    }

    /// Returns the state of ovs-vswitchd.
    pub fn vswitchd(&self, deadline: Deadline) -> State {
        *self.vswitchd.get_or_init(|| daemon::state(self.socket, deadline))
    }

    /// Returns what is wrong with the port of a NIC to which a data plane is connected.
    pub fn problem_of_connected(&self, nic: &Nic<'_>, deadline: Deadline) -> Option<String> {
        let problem = self.snapshot(deadline).ok()?.problem(nic)?;
        problem.concerns_a_connected_nic().then(|| problem.to_string())
    }

    /// Returns why no data plane is connected to a NIC, as far as OVS can tell. `None` if there is no OVS.
    pub fn why_not_connected(&self, nic: &Nic<'_>, deadline: Deadline) -> Option<String> {
        if deadline.remaining() < LEAST {
            // With so little time a slow answer would look like a hang.
            return None;
        }
        let database = match self.snapshot(deadline) {
            Ok(snapshot) => match (snapshot.problem(nic), snapshot.port_of(nic)) {
                (Some(problem), _) => problem.to_string(),
                (None, port) => return Some(self.with_port(port, nic, deadline)),
            },
            Err(Error::Absent) => return None,
            Err(error) => format!("OVSDB ({}): {error}", quote::value(&self.socket.to_string_lossy())),
        };
        Some(match self.vswitchd(deadline) {
            State::Answers(_) => database,
            state => format!("{state}; {database}"),
        })
    }

    /// Returns why a port with which nothing is wrong is not connected.
    fn with_port(&self, port: Option<&Interface>, nic: &Nic<'_>, deadline: Deadline) -> String {
        let name = port.map_or_else(|| "of this NIC".to_owned(), |port| quote::value(&port.name));
        let state = self.vswitchd(deadline);
        let State::Answers(pid) = state else {
            return format!("{state}; port {name} has this vhost-server-path");
        };
        if let Some(forbidden) = pid.and_then(|pid| access::forbidden(pid, nic.path)) {
            return format!("OVS cannot connect port {name}: {forbidden}");
        }
        format!(
            "port {name} of OVS has this vhost-server-path and no error, so OVS most likely does not see the path: check ls -l in \
             OVS's container, and ovs-vswitchd.log"
        )
    }
}
