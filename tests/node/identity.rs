//! Who the pod is, where the runtime does not say.

use std::path::PathBuf;

use serde_json::json;

use super::node::{Call, Node, Pod, STATE, VOLUME};

/// A cgroup of the machine with the pod's process in it, removed again.
struct Cgroup(PathBuf);

impl Cgroup {
    /// The first hierarchy that can be written: version 2's, mounted alone or beside version 1, or one of version 1.
    fn new(path: &str, pid: u32) -> Self {
        for root in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/systemd"] {
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
        panic!("no cgroup hierarchy of this machine can be written, so identity by cgroup cannot be shown here");
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

/// The seed's own kind of call: no uid, a process' namespace.
fn by_hand(pod: &Pod<'_>) -> Call {
    Call::new("ADD", "", &pod.netns()).args("K8S_POD_NAME=vm;K8S_POD_NAMESPACE=default").set("attach", json!("never"))
}

#[test]
fn the_pod_is_known_by_its_mounts() {
    let node = Node::new();
    let pod = Pod::new(&node);
    by_hand(&pod).run(&node).succeeded();
    assert!(node.is_shared(&pod.uid));
    by_hand(&pod).command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn the_pod_is_known_by_its_cgroup_with_both_drivers() {
    let node = Node::new();
    for systemd in [false, true] {
        let pod = Pod::new(&node);
        // Without the mount's word for it: the cgroup alone must do.
        assert!(pod.command("umount").arg(super::node::INSIDE).status().unwrap().success());
        let path = if systemd {
            let uid = pod.uid.replace('-', "_");
            format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/cri-containerd-1.scope")
        } else {
            format!("kubepods/burstable/pod{}/1", pod.uid)
        };
        let group = Cgroup::new(&path, pod.machine_pid());
        by_hand(&pod).run(&node).succeeded();
        assert!(node.is_shared(&pod.uid), "{path}");
        // A DEL with neither namespace nor args goes by the record.
        by_hand(&pod).command("DEL").netns("").args("").run(&node).succeeded();
        assert!(node.is_clean(&pod.uid));
        drop(pod);
        drop(group);
    }
}

#[test]
fn a_tenants_directory_that_is_named_like_another_pods_is_not_believed() {
    let node = Node::new();
    let (pod, victim) = (Pod::new(&node), Pod::new(&node));
    // In a file system of its own, as a user namespace would let it: the same path as the victim's volume.
    let fake = format!("/run/libvirt/pods/{}/volumes/kubernetes.io~empty-dir/{VOLUME}", victim.uid);
    let script = format!("umount {0} && mkdir -p {fake} && mount --bind {fake} {0}", super::node::INSIDE);
    assert!(pod.command("sh").args(["-ec", &script]).status().unwrap().success());
    by_hand(&pod).run(&node).succeeded();
    assert!(node.is_clean(&victim.uid) && node.is_clean(&pod.uid));
}

#[test]
fn a_namespace_that_nobody_lives_in_tells_no_pod() {
    let node = Node::new();
    let netns = node.make_netns("empty");
    let add = Call::new("ADD", "", &netns).args("");
    let answer = add.run(&node);
    answer.succeeded();
    assert_eq!(&answer.json, add.prev_result());
    assert!(node.holds(&format!("! test -e {STATE}")));
    assert_eq!(add.set("attach", json!("always")).run(&node).code(), 11);
}

#[test]
fn a_uid_that_is_none_is_passed_over_and_the_processes_asked() {
    let node = Node::new();
    let pod = Pod::new(&node);
    let uids = ["x", "../../etc", "..", "0b2fd2c3-1b3e-4c0a-8f5e-6a1d3f2e9c7", "0b2fd2c3/1b3e/4c0a/8f5e/6a1d3f2e9c77"];
    for uid in uids {
        let call = Call::new("ADD", uid, &pod.netns()).set("attach", json!("never"));
        let answer = call.run(&node);
        answer.succeeded();
        assert!(answer.log.contains("K8S_POD_UID in CNI_ARGS is not a pod's uid"), "{}", answer.log);
        assert!(node.is_shared(&pod.uid));
        call.command("DEL").run(&node).succeeded();
        assert!(node.is_clean(&pod.uid));
    }
}
