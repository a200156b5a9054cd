//! The order in which a runtime makes a pod: its sandbox' own process may live before any ADD comes, and a VM is only
//! missed once a container of the pod has had the volume.

use serde_json::json;
use support::{Answer, Call, DataPlane, Double, Node, Pod, STATE};

use super::cgroup::Cgroup;
use super::identity::started;

fn add(pod: &Pod, ifname: &str) -> Call {
    pod.add().ifname(ifname)
}

/// It was passed through: the NIC is left to later, and the share is there.
fn passed(node: &Node, pod: &Pod, call: &Call) {
    let answer = call.run(node);
    answer.succeeded();
    assert_eq!(&answer.json, call.prev_result());
    assert!(answer.log.contains("done in"), "{}", answer.log);
    assert!(node.is_shared(&pod.uid));
}

/// The VM is missed, and nothing of the failed ADD is left.
fn missed(node: &Node, pod: &Pod, call: &Call) -> Answer {
    let before = records(node, pod);
    let answer = call.run(node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert_eq!(names(&records(node, pod)), names(&before), "{answer:?}");
    answer
}

/// The pod's records: (file, whether containers are recorded to have run).
fn records(node: &Node, pod: &Pod) -> Vec<(String, bool)> {
    let list = format!("cd {STATE}/pods/{} 2>/dev/null || exit 0; grep -c '\"started\":true' * /dev/null", pod.uid);
    let list = node.sh(&format!("({list}) || true"));
    let lines = list.lines().filter(|line| !line.starts_with("/dev/null"));
    lines.map(|line| line.rsplit_once(':').unwrap()).map(|(name, count)| (name.to_owned(), count == "1")).collect()
}

fn names(records: &[(String, bool)]) -> Vec<&str> {
    records.iter().map(|(name, _)| name.as_str()).collect()
}

fn none_is_started(node: &Node, pod: &Pod) -> bool {
    records(node, pod).iter().all(|(_, started)| !started)
}

fn all_are_started(node: &Node, pod: &Pod) -> bool {
    records(node, pod).iter().all(|(_, started)| *started)
}

/// The pod's life in the order of cri-dockerd, and of containerd 1.7 with a user namespace: the sandbox' process first.
#[test]
fn a_sandbox_whose_own_process_lives_is_being_made_until_a_container_has_the_volume() {
    for marked in [false, true] {
        let node = Node::new();
        let mut sandbox = Pod::of_sandbox(&node);
        let group = |pod: &Pod, name: &str| {
            marked.then(|| Cgroup::new(&format!("kubepods/pod{}/{name}", pod.uid), pod.machine_pid()))
        };
        let pause = group(&sandbox, "pause");
        // eth0, which has a link, and two NICs of NADs, one of them demanded.
        let eth0 = add(&sandbox, "lo");
        let nics = [add(&sandbox, "net1"), add(&sandbox, "net2").set("attach", json!("always"))];
        for call in [&eth0, &nics[0], &nics[1], &nics[0]] {
            passed(&node, &sandbox, call);
        }
        assert!(records(&node, &sandbox).len() == 3 && none_is_started(&node, &sandbox));
        add(&sandbox, "net1").command("CHECK").run(&node).succeeded();

        // An init container that does not have the volume is no VM.
        let mut init = sandbox.start_container(false);
        let init_group = group(&init, "init");
        passed(&node, &sandbox, &add(&sandbox, "net3"));
        init.die();
        drop((init, init_group));
        assert!(none_is_started(&node, &sandbox));

        let mut container = sandbox.start_container(true);
        let container_group = group(&container, "vm");
        missed(&node, &sandbox, &add(&sandbox, "net4"));
        assert!(all_are_started(&node, &sandbox), "eth0's too: {:?}", records(&node, &sandbox));
        // The container restarts: nobody has the volume, and yet the VM is missed.
        container.die();
        drop((container, container_group));
        for call in [&nics[0], &nics[1], &add(&sandbox, "net4")] {
            missed(&node, &sandbox, call);
        }
        assert!(all_are_started(&node, &sandbox), "a failed ADD does not forget it");

        // The VM is there.
        let container = sandbox.start_container(true);
        let container_group = group(&container, "vm");
        let double = Double::start(&container, &json!({}));
        if let Some(group) = &container_group {
            group.add(started(double.child.id()));
        }
        let plane = DataPlane::start(&node, &container, "net1");
        nics[0].run(&node).succeeded();
        assert_eq!(double.count("attach"), 1);
        nics[0].clone().command("DEL").run(&node).succeeded();
        drop((plane, double, container, container_group));

        // A runtime whose sandboxes have no process of their own.
        sandbox.die();
        drop(pause);
        let answer = missed(&node, &sandbox, &add(&sandbox, "net4").netns(&node.make_netns("empty")));
        assert!(answer.text().contains("No process of the pod is left"), "{answer:?}");

        // The pod's next sandbox, whatever the old one's records say.
        let next = Pod::of_sandbox(&node);
        for name in ["lo", "net1"] {
            let call = Call::new("ADD", &sandbox.uid, &next.netns()).ifname(name).container("next");
            passed(&node, &sandbox, &call);
        }
        for (name, id) in [("lo", "next"), ("net1", "next")]
            .into_iter()
            .chain(["lo", "net2", "net3"].map(|name| (name, "4f3c2b1a09876543")))
        {
            let netns = if id == "next" { next.netns() } else { String::new() };
            let del = Call::new("DEL", &sandbox.uid, &netns).ifname(name).container(id);
            del.run(&node).succeeded();
        }
        assert!(node.is_clean(&sandbox.uid), "{}", node.left(&sandbox.uid));
    }
}

/// Puts the pod's process into a cgroup, with what a libvirtd of it has started.
fn with_double(container: &Pod, group: &Cgroup) -> Double {
    let double = Double::start(container, &json!({}));
    group.add(started(double.child.id()));
    double
}

/// As recorded with cri-dockerd 0.4.0 and Docker 26.1, whose driver was cgroupfs, below a kubelet of either driver. It
/// starts the sandbox first, names the namespace by its process, and does not say which pod it is. Neither CHECK nor
/// GC; one DEL, while the sandbox lives.
#[test]
fn replayed_cri_dockerds_order() {
    let node = Node::new();
    for systemd in [false, true] {
        let mut sandbox = Pod::of_sandbox(&node);
        let of_pod = match systemd {
            false => format!("kubepods/burstable/pod{}", sandbox.uid),
            true => format!(
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice",
                sandbox.uid.replace('-', "_")
            ),
        };
        println!("replayed, not run: cri-dockerd 0.4.0, {of_pod}/ID");
        let own = Cgroup::new(&format!("{of_pod}/7fe1a084"), sandbox.machine_pid());
        let args =
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=vm;K8S_POD_INFRA_CONTAINER_ID=4f3c2b1a09876543";
        let eth0 = add(&sandbox, "eth0").args(args);
        passed(&node, &sandbox, &eth0);
        let container = sandbox.start_container(true);
        let group = Cgroup::new(&format!("{of_pod}/85e41638"), container.machine_pid());
        missed(&node, &sandbox, &add(&sandbox, "net1").args(args));
        let double = with_double(&container, &group);
        let plane = DataPlane::start(&node, &container, "net1");
        add(&sandbox, "net1").args(args).run(&node).succeeded();
        assert_eq!(double.count("attach"), 1);
        add(&sandbox, "net1").args(args).command("DEL").run(&node).succeeded();
        drop((plane, double, container, group));
        eth0.command("DEL").run(&node).succeeded();
        sandbox.die();
        assert!(node.is_clean(&sandbox.uid), "{}", node.left(&sandbox.uid));
        drop((sandbox, own));
    }
}

/// As recorded with CRI-O 1.34.0, its driver cgroupfs, and no infra container (its default): the namespace is empty
/// when the ADD comes, a CHECK follows at once, conmon is in the pod's cgroup and not in its network, and nothing lives
/// there between two containers. With systemd the names of the cgroups are CRI-O's, by its source.
#[test]
fn replayed_cri_os_order() {
    let node = Node::new();
    for systemd in [false, true] {
        let uid = support::new_uid();
        node.make_volume(&uid);
        let netns = node.make_netns(&uid[24..]);
        let slice =
            format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
        let path = |name: &str| match systemd {
            false => format!("kubepods/burstable/pod{uid}/{name}"),
            true => format!("{slice}/{name}.scope"),
        };
        println!("replayed, not run: CRI-O 1.34.0, {}", path("crio-ID"));
        let eth0 = Call::new("ADD", &uid, &netns).ifname("eth0");
        let net1 = Call::new("ADD", &uid, &netns);
        for call in [&eth0, &eth0.clone().command("CHECK"), &net1, &net1.clone().command("CHECK")] {
            call.run(&node).succeeded();
        }
        assert!(node.is_shared(&uid));
        let (mut conmon, pid, _) = node.unshared(&["--uts"], "echo ready && exec sleep infinity");
        let monitor = Cgroup::new(&path("crio-conmon-760fe46b"), pid);
        net1.run(&node).succeeded();
        let mut container = Pod::in_netns(&node, &uid, &netns, true);
        let group = Cgroup::new(&path("crio-760fe46b"), container.machine_pid());
        let double = with_double(&container, &group);
        let plane = DataPlane::start(&node, &container, "net1");
        net1.run(&node).succeeded();
        assert_eq!(double.count("attach"), 1);
        net1.clone().command("DEL").run(&node).succeeded();
        drop((plane, double));
        container.die();
        let answer = missed(&node, &container, &net1);
        assert!(answer.text().contains("No process of the pod is left"), "{answer:?}");
        net1.command("DEL").run(&node).succeeded();
        support::end(&mut conmon);
        eth0.command("DEL").run(&node).succeeded();
        assert!(node.is_clean(&uid), "{}", node.left(&uid));
        drop((container, group, monitor));
    }
}

#[test]
fn a_lost_record_is_made_up_for_by_a_container_that_has_the_volume() {
    let node = Node::new();
    let sandbox = Pod::of_sandbox(&node);
    passed(&node, &sandbox, &add(&sandbox, "net1"));
    let container = sandbox.start_container(true);
    node.sh(&format!("rm -r {STATE}"));
    missed(&node, &sandbox, &add(&sandbox, "net1"));
    drop(container);
    // Nothing tells this sandbox from one that is being made.
    passed(&node, &sandbox, &add(&sandbox, "net1"));
}

#[test]
fn what_a_failed_add_has_seen_is_remembered() {
    let node = Node::new();
    let sandbox = Pod::of_sandbox(&node);
    passed(&node, &sandbox, &add(&sandbox, "net1"));
    let mut container = sandbox.start_container(true);
    missed(&node, &sandbox, &add(&sandbox, "net1"));
    container.die();
    missed(&node, &sandbox, &add(&sandbox, "net1"));
}

#[test]
fn an_earlier_versions_record_of_a_nic_says_that_containers_have_run() {
    let node = Node::new();
    let sandbox = Pod::of_sandbox(&node);
    let mut container = sandbox.start_container(true);
    let double = Double::start(&container, &json!({}));
    let plane = DataPlane::start(&node, &container, "net1");
    add(&sandbox, "net1").run(&node).succeeded();
    node.sh(&format!("sed -i 's/\"started\":true,//' {STATE}/pods/{}/*", sandbox.uid));
    assert!(none_is_started(&node, &sandbox));
    drop((plane, double));
    container.die();
    missed(&node, &sandbox, &add(&sandbox, "net2"));
    add(&sandbox, "net1").command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&sandbox.uid), "{}", node.left(&sandbox.uid));
}

/// Each NIC's ADD and DEL is seen by the others of its sandbox, in whatever order they come and go.
#[test]
fn what_one_nic_has_seen_holds_for_the_sandbox() {
    let node = Node::new();
    let sandbox = Pod::of_sandbox(&node);
    passed(&node, &sandbox, &add(&sandbox, "lo"));
    let mut container = sandbox.start_container(true);
    let double = Double::start(&container, &json!({}));
    let plane = DataPlane::start(&node, &container, "net1");
    add(&sandbox, "net1").run(&node).succeeded();
    // What net1 saw outlives net1 in eth0's record.
    add(&sandbox, "net1").command("DEL").run(&node).succeeded();
    assert_eq!(records(&node, &sandbox), [("lo@4f3c2b1a09876543.json".to_owned(), true)]);
    drop((plane, double));
    container.die();
    missed(&node, &sandbox, &add(&sandbox, "net2"));
    // And in net2's, which came later, eth0's.
    let never = add(&sandbox, "net2").set("attach", json!("never"));
    never.run(&node).succeeded();
    add(&sandbox, "lo").command("DEL").run(&node).succeeded();
    missed(&node, &sandbox, &add(&sandbox, "net3"));
}

/// A process that sees the host's mounts sees the pod's share among them, which is not the pod's having it.
#[test]
fn a_process_of_the_host_in_the_pods_network_is_no_container() {
    let node = Node::new();
    let sandbox = Pod::of_sandbox(&node);
    passed(&node, &sandbox, &add(&sandbox, "net1"));
    let script = format!("exec nsenter --net={} sh -c 'echo ready && exec sleep infinity'", sandbox.netns());
    for namespaces in [&["--uts"][..], &["--mount"]] {
        let (mut child, ..) = node.unshared(namespaces, &script);
        passed(&node, &sandbox, &add(&sandbox, "net1"));
        passed(&node, &sandbox, &add(&sandbox, "net2"));
        // Nor does it say whose sandbox it is.
        passed(&node, &sandbox, &add(&sandbox, "net2"));
        let unnamed = add(&sandbox, "net9").args("");
        unnamed.run(&node).succeeded();
        assert!(names(&records(&node, &sandbox)).iter().all(|name| !name.starts_with("net9")));
        support::end(&mut child);
    }
}

#[test]
fn a_vm_that_has_no_use_for_the_volume_is_told_so() {
    let node = Node::new();
    let sandbox = Pod::of_sandbox(&node);
    let container = sandbox.start_container(false);
    let _double = Double::start(&container, &json!({}));
    let answer = add(&sandbox, "net1").run(&node);
    assert_eq!(answer.code(), 101, "{answer:?}");
    assert!(answer.text().contains("does not mount the volume"), "{answer:?}");
    assert!(node.is_clean(&sandbox.uid));
}
