//! CHECK: is what ADD made still as it was? Only what is recorded can be missing.

use crate::attachment::journal::Journal;
use crate::attachment::record::{Nic, Store};
use crate::attachment::state::{AttachmentState, CheckResult, Problem};
use crate::cni::Error;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::logging;
use crate::ovs::Ovs;
use crate::privilege::Task;

use super::call::Call;
use super::host::Host;

/// Succeeds if mount, NIC, socket and data plane are as the ADD left them.
pub fn check(call: &Call<'_>, journal: &Journal) -> Result<(), Error> {
    let store = Store::new(&call.config.state_dir);
    let record = match &call.uid {
        Some(uid) => store.find(uid, call.id.container_id, call.id.ifname),
        None => store.find_anywhere(call.id.container_id, call.id.ifname),
    };
    let Some(record) = record else { return Ok(()) };
    let config = &call.config_of(Some(&record));
    logging::set_level(config.log_level);
    let deadline = Deadline::after(config.attach_timeout);
    Host::enter(journal)?.confine(Task::Talk, deadline);
    let Some(state) = AttachmentState::of(&record, &store, call.netns, &config.kubelet_dir) else {
        return Ok(());
    };
    let missing = missing(&state, record.nic.as_ref(), config, deadline)?;
    journal.checked("look");
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::check(format!("What ADD made is not as it was: {}.", missing.join("; "))))
}

/// Returns what is missing. Each begins with one of: mount, NIC, socket, data plane.
fn missing(
    state: &AttachmentState<'_>,
    nic: Option<&Nic>,
    config: &Config,
    deadline: Deadline,
) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    let mut note = |what: &str, part: CheckResult| match part {
        Ok(()) => Ok(()),
        // A part that could not be looked at is the answer only if nothing is known to be missing.
        Err(Problem::Unseen(error)) if missing.is_empty() => Err(error),
        Err(problem) => {
            missing.push(format!("{what}: {}", problem.words()));
            Ok(())
        }
    };
    note("mount", state.mount().map(drop))?;
    let (Some(nic), Ok(_)) = (nic, state.volume()) else { return Ok(missing) };
    // The NIC comes before its socket: one that is not plugged yet has no socket to miss.
    note("NIC", state.vm(nic, config, deadline).part(nic))?;
    note("socket", state.socket(nic))?;
    if state.is_alive() {
        note("data plane", state.data_plane(nic, &Ovs::new(&config.ovsdb_socket), deadline).1)?;
    }
    Ok(missing)
}
