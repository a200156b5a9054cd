//! The pod's cgroup, where kubelet makes it: its processes without a look at everybody's.

use std::path::PathBuf;

use serde_json::json;
use support::{Call, DataPlane, Double, Node, Pod};

use super::identity::started;

/// A cgroup of the machine with the pod's process in it, removed again.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// In the first hierarchy that can be written: one of those that the plugin knows, version 1's and version 2's, or another.
    pub fn new(path: &str, pid: u32) -> Self {
        Self::below(
            &["/sys/fs/cgroup/pids", "/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"],
            path,
            pid,
        )
    }

    /// The same below the first of these roots that can be written.
    pub fn below(roots: &[&str], path: &str, pid: u32) -> Self {
        for root in roots {
            let directory = PathBuf::from(root).join(path);
            if !PathBuf::from(root).join("cgroup.procs").exists() {
                continue;
            }
            let group = Self(directory);
            if std::fs::create_dir_all(&group.0).is_ok()
                && std::fs::write(group.0.join("cgroup.procs"), pid.to_string()).is_ok()
            {
                return group;
            }
        }
        panic!("no cgroup hierarchy of this machine can be written, so nothing by cgroup can be shown here");
    }

    /// Moves a process here, with what it has started: libvirtd with its QEMU.
    pub fn add(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().for_each(|child| self.add(child.parse().unwrap()));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The process may still be dying; and no parent goes that holds another test's.
        for _ in 0..200 {
            if std::fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let mut parent = self.0.as_path();
        while let Some(up) = parent.parent() {
            if up.ends_with("cgroup") || std::fs::remove_dir(up).is_err() {
                break;
            }
            parent = up;
        }
    }
}

/// The hierarchies of this machine by which the plugin knows pods: one of version 1, and version 2's.
pub fn hierarchies() -> Vec<&'static str> {
    let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    roots.into_iter().filter(|root| PathBuf::from(root).join("cgroup.procs").exists()).collect()
}

/// The processes whose network namespace a call asks for by name, `/proc/<pid>/ns/net`, as it does for every process of the
/// node where it goes through them.
fn looked_at(call: &Call, node: &Node) -> usize {
    let trace = std::env::temp_dir().join(format!("vhu-cgroup-trace-{}", support::new_uid()));
    let words = ["strace", "-f", "-qq", "-o", trace.to_str().unwrap(), "-e", "trace=readlink,readlinkat"];
    call.clone().through(&words).run(node).succeeded();
    let seen = std::fs::read_to_string(&trace).unwrap();
    std::fs::remove_file(trace).unwrap();
    seen.lines().filter(|line| line.contains("/ns/net")).count()
}

#[test]
fn the_nodes_processes_are_left_alone_where_the_pods_cgroup_tells_its_own() {
    let node = Node::new();
    for root in hierarchies() {
        if root.ends_with("unified") {
            // Version 2 alone, as a node has it today.
            node.sh(&format!("mount --bind {root} /sys/fs/cgroup"));
        }
        for systemd in [false, true] {
            let pod = Pod::new(&node);
            let _plane = DataPlane::start(&node, &pod, "net1");
            let path = if systemd {
                let uid = pod.uid.replace('-', "_");
                format!("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice/crio-1.scope")
            } else {
                format!("kubepods/pod{}/1", pod.uid)
            };
            let group = Cgroup::below(&[root], &path, pod.machine_pid());
            let double = Double::start(&pod, &json!({}));
            group.add(started(double.child.id()));
            let add = pod.add();
            for call in [&add, &add.clone().command("CHECK"), &add.clone().command("DEL")] {
                assert_eq!(looked_at(call, &node), 0, "{root}/{path}");
            }
            assert!(node.is_clean(&pod.uid));
            assert_eq!((double.count("attach"), double.count("detach-alias")), (1, 1));
            drop((double, pod, group));
        }
    }
    let pod = Pod::new(&node);
    let _plane = DataPlane::start(&node, &pod, "net1");
    let _double = Double::start(&pod, &json!({}));
    let add = pod.add();
    assert!(looked_at(&add, &node) >= 2, "without a cgroup of its own every process is looked at");
}
