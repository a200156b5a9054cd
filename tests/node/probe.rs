//! What the probe asks of a data plane, and what that makes of it.

use serde_json::json;
use support::{DataPlane, Double, Node};

/// The double's own features, and others.
const FEATURES: &str = "features=0xd7c66a7ca ";
const OTHERS: &str = "0xd7c669fca";

#[test]
fn a_data_plane_that_starts_no_device_for_the_probe_is_asked_and_told_of() {
    let (node, pod) = Node::with_pod();
    let _double = Double::start(&pod, &json!({}));
    // SET_MEM_TABLE, SET_VRING_ENABLE.
    for refused in ["5", "18"] {
        let _plane = DataPlane::with(&node, &pod, "net1", &["--refuse", refused]);
        let add = pod.add();
        let answer = add.run(&node);
        answer.succeeded();
        let told = format!("did not start the probe's device, and was only asked: it refused request {refused}");
        assert!(answer.log.contains(&told) && answer.log.contains(FEATURES), "{}", answer.log);
        add.command("DEL").run(&node).succeeded();
    }
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn a_data_plane_that_changes_its_offer_after_a_guest_that_failed_has_no_reason_to() {
    let (node, pod) = Node::with_pod();
    let _double = Double::start(&pod, &json!({}));
    let _plane = DataPlane::with(&node, &pod, "net1", &["--register-anew", OTHERS]);
    let add = pod.add();
    for _ in 0..3 {
        let answer = add.run(&node);
        answer.succeeded();
        assert_eq!(answer.log.matches(": data plane met: ").count(), 1, "{}", answer.log);
        assert!(answer.log.contains(FEATURES) && !answer.log.contains(OTHERS), "{}", answer.log);
        add.clone().command("DEL").run(&node).succeeded();
    }
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn features_that_change_when_the_probe_leaves_are_not_shown() {
    let (node, pod) = Node::with_pod();
    let double = Double::start(&pod, &json!({}));
    let add = pod.add();
    {
        // The connection that comes at once ends after its four messages, before it is relied on.
        let _plane = DataPlane::with(&node, &pod, "net1", &["--register-anew", OTHERS, "--stale", "4"]);
        let answer = add.run(&node);
        answer.succeeded();
        assert!(answer.log.contains(FEATURES) && !answer.log.contains(OTHERS), "{}", answer.log);
        add.clone().command("DEL").run(&node).succeeded();
    }
    // After five, and after six: while the NIC is being plugged.
    for (attached, messages) in [(2, "5"), (3, "6")] {
        let _plane = DataPlane::with(&node, &pod, "net1", &["--register-anew", OTHERS, "--stale", messages]);
        let answer = add.run(&node);
        assert_eq!(answer.code(), 11, "{answer:?}");
        assert!(answer.text().contains("its port set up anew, meanwhile (it closed the connection)"), "{answer:?}");
        assert_eq!((double.count("attach"), double.count("detach-alias")), (attached, attached));
        assert!(node.is_clean(&pod.uid));
    }
}
