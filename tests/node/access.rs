//! A data plane that isn't root, and QEMU's socket, which only its owner may write to.

use serde_json::json;
use support::{DataPlane, Double, KUBELET, Node, Pod, VOLUME};

/// OVS's user where it isn't root.
const NOBODY: u32 = 65534;

/// Whether a user may write to the NIC's socket in the share.
fn may_write(node: &Node, pod: &Pod, uid: u32) -> bool {
    let socket = format!("{}/net1", node.target(&pod.uid));
    assert!(node.holds(&format!("test -S {socket}")));
    node.holds(&format!("setpriv --reuid={uid} --regid={uid} --clear-groups test -w {socket}"))
}

#[test]
fn a_data_plane_that_is_not_root_is_let_in_and_nobody_else() {
    let (node, pod) = Node::with_pod();
    let _double = Double::start(&pod, &json!({}));
    let _plane = DataPlane::as_user(&node, &pod, "net1", NOBODY);
    let add = pod.add();
    let answer = add.run(&node);
    answer.succeeded();
    assert!(answer.log.contains("uid 65534 may write to QEMU's socket"), "{}", answer.log);
    assert!(may_write(&node, &pod, NOBODY) && !may_write(&node, &pod, 1000));
    add.clone().command("CHECK").run(&node).succeeded();
    add.command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn roots_data_plane_is_given_nothing() {
    let (node, pod, _double, _plane) = Node::with_vm();
    let answer = pod.add().run(&node);
    answer.succeeded();
    assert!(!answer.log.contains("may write to QEMU's socket"), "{}", answer.log);
    assert!(!may_write(&node, &pod, NOBODY));
}

#[test]
fn a_data_plane_that_cannot_be_let_in_is_told_of_and_the_nic_is_unplugged() {
    let node = Node::new();
    // A file system without access control lists.
    let pods = format!("{KUBELET}/pods");
    node.sh(&format!("mkdir -p {pods} && mount -t ramfs ramfs {pods}"));
    let pod = Pod::new(&node);
    assert!(node.holds(&format!(
        "findmnt -n -o FSTYPE -T {pods}/{}/volumes/kubernetes.io~empty-dir/{VOLUME} | grep -q ramfs",
        pod.uid
    )));
    let double = Double::start(&pod, &json!({}));
    let _plane = DataPlane::as_user(&node, &pod, "net1", NOBODY);
    let answer = pod.add().run(&node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    for word in
        ["uid 65534", "may not write to QEMU's socket (owner 0:0, mode 0775)", "unplugged again", "CAP_DAC_OVERRIDE"]
    {
        assert!(answer.text().contains(word), "no {word:?} in {answer:?}");
    }
    assert_eq!((double.count("attach"), double.count("detach-alias")), (1, 1));
    assert!(node.is_clean(&pod.uid));
}
