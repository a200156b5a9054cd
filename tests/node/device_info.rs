//! What a runtime is told of a NIC: its socket in the result, and in the device-information file.

use serde_json::{Value, json};
use support::{Call, DataPlane, Double, INSIDE, KUBELET, Node, Pod, VOLUME, new_uid};

const FILE: &str = "/run/k8s.cni.cncf.io/devinfo/cni/dpdk1-4f3c_net1";

fn add(pod: &Pod) -> Call {
    pod.add().set("runtimeConfig", json!({"CNIDeviceInfoFile": FILE}))
}

fn device_info(node: &Node) -> Value {
    serde_json::from_str(&node.sh(&format!("cat {FILE}"))).unwrap()
}

#[test]
fn the_socket_is_in_the_result_of_a_version_that_has_a_place_for_it() {
    let (node, pod, _double, _plane) = Node::with_vm();
    for version in ["0.3.1", "1.0.0", "1.1.0", "1.1.0"] {
        let mut before = add(&pod).prev_result().clone();
        before["cniVersion"] = json!(version);
        let call = add(&pod).set("cniVersion", json!(version)).set("prevResult", before.clone());
        let answer = call.run(&node);
        answer.succeeded();
        if version == "1.1.0" {
            before["interfaces"][0]["socketPath"] = json!(format!("{}/net1", node.target(&pod.uid)));
        }
        assert_eq!(answer.json, before, "{version}");
        // What it told is what comes back on CHECK and DEL.
        if version != "0.3.1" {
            call.command("CHECK").set("prevResult", answer.json).run(&node).succeeded();
        }
    }
    add(&pod).command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "{}", node.left(&pod.uid));

    // A sandbox without a process has no NIC of ours.
    let (uid, netns) = (new_uid(), node.make_netns("empty"));
    node.make_volume(&uid);
    let call = Call::new("ADD", &uid, &netns).set("cniVersion", json!("1.1.0"));
    let answer = call.run(&node);
    answer.succeeded();
    assert!(answer.json["interfaces"][0].get("socketPath").is_none(), "{:?}", answer.json);
}

#[test]
fn the_file_that_the_runtime_names_tells_of_the_nic_until_del() {
    let (node, pod, _double, _plane) = Node::with_vm();
    let expected = json!({
        "type": "vhost-user", "version": "1.1.0",
        "vhost-user": {"mode": "server", "path": format!("{INSIDE}/net1")},
    });
    for _ in 0..2 {
        add(&pod).run(&node).succeeded();
        assert_eq!(device_info(&node), expected);
    }
    assert_eq!(node.sh(&format!("stat -c %a:%u {FILE}; ls -A $(dirname {FILE}) | wc -l")), "444:0\n1");
    // A runtime need not repeat what it gave.
    let del = add(&pod).command("DEL").without("runtimeConfig");
    del.run(&node).succeeded();
    assert!(!node.holds(&format!("test -e {FILE}")) && node.is_clean(&pod.uid), "{}", node.left(&pod.uid));
    del.run(&node).succeeded();

    // A file of its own goes with a sandbox that the runtime forgot, and with a pod that is gone.
    add(&pod).run(&node).succeeded();
    let gc = add(&pod).command("GC").set("cniVersion", json!("1.1.0")).set("cni.dev/valid-attachments", json!([]));
    gc.run(&node).succeeded();
    assert!(!node.holds(&format!("test -e {FILE}")));
}

#[test]
fn the_file_goes_with_a_pod_that_is_gone() {
    let (node, mut pod) = Node::with_pod();
    {
        let _plane = DataPlane::start(&node, &pod, "net1");
        let _double = Double::start(&pod, &json!({}));
        add(&pod).run(&node).succeeded();
    }
    pod.die();
    node.sh(&format!("rm -r {KUBELET}/pods/{}", pod.uid));
    // The runtime still lists it, so that it is only its being gone that tells.
    let valid = json!([{"containerID": "4f3c2b1a09876543", "ifname": "net1"}]);
    let gc = add(&pod).command("GC").set("cniVersion", json!("1.1.0")).set("cni.dev/valid-attachments", valid);
    gc.run(&node).succeeded();
    assert!(!node.holds(&format!("test -e {FILE}")) && node.is_clean(&pod.uid), "{}", node.left(&pod.uid));
}

#[test]
fn what_another_has_told_stays() {
    let (node, pod, _double, _plane) = Node::with_vm();
    node.sh(&format!("mkdir -p $(dirname {FILE}) && echo '{{\"type\":\"pci\"}}' > {FILE}"));
    let answer = add(&pod).run(&node);
    answer.succeeded();
    assert!(answer.log.contains(FILE), "{}", answer.log);
    assert_eq!(device_info(&node), json!({"type": "pci"}));
    add(&pod).command("DEL").run(&node).succeeded();
    assert_eq!(device_info(&node), json!({"type": "pci"}));
}

#[test]
fn no_nic_no_file_and_a_file_that_cannot_be_is_told() {
    let (node, pod) = Node::with_pod();
    let there = |what: &str| node.holds(&format!("test -e {what}"));
    add(&pod).set("attach", json!("never")).run(&node).succeeded();
    assert!(!there(FILE), "a mount alone is no device");

    let _plane = DataPlane::start(&node, &pod, "net1");
    let _double = Double::start(&pod, &json!({}));
    let relative = add(&pod).set("runtimeConfig", json!({"CNIDeviceInfoFile": "devinfo/net1"})).run(&node);
    assert_eq!(relative.code(), 7);
    assert!(relative.text().contains("runtimeConfig.CNIDeviceInfoFile: \"devinfo/net1\""), "{relative:?}");

    node.sh("touch /run/file");
    let blocked = add(&pod).set("runtimeConfig", json!({"CNIDeviceInfoFile": "/run/file/net1"}));
    let answer = blocked.run(&node);
    assert_eq!(answer.code(), 5);
    assert!(answer.text().contains("CNIDeviceInfoFile /run/file/net1"), "{answer:?}");
    // The NIC is there, and the runtime's DEL takes it.
    let del = blocked.command("DEL").run(&node);
    del.succeeded();
    assert!(node.is_clean(&pod.uid) && !there(&format!("/proc/{}/root{INSIDE}/net1", pod.pid)), "{VOLUME}");
}
