//! The VM that libvirt is busy with: migrating it, saving it.

use serde_json::{Value, json};

use support::libvirt::{DOMAIN, domain, nics};
use support::{Call, DataPlane, Double, Node, Pod};
use vhostuser_hotplug::libvirt::Xml;

fn add(pod: &Pod) -> Call {
    Call::new("ADD", &pod.uid, &pod.netns())
}

/// A domain with a long job that does not end (`virDomainJobOperation`), and with this XML.
fn busy(operation: i32, xml: &str) -> Value {
    let mut domain = domain("ns_vm", "1", xml);
    domain["operation"] = json!(operation);
    json!({"domains": [domain], "job_timeout_ms": 300})
}

/// An attach that libvirt keeps waiting would come about when nobody stands in for the data plane any more.
#[test]
fn a_vm_that_is_being_migrated_or_saved_is_not_asked_to_take_a_nic() {
    let node = Node::new();
    let pod = Pod::new(&node);
    let _plane = DataPlane::start(&node, &pod, "net1");
    for (operation, word) in [(5, "a migration"), (2, "a save"), (4, "a migration from another host")] {
        let double = Double::start(&pod, &busy(operation, DOMAIN));
        let answer = add(&pod).run(&node);
        assert_eq!(answer.code(), 11, "{answer:?}");
        assert!(answer.text().contains(&format!("busy with {word}")), "{answer:?}");
        assert_eq!((double.count("job"), double.count("attach")), (1, 0));
        assert!(node.is_clean(&pod.uid), "{answer:?}");
    }
}

#[test]
fn a_vm_that_is_being_backed_up_takes_a_nic() {
    let node = Node::new();
    let pod = Pod::new(&node);
    let _plane = DataPlane::start(&node, &pod, "net1");
    let _double = Double::start(&pod, &busy(9, DOMAIN));
    add(&pod).run(&node).succeeded();
    add(&pod).command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn a_nic_of_a_vm_that_is_being_migrated_is_found_and_stays() {
    let node = Node::new();
    let pod = Pod::new(&node);
    let _plane = DataPlane::start(&node, &pod, "net1");
    let double = Double::start(&pod, &json!({}));
    add(&pod).run(&node).succeeded();
    drop(double);
    let nic = "<interface type='vhostuser'><mac address='00:00:00:24:65:f4'/><source type='unix' \
               path='/run/vm/sockets/net1' mode='server'/><model type='virtio-non-transitional'/>\
               <driver name='vhost' queues='2'/><alias name='ua-net1'/></interface></devices>";
    let mut script = busy(5, &DOMAIN.replace("</devices>", nic));
    for job_timeout in [300, 30_000] {
        script["job_timeout_ms"] = json!(job_timeout);
        let double = Double::start(&pod, &script);
        // A double has no socket for what its VM had at the start.
        let answer = add(&pod).set("attach_timeout", json!(4)).run(&node);
        assert_eq!(answer.code(), 11, "{answer:?}");
        assert!(answer.text().contains("plugged already, and no data plane"), "{answer:?}");
        assert_eq!((double.count("job"), double.count("attach")), (1, 0), "nothing is plugged");
        let answer = add(&pod).command("DEL").set("detach_timeout", json!(5)).run(&node);
        assert_eq!(answer.code(), 11, "{answer:?}");
        let is_told = |words| answer.text().contains(words);
        assert!(is_told("busy with a migration") || is_told("Another operation on the VM"), "{answer:?}");
        assert_eq!(double.count("detach-alias"), 0, "libvirt would carry it out whenever the migration ends");
        assert!(node.is_shared(&pod.uid));
        assert_eq!(nics(&pod, Xml::Live), ["ua-net1"]);
    }
}

#[test]
fn a_check_that_libvirt_does_not_answer_does_not_say_that_the_nic_is_gone() {
    let node = Node::new();
    let pod = Pod::new(&node);
    let _plane = DataPlane::start(&node, &pod, "net1");
    let double = Double::start(&pod, &json!({}));
    add(&pod).run(&node).succeeded();
    drop(double);
    let held = json!({"error": {"code": 68, "domain": 10, "message": "cannot acquire state change lock"}});
    for (at, lie, code, words) in [
        ("xml", held, 11, "Another operation on the VM"),
        ("xml", json!("silence"), 11, "Another operation on the VM"),
        ("list", json!("close"), 11, "closed the connection while listing the domains"),
        ("list", json!({"garbage": 40}), 102, "broke its protocol"),
    ] {
        let _double = Double::start(&pod, &json!({"lies": [{"at": at, "lie": lie}]}));
        let answer = add(&pod).command("CHECK").set("attach_timeout", json!(1)).run(&node);
        assert_eq!(answer.code(), code, "{at} {lie}: {answer:?}");
        assert!(answer.text().contains(words), "{at} {lie}: {answer:?}");
    }
}

#[test]
fn a_check_that_has_no_time_left_to_look_does_not_say_that_nobody_is_connected() {
    let node = Node::new();
    let pod = Pod::new(&node);
    let _plane = DataPlane::start(&node, &pod, "net1");
    let _double = Double::start(&pod, &json!({}));
    add(&pod).run(&node).succeeded();
    let check = add(&pod).command("CHECK");
    check.run(&node).succeeded();
    // Where the data plane's connection is looked for, and nowhere else.
    let inject = ["-e", "inject=openat:delay_exit=3500000", "-P", "/proc/self/net/unix"];
    let late = [&["strace", "-f", "-qq", "-o", "/dev/null"][..], &inject].concat();
    let answer = check.set("attach_timeout", json!(3)).through(&late).run(&node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert!(answer.text().contains("no time left"), "{answer:?}");
}
