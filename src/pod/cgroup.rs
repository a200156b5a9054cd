//! The cgroup of a pod, where kubelet makes it, and the processes in it: found without a look at every process of the node.
//!
//! What is not found here may be all the same: a runtime may keep no cgroups, kubelet may have a `cgroupRoot` of its own, and
//! a libvirt that sees the host's cgroups puts its QEMUs into some outside the pod's. So nothing follows from an absence.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::identity::PodUid;
use super::process::{self, Process};
use crate::sys;

/// Where hosts have a hierarchy that holds all of a pod's processes: version 2, and of version 1 one that libvirt moves no
/// QEMU about in (util/vircgroup.h lists the others).
const ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/pids"];

/// kubelet's classes of pods; those of the class "guaranteed" have no directory of it (pkg/kubelet/cm,
/// qos_container_manager_linux.go).
const CLASSES: [&str; 3] = ["", "burstable", "besteffort"];

/// Most cgroups of a pod that are looked at: its containers may be allowed to make more.
const GROUP_LIMIT: usize = 256;

/// The processes in a pod's cgroup, in the order of their pids; as many as [`process::most`] says, of the first 256
/// cgroups. None where the pod's cgroup is not found, or is empty.
#[must_use]
pub fn processes(uid: &PodUid) -> Vec<Process> {
    let found = ROOTS.iter().flat_map(|root| directories(Path::new(root), uid)).find(|path| path.is_dir());
    let pids = found.map_or_else(BTreeSet::new, pids);
    pids.into_iter().filter_map(|pid| Process::open(pid).ok()).collect()
}

/// Where a pod's cgroup may be below the root of a hierarchy, with the cgroupfs driver and with systemd's
/// (pkg/kubelet/cm/cgroup_manager_linux.go).
fn directories(root: &Path, uid: &PodUid) -> impl Iterator<Item = PathBuf> {
    let escaped = uid.as_str().replace('-', "_");
    CLASSES.into_iter().flat_map(move |class| {
        let cgroupfs = root.join("kubepods").join(class).join(format!("pod{uid}"));
        let (slices, prefix) = match class {
            "" => (root.join("kubepods.slice"), "kubepods".to_owned()),
            _ => (root.join("kubepods.slice").join(format!("kubepods-{class}.slice")), format!("kubepods-{class}")),
        };
        [cgroupfs, slices.join(format!("{prefix}-pod{escaped}.slice"))]
    })
}

/// The processes of a cgroup and of those below it. A cgroup that has gone has none, and one of threads does not tell:
/// its processes are told above it (cgroups(7), "Thread mode").
fn pids(path: PathBuf) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let (mut groups, most) = (vec![path], process::most());
    for _ in 0..GROUP_LIMIT {
        let Some(group) = groups.pop() else { break };
        let note = |line: &[u8]| {
            let pid = std::str::from_utf8(line).ok()?.parse().ok().filter(|pid| *pid > 0)?;
            found.insert(pid);
            // The lowest are kept: those of the containers' first processes.
            if found.len() > most {
                found.pop_last();
            }
            None::<()>
        };
        let _ = sys::find_line(&group.join("cgroup.procs"), note);
        let Ok(listing) = std::fs::read_dir(&group) else { continue };
        let is_group = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        groups.extend(listing.flatten().filter(is_group).take(GROUP_LIMIT).map(|entry| entry.path()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_cgroup_is_looked_for_where_both_drivers_make_it() {
        let uid = PodUid::parse("0b2fd2c3-1b3e-4c0a-8f5e-6a1d3f2e9c77").unwrap();
        let found: Vec<_> = directories(Path::new("/c"), &uid).map(|path| path.display().to_string()).collect();
        let (uid, slice) = (uid.as_str(), uid.as_str().replace('-', "_"));
        let expected = [
            format!("/c/kubepods/pod{uid}"),
            format!("/c/kubepods.slice/kubepods-pod{slice}.slice"),
            format!("/c/kubepods/burstable/pod{uid}"),
            format!("/c/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice"),
            format!("/c/kubepods/besteffort/pod{uid}"),
            format!("/c/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_processes_of_a_cgroup_and_of_those_below_are_found_once_each() {
        let base = std::env::temp_dir().join(format!("vhu-cgroup-{}", std::process::id()));
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        for (name, text) in
            [("cgroup.procs", "7\n0\n"), ("a/cgroup.procs", "9\nx\n-3\n7\n"), ("a/b/cgroup.procs", "8\n")]
        {
            std::fs::write(base.join(name), text).unwrap();
        }
        let found = pids(base.clone());
        std::fs::remove_dir_all(&base).unwrap();
        assert_eq!(found, BTreeSet::from([7, 8, 9]));
        assert!(pids(base).is_empty());
    }

    #[test]
    fn as_many_cgroups_as_a_pod_likes_to_make_are_not_all_looked_at() {
        let base = std::env::temp_dir().join(format!("vhu-cgroups-{}", std::process::id()));
        for number in 1..=2 * GROUP_LIMIT {
            let group = base.join(number.to_string());
            std::fs::create_dir_all(&group).unwrap();
            std::fs::write(group.join("cgroup.procs"), format!("{number}\n")).unwrap();
        }
        let found = pids(base.clone());
        std::fs::remove_dir_all(base).unwrap();
        assert_eq!(found.len(), GROUP_LIMIT - 1);
    }
}
