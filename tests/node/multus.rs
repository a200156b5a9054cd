//! Calls as thick Multus makes them, for kubelet and for the dynamic networks controller: the arguments, the order, the
//! repeats and the roll-backs of multus-cni 4.3 (`pkg/server`, `pkg/multus`, `pkg/types/conf.go`) and of
//! multus-dynamic-networks-controller (`pkg/controller/pod.go`), in a mount namespace as their DaemonSets make it.

use std::process::{Child, Stdio};

use serde_json::{Value, json};
use support::{Answer, Call, DataPlane, Double, Node, Pod, STATE, new_uid};

/// A sandbox' id.
const SANDBOX: &str = "b20edfb1fa2fe8a6db48285df52eaf419e2ce2ba45f73442adcf114a75d6ec2e";

/// Multus' pod on the node: host's network and pids, a mount namespace that receives what the host mounts
/// (HostToContainer) and gives nothing back, the host's root below another name; it lives longer than any pod.
struct Multus<'a> {
    node: &'a Node,
    child: Child,
    pid: String,
}

impl<'a> Multus<'a> {
    fn new(node: &'a Node) -> Self {
        let script = "mkdir -p /run/multus/hostroot && mount --rbind / /run/multus/hostroot && \
                      echo ready && exec sleep infinity";
        let (child, _, pid) = node.unshared(&["--mount", "--propagation", "slave"], script);
        Self { node, child, pid: pid.to_string() }
    }

    /// A call for this interface of a pod, with these further CNI_ARGS: what libcni hands to the chroot'ed plugin.
    fn call(&self, command: &'static str, ifname: &str, uid: &str, netns: &str, more: &str) -> Call {
        let args = format!(
            "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=vm;K8S_POD_INFRA_CONTAINER_ID=;K8S_POD_UID={uid}{more}"
        );
        let chroot = ["nsenter", "--mount", "--target", &self.pid, "--", "chroot", "/run/multus/hostroot"];
        let call = Call::new(command, uid, netns).container(SANDBOX).ifname(ifname).args(&args).through(&chroot);
        call.set("name", json!("dpdk1"))
    }

    /// `/delegate`, as the dynamic networks controller asks for it. The NIC's own wishes are sent with ADD only.
    fn delegate(&self, command: &'static str, ifname: &str, pod: &Pod) -> Call {
        self.call(command, ifname, &pod.uid, &pod.netns(), "").mac(&mac(ifname))
    }

    /// An ADD of the controller's, which undoes it when it fails, as it does.
    fn add_or_roll_back(&self, ifname: &str, pod: &Pod) -> Answer {
        let answer = self.delegate("ADD", ifname, pod).run(self.node);
        if !answer.ok {
            // Nothing was cached of an ADD that failed, so no prevResult is sent.
            self.delegate("DEL", ifname, pod).without("prevResult").run(self.node).succeeded();
        }
        answer
    }
}

impl Drop for Multus<'_> {
    fn drop(&mut self) {
        let _ = self.node.command("kill").args(["-9", &self.pid]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

/// The address that kube-ovn gives an interface here: net1's, net2's...
fn mac(ifname: &str) -> String {
    format!("00:00:00:24:65:f{}", &ifname[ifname.len() - 1..])
}

/// The XML of the double's nth attach.
fn attached(double: &Double, nth: usize) -> String {
    let calls: Vec<_> = double.calls().into_iter().filter(|(call, _)| call == "attach").collect();
    calls[nth].1["device"].as_str().unwrap().to_owned()
}

#[test]
fn a_nic_by_annotation_comes_and_goes_and_every_call_may_come_again() {
    let node = Node::new();
    let multus = Multus::new(&node);
    let pod = Pod::new(&node);
    let _plane = DataPlane::start(&node, &pod, "net1");
    let double = Double::start(&pod, &json!({}));

    let add = multus.delegate("ADD", "net1", &pod);
    let answer = add.run(&node);
    answer.succeeded();
    assert_eq!(&answer.json, add.prev_result());
    assert!(node.is_shared(&pod.uid), "made from Multus' mount namespace, seen in the host's");
    // The pod's status could not be written, so the controller finds the NIC missing and asks again.
    add.run(&node).succeeded();
    assert_eq!(double.count("attach"), 1);
    multus.delegate("CHECK", "net1", &pod).run(&node).succeeded();

    multus.delegate("DEL", "net1", &pod).run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "{}", node.left(&pod.uid));
    // At the pod's end Multus replays what it cached at the pod's start: NICs unplugged since among it.
    multus.delegate("DEL", "net1", &pod).without("prevResult").netns("").run(&node).succeeded();
    assert_eq!(double.count("detach-alias"), 1);
}

#[test]
fn an_add_that_fails_is_rolled_back_and_tried_again_until_it_works() {
    let node = Node::new();
    let multus = Multus::new(&node);
    let pod = Pod::new(&node);
    for _ in 0..3 {
        // The VM has not started.
        assert_eq!(multus.add_or_roll_back("net1", &pod).code(), 11);
        assert!(node.is_clean(&pod.uid), "{}", node.left(&pod.uid));
    }
    let double = Double::start(&pod, &json!({}));
    // OVS has not.
    let answer = multus.delegate("ADD", "net1", &pod).set("attach_timeout", json!(3)).run(&node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    multus.delegate("DEL", "net1", &pod).without("prevResult").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "{}", node.left(&pod.uid));
    assert_eq!((double.count("attach"), double.count("detach-alias")), (0, 0), "the VM was not touched");

    let _plane = DataPlane::start(&node, &pod, "net1");
    multus.add_or_roll_back("net1", &pod).succeeded();
    assert_eq!(double.count("attach"), 1);
    multus.delegate("DEL", "net1", &pod).run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn one_nic_that_fails_takes_those_before_it_along_and_no_other() {
    let node = Node::new();
    let multus = Multus::new(&node);
    let pod = Pod::new(&node);
    let double = Double::start(&pod, &json!({}));
    let _planes = ["net1", "net2"].map(|nic| DataPlane::start(&node, &pod, nic));
    multus.delegate("ADD", "net1", &pod).run(&node).succeeded();

    // Two are added to the annotation, and the VM has only one more port.
    multus.delegate("ADD", "net2", &pod).run(&node).succeeded();
    let answer = multus.delegate("ADD", "net3", &pod).run(&node);
    assert_eq!(answer.code(), 102, "{answer:?}");
    multus.delegate("DEL", "net2", &pod).run(&node).succeeded();
    multus.delegate("DEL", "net3", &pod).without("prevResult").run(&node).succeeded();
    assert_eq!(node.sh(&format!("ls {STATE}/pods/{}", pod.uid)), format!("net1@{SANDBOX}.json"));
    assert!(node.is_shared(&pod.uid));
    multus.delegate("CHECK", "net1", &pod).run(&node).succeeded();
    assert_eq!((double.count("attach"), double.count("detach-alias")), (2, 1));
    multus.delegate("DEL", "net1", &pod).run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn a_del_that_fails_is_told_and_can_be_asked_again() {
    let node = Node::new();
    let multus = Multus::new(&node);
    let pod = Pod::new(&node);
    let _plane = DataPlane::start(&node, &pod, "net1");
    let stubborn = Double::start(&pod, &json!({"detach": {"guest": "never"}}));
    multus.delegate("ADD", "net1", &pod).run(&node).succeeded();
    for _ in 0..2 {
        let answer = multus.delegate("DEL", "net1", &pod).set("detach_timeout", json!(3)).run(&node);
        assert_eq!(answer.code(), 11, "{answer:?}");
        assert!(node.is_shared(&pod.uid), "the VM still has the NIC");
    }
    drop(stubborn);
    let _vm_restarted = Double::start(&pod, &json!({}));
    multus.delegate("DEL", "net1", &pod).run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "{}", node.left(&pod.uid));
}

#[test]
fn what_an_annotation_asks_for_reaches_the_nic_and_its_del_needs_none_of_it() {
    let node = Node::new();
    let multus = Multus::new(&node);
    let pod = Pod::new(&node);
    let _plane = DataPlane::start(&node, &pod, "net1");
    let double = Double::start(&pod, &json!({}));
    let uid = &pod.uid;
    // "mac", "ips" and "cni-args" of the element: as CNI_ARGS, too, which is their old way, and only by capability as
    // runtimeConfig; deviceID is there when a device plugin had a part, and with it the file for what it knows.
    let add = multus
        .call("ADD", "net1", uid, &pod.netns(), ";MAC=0a:58:00:00:00:07;IP=172.18.0.77/16")
        .set("capabilities", json!({"mac": true, "ips": true, "CNIDeviceInfoFile": true}))
        .set("runtimeConfig", json!({"mac": "0a:58:00:00:00:07", "ips": ["172.18.0.77/16"]}))
        .set("args", json!({"cni": {"vhostuser-hotplug": {"alias": "ua-data", "queues": 1}}}))
        .set("deviceID", json!(""))
        .set("pciBusID", json!(""));
    add.run(&node).succeeded();
    let xml = attached(&double, 0);
    for part in ["0a:58:00:00:00:07", "ua-data", "queues=\"1\""] {
        assert!(xml.contains(part), "{part} is not in {xml}");
    }
    // A DEL comes without the element, whose wishes are not kept.
    multus.delegate("DEL", "net1", &pod).set("capabilities", json!({"mac": true})).run(&node).succeeded();
    assert_eq!(double.calls().into_iter().find(|(call, _)| call == "detach-alias").unwrap().1["device"], "ua-data");
    assert!(node.is_clean(uid), "{}", node.left(uid));

    // Without the capability the old way alone says the address, and kube-ovn's result has the last word.
    multus.call("ADD", "net1", uid, &pod.netns(), ";MAC=0a:58:00:00:00:07").mac(&mac("net1")).run(&node).succeeded();
    assert!(attached(&double, 1).contains(&mac("net1")));
    multus.delegate("DEL", "net1", &pod).run(&node).succeeded();
    assert!(node.is_clean(uid));
}

#[test]
fn a_del_that_multus_stripped_of_the_plugins_own_keys_still_undoes_the_add() {
    let node = Node::new();
    let multus = Multus::new(&node);
    let pod = Pod::new(&node);
    let _plane = DataPlane::start(&node, &pod, "sock");
    let _double = Double::start(&pod, &json!({}));
    let named = |call: Call| {
        call.set("vhost_user_socket_consumption", json!("other")).set("vhost_user_socket_name", json!("sock"))
    };
    named(multus.delegate("ADD", "net1", &pod)).run(&node).succeeded();
    assert!(node.holds(&format!("test -S {}/sock", node.target(&pod.uid))));
    // Before 4.3.1, from the cache, where the NAD does not spell out its cniVersion.
    let bare =
        ["vhost_user_socket_consumption", "vhost_user_socket_name", "attach_timeout", "detach_timeout", "log_level"];
    let del = named(multus.delegate("DEL", "net1", &pod));
    let del = bare.iter().fold(del.without("prevResult"), |del, key| del.without(key));
    del.run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "{}", node.left(&pod.uid));
}

#[test]
fn a_pod_whose_start_fails_is_undone_to_the_first_network_and_started_again() {
    let node = Node::new();
    let multus = Multus::new(&node);
    let uid = new_uid();
    node.make_volume(&uid);
    // Made after Multus' own namespace was: it has come there from the host's.
    let netns = node.make_netns("cni-1");
    let call = |command, ifname: &str| multus.call(command, ifname, &uid, &netns, "");
    for _ in 0..2 {
        for ifname in ["eth0", "net1"] {
            call("ADD", ifname).run(&node).succeeded();
        }
        assert!(node.is_shared(&uid));
        // The third network's kube-ovn failed: DEL of all of them, the last first, and the runtime's own DEL after that.
        call("DEL", "net2").without("prevResult").run(&node).succeeded();
        call("DEL", "net1").run(&node).succeeded();
        assert!(node.is_shared(&uid), "eth0 still has it");
        call("DEL", "eth0").run(&node).succeeded();
        for ifname in ["net2", "net1", "eth0"] {
            call("DEL", ifname).without("prevResult").netns("").run(&node).succeeded();
        }
        assert!(node.is_clean(&uid), "{}", node.left(&uid));
    }
    // default-route of another network has Multus take the routes out of what it cached.
    call("ADD", "net1").run(&node).succeeded();
    let mut result: Value = call("ADD", "net1").prev_result().clone();
    result["routes"] = Value::Null;
    call("DEL", "net1").set("prevResult", result).run(&node).succeeded();
    assert!(node.is_clean(&uid));
}
