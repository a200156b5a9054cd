//! Which pod it is: the uid that the runtime gives, or the one that the sandbox's processes bear.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use super::mounts::Mount;
use super::process::{self, Process};
use super::volume::{self, Volume};
use crate::sys;

/// A pod's uid as kubelet names its directory: a UUID, or the 32 hexadecimal digits of a static pod
/// (kubelet, pkg/kubelet/config/common.go: the hash of its manifest).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodUid(String);

impl PodUid {
    /// Reads a uid; `None` unless it has exactly one of the two forms. So it is always one harmless path component.
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

    /// The uid as text.
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

/// Why the pod could not be told from its processes.
#[derive(Clone, Debug)]
pub enum Error {
    /// The processes of one sandbox belong to several pods.
    Ambiguous(Vec<PodUid>),
    /// A system call failed.
    System(sys::Error),
}

impl From<sys::Error> for Error {
    fn from(error: sys::Error) -> Self {
        Self::System(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ambiguous(uids) => {
                let uids: Vec<&str> = uids.iter().map(PodUid::as_str).collect();
                write!(f, "the processes of this network namespace belong to several pods: {}", uids.join(", "))
            }
            Self::System(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {}

/// The pod that the processes of a sandbox belong to, or `None` if they bear no pod's mark: by their cgroups, which only
/// the runtime writes; else by their mounts, for a runtime that keeps no cgroups.
///
/// # Errors
/// [`Error::Ambiguous`] if they belong to several.
pub fn of_processes(processes: &[Process], kubelet_dir: &Path, volume: &str) -> Result<Option<PodUid>, Error> {
    let by_cgroup: BTreeSet<PodUid> = processes.iter().filter_map(of_process).collect();
    if !by_cgroup.is_empty() {
        return only(by_cgroup);
    }
    let mut by_mount = BTreeSet::new();
    for process in process::of_each_container(processes) {
        let mut fault = None;
        let note = |mount: Mount| match of_mount(&mount, kubelet_dir, volume) {
            Ok(uid) => {
                by_mount.extend(uid);
                None
            }
            Err(error) => {
                fault = Some(error);
                Some(())
            }
        };
        // A table that cannot be read tells nothing.
        let _ = process.find_mount(note);
        if let Some(fault) = fault {
            return Err(fault.into());
        }
    }
    only(by_mount)
}

/// The pod that a process' cgroups name.
#[must_use]
pub fn of_process(process: &Process) -> Option<PodUid> {
    of_cgroups(&process.cgroups().ok()?)
}

/// The processes of a pod, by their cgroups: for a call that comes without a network namespace.
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

/// The pod that the text of a cgroup table names: the first component of any line that does. The first: kubelet's own comes
/// before whatever a pod that may write cgroups makes below it.
#[must_use]
pub fn of_cgroups(table: &str) -> Option<PodUid> {
    table.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(|path| path.split('/').find_map(of_component))
}

/// `pod<uid>` (cgroupfs driver), or `[kubepods-[besteffort-|burstable-]]pod<uid with _>.slice` (systemd driver).
fn of_component(component: &str) -> Option<PodUid> {
    if let Some(uid) = component.strip_prefix("pod").and_then(PodUid::parse) {
        return Some(uid);
    }
    let slice = component.strip_suffix(".slice")?;
    // A slice's name tells its ancestors, joined with dashes; so the dashes of the uid are underscores.
    let uid = slice.rsplit('-').next()?.strip_prefix("pod")?;
    PodUid::parse(&uid.replace('_', "-"))
}

/// The pod whose volume a mount shows. A tenant can name a directory of a file system of its own like kubelet's, so the
/// mount must show the very location that the named pod's volume has on this host.
fn of_mount(mount: &Mount, kubelet_dir: &Path, volume: &str) -> Result<Option<PodUid>, sys::Error> {
    let named = || {
        let path = mount.root.to_str()?.strip_suffix(volume)?;
        let pod = path.strip_suffix("/volumes/kubernetes.io~empty-dir/")?;
        PodUid::parse(pod.rsplit('/').next()?)
    };
    let Some(uid) = named() else { return Ok(None) };
    let real = match Volume::open(kubelet_dir, uid.as_str(), volume) {
        Ok(Some(real)) => real.location(),
        // It may be one of ours, and nothing can be done for it here.
        Err(volume::Error::System(error)) if error.is_without_openat2() => return Err(error),
        _ => return Ok(None),
    };
    Ok(real.is_ok_and(|real| real == mount.location()).then_some(uid))
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

    #[test]
    fn both_drivers_and_both_cgroup_versions_name_the_pod() {
        let systemd = UID.replace('-', "_");
        for (uid, table) in [
            (UID, format!("0::/kubepods/burstable/pod{UID}/4f3c2b1a\n")),
            (UID, format!("0::/kubepods/pod{UID}/4f3c2b1a")),
            (UID, format!("12:pids:/\n3:memory:/kubepods/besteffort/pod{UID}/aa\n1:name=systemd:/\n0::/\n")),
            (
                UID,
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd}.slice/cri-containerd-1.scope"
                ),
            ),
            (UID, format!("0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{systemd}.slice/crio-1.scope")),
            (HEX, format!("0::/kubepods/burstable/pod{HEX}/x")),
            (HEX, format!("0::/kubepods.slice/kubepods-pod{HEX}.slice/x.scope")),
        ] {
            assert_eq!(of_cgroups(&table).unwrap().as_str(), uid, "{table}");
        }
    }

    #[test]
    fn a_cgroup_that_a_pod_made_below_its_own_is_not_believed() {
        let other = UID.replace('0', "f");
        let table = format!("0::/kubepods/pod{UID}/ctr/kubepods/pod{other}/x");
        assert_eq!(of_cgroups(&table).unwrap().as_str(), UID);
    }

    #[test]
    fn other_cgroups_name_no_pod() {
        for table in
            ["", "0::/", "0::/system.slice/podman.slice", "0::/podx/pod", "no colons", "1:a", &format!("0::/{UID}")]
        {
            assert_eq!(of_cgroups(table), None, "{table}");
        }
    }
}
