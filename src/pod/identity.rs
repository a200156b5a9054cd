//! Identifies the pod: by the uid that the runtime passes, or from the sandbox's processes.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::LazyLock;

use super::cgroup;
use super::mounts::Mount;
use super::process::{self, Process};
use super::volume::{self, Volume};
use crate::sys;

/// A pod's uid as kubelet names its directory: a UUID, or the 32 hexadecimal digits of a static pod
/// (kubelet, pkg/kubelet/config/common.go: the hash of its manifest).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodUid(String);

impl PodUid {
    /// Parses a uid; `None` unless it has one of the two forms. So it is always one harmless path component.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hexadecimal = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let valid = match text.len() {
            32 => hexadecimal(text),
            36 => {
                let lengths = text.split('-').map(str::len);
                lengths.eq([8, 4, 4, 4, 12]) && text.split('-').all(hexadecimal)
            }
            _ => false,
        };
        valid.then(|| Self(text.to_owned()))
    }

    /// Returns the uid as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The pod could not be identified from its processes.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("the processes of this network namespace belong to several pods: {}", list(.0))]
    Ambiguous(Vec<PodUid>),
    #[error(transparent)]
    System(#[from] sys::Error),
}

fn list(uids: &[PodUid]) -> String {
    uids.iter().map(PodUid::as_str).collect::<Vec<_>>().join(", ")
}

/// Identifies the pod of a sandbox's processes: each by its cgroup, which only the runtime writes, else by its mounts,
/// for a runtime without cgroups or with unknown names. Returns `None` if neither names a pod.
///
/// # Errors
/// [`Error::Ambiguous`] if they belong to several.
pub fn of_processes(processes: &[Process], kubelet_dir: &Path, volume: &str) -> Result<Option<PodUid>, Error> {
    let mut found = BTreeSet::new();
    let mut unmarked = Vec::new();
    for process in processes {
        match of_process(process) {
            Some(uid) => drop(found.insert(uid)),
            None => unmarked.push(process),
        }
    }
    for process in process::of_each_container(unmarked) {
        let mut failed = None;
        let note = |mount: Mount| match of_mount(&mount, kubelet_dir, volume) {
            Ok(uid) => {
                found.extend(uid);
                None
            }
            Err(error) => {
                failed = Some(error);
                Some(())
            }
        };
        // Ignore a table that can't be read.
        let _ = process.find_mount(note);
        if let Some(failed) = failed {
            return Err(failed.into());
        }
    }
    only(found)
}

/// Returns the pod that a process' cgroups name.
#[must_use]
pub fn of_process(process: &Process) -> Option<PodUid> {
    static NODE: LazyLock<String> = LazyLock::new(cgroup::of_the_node);
    cgroup::pod_of(&process.cgroups().ok()?, &NODE)
}

/// Finds a pod's processes by their cgroups, for a call without a network namespace.
///
/// # Errors
/// That of listing `/proc`.
pub fn processes_of(uid: &PodUid) -> Result<Vec<Process>, sys::Error> {
    let all = process::pids()?.filter_map(|pid| Process::open(pid).ok());
    Ok(all.filter(|process| of_process(process).as_ref() == Some(uid)).collect())
}

fn only(mut uids: BTreeSet<PodUid>) -> Result<Option<PodUid>, Error> {
    if uids.len() > 1 {
        return Err(Error::Ambiguous(uids.into_iter().collect()));
    }
    Ok(uids.pop_first())
}

/// Returns the pod whose volume a mount shows. A tenant can name a directory like kubelet's, so the mount must show the
/// location of the named pod's volume on this host. A share doesn't count: a process that sees the host's or a data
/// plane's mounts sees the shares of every pod.
fn of_mount(mount: &Mount, kubelet_dir: &Path, volume: &str) -> Result<Option<PodUid>, sys::Error> {
    let named = || {
        let path = mount.root.to_str()?.strip_suffix(volume)?;
        let pod = path.strip_suffix("/volumes/kubernetes.io~empty-dir/")?;
        PodUid::parse(pod.rsplit('/').next()?)
    };
    let Some(uid) = named().filter(|uid| !is_share(&mount.point, uid, volume)) else { return Ok(None) };
    let real = match Volume::open(kubelet_dir, uid.as_str(), volume) {
        Ok(Some(real)) => real.location(),
        // It may be a pod with a share, but without openat2(2) nothing can be done for it.
        Err(volume::Error::System(error)) if error.is_without_openat2() => return Err(error),
        _ => return Ok(None),
    };
    Ok(real.is_ok_and(|real| real == mount.location()).then_some(uid))
}

/// Returns true if a mount point is named like the pod's share, whose last two components are the pod's uid and the
/// volume's name. No container has its volume at such a path.
#[must_use]
pub fn is_share(point: &Path, uid: &PodUid, volume: impl AsRef<Path>) -> bool {
    point.ends_with(Path::new(uid.as_str()).join(volume))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b2fd2c3-1b3e-4c0a-8f5e-6a1d3f2e9c77";
    const HEX: &str = "b1946ac92492d2347c6235b4d2611184";

    #[test]
    fn a_uid_is_a_uuid_or_the_hash_of_a_static_pod() {
        for good in [UID, HEX, &UID.to_uppercase()] {
            assert_eq!(PodUid::parse(good).unwrap().as_str(), good);
        }
        let long = format!("{UID}0");
        for bad in
            ["", ".", "..", "../../etc", &UID.replace('-', "/"), &UID.replace('0', "g"), &HEX.replace('b', "_"), &long]
        {
            assert_eq!(PodUid::parse(bad), None, "{bad}");
        }
    }
}
