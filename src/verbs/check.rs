//! CHECK: whether what an ADD did is still so. It goes by the record: what was never made is not missed.

use crate::cni::{Error, Request};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::pod::identity::PodUid;
use crate::pod::volume::{Entry, Volume};
use crate::record::{Nic, Record, Store};
use crate::share::Share;
use crate::vm::attach;
use crate::{quote, sys};

use super::hypervisor::Hypervisor;
use super::journal::Journal;
use super::sandbox::{self, Living};
use super::{end_soon_after, fault, prev_result};

/// Succeeds if mount, NIC, socket and data plane are as the ADD left them.
pub fn check(request: &Request, config: &Config, journal: &mut Journal) -> Result<(), Error> {
    prev_result(request)?;
    let store = Store::new(&config.state_dir);
    let record = match sandbox::named_uid(request, journal) {
        Some(uid) => store.find(&uid, &request.container_id, &request.ifname),
        None => store.find_anywhere(&request.container_id, &request.ifname),
    };
    let Some(record) = record else { return Ok(()) };
    let Some(uid) = PodUid::parse(&record.uid) else { return Ok(()) };
    sys::enter_host_mounts().map_err(|error| fault::system("entering the host's mount namespace", &error))?;
    let deadline = Deadline::after(config.attach_timeout);
    end_soon_after(deadline);
    let missing = missing(&record, request, &uid, config, deadline)?;
    journal.saw("look");
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::check(format!("What ADD made is not as it was: {}.", missing.join("; "))))
}

/// What is missing, each in words that begin with one of: mount, NIC, socket, data plane.
fn missing(
    record: &Record,
    request: &Request,
    uid: &PodUid,
    config: &Config,
    deadline: Deadline,
) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    let volume = Volume::open(&config.kubelet_dir, uid.as_str(), &record.volume);
    let Some(volume) = volume.map_err(|error| fault::volume(&error))? else {
        return Ok(vec![format!("mount: the pod's volume {} is gone", record.volume)]);
    };
    let share = Share::new(&record.socket_base_dir, uid, &record.volume);
    if !share.is_mounted(&volume).map_err(|error| fault::share(&error))? {
        missing.push(format!("mount: {} does not show the pod's volume", share.target().display()));
    }
    let Some(nic) = &record.nic else { return Ok(missing) };
    let looking = |error| fault::system("looking at the NIC's socket", &error);
    if volume.entry(&nic.socket).map_err(looking)? != Entry::Socket {
        missing.push(format!("socket: {} is not in the pod's volume", quote::value(&nic.socket)));
    }
    let Some(living) = Living::find(uid, request.netns.as_deref(), Some(&record.netns)) else {
        missing.push("NIC: no process of the pod lives, so no VM does".to_owned());
        return Ok(missing);
    };
    if let Some(what) = missing_nic(nic, uid, &living, config, deadline) {
        missing.push(what);
    }
    if living.accepted(&nic.path, None, deadline).is_empty() {
        missing.push(format!("data plane: nobody is connected to {}", quote::value(&nic.path)));
    }
    Ok(missing)
}

fn missing_nic(nic: &Nic, uid: &PodUid, living: &Living, config: &Config, deadline: Deadline) -> Option<String> {
    let mut libvirt = match Hypervisor::reach(config, uid, living, deadline) {
        Ok(libvirt) => libvirt,
        Err(unreached) => return Some(format!("NIC: {}", unreached.told())),
    };
    let client = &mut libvirt.client;
    let running = client.running_domains(deadline).unwrap_or_default();
    let there = running.iter().any(|domain| {
        let description = attach::describe(client, domain, deadline);
        let found = description.as_ref().ok().and_then(|seen| seen.find(Some(&nic.mac), &nic.path, &nic.alias));
        found.is_some_and(|found| nic.queues.is_none_or(|queues| found.queues == queues))
    });
    let queues = nic.queues.map_or(String::new(), |queues| format!(" and {queues} queue pairs"));
    let (alias, path) = (quote::value(&nic.alias), quote::value(&nic.path));
    (!there).then(|| format!("NIC: no VM of the pod has {alias} with MAC {}, socket {path}{queues}", nic.mac))
}
