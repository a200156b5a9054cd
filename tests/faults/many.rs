//! Many calls at once: none is lost, none waits for ever, and pods do not wait for each other.

use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::json;
use support::libvirt::{DOMAIN, domain, nics};
use support::patience::{MARGIN, output, until};
use support::scene::Scene;
use support::signals::{self, plugin};
use support::{Answer, Call, DataPlane, Double, Node, Pod, answer};
use vhostuser_hotplug::libvirt::Xml;

/// Calls at once.
const MANY: usize = 64;

/// A call with deadlines for a busy machine.
fn patient(call: Call) -> Call {
    call.set("attach_timeout", json!(600)).set("detach_timeout", json!(600))
}

fn end(child: Child) -> Answer {
    answer(output(child))
}

/// Runs all of them at once; how long it took.
fn all(node: &Node, calls: impl Iterator<Item = Call>) -> Duration {
    let began = Instant::now();
    let started: Vec<Child> = calls.map(|call| call.start(node)).collect();
    started.into_iter().for_each(|child| end(child).succeeded());
    began.elapsed()
}

#[test]
fn many_pods() {
    let node = Node::new();
    let scenes: Vec<Scene> = (0..MANY).map(|_| Scene::new(&node)).collect();
    let calls = |command: &'static str| scenes.iter().map(move |scene| patient(scene.call(command)));
    println!("{MANY} ADDs of as many pods: {:?}", all(&node, calls("ADD")));
    scenes.iter().for_each(Scene::is_whole);
    println!("{MANY} DELs of as many pods: {:?}", all(&node, calls("DEL")));
    scenes[0].is_clean();
    assert!(scenes.iter().all(|scene| nics(&scene.pod, Xml::Live).is_empty()));
}

#[test]
fn many_nics_of_one_pod() {
    let (node, pod) = Node::with_pod();
    let ports: String = (3..=MANY + 8)
        .map(|index| format!("<controller type='pci' index='{index}' model='pcie-root-port'/>"))
        .collect();
    let domain = domain("ns_vm", "1", &DOMAIN.replace("</devices>", &(ports + "</devices>")));
    let double = Double::start(&pod, &json!({"domains": [domain]}));
    let _planes: Vec<DataPlane> = (0..MANY).map(|n| DataPlane::start(&node, &pod, &format!("net{n}"))).collect();
    let calls = |command: &'static str| {
        let call = patient(pod.call(command));
        (0..MANY).map(move |n| call.clone().ifname(&format!("net{n}")).mac(&format!("00:00:00:00:01:{n:02x}")))
    };
    println!("{MANY} ADDs of one pod: {:?}", all(&node, calls("ADD")));
    let mut found = nics(&pod, Xml::Live);
    found.sort();
    let mut wanted: Vec<String> = (0..MANY).map(|n| format!("ua-net{n}")).collect();
    wanted.sort();
    assert_eq!(found, wanted, "each once");
    assert_eq!(double.count("attach"), MANY);
    all(&node, calls("CHECK"));
    println!("{MANY} DELs of one pod: {:?}", all(&node, calls("DEL")));
    assert!(nics(&pod, Xml::Live).is_empty() && node.is_clean(&pod.uid));
}

#[test]
fn add_and_del_of_the_same_nic() {
    let node = Node::new();
    let scene = Scene::new(&node);
    for _ in 0..3 {
        let calls = (0..MANY).map(|n| patient(scene.call(if n % 2 == 0 { "ADD" } else { "DEL" })));
        all(&node, calls);
        // Whichever came last, all of it is there or none.
        if scene.has_nic() { scene.is_whole() } else { scene.is_clean() }
    }
    scene.run("ADD");
    scene.is_whole();
    scene.run("DEL");
    scene.is_clean();
}

/// A call that holds its pod's lock: its guest never lets go of the NIC.
fn holder(node: &Node, pod: &Pod, double: &Double) -> Child {
    pod.add().run(node).succeeded();
    let child = patient(pod.del()).start(node);
    until("the guest is asked", || double.count("detach-alias") == 1);
    child
}

#[test]
fn a_holder_of_the_lock_that_is_killed_lets_go_of_it() {
    let (node, pod, double, _plane) = Node::with_libvirt(&json!({"detach": {"guest": "second-ask"}}));
    let mut holder = holder(&node, &pod, &double);
    let began = Instant::now();
    let waiting = patient(pod.del()).start(&node);
    std::thread::sleep(Duration::from_millis(100));
    support::end(&mut holder);
    end(waiting).succeeded();
    assert!(began.elapsed() < MARGIN, "not at the deadline: {:?}", began.elapsed());
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn a_holder_of_the_lock_that_hangs_keeps_its_own_pod_alone() {
    let (node, pod, double, _plane) = Node::with_libvirt(&json!({"detach": {"guest": "second-ask"}}));
    let other = Scene::new(&node);
    let mut holder = holder(&node, &pod, &double);
    signals::send("STOP", plugin(&holder));
    let calls = ["ADD", "DEL"].map(|command| pod.call(command));
    let mut waiting = patient(calls[1].clone()).start(&node);
    other.run("ADD");
    other.run("DEL");
    assert!(waiting.try_wait().unwrap().is_none(), "another pod has waited until the call was given up");
    support::end(&mut waiting);
    for call in &calls {
        let began = Instant::now();
        let answer = call.clone().set("attach_timeout", json!(2)).set("detach_timeout", json!(2)).run(&node);
        assert_eq!(answer.code(), 11, "{answer:?}");
        assert!(answer.text().contains("still at work"), "{answer:?}");
        assert!(began.elapsed() < MARGIN, "bounded by its deadline: {:?}", began.elapsed());
    }
    support::end(&mut holder);
    calls[1].run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}
