//! Which pod a call is for, where the runtime doesn't say.

use std::path::Path;

use crate::cni::Error;
use crate::config::Config;
use crate::pod::identity::{self, PodUid};
use crate::pod::netns::Sandbox;
use crate::pod::process::Process;
use crate::pod::running::RunningPod;
use crate::pod::volume::Volume;

use super::errors;

/// Opens the network namespace of a pod.
pub fn sandbox(netns: Option<&Path>) -> Result<Sandbox, Error> {
    not_the_hosts(Sandbox::open(netns.unwrap_or(Path::new(""))).map_err(|error| errors::netns(&error))?)
}

fn not_the_hosts(sandbox: Sandbox) -> Result<Sandbox, Error> {
    if sandbox.is_hosts() { Err(errors::netns_of_host()) } else { Ok(sandbox) }
}

/// Identifies the pod from the processes in its network namespace: for calls by hand, and for runtimes that don't set
/// K8S_POD_UID.
pub fn by_netns(netns: Option<&Path>, config: &Config) -> Result<Option<PodUid>, Error> {
    by_sandbox(&sandbox(netns)?, config)
}

fn by_sandbox(sandbox: &Sandbox, config: &Config) -> Result<Option<PodUid>, Error> {
    let processes = sandbox.processes().map_err(|error| errors::netns(&error))?;
    identity::of_processes(&processes, &config.kubelet_dir, &config.volume_name)
        .map_err(|error| errors::identity(&error))
}

/// Identifies the pod of a process. Returns it with what runs of it.
pub fn by_pid(pid: i32, config: &Config) -> Result<(PodUid, RunningPod), Error> {
    let process = Process::open(pid).map_err(|error| errors::system("looking at the process", &error))?;
    let sandbox = not_the_hosts(Sandbox::of(&process).map_err(|error| errors::netns(&error))?)?;
    let uid = by_sandbox(&sandbox, config)?.ok_or_else(|| {
        Error::invalid_environment(
            "Cannot identify the pod: no process in this network namespace has a pod's cgroup, or mounts the pod's volume.",
        )
    })?;
    let running = RunningPod::of(&uid, sandbox).map_err(|error| errors::system("listing processes", &error))?;
    let running = running.ok_or_else(|| Error::try_again("The pod's processes have ended."))?;
    Ok((uid, running))
}

/// Opens the pod's volume, if it has one.
pub fn volume(config: &Config, uid: &PodUid) -> Result<Option<Volume>, Error> {
    Volume::open(&config.kubelet_dir, uid.as_str(), &config.volume_name).map_err(|error| errors::volume(&error))
}
