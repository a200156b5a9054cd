//! Calls without the plugin's own keys: Multus drops them for a sandbox that it has no cached result of, and for lists
//! below 0.4.0. What the ADD did with its keys is found all the same, by every later call and command.

use serde_json::{Value, json};
use support::libvirt::SOCKET;
use support::patience::{output, until};
use support::{Call, DataPlane, Double, INSIDE, KUBELET, Node, Pod, STATE, VOLUME, answer, new_uid, signals};

/// Other directories than the defaults, and than the tests' own.
const STATE_DIR: &str = "/run/other/state";
const KUBELET_DIR: &str = "/run/other/kubelet";
const BASE: &str = "/run/other/sockets";
/// Where the pod's daemon listens.
const LIBVIRT: &str = "/run/libvirt/other-sock";

/// Multus' second form of a network configuration: the type, the list's name and its version.
fn bare(command: &'static str, version: &str, uid: &str, netns: &str) -> Call {
    let call = Call::new(command, uid, netns).set("cniVersion", json!(version)).without("prevResult");
    let keys = ["kubelet_dir", "socket_base_dir", "state_dir", "log_level", "attach_timeout", "detach_timeout"];
    keys.iter().fold(call, |call, key| call.without(key))
}

/// A GC, without a list.
fn bare_gc() -> Call {
    let call = Call::new("GC", "", "").args("").container("").ifname("");
    let keys =
        ["kubelet_dir", "socket_base_dir", "state_dir", "log_level", "attach_timeout", "detach_timeout", "prevResult"];
    keys.iter().fold(call.set("cniVersion", json!("1.1.0")), |call, key| call.without(key))
}

/// A CHECK, which is given the cached result.
fn bare_check(uid: &str, netns: &str) -> Call {
    let result = Call::new("CHECK", uid, netns).prev_result().clone();
    bare("CHECK", "1.0.0", uid, netns).set("prevResult", result)
}

/// An ADD with keys of its own for each thing that a key can say where it is.
fn with_keys(call: Call) -> Call {
    call.set("state_dir", json!(STATE_DIR))
        .set("kubelet_dir", json!(KUBELET_DIR))
        .set("socket_base_dir", json!(BASE))
        .set("vhost_user_socket_consumption", json!("dpdk"))
        .set("vhost_user_socket_name", json!("sock"))
        .set("libvirt_sockets", json!([LIBVIRT]))
        .set("libvirt_uri", json!("qemu:///system"))
        .set("domain", json!("ns_vm"))
        .set("args", json!({"cni": {"vhostuser-hotplug": {"alias": "ua-other"}}}))
}

/// A pod with a VM where only these keys find it, and its data plane.
fn pod(node: &Node) -> (Pod, Double, DataPlane) {
    let pod = Pod::new(node);
    node.sh(&format!("mkdir -p {BASE} && ln -sfn {KUBELET} {KUBELET_DIR}"));
    let double = Double::start(&pod, &json!({}));
    assert!(pod.command("mv").args([SOCKET, LIBVIRT]).status().unwrap().success());
    // The data plane's double dials below the usual directory.
    node.sh(&format!("mkdir -p /run/openvswitch && ln -sfn {BASE} /run/openvswitch/vhost_sockets"));
    let plane = DataPlane::start(node, &pod, "sock");
    (pod, double, plane)
}

/// What is left of a pod, anywhere.
fn left(node: &Node, uid: &str) -> String {
    let places = format!("{BASE} {STATE}/pods {STATE}/locks {STATE}/elsewhere {STATE_DIR}");
    node.sh(&format!(
        "find {places} -mindepth 1 ! -name locks ! -name pods 2>/dev/null || true; grep {uid} /proc/self/mountinfo || true"
    ))
}

#[test]
fn a_del_without_keys_does_what_its_add_did() {
    let node = Node::new();
    for (version, netns, uid) in [("0.3.1", true, true), ("0.4.0", false, true), ("1.0.0", true, false)] {
        let (pod, double, _plane) = pod(&node);
        let add = with_keys(pod.add()).set("cniVersion", json!("0.3.1"));
        let add = add.set(
            "prevResult",
            json!({"cniVersion": "0.3.1", "interfaces": [{"name": "net1", "mac": "00:00:00:24:65:F4"}]}),
        );
        add.run(&node).succeeded();
        assert!(node.holds(&format!("test -S {BASE}/{}/{VOLUME}/sock", pod.uid)));
        let mut del = bare("DEL", version, &pod.uid, &if netns { pod.netns() } else { String::new() });
        if !uid {
            del = del.args("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=vm");
        }
        let answer = del.run(&node);
        answer.succeeded();
        assert_eq!(double.count("detach-alias"), 1, "{version}: {}", answer.log);
        assert_eq!(left(&node, &pod.uid), "", "{version}");
        // It may come again.
        del.run(&node).succeeded();
        assert_eq!(double.count("detach-alias"), 1);
    }
}

#[test]
fn check_gc_and_a_persons_commands_need_no_keys_either() {
    let node = Node::new();
    let (pod, double, plane) = pod(&node);
    with_keys(pod.add()).run(&node).succeeded();
    bare_check(&pod.uid, &pod.netns()).run(&node).succeeded();
    let listed = node.person(&["list", "--json"]).json();
    let one = &listed["attachments"][0];
    assert_eq!((&one["mount"]["ok"], &one["nic"]["vm"]["nic"]), (&json!(true), &json!("plugged")), "{listed:#}");
    assert_eq!(listed["attachments"].as_array().unwrap().len(), 1);
    let told = node.person(&["inspect", "default/vm"]);
    assert!(told.ok && told.out.contains("ns_vm"), "{told:?}");
    let told = node.person(&["rescue", "default/vm"]);
    assert!(told.ok && told.out.contains("No QEMU"), "{told:?}");
    // A state directory that is named twice is looked at once.
    let told = node.person(&["list", "--json", "--state-dir", &format!("{STATE_DIR}/../state")]);
    assert_eq!(told.json()["attachments"].as_array().unwrap().len(), 1, "{told:?}");

    drop(plane);
    assert_eq!(bare_check(&pod.uid, &pod.netns()).run(&node).code(), 104, "without its data plane");
    let gc = bare_gc();
    gc.clone()
        .set("cni.dev/valid-attachments", json!([{"containerID": "4f3c2b1a09876543", "ifname": "net1"}]))
        .run(&node)
        .succeeded();
    assert_eq!(double.count("detach-alias"), 0, "it is valid, and kubelet has its pod");
    gc.set("cni.dev/valid-attachments", json!([])).run(&node).succeeded();
    assert_eq!(double.count("detach-alias"), 1);
    assert_eq!(left(&node, &pod.uid), "");
}

#[test]
fn timeouts_and_the_logs_level_are_those_of_the_add_unless_the_call_has_its_own() {
    let (node, pod, stubborn, _plane) = Node::with_libvirt(&json!({"detach": {"guest": "never"}}));
    let add = pod.add().set("detach_timeout", json!(1)).set("log_level", json!("error"));
    add.run(&node).succeeded();
    // The usual detach_timeout is longer than this test may take.
    let del = bare("DEL", "1.0.0", &pod.uid, &pod.netns());
    let answer = del.clone().run(&node);
    assert!(answer.code() == 11 && answer.text().contains("has not released"), "{answer:?}");
    drop(stubborn);
    let _vm = Double::start(&pod, &json!({}));
    let answer = del.run(&node);
    assert!(answer.ok && answer.log.is_empty(), "{answer:?}");

    add.run(&node).succeeded();
    let answer = bare("DEL", "1.0.0", &pod.uid, &pod.netns()).set("log_level", json!("info")).run(&node);
    assert!(answer.ok && answer.log.contains("done in"), "{answer:?}");
    assert!(node.is_clean(&pod.uid), "{}", node.left(&pod.uid));
}

#[test]
fn networks_of_one_pod_with_different_state_directories_know_of_each_other() {
    let node = Node::new();
    let (uid, netns) = (new_uid(), node.make_netns("n"));
    node.make_volume(&uid);
    let usual = Call::new("ADD", &uid, &netns);
    let other = usual.clone().ifname("net2").set("state_dir", json!(STATE_DIR));
    let third = usual.clone().ifname("net3").set("state_dir", json!("/run/third/state"));
    for (first, last) in [(&usual, &other), (&other, &usual), (&third, &other)] {
        first.run(&node).succeeded();
        last.run(&node).succeeded();
        let del = |add: &Call| add.clone().command("DEL");
        del(first).without("state_dir").run(&node).succeeded();
        assert!(node.is_shared(&uid), "the other one has it");
        del(last).without("state_dir").run(&node).succeeded();
        assert!(node.is_clean(&uid) && left(&node, &uid).is_empty(), "{}{}", node.left(&uid), left(&node, &uid));
    }
    // A record stays where it is, whatever the configuration says later.
    other.run(&node).succeeded();
    other.clone().without("state_dir").run(&node).succeeded();
    assert_eq!(node.sh("find /run -name 'net2@*' | cut -d/ -f1-4"), STATE_DIR);
    other.command("DEL").set("state_dir", json!("/run/third/state")).run(&node).succeeded();
    assert!(node.is_clean(&uid) && left(&node, &uid).is_empty(), "{}{}", node.left(&uid), left(&node, &uid));
}

#[test]
fn a_pods_calls_take_turns_with_and_without_the_key() {
    let (node, pod, double, _plane) = Node::with_vm();
    let add = pod.add().set("state_dir", json!(STATE_DIR));
    signals::send("STOP", signals::program(double.child.id()));
    let first = add.start(&node);
    until("the ADD holds the lock", || node.holds(&format!("test -e {STATE}/locks/{}", pod.uid)));
    let late = bare("DEL", "1.0.0", &pod.uid, &pod.netns()).set("detach_timeout", json!(1)).run(&node);
    assert!(late.code() == 11 && late.text().contains("lock"), "{late:?}");
    signals::go_on(double.child.id());
    answer(output(first)).succeeded();
    bare("DEL", "1.0.0", &pod.uid, &pod.netns()).run(&node).succeeded();
    assert_eq!((double.count("attach"), double.count("detach-alias")), (1, 1));
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn what_is_wrong_with_an_announcement_or_a_record_breaks_nothing() {
    let node = Node::new();
    let (uid, netns) = (new_uid(), node.make_netns("n"));
    node.make_volume(&uid);
    let add = Call::new("ADD", &uid, &netns).set("state_dir", json!(STATE_DIR));
    let record = format!("{STATE_DIR}/pods/{uid}/net1@4f3c2b1a09876543.json");
    // The node's own directories are not the plugin's, whoever names them: nothing of theirs goes.
    let wrong = [
        "printf /run/oth > 5",
        "printf 'run/other\\n' > 5",
        "printf '/run/other/../x\\n' > 5",
        "head -c 100000 /dev/zero > 5",
        "mkdir 5",
        "mkfifo 5",
        "ln -s /dev/zero 5",
        "printf '/run/gone\\n' > 5",
        "printf '/run/kubelet\\n' > 5",
        "printf '/\\n' > 5",
    ];
    for wrong in wrong {
        add.run(&node).succeeded();
        node.sh(&format!("cd {STATE}/elsewhere && rm -rf 5 && {wrong}"));
        let told = node.person(&["list", "--json"]);
        assert!(told.json()["attachments"].as_array().unwrap().len() == 1, "{wrong}: {told:?}");
        bare("DEL", "1.0.0", &uid, &netns).run(&node).succeeded();
        assert!(node.is_clean(&uid) && node.holds(&format!("! test -e {record}")), "{wrong}");
        assert!(node.holds(&format!("test -d {KUBELET}/pods/{uid}/volumes")), "{wrong}");
    }
    let gc = bare_gc();
    let gc = gc.set("cni.dev/valid-attachments", json!([]));
    gc.run(&node).succeeded();
    assert!(node.holds(&format!("test -d {KUBELET}/pods/{uid}/volumes")));
    node.sh(&format!("rm -rf {STATE}/elsewhere/5"));

    // A record's own: each of these is passed over, or its key is.
    for wrong in [
        json!({"keys": {"kubelet_dir": "x", "detach_timeout": -1, "libvirt_sockets": {}, "args": [], "log_level": 3}}),
        json!({"keys": {"kubelet_dir": "/run/../etc", "odd": {"deep": [1]}}}),
        json!({"keys": []}),
        json!({"volume": "../../x"}),
        json!({"socket_base_dir": "run"}),
        json!({"nic": {"alias": "ua-x", "mac": "", "path": "/x", "socket": "../x", "domain": "", "attached": true}}),
    ] {
        let add = add.clone().without("kubelet_dir").set("kubelet_dir", json!(KUBELET));
        add.run(&node).succeeded();
        let mut changed: Value = serde_json::from_str(&node.sh(&format!("cat {record}"))).unwrap();
        for (key, value) in wrong.as_object().unwrap() {
            changed[key] = value.clone();
        }
        node.sh(&format!("cat > {record} <<'EOF'\n{changed}\nEOF"));
        // By the call's own keys it is undone, as without a record.
        add.clone().command("DEL").run(&node).succeeded();
        assert!(node.holds(&format!("! test -e {}", node.target(&uid))), "{wrong}: {}", node.left(&uid));
        node.sh(&format!("rm -rf {STATE_DIR}"));
    }
}

#[test]
fn a_state_directory_that_is_gone_is_as_good_as_a_lost_record() {
    let node = Node::new();
    let (uid, netns) = (new_uid(), node.make_netns("n"));
    node.make_volume(&uid);
    let add = Call::new("ADD", &uid, &netns).set("state_dir", json!(STATE_DIR));
    add.run(&node).succeeded();
    node.sh(&format!("rm -rf {STATE_DIR}"));
    // By default names nothing of it is found, and that is no error.
    bare("DEL", "1.0.0", &uid, &netns).run(&node).succeeded();
    assert!(node.person(&["list"]).ok);
    // With its keys it is undone.
    add.clone().command("DEL").run(&node).succeeded();
    assert!(node.holds(&format!("! test -e {}", node.target(&uid))));
    // The next ADD makes it anew, and all is found again.
    add.run(&node).succeeded();
    bare("DEL", "1.0.0", &uid, &netns).run(&node).succeeded();
    assert!(node.is_clean(&uid) && left(&node, &uid).is_empty(), "{}", left(&node, &uid));
    assert!(node.holds(&format!("test -z \"$(ls {INSIDE} 2>/dev/null)\"")));
}

#[test]
fn a_record_of_the_first_version_means_what_it_meant_and_a_newer_one_is_read_by_it() {
    let node = Node::new();
    let (uid, netns) = (new_uid(), node.make_netns("n"));
    node.make_volume(&uid);
    let add = Call::new("ADD", &uid, &netns);
    add.run(&node).succeeded();
    let record = format!("{STATE}/pods/{uid}/net1@4f3c2b1a09876543.json");
    let text: Value = serde_json::from_str(&node.sh(&format!("cat {record}"))).unwrap();
    assert_eq!(text["format"], 1, "a newer format would not count for the first version");
    assert!(text["keys"].is_object(), "{text}");
    let mut old = text.clone();
    old.as_object_mut().unwrap().remove("keys");
    node.sh(&format!("cat > {record} <<'EOF'\n{old}\nEOF"));
    add.clone().command("CHECK").run(&node).succeeded();
    add.clone().command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&uid), "{}", node.left(&uid));
}
