//! Who the pod is, where the runtime does not say.

use serde_json::json;
use support::{Call, DataPlane, Double, Node, Pod, STATE, VOLUME};

use super::cgroup::{Cgroup, hierarchies};

/// The program that a chain of starters has started in the end.
pub fn started(by: u32) -> u32 {
    support::signals::program(by)
}

/// The seed's own kind of call: no uid, a process' namespace.
fn by_hand(pod: &Pod) -> Call {
    Call::new("ADD", "", &pod.netns()).args("K8S_POD_NAME=vm;K8S_POD_NAMESPACE=default").set("attach", json!("never"))
}

#[test]
fn the_pod_is_known_by_its_mounts() {
    let (node, pod) = Node::with_pod();
    by_hand(&pod).run(&node).succeeded();
    assert!(node.is_shared(&pod.uid));
    by_hand(&pod).command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

/// The cgroups that a pod's container gets from kubelet's and a runtime's drivers: the pod's form, and the container's.
/// Replayed: of these pairs the lab runs containerd with cgroupfs for real. `src/pod/cgroup.rs` names their sources.
fn cgroups(uid: &str) -> Vec<(&'static str, String)> {
    let id = "4f3c2b1a098765434f3c2b1a098765434f3c2b1a098765434f3c2b1a09876543";
    let slice = uid.replace('-', "_");
    let pod = format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice");
    let nested = "kubelet.slice/kubelet-kubepods.slice";
    vec![
        ("cgroupfs, containerd and Docker", format!("kubepods/burstable/pod{uid}/{id}")),
        ("cgroupfs, CRI-O", format!("kubepods/besteffort/pod{uid}/crio-{id}")),
        ("cgroupfs, guaranteed", format!("kubepods/pod{uid}/{id}")),
        ("cgroupfs, kind's cgroupRoot", format!("kubelet/kubepods/besteffort/pod{uid}/{id}")),
        ("cgroupfs, a node in a container", format!("docker/9a/k3s/kubepods/burstable/pod{uid}/{id}")),
        ("systemd, containerd", format!("{pod}/cri-containerd-{id}.scope")),
        ("systemd, CRI-O", format!("{pod}/crio-{id}.scope")),
        ("systemd, CRI-O with crun", format!("{pod}/crio-{id}.scope/container")),
        ("systemd, Docker", format!("{pod}/docker-{id}.scope")),
        ("systemd, guaranteed", format!("kubepods.slice/kubepods-pod{slice}.slice/cri-containerd-{id}.scope")),
        (
            "systemd, kind's cgroupRoot",
            format!("{nested}/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{slice}.slice/x.scope"),
        ),
        ("systemd, a node in a container", format!("system.slice/docker-9a.scope/{pod}/cri-containerd-{id}.scope")),
        // kubelet has systemd, the runtime has not.
        ("mixed, Docker", format!("{pod}/{id}")),
        (
            "mixed, containerd, version 1",
            format!("system.slice/containerd.service/kubepods-pod{slice}.slice:cri-containerd:{id}"),
        ),
        (
            "mixed, containerd, version 2",
            format!("system.slice/kubepods-burstable-pod{slice}.slice:cri-containerd:{id}"),
        ),
        ("mixed, containerd by hand", format!("kubepods-besteffort-pod{slice}.slice:cri-containerd:{id}")),
        ("mixed, a node in a container", format!("docker/9a/kubelet-kubepods-pod{slice}.slice:cri-containerd:{id}")),
    ]
}

#[test]
fn the_pod_is_known_by_its_cgroup_whatever_the_drivers() {
    let node = Node::new();
    let each = hierarchies().into_iter().flat_map(|root| (0..cgroups("").len()).map(move |at| (root, at)));
    for (root, at) in each {
        let mut pod = Pod::new(&node);
        let (what, path) = cgroups(&pod.uid).swap_remove(at);
        println!("replayed, not run: {what}: {path} in {root}");
        // Without the mount's word for it: the cgroup alone must do.
        assert!(pod.command("umount").arg(support::INSIDE).status().unwrap().success());
        let group = Cgroup::below(&[root], &path, pod.machine_pid());
        by_hand(&pod).run(&node).succeeded();
        assert!(node.is_shared(&pod.uid), "{what}: {path}");
        // A DEL with neither namespace nor args goes by the record.
        by_hand(&pod).command("DEL").netns("").args("").run(&node).succeeded();
        assert!(node.is_clean(&pod.uid));
        pod.die();
        drop((pod, group));
    }
}

#[test]
fn a_vm_gets_its_nic_in_each_form_of_cgroup() {
    let node = Node::new();
    for at in 0..cgroups("").len() {
        let pod = Pod::new(&node);
        let (what, path) = cgroups(&pod.uid).swap_remove(at);
        println!("replayed, not run: {what}: {path}");
        let group = Cgroup::new(&path, pod.machine_pid());
        let plane = DataPlane::start(&node, &pod, "net1");
        let double = Double::start(&pod, &json!({}));
        group.add(started(double.child.id()));
        by_hand(&pod).set("attach", json!("auto")).run(&node).succeeded();
        assert_eq!(double.count("attach"), 1, "{what}: {path}");
        // By the records, in which the namespace stands, and then by the processes alone.
        by_hand(&pod).command("DEL").netns("").args("").run(&node).succeeded();
        assert_eq!(double.count("detach-alias"), 1, "{what}: {path}");
        assert!(node.is_clean(&pod.uid));
        drop((plane, double, pod, group));
    }
}

#[test]
fn a_cgroup_that_a_pod_makes_below_its_own_is_not_believed() {
    let node = Node::new();
    let victim = Pod::new(&node);
    for (at, same_form) in (0..cgroups("").len()).flat_map(|at| [(at, true), (at, false)]) {
        let (pod, below) = (Pod::new(&node), cgroups(&victim.uid).swap_remove(at).1);
        let own = cgroups(&pod.uid).swap_remove(if same_form { at } else { 0 }).1;
        let group = Cgroup::new(&format!("{own}/{below}"), pod.machine_pid());
        by_hand(&pod).run(&node).succeeded();
        assert!(node.is_shared(&pod.uid) && node.is_clean(&victim.uid), "{own}/{below}");
        by_hand(&pod).command("DEL").run(&node).succeeded();
        drop((pod, group));
    }
}

/// A node in a pod of another cluster, whose cgroups it sees above its own.
#[test]
fn a_node_in_another_clusters_pod_is_not_taken_for_that() {
    let node = Node::new();
    let above = "kubepods/burstable/pod11111111-2222-4333-8444-555555555555/9a/docker/8b";
    let first = Cgroup::new(&format!("{above}/init.scope"), node.machine_pid().parse().unwrap());
    let pod = Pod::new(&node);
    let plane = DataPlane::start(&node, &pod, "net1");
    let group = Cgroup::new(&format!("{above}/kubelet/kubepods/pod{}/1", pod.uid), pod.machine_pid());
    let double = Double::start(&pod, &json!({}));
    group.add(started(double.child.id()));
    by_hand(&pod).set("attach", json!("auto")).run(&node).succeeded();
    assert_eq!(double.count("attach"), 1);
    by_hand(&pod).command("DEL").netns("").args("").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
    drop((plane, double, pod, group));
    drop(node);
    drop(first);
}

#[test]
fn a_form_of_cgroup_that_nobody_knows_is_made_up_for_by_the_mount() {
    let (node, pod) = Node::with_pod();
    let group = Cgroup::new(&format!("units/of-{}/1", &pod.uid[..8]), pod.machine_pid());
    by_hand(&pod).run(&node).succeeded();
    assert!(node.is_shared(&pod.uid));
    by_hand(&pod).command("DEL").run(&node).succeeded();
    // Another pod's process in this network, as a debugger's: neither is passed over in silence.
    let mut guest = pod.start_container(false);
    let other = Cgroup::new("kubepods/pod11111111-2222-4333-8444-555555555556/1", guest.machine_pid());
    let answer = by_hand(&pod).run(&node);
    assert_eq!(answer.code(), 4, "{answer:?}");
    assert!(answer.text().contains("several pods"), "{answer:?}");
    guest.die();
    drop((guest, other, pod, group));
}

#[test]
fn a_tenants_directory_that_is_named_like_another_pods_is_not_believed() {
    let node = Node::new();
    let (pod, victim) = (Pod::new(&node), Pod::new(&node));
    // In a file system of its own, as a user namespace would let it: the same path as the victim's volume.
    let fake = format!("/run/libvirt/pods/{}/volumes/kubernetes.io~empty-dir/{VOLUME}", victim.uid);
    let script = format!("umount {0} && mkdir -p {fake} && mount --bind {fake} {0}", support::INSIDE);
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
    let (node, pod) = Node::with_pod();
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

#[test]
fn a_daemon_that_is_in_none_of_the_pods_cgroups_is_not_the_pods() {
    let (node, pod, _plane) = Node::with_plane();
    let group = Cgroup::new(&format!("kubepods/pod{}/1", pod.uid), pod.machine_pid());
    // In the pod's namespaces, but as if the host's root had started it there.
    let double = Double::start(&pod, &json!({}));
    let add = pod.add();
    let answer = add.run(&node);
    assert_eq!(answer.code(), 103, "{answer:?}");
    assert!(answer.text().contains("in none of the pod's cgroups"), "{answer:?}");
    assert!(double.calls().iter().all(|(call, _)| call == "connect") && node.is_clean(&pod.uid));

    let other = Cgroup::new("kubepods/pod11111111-2222-4333-8444-555555555555/1", started(double.child.id()));
    let answer = add.run(&node);
    assert_eq!(answer.code(), 103, "{answer:?}");
    assert!(answer.text().contains("another pod"), "{answer:?}");

    group.add(started(double.child.id()));
    drop(other);
    add.run(&node).succeeded();
    add.command("DEL").run(&node).succeeded();
    drop((double, pod));
}

#[test]
fn a_daemon_whose_pid_may_be_anothers_by_now_is_not_spoken_to() {
    let (node, pod, double, _plane) = Node::with_vm();
    let add = |errno: &str| {
        // The second question about the peer, for its pidfd, of a kernel that has none for a process that has ended.
        let fault = format!("inject=getsockopt:error={errno}:when=2");
        let words = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=getsockopt", "-e", &fault];
        pod.add().through(&words).run(&node)
    };
    for errno in ["EINVAL", "ESRCH"] {
        let answer = add(errno);
        assert_eq!(answer.code(), 11, "{answer:?}");
        assert!(answer.text().contains("has ended"), "{answer:?}");
    }
    assert!(double.calls().iter().all(|(call, _)| call == "connect"));
    // Before Linux 6.5 there is no such question.
    add("ENOPROTOOPT").succeeded();
}

/// Where kubelet makes its pods' cgroups: as it comes, and with a `cgroupRoot` that nobody knows, so that every process
/// of the node is asked.
const CGROUP_ROOTS: [&str; 2] = ["kubepods", "customs/kubepods"];

#[test]
fn a_recorded_path_that_names_another_namespace_by_now_is_not_believed() {
    for root in CGROUP_ROOTS {
        a_recorded_path_names_another_namespace_by_now(root);
    }
}

fn a_recorded_path_names_another_namespace_by_now(root: &str) {
    let (node, pod, _plane) = Node::with_plane();
    let group = Cgroup::new(&format!("{root}/pod{}/1", pod.uid), pod.machine_pid());
    let double = Double::start(&pod, &json!({}));
    group.add(started(double.child.id()));
    node.sh(&format!("ip netns attach sandbox {}", pod.pid));
    let add = Call::new("ADD", &pod.uid, "/run/netns/sandbox");
    add.run(&node).succeeded();
    // The same name, as a pid comes again: of somebody who bears no pod's mark.
    let other = Pod::new(&node);
    node.sh(&format!("ip netns delete sandbox && ip netns attach sandbox {}", other.pid));
    add.command("DEL").netns("").without("prevResult").run(&node).succeeded();
    assert_eq!(double.count("detach-alias"), 1);
    assert!(node.is_clean(&pod.uid));
    drop((double, pod));
}

#[test]
fn a_late_del_of_an_old_sandbox_takes_no_nic_of_the_new_one_though_the_records_are_lost() {
    for root in CGROUP_ROOTS {
        a_late_del_of_an_old_sandbox_without_records(root);
    }
}

fn a_late_del_of_an_old_sandbox_without_records(root: &str) {
    let (node, pod, _plane) = Node::with_plane();
    let group = Cgroup::new(&format!("{root}/pod{}/1", pod.uid), pod.machine_pid());
    let double = Double::start(&pod, &json!({}));
    group.add(started(double.child.id()));
    let add = pod.add().container("new");
    add.run(&node).succeeded();
    node.sh(&format!("rm -r {STATE}"));
    // The namespace that it names has gone with its sandbox, and the pod's cgroups lead to the new one.
    let old = add.clone().command("DEL").container("old").netns("/run/netns/old");
    old.run(&node).succeeded();
    assert_eq!(double.count("detach-alias"), 0);
    assert!(node.is_shared(&pod.uid));
    add.command("DEL").run(&node).succeeded();
    assert_eq!(double.count("detach-alias"), 1);
    assert!(node.is_clean(&pod.uid));
    drop((double, pod));
}
