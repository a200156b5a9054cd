//! The VM that libvirt is busy with: migrating it, saving it.

use serde_json::{Value, json};

use support::libvirt::{DOMAIN, domain, nics};
use support::{Double, Node};
use vhostuser_hotplug::libvirt::Xml;

/// A domain with a long job that does not end (`virDomainJobOperation`), and with this XML.
fn busy(operation: i32, xml: &str) -> Value {
    let mut domain = domain("ns_vm", "1", xml);
    domain["operation"] = json!(operation);
    json!({"domains": [domain], "job_timeout_ms": 300})
}

/// An attach that libvirt keeps waiting would come about when nobody stands in for the data plane any more.
#[test]
fn a_vm_that_is_being_migrated_or_saved_is_not_asked_to_take_a_nic() {
    let (node, pod, _plane) = Node::with_plane();
    for (operation, word) in [(5, "a migration"), (2, "a save"), (4, "a migration from another host")] {
        let double = Double::start(&pod, &busy(operation, DOMAIN));
        let answer = pod.add().run(&node);
        assert_eq!(answer.code(), 11, "{answer:?}");
        assert!(answer.text().contains(&format!("busy with {word}")), "{answer:?}");
        assert_eq!((double.count("job"), double.count("attach")), (1, 0));
        assert!(node.is_clean(&pod.uid), "{answer:?}");
    }
}

#[test]
fn a_vm_that_is_being_backed_up_takes_a_nic() {
    let (node, pod, _plane) = Node::with_plane();
    let _double = Double::start(&pod, &busy(9, DOMAIN));
    pod.add().run(&node).succeeded();
    pod.del().run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn a_nic_of_a_vm_that_is_being_migrated_is_found_and_stays() {
    let (node, pod, double, _plane) = Node::with_vm();
    pod.add().run(&node).succeeded();
    drop(double);
    let nic = "<interface type='vhostuser'><mac address='00:00:00:24:65:f4'/><source type='unix' \
               path='/run/vm/sockets/net1' mode='server'/><model type='virtio-non-transitional'/>\
               <driver name='vhost' queues='2'/><alias name='ua-net1'/></interface></devices>";
    let mut script = busy(5, &DOMAIN.replace("</devices>", nic));
    for job_timeout in [300, 30_000] {
        script["job_timeout_ms"] = json!(job_timeout);
        let double = Double::start(&pod, &script);
        // A double has no socket for what its VM had at the start.
        let answer = pod.add().set("attach_timeout", json!(4)).run(&node);
        assert_eq!(answer.code(), 11, "{answer:?}");
        assert!(answer.text().contains("plugged already, and no data plane"), "{answer:?}");
        assert_eq!((double.count("job"), double.count("attach")), (1, 0), "nothing is plugged");
        let answer = pod.del().set("detach_timeout", json!(5)).run(&node);
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
    let (node, pod, double, _plane) = Node::with_vm();
    pod.add().run(&node).succeeded();
    drop(double);
    let held = json!({"error": {"code": 68, "domain": 10, "message": "cannot acquire state change lock"}});
    for (at, lie, code, words) in [
        ("xml", held, 11, "Another operation on the VM"),
        ("xml", json!("silence"), 11, "Another operation on the VM"),
        ("list", json!("close"), 11, "closed the connection while listing the domains"),
        ("list", json!({"garbage": 40}), 102, "broke its protocol"),
    ] {
        let _double = Double::start(&pod, &json!({"lies": [{"at": at, "lie": lie}]}));
        let answer = pod.call("CHECK").set("attach_timeout", json!(1)).run(&node);
        assert_eq!(answer.code(), code, "{at} {lie}: {answer:?}");
        assert!(answer.text().contains(words), "{at} {lie}: {answer:?}");
    }
}

#[test]
fn a_check_that_has_no_time_left_to_look_does_not_say_that_nobody_is_connected() {
    let (node, pod, _double, _plane) = Node::with_vm();
    pod.add().run(&node).succeeded();
    let check = pod.call("CHECK");
    check.run(&node).succeeded();
    // Where the data plane's connection is looked for, and nowhere else.
    let inject = ["-e", "inject=openat:delay_exit=3500000", "-P", "/proc/self/net/unix"];
    let late = [&["strace", "-f", "-qq", "-o", "/dev/null"][..], &inject].concat();
    let answer = check.set("attach_timeout", json!(3)).through(&late).run(&node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert!(answer.text().contains("no time left"), "{answer:?}");
}
