//! Checks that ovs-vswitchd runs and its main loop answers, through its control socket (`ovs-appctl version`, unixctl).

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::rpc::{Connection, Error};
use crate::deadline::Deadline;

/// How long the main loop may take to answer. It may block for a second when it registers a port anew.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most control sockets that are tried. A killed process leaves its own behind.
const SOCKETS_MAX: usize = 16;
/// Most entries of OVS's directory that are read.
const ENTRIES_MAX: usize = 4096;

/// The state of ovs-vswitchd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It answers. Has its pid, if known.
    Answers(Option<i32>),
    /// It has a control socket and doesn't answer. Has its pid, if known.
    Hangs(Option<i32>),
    /// No process listens at a control socket.
    Gone,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers(Some(pid)) => write!(f, "ovs-vswitchd (process {pid}) runs and answers"),
            Self::Answers(None) => f.write_str("ovs-vswitchd runs and answers"),
            Self::Hangs(Some(pid)) => {
                write!(f, "OVS's daemon ovs-vswitchd (process {pid}) does not answer: it hangs or is stopped")
            }
            Self::Hangs(None) => f.write_str("OVS's daemon ovs-vswitchd does not answer: it hangs or is stopped"),
            Self::Gone => f.write_str("OVS's daemon ovs-vswitchd does not run"),
        }
    }
}

/// Asks the ovs-vswitchd whose control socket is in the directory of OVSDB's socket.
#[must_use]
pub fn state(database: &Path, deadline: Deadline) -> State {
    let sockets = database.parent().map(control_sockets).unwrap_or_default();
    let deadline = deadline.at_most(PATIENCE);
    let mut state = State::Gone;
    for socket in sockets {
        match Connection::open(&socket, deadline) {
            Ok(mut connection) => match connection.call("version", &json!([]), deadline) {
                Ok(_) => return State::Answers(connection.pid()),
                Err(Error::Closed) => {}
                Err(_) => state = State::Hangs(connection.pid()),
            },
            Err(Error::Silent) => state = State::Hangs(None),
            Err(_) => {}
        }
    }
    state
}

/// Returns the control sockets in a directory: `ovs-vswitchd.PID.ctl`; Debian's DPDK build is named
/// `ovs-vswitchd-dpdk`.
fn control_sockets(directory: &Path) -> Vec<PathBuf> {
    let Ok(listing) = std::fs::read_dir(directory) else { return Vec::new() };
    let is_control_socket = |name: &str| {
        let middle = name.strip_prefix("ovs-vswitchd").and_then(|rest| rest.strip_suffix(".ctl"));
        middle.and_then(|middle| middle.rsplit_once('.')).is_some_and(|(_, pid)| pid.parse::<u32>().is_ok())
    };
    let names = listing.take(ENTRIES_MAX).flatten().map(|entry| entry.file_name());
    let found = names.filter(|name| name.to_str().is_some_and(is_control_socket));
    found.take(SOCKETS_MAX).map(|name| directory.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_daemon_is_judged_by_its_control_socket() {
        let base = std::env::temp_dir().join(format!("vhu-ovs-ctl-{}", std::process::id()));
        std::fs::create_dir_all(&base).unwrap();
        let database = base.join("db.sock");
        let state = || state(&database, Deadline::after(Duration::from_millis(50)));
        assert_eq!(state(), State::Gone);
        // As a killed process leaves it.
        drop(UnixListener::bind(base.join("ovs-vswitchd.77.ctl")).unwrap());
        drop(UnixListener::bind(base.join("ovsdb-server.78.ctl")).unwrap());
        assert_eq!(state(), State::Gone);
        let _listener = UnixListener::bind(base.join("ovs-vswitchd-dpdk.79.ctl")).unwrap();
        assert!(matches!(state(), State::Hangs(_)), "{:?}", state());
        std::fs::remove_dir_all(base).unwrap();
    }
}
