//! The cgroup of a pod: the forms of its name, its path, and its processes, without reading every process of the node.
//!
//! - kubelet with the driver cgroupfs: `[<root>/]kubepods/[burstable/|besteffort/]pod<uid>` (its
//!   pkg/kubelet/cm/cgroup_manager_linux.go);
//! - with the driver systemd: `[<root>-]kubepods[-burstable|-besteffort]-pod<uid, with _ for ->.slice`, below the
//!   slices that this name implies;
//! - the runtime's cgroup for a container, below that: `<id>`, `crio-<id>`, or `cri-containerd-<id>.scope`,
//!   `docker-<id>.scope`, `crio-<id>.scope`;
//! - of containerd without systemd, when kubelet has it: `…-pod<uid>.slice:cri-containerd:<id>` as one name, below
//!   runc's own cgroup or next to it (containerd, getCgroupsPath; runc, libcontainer/specconv).
//!
//! So one path component names the pod. Other mixed pairs can't start a pod: runc and Docker with systemd refuse a
//! cgroupfs path, and CRI-O refuses both mixtures.
//!
//! A pod may run although its cgroup is not found here: the runtime may use no cgroups, kubelet may have a
//! `cgroupRoot`, the node may be a container, and a libvirt that sees the host's cgroups puts its QEMUs outside the
//! pod's cgroup. So a missing cgroup proves nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::identity::PodUid;
use super::process::{self, Process};
use crate::sys;

/// Hierarchies that hold all of a pod's processes: version 2, and for version 1 one that libvirt does not move QEMU in
/// (util/vircgroup.h lists the others).
const ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/pids"];

/// kubelet's QoS classes; "guaranteed" has no directory (pkg/kubelet/cm, qos_container_manager_linux.go).
const CLASSES: [&str; 3] = ["", "burstable", "besteffort"];

/// Most cgroups of a pod that are read. Its containers may be allowed to make more.
const GROUP_LIMIT: usize = 256;

/// Returns the pod that a process' cgroup table names. It skips the components that the node's first process has in the
/// same hierarchy: a node may run in a pod of another cluster. The first component that names a pod counts: kubelet's
/// comes before any that a pod makes below it.
#[must_use]
pub fn pod_of(table: &str, node: &str) -> Option<PodUid> {
    let hierarchies = || node.lines().filter_map(hierarchy);
    table.lines().filter_map(hierarchy).find_map(|(name, path)| {
        let of_node = hierarchies().find(|(other, _)| *other == name).map_or("", |(_, path)| path);
        let mut above = of_node.split('/');
        path.split('/').skip_while(|component| above.next() == Some(component)).find_map(pod_named)
    })
}

/// Returns the cgroup table of the node's first process.
#[must_use]
pub fn of_the_node() -> String {
    Process::open(1).and_then(|first| first.cgroups()).unwrap_or_default()
}

/// Splits a line of a cgroup table (cgroups(7)) into the hierarchy's number and controllers, and the path in it.
fn hierarchy(line: &str) -> Option<(&str, &str)> {
    let (end, _) = line.match_indices(':').nth(1)?;
    Some((&line[..end], &line[end + 1..]))
}

/// Returns the pod that a component names.
fn pod_named(component: &str) -> Option<PodUid> {
    // A runtime's addition follows a colon.
    let name = component.split(':').next()?;
    let Some(slice) = name.strip_suffix(".slice") else {
        return name.strip_prefix("pod").and_then(PodUid::parse);
    };
    // A slice's name contains its ancestors, joined with dashes, so the uid has underscores instead of dashes.
    let uid = slice.rsplit('-').next()?.strip_prefix("pod")?;
    PodUid::parse(&uid.replace('_', "-"))
}

/// Returns the processes in a pod's cgroup by pid: at most [`process::most`], of the first 256 cgroups. Empty if the
/// cgroup is not found or is empty.
#[must_use]
pub fn processes(uid: &PodUid) -> Vec<Process> {
    // An empty cgroup may be left by another driver.
    let lists = ROOTS.iter().flat_map(|root| directories(Path::new(root), uid)).map(pids);
    let pids = lists.into_iter().find(|pids| !pids.is_empty()).unwrap_or_default();
    pids.into_iter().filter_map(|pid| Process::open(pid).ok()).collect()
}

/// Returns the possible paths of a pod's cgroup below a hierarchy's root, for the drivers cgroupfs and systemd
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

/// Returns the pids of a cgroup and of those below it. A threaded cgroup can't be read: its processes are listed above
/// it (cgroups(7), "Thread mode").
fn pids(path: PathBuf) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let (mut groups, most) = (vec![path], process::most());
    for _ in 0..GROUP_LIMIT {
        let Some(group) = groups.pop() else { break };
        let note = |line: &[u8]| {
            let pid = std::str::from_utf8(line).ok()?.parse().ok().filter(|pid| *pid > 0)?;
            found.insert(pid);
            // Keep the lowest pids: those of the containers' first processes.
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

    const UID: &str = "0b2fd2c3-1b3e-4c0a-8f5e-6a1d3f2e9c77";
    const HEX: &str = "b1946ac92492d2347c6235b4d2611184";
    const ID: &str = "4f3c2b1a098765434f3c2b1a098765434f3c2b1a098765434f3c2b1a09876543";

    /// Returns the paths of a pod of each class, for a driver and a `cgroupRoot`.
    fn kubelets(uid: &str, systemd: bool, root: &[&str]) -> Vec<String> {
        let path = |class: &str| {
            let pod = format!("pod{uid}");
            let own = ["kubepods", class, &pod];
            let parts = root.iter().chain(&own).filter(|part| !part.is_empty());
            if !systemd {
                return parts.map(|part| format!("/{part}")).collect();
            }
            let (mut name, mut path) = (String::new(), String::new());
            for part in parts {
                name = format!("{name}{}{}", if name.is_empty() { "" } else { "-" }, part.replace('-', "_"));
                path += &format!("/{name}.slice");
            }
            path
        };
        CLASSES.into_iter().map(path).collect()
    }

    /// Returns the paths that runtimes make of kubelet's path.
    fn runtimes(pod: &str) -> Vec<String> {
        let name = pod.rsplit('/').next().unwrap();
        let mut all = vec![
            format!("{pod}/{ID}"),
            format!("{pod}/crio-{ID}"),
            format!("{pod}/kata_{ID}"),
            // A payload that makes cgroups: systemd, or crun's own.
            format!("{pod}/{ID}/init.scope"),
            format!("{pod}/crio-{ID}/container"),
        ];
        if name.ends_with(".slice") {
            all.extend(
                ["cri-containerd", "crio", "docker", "libpod"].map(|prefix| format!("{pod}/{prefix}-{ID}.scope")),
            );
            // Such a path is relative to the cgroup of the process that starts the container.
            for own in ["", "/system.slice", "/system.slice/containerd.service", "/docker/1f", "/init.scope"] {
                all.extend(["cri-containerd", "crio"].map(|prefix| format!("{own}/{name}:{prefix}:{ID}")));
            }
        }
        all
    }

    /// Every path that names a pod's cgroup, with the uid.
    fn forms() -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        for uid in [UID, HEX] {
            for root in [&[][..], &["kubelet"], &["k3s"], &["my-root", "below"]] {
                for systemd in [false, true] {
                    let paths = kubelets(uid, systemd, root);
                    all.extend(paths.iter().flat_map(|path| runtimes(path)).map(|path| (uid, path)));
                }
            }
        }
        all
    }

    /// Where a node may run: a machine, or a container seen from inside or outside, or seen from the cgroup namespace
    /// of a pod such as Multus.
    const NODES: [&str; 7] = [
        "",
        "/docker/9a",
        "/system.slice/docker-9a.scope",
        "/user.slice/user-1000.slice/user@1000.service/k3s.scope",
        "/../..",
        "/kubepods/burstable/pod11111111-2222-4333-8444-555555555555/9a/docker/8b",
        "/kubepods.slice/kubepods-pod11111111_2222_4333_8444_555555555555.slice/cri-containerd-9a.scope/docker/8b",
    ];

    #[test]
    fn every_form_of_a_pods_cgroup_names_the_pod_on_every_node() {
        let forms = forms();
        assert!(forms.len() > 400, "{}", forms.len());
        for (uid, path) in &forms {
            for node in NODES {
                for first in ["", "/init.scope", "/init"] {
                    let tables = |path: &str| {
                        [
                            format!("0::{path}\n"),
                            format!("12:pids:{path}\n3:memory:{path}\n1:name=systemd:{path}\n0::/\n"),
                            format!("12:misc:/\n3:pids:{path}\n0::/"),
                        ]
                    };
                    let of_node = tables(&format!("{node}{first}"));
                    for (table, of_node) in tables(&format!("{node}{path}")).iter().zip(&of_node) {
                        let found = pod_of(table, of_node);
                        assert_eq!(found.as_ref().map(PodUid::as_str), Some(*uid), "{table} on {of_node}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_cgroup_that_a_pod_made_below_its_own_is_not_believed() {
        let other = UID.replace('0', "f");
        for (uid, path) in forms() {
            for below in kubelets(&other, false, &[]).iter().chain(&kubelets(&other, true, &[])) {
                let table = format!("0::{path}{below}/x");
                assert_eq!(pod_of(&table, "0::/init.scope").unwrap().as_str(), uid, "{table}");
            }
        }
    }

    #[test]
    fn other_cgroups_name_no_pod() {
        for table in [
            "",
            "0::/",
            "0::/system.slice/podman.slice",
            "0::/podx/pod",
            "no colons",
            "1:a",
            &format!("0::/{UID}"),
            // Podman's pods, conmon, a container of no pod, the parts of a node that hold no pod.
            &format!("0::/machine.slice/machine-libpod_pod_{HEX}{HEX}.slice/libpod-{ID}.scope"),
            &format!("0::/libpod_parent/libpod-{ID}"),
            &format!("0::/system.slice/crio-conmon-{ID}.scope"),
            &format!("0::/system.slice/docker-{ID}.scope"),
            &format!("0::/k8s.io/{ID}"),
            "0::/kubepods.slice/kubepods-burstable.slice",
            "0::/system.slice/containerd.service",
        ] {
            assert_eq!(pod_of(table, "0::/init.scope\n"), None, "{table}");
        }
    }

    #[test]
    fn only_what_is_above_the_nodes_first_process_is_left_out() {
        let table = format!("0::/kubepods/pod{UID}/x\n");
        for node in ["", "0::/", "0::/init.scope\n", "0::/kubepods/burstable/y\n", "3:pids:/kubepods/pod/x\n"] {
            assert_eq!(pod_of(&table, node).unwrap().as_str(), UID, "{node}");
        }
        // As a process outside the node sees it.
        assert_eq!(pod_of(&table, &format!("0::/kubepods/pod{UID}/x/init.scope\n")), None);
        // The path in another hierarchy does not matter.
        assert_eq!(pod_of(&table, &format!("3:pids:/kubepods/pod{UID}/x\n")).unwrap().as_str(), UID);
    }

    #[test]
    fn a_pods_cgroup_is_looked_for_where_both_drivers_make_it() {
        let uid = PodUid::parse(UID).unwrap();
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
