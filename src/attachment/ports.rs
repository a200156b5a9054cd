//! OVS's ports: what must be right before the VM is touched, and what dead sandboxes have left.

use std::path::Path;
use std::time::Duration;

use crate::cni::Error;
use crate::deadline::Deadline;
use crate::ovs::daemon::State;
use crate::ovs::database::{Database, Snapshot};
use crate::ovs::port::{Nic, Problem};
use crate::ovs::stale::{self, Of};
use crate::ovs::{Ovs, PATIENCE, rpc};
use crate::quote;

use super::errors::sentence;
use super::journal::Journal;

/// The pause between two looks while OVN installs a port.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// OVS's port of a NIC that an ADD plugs.
#[derive(Clone, Copy)]
pub struct Port<'a> {
    /// OVSDB's socket.
    pub socket: &'a Path,
    /// The pod's share on the host.
    pub share: &'a Path,
    pub nic: Nic<'a>,
}

impl Port<'_> {
    /// Makes sure, before the VM is touched, that nothing is wrong that waiting can't fix, and that OVN has installed
    /// the port if it manages it. Ports of dead sandboxes are removed first. No port is no error: another data plane may
    /// serve the NIC.
    pub fn ensure_ready(&self, deadline: Deadline, journal: &Journal) -> Result<(), Error> {
        let Some((mut database, snapshot)) = open(self.socket, deadline, journal) else { return Ok(()) };
        let of = Of::OtherSandboxes(self.nic.container_id);
        let removed = remove(&mut database, &snapshot, self.share, of, deadline, journal);
        let snapshot = if removed { again(&mut database, deadline, journal) } else { Some(snapshot) };
        journal.checked("OVS asked");
        let Some(snapshot) = snapshot else { return Ok(()) };
        let untouched = |trouble: &Problem| Error::try_again(format!("The VM was left as it is: {trouble}."));
        match snapshot.problem(&self.nic) {
            Some(trouble @ Problem::Several { .. }) => Err(untouched(&trouble)),
            // Made for this NIC just now, so no other data plane is meant.
            Some(
                trouble @ (Problem::WithoutDpdk { .. }
                | Problem::Server { .. }
                | Problem::Failed { .. }
                | Problem::NotMade { .. }),
            ) if snapshot.is_kube_ovns(&self.nic) => Err(untouched(&trouble)),
            Some(trouble @ Problem::NotInstalled { .. }) => {
                let trouble = self.wait_for_ovn(&mut database, trouble, deadline.half(), journal);
                trouble.map_or(Ok(()), |trouble| Err(untouched(&trouble)))
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that packets pass to a NIC to which a data plane is connected.
    pub fn ensure_passing(&self, deadline: Deadline, journal: &Journal) -> Result<(), Error> {
        let Some((mut database, snapshot)) = open(self.socket, deadline, journal) else { return Ok(()) };
        let trouble = snapshot.problem(&self.nic).filter(Problem::concerns_a_connected_nic);
        journal.checked("OVS asked");
        let trouble = match trouble {
            Some(trouble @ Problem::NotInstalled { .. }) => {
                self.wait_for_ovn(&mut database, trouble, deadline.half(), journal)
            }
            trouble => trouble,
        };
        trouble.map_or(Ok(()), |trouble| Err(Error::try_again(format!("The NIC is plugged already, but {trouble}."))))
    }

    /// Waits until OVN has installed the port, or something else is wrong with it. Returns what is wrong if that
    /// matters for a NIC to which a data plane is connected.
    fn wait_for_ovn(
        &self,
        database: &mut Database,
        mut trouble: Problem,
        deadline: Deadline,
        journal: &Journal,
    ) -> Option<Problem> {
        while !deadline.passed() {
            std::thread::sleep(LOOK_AGAIN.min(deadline.remaining()));
            // Without OVSDB there is no later answer.
            let Some(snapshot) = again(database, deadline.and(PATIENCE), journal) else { return Some(trouble) };
            match snapshot.problem(&self.nic) {
                Some(still @ Problem::NotInstalled { .. }) => trouble = still,
                Some(other @ Problem::Several { .. }) => return Some(other),
                Some(_) => return None,
                None => {
                    journal.checked("OVN has installed the port");
                    return None;
                }
            }
        }
        Some(trouble)
    }

    /// Returns the pid of the ovs-vswitchd that has a port for the NIC.
    pub fn vswitchd(&self, deadline: Deadline) -> Option<i32> {
        let ovs = Ovs::new(self.socket);
        ovs.snapshot(deadline).ok()?.port_of(&self.nic)?;
        match ovs.vswitchd(deadline) {
            State::Answers(pid) => pid,
            _ => None,
        }
    }

    /// Returns why no data plane is connected, as a sentence, if OVS can tell.
    pub fn why_not_connected(&self, deadline: Deadline) -> Option<String> {
        Ovs::new(self.socket).why_not_connected(&self.nic, deadline).map(|why| sentence(&why))
    }
}

/// Removes the ports that dead sandboxes have left in a pod's share, while that does no harm.
pub fn remove_stale(socket: &Path, share: &Path, of: Of<'_>, deadline: Deadline, journal: &Journal) {
    let Some((mut database, snapshot)) = open(socket, deadline, journal) else { return };
    remove(&mut database, &snapshot, share, of, deadline, journal);
    journal.checked("OVS asked");
}

/// Returns whether any port was removed.
fn remove(
    database: &mut Database,
    snapshot: &Snapshot,
    share: &Path,
    of: Of<'_>,
    deadline: Deadline,
    journal: &Journal,
) -> bool {
    let deadline = deadline.at_most(PATIENCE);
    let mut removed = false;
    for port in stale::stale(snapshot, share, of) {
        let name = quote::value(&port.name);
        match database.remove(port, deadline) {
            Ok(true) => {
                journal.changed(format_args!("remove the stale port {name}"));
                removed = true;
            }
            // It has changed since it was judged.
            Ok(false) => {}
            Err(error) => {
                journal.warn(format_args!(
                    "OVS's port {name} is stale and could not be removed: OVSDB: {error}. Remove it (ovs-vsctl --with-iface \
                     del-port) before the pod gets another port with this path"
                ));
                break;
            }
        }
    }
    removed
}

/// Asks OVSDB. `None` where there is no OVS, or where OVSDB doesn't run or answer, which is logged.
fn open(socket: &Path, deadline: Deadline, journal: &Journal) -> Option<(Database, Snapshot)> {
    let deadline = deadline.at_most(PATIENCE);
    let asked = Database::open(socket, deadline).and_then(|mut database| {
        let snapshot = database.snapshot(deadline)?;
        Ok((database, snapshot))
    });
    match asked {
        Ok(answer) => Some(answer),
        Err(rpc::Error::Absent) => None,
        Err(error) => {
            journal.warn(unasked(socket, &error));
            None
        }
    }
}

fn again(database: &mut Database, deadline: Deadline, journal: &Journal) -> Option<Snapshot> {
    let asked = database.snapshot(deadline.at_most(PATIENCE));
    asked
        .inspect_err(|error| journal.warn(format_args!("OVSDB could not be asked about the NIC's port again: {error}")))
        .ok()
}

fn unasked(socket: &Path, error: &rpc::Error) -> String {
    format!("OVSDB ({}) could not be asked about the NIC's port: {error}", quote::value(&socket.to_string_lossy()))
}
