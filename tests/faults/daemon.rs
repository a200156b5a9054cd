//! libvirt's own life: it ends in the middle of a call, hangs, comes back; its VM ends, or starts anew without the NIC.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::libvirt::nics;
use support::patience::{MARGIN, output, until};
use support::scene::short;
use support::{Answer, Call, DataPlane, Double, Node, Pod, answer, signals};
use vhostuser_hotplug::libvirt::Xml;

struct Place<'a> {
    node: &'a Node,
    pod: Pod,
    _plane: DataPlane,
}

impl<'a> Place<'a> {
    fn new(node: &'a Node) -> Self {
        let pod = Pod::new(node);
        let plane = DataPlane::start(node, &pod, "net1");
        Self { node, pod, _plane: plane }
    }

    fn call(&self, command: &'static str) -> Call {
        self.pod.call(command)
    }

    fn short(&self, command: &'static str) -> Call {
        self.call(command).set("attach_timeout", json!(short())).set("detach_timeout", json!(short()))
    }

    /// It ends with 11, no later than its deadline and what a busy machine adds.
    fn try_again(&self, call: &Call, what: &str) -> Answer {
        let began = Instant::now();
        let answer = call.run(self.node);
        assert_eq!(answer.code(), 11, "{what}: {answer:?}");
        assert!(began.elapsed() < Duration::from_secs(short()) + MARGIN, "{what}: {:?}", began.elapsed());
        answer
    }

    fn whole(&self, what: &str) {
        assert_eq!(nics(&self.pod, Xml::Live), ["ua-net1"], "{what}");
        self.call("CHECK").run(self.node).succeeded();
    }

    fn clean(&self, what: &str) {
        assert!(nics(&self.pod, Xml::Live).is_empty(), "{what}");
        assert!(self.node.is_clean(&self.pod.uid), "{what}: {}", self.node.left(&self.pod.uid));
    }
}

fn lie(at: &str, lie: &Value) -> Value {
    json!({"lies": [{"at": at, "nth": 1, "lie": lie}]})
}

#[test]
fn a_daemon_that_ends_in_the_middle_of_an_add() {
    let node = Node::new();
    let place = Place::new(&node);
    for at in ["connect", "auth-list", "open", "list", "xml", "attach"] {
        // With the daemon goes the double's VM too.
        let double = Double::start(&place.pod, &lie(at, &json!("exit")));
        place.try_again(&place.short("ADD"), at);
        drop(double);
        let _double = Double::start(&place.pod, &json!({}));
        place.call("ADD").run(&node).succeeded();
        place.whole(at);
        place.call("DEL").run(&node).succeeded();
        place.clean(at);
    }
}

#[test]
fn a_connection_that_ends_in_the_middle_of_a_del() {
    let node = Node::new();
    let place = Place::new(&node);
    for at in ["persistent", "subscribe", "detach-alias"] {
        for how in ["close", "done-but-close"] {
            let what = format!("{how} at {at}");
            let _double = Double::start(&place.pod, &lie(at, &json!(how)));
            place.call("ADD").run(&node).succeeded();
            place.try_again(&place.short("DEL"), &what);
            assert!(node.is_shared(&place.pod.uid), "{what}: the record and the share stay");
            place.call("DEL").run(&node).succeeded();
            place.clean(&what);
        }
    }
}

#[test]
fn a_daemon_that_is_killed_while_a_del_waits_for_the_guest() {
    let node = Node::new();
    let place = Place::new(&node);
    let double = Double::start(&place.pod, &json!({"detach": {"guest": "never"}}));
    place.call("ADD").run(&node).succeeded();
    let del = place.call("DEL").set("detach_timeout", json!(120)).start(&node);
    until("the guest is asked", || double.count("detach-alias") == 1);
    let began = Instant::now();
    drop(double);
    let answer = answer(output(del));
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "told at once, not at the deadline: {:?}", began.elapsed());
    assert!(node.is_shared(&place.pod.uid));
    place.call("DEL").run(&node).succeeded();
    assert!(node.is_clean(&place.pod.uid), "its VM is gone too, and nobody has the socket");
}

#[test]
fn a_daemon_that_hangs_and_goes_on() {
    let node = Node::new();
    let place = Place::new(&node);
    let double = Double::start(&place.pod, &json!({}));
    let pid = signals::program(double.child.id());

    signals::send("STOP", pid);
    place.try_again(&place.short("ADD"), "ADD");
    assert!(node.is_clean(&place.pod.uid), "nothing was asked of the VM, so nothing is left");
    signals::go_on(double.child.id());
    place.call("ADD").run(&node).succeeded();
    place.whole("ADD");

    signals::send("STOP", pid);
    place.try_again(&place.short("DEL"), "DEL");
    assert!(node.is_shared(&place.pod.uid), "whether the VM has the NIC is not known");
    // Not 104: whether the NIC is missing is not known.
    place.try_again(&place.short("CHECK"), "CHECK");
    signals::go_on(double.child.id());
    place.call("CHECK").run(&node).succeeded();
    place.call("DEL").run(&node).succeeded();
    place.clean("DEL");
}

#[test]
fn a_daemon_that_hangs_in_the_middle_of_an_attach() {
    let node = Node::new();
    let place = Place::new(&node);
    let double = Double::start(&place.pod, &json!({"attach": {"delay_ms": 5000, "data_plane": "handshake"}}));
    let add = place.call("ADD").set("attach_timeout", json!(10)).start(&node);
    until("libvirt is asked", || double.count("attach") == 1);
    signals::send("STOP", signals::program(double.child.id()));
    let answer = answer(output(add));
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert!(node.is_shared(&place.pod.uid), "the attach goes on when libvirt does, and then the NIC needs its share");
    signals::go_on(double.child.id());
    place.call("ADD").run(&node).succeeded();
    place.whole("ADD");
    assert!(double.count("attach") <= 2, "one that came late failed, or was waited for");
    place.call("DEL").run(&node).succeeded();
    place.clean("DEL");
}

#[test]
fn a_vm_that_was_started_anew_gets_its_nic_back_by_a_repeated_add() {
    let node = Node::new();
    let place = Place::new(&node);
    let double = Double::start(&place.pod, &json!({}));
    place.call("ADD").run(&node).succeeded();
    drop(double);
    let double = Double::start(&place.pod, &json!({}));
    let check = place.call("CHECK").run(&node);
    assert_eq!(check.code(), 104, "{check:?}");
    assert!(check.text().contains("NIC: no VM of the pod has ua-net1"), "{check:?}");
    place.call("ADD").run(&node).succeeded();
    assert_eq!(double.count("attach"), 1);
    place.whole("ADD");
    place.call("DEL").run(&node).succeeded();
    place.clean("DEL");
}
