//! The pod of a call: who it is, and what of it lives.

use std::path::Path;

use crate::cni::{Error, Request};
use crate::config::Config;
use crate::pod::identity::{self, PodUid};
use crate::pod::netns::Sandbox;
use crate::pod::process::Process;
use crate::pod::running::RunningPod;
use crate::pod::volume::Volume;

use super::errors;
use super::journal::Journal;

/// The uid that the runtime gives in CNI_ARGS, if it gives one. What is not of kubelet's form names no directory of
/// kubelet's; a slip shows in the log, and the processes of CNI_NETNS may tell the pod all the same.
pub fn named_uid(request: &Request, journal: &Journal) -> Option<PodUid> {
    let text = request.args.get("K8S_POD_UID")?;
    let uid = PodUid::parse(text);
    if uid.is_none() {
        journal.warn("K8S_POD_UID in CNI_ARGS is not a pod's uid, neither a UUID nor 32 hexadecimal digits: ignored");
    }
    uid
}

/// The uid by the processes of CNI_NETNS: for calls by hand, and of runtimes that do not name it.
///
/// # Errors
/// That the namespace cannot be looked at, is the host's, or belongs to several pods.
pub fn uid_by_processes(netns: &Path, config: &Config) -> Result<Option<PodUid>, Error> {
    let sandbox = Sandbox::open(netns).map_err(|error| errors::netns(&error))?;
    if sandbox.is_hosts() {
        return Err(errors::netns_of_host());
    }
    let processes = sandbox.processes().map_err(|error| errors::netns(&error))?;
    identity::of_processes(&processes, &config.kubelet_dir, &config.volume_name)
        .map_err(|error| errors::identity(&error))
}

/// The pod that a process belongs to, and what lives of it.
///
/// # Errors
/// That the process has ended, belongs to no pod, or to one that cannot be told.
pub fn of_pid(pid: i32, config: &Config) -> Result<(PodUid, RunningPod), Error> {
    let process = Process::open(pid).map_err(|error| errors::system("looking at the process", &error))?;
    let sandbox = Sandbox::of(&process).map_err(|error| errors::netns(&error))?;
    if sandbox.is_hosts() {
        return Err(errors::netns_of_host());
    }
    let processes = sandbox.processes().map_err(|error| errors::netns(&error))?;
    let uid = identity::of_processes(&processes, &config.kubelet_dir, &config.volume_name);
    let uid = uid.map_err(|error| errors::identity(&error))?.ok_or_else(|| {
        Error::invalid_environment("Cannot identify the pod: no process in this network namespace has a pod's cgroup, or mounts the pod's volume.")
    })?;
    let running = RunningPod::of(&uid, sandbox).map_err(|error| errors::system("listing processes", &error))?;
    let running = running.ok_or_else(|| Error::try_again("The pod's processes have ended."))?;
    Ok((uid, running))
}

/// The pod's volume, if it has it.
///
/// # Errors
/// That it is not what it must be.
pub fn volume(config: &Config, uid: &PodUid) -> Result<Option<Volume>, Error> {
    Volume::open(&config.kubelet_dir, uid.as_str(), &config.volume_name).map_err(|error| errors::volume(&error))
}

/// Returns whether a process of the pod listens on the unix socket that it bound to this path, or to one that may be the same.
///
/// # Errors
/// That of listing the pod's sockets.
pub fn listens(running: &RunningPod, path: &str) -> Result<bool, Error> {
    running.listens(path).map_err(|error| errors::system("listing the pod's unix sockets", &error))
}
