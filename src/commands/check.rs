//! CHECK: whether what an ADD did is still so. It goes by the record: what was never made is not missed.

use crate::attachment::record::{Nic, Store};
use crate::cni::{Error, Request};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::logging;
use crate::ovs::Ovs;
use crate::privilege::{self, Task};

use super::{enter_host, start_watchdog};
use crate::attachment::journal::Journal;
use crate::attachment::sandbox;
use crate::attachment::state::{AttachmentState, CheckResult, Problem};

/// Succeeds if mount, NIC, socket and data plane are as the ADD left them.
pub fn check(request: &Request, config: &Config, journal: &mut Journal) -> Result<(), Error> {
    request.prev_result()?;
    let store = Store::new(&config.state_dir);
    let record = match sandbox::named_uid(request, journal) {
        Some(uid) => store.find(&uid, &request.container_id, &request.ifname),
        None => store.find_anywhere(&request.container_id, &request.ifname),
    };
    let Some(record) = record else { return Ok(()) };
    let config = &config.for_attachment(&request.conf, record.keys.as_ref());
    logging::set_level(config.log_level);
    enter_host(journal)?;
    privilege::confine(Task::Talk);
    let deadline = Deadline::after(config.attach_timeout);
    start_watchdog(deadline, Task::Talk);
    let Some(scene) = AttachmentState::of(&record, &store, request.netns.as_deref(), &config.kubelet_dir) else {
        return Ok(());
    };
    let missing = missing(&scene, record.nic.as_ref(), config, deadline)?;
    journal.checked("look");
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::check(format!("What ADD made is not as it was: {}.", missing.join("; "))))
}

/// What is missing, each in words that begin with one of: mount, NIC, socket, data plane.
fn missing(
    scene: &AttachmentState<'_>,
    nic: Option<&Nic>,
    config: &Config,
    deadline: Deadline,
) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    let mut judge = |what: &str, part: CheckResult| match part {
        Ok(()) => Ok(()),
        // What could not be looked at is the answer only where nothing is known to be missing.
        Err(Problem::Unseen(error)) if missing.is_empty() => Err(error),
        Err(flaw) => {
            missing.push(format!("{what}: {}", flaw.words()));
            Ok(())
        }
    };
    judge("mount", scene.mount().map(drop))?;
    let (Some(nic), Ok(_)) = (nic, scene.volume()) else { return Ok(missing) };
    // First what may be unknown: a socket that is not there yet is not missing.
    judge("NIC", scene.vm(nic, config, deadline).part(nic))?;
    judge("socket", scene.socket(nic))?;
    if scene.is_alive() {
        judge("data plane", scene.data_plane(nic, &Ovs::new(&config.ovsdb_socket), deadline).1)?;
    }
    Ok(missing)
}
