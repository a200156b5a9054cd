//! What a person is shown of the node's attachments.

use serde_json::{Value, json};
use support::libvirt::{DOMAIN, domain};
use support::{Double, INSIDE, KUBELET, Node, Pod, STATE, Told};

/// kubelet's directory is not where the defaults say.
fn list(node: &Node, words: &[&str]) -> Told {
    node.person(&[&["list", "--kubelet-dir", KUBELET], words].concat())
}

fn inspect(node: &Node, words: &[&str]) -> Told {
    node.person(&[&["inspect", "--kubelet-dir", KUBELET], words].concat())
}

/// The cells of a line, which are three blanks apart.
fn cells(line: &str) -> Vec<&str> {
    line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[test]
fn no_attachments_are_told_apart_from_attachments_that_cannot_be_listed() {
    let node = Node::new();
    let told = list(&node, &[]);
    assert!(told.ok && told.out.is_empty() && told.err.contains("No attachments"), "{told:?}");
    let told = list(&node, &["--json"]);
    assert!(told.ok && told.err.is_empty(), "{told:?}");
    assert_eq!(told.json(), json!({"attachments": [], "unreadable": []}));
    node.sh(&format!("touch {STATE}"));
    let told = list(&node, &[]);
    assert!(!told.ok && told.out.is_empty() && told.err.contains(STATE), "{told:?}");
    // A person who may not look is not told that there is nothing.
    node.sh(&format!("rm {STATE} && mkdir -m 700 {STATE} && mkdir {STATE}/pods"));
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", support::plugin(), "list"];
    let told = support::told(node.command("setpriv").args(nobody).output().unwrap());
    assert!(!told.ok && told.out.is_empty() && !told.err.contains("No attachments"), "{told:?}");
}

#[test]
fn an_attachment_is_shown_with_what_is_there_of_it() {
    let (node, pod, double, plane) = Node::with_vm();
    pod.add().run(&node).succeeded();
    pod.add().ifname("eth0").set("attach", json!("never")).run(&node).succeeded();

    let calls = double.calls().len();
    let told = list(&node, &[]);
    assert_eq!(double.calls().len(), calls, "nobody asks libvirt");
    let lines: Vec<&str> = told.out.lines().collect();
    assert!(told.ok && told.err.is_empty() && lines.len() == 3, "{told:?}");
    assert_eq!(cells(lines[0]), ["POD", "NIC", "MAC", "SOCKET", "MOUNT", "VM", "DATA PLANE", "MTU", "AGE"]);
    assert_eq!(cells(lines[1])[..7], ["default/vm", "eth0", "-", "-", "ok", "-", "-"]);
    assert_eq!(cells(lines[1])[7], "-");
    let socket = format!("{INSIDE}/net1");
    assert_eq!(cells(lines[2])[..7], ["default/vm", "net1", "00:00:00:24:65:f4", &socket, "ok", "up", "connected"]);
    assert!(cells(lines[2])[8].ends_with('s'), "{told:?}");
    let column = |title: &str| lines[0].find(title).unwrap();
    for (title, cell) in [("MAC", "00:"), ("SOCKET", INSIDE), ("VM", "up"), ("DATA PLANE", "connected")] {
        assert_eq!(lines[2][column(title)..].find(cell), Some(0), "{title} is not above its cells: {}", told.out);
    }

    let one = list(&node, &["--json"]).json()["attachments"][1].take();
    let target = node.target(&pod.uid);
    for (pointer, value) in [
        ("/pod", json!("default/vm")),
        ("/uid", json!(pod.uid)),
        ("/interface", json!("net1")),
        ("/container_id", json!("4f3c2b1a09876543")),
        ("/network", json!("kube-ovn")),
        ("/netns", json!(pod.netns())),
        ("/mount", json!({"path": target, "ok": true})),
        ("/nic/alias", json!("ua-net1")),
        ("/nic/mac", json!("00:00:00:24:65:f4")),
        ("/nic/queues", json!(2)),
        ("/nic/attached", json!(true)),
        ("/nic/socket", json!({"path": socket, "host_path": format!("{target}/net1"), "ok": true})),
        ("/nic/vm", json!({"uuid": "11111111222233334444555555555555", "nic": "plugged", "ok": true})),
        ("/nic/data_plane", json!({"connected": true, "ok": true})),
    ] {
        assert_eq!(one.pointer(pointer), Some(&value), "{pointer} in {one:#}");
    }
    assert!(one["age"].as_u64().unwrap() < 600 && one["created"].as_u64().unwrap() > 1_700_000_000, "{one:#}");

    let told = inspect(&node, &["default/vm", "net1"]);
    assert!(told.ok && told.err.is_empty(), "{told:?}");
    for line in [
        &format!("Pod:         default/vm (uid {})", pod.uid),
        &format!("Mount:       {target}: shows the pod's volume"),
        "Plugged:     ua-net1, MAC 00:00:00:24:65:f4, 2 queue pairs",
        &format!("Socket:      {socket}: there"),
        &format!("On the host: {target}/net1"),
        "VM:          ns_vm (uuid 11111111222233334444555555555555), running: has the NIC",
        "libvirt:     11.3.0",
        "Data plane:  connected",
    ] {
        assert!(told.out.lines().any(|shown| shown == line), "{line:?} is not in\n{}", told.out);
    }
    assert!(!told.out.contains("eth0") && inspect(&node, &["default/vm"]).out.contains("eth0"));

    // Who only looks tells libvirt so (VIR_CONNECT_RO).
    let flags = |double: &Double| {
        let opens = double.calls().into_iter().filter(|(call, _)| call == "open");
        opens.map(|(_, args)| args["flags"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(flags(&double), [0, 1, 1], "ADD, and two who inspect");
    pod.call("CHECK").run(&node).succeeded();
    assert_eq!(flags(&double), [0, 1, 1, 1]);

    // Each part can be missing.
    let state = |words: &[&str]| -> Value {
        let told = inspect(&node, &[words, &["--json"]].concat());
        let nic = &told.json()["attachments"][0];
        let ok = |pointer| nic.pointer(pointer).and_then(Value::as_bool).unwrap();
        let parts = [ok("/mount/ok"), ok("/nic/socket/ok"), ok("/nic/vm/ok"), ok("/nic/data_plane/ok")];
        assert_eq!(told.ok, parts.iter().all(|ok| *ok), "{told:?}");
        json!(parts)
    };
    let it = [pod.uid.as_str(), "net1"];
    assert_eq!(state(&it), json!([true, true, true, true]));
    node.sh(&format!("umount {target}"));
    assert_eq!(state(&it), json!([false, true, true, true]));
    assert_eq!(cells(list(&node, &[]).out.lines().nth(2).unwrap())[4], "missing");
    drop(plane);
    drop(double);
    assert_eq!(state(&it), json!([false, true, false, false]));
    assert_eq!(cells(list(&node, &[]).out.lines().nth(2).unwrap())[4..7], ["missing", "gone", "none"]);
    node.sh(&format!("rm {KUBELET}/pods/{}/volumes/kubernetes.io~empty-dir/*/net1", pod.uid));
    assert_eq!(state(&it), json!([false, false, false, false]));
    let told = inspect(&node, &it);
    assert_eq!(told.out.matches("MISSING").count(), 4, "{}", told.out);
}

#[test]
fn a_vm_without_the_nic_is_told_by_its_name() {
    let (node, pod, _plane) = Node::with_plane();
    {
        let _double = Double::start(&pod, &json!({}));
        pod.add().run(&node).succeeded();
    }
    let _restarted = Double::start(&pod, &json!({}));
    let told = inspect(&node, &["default/vm"]);
    let expected = "ns_vm (uuid 11111111222233334444555555555555), running: MISSING: no VM of the pod has ua-net1";
    assert!(!told.ok && told.out.contains(expected), "{told:?}");
}

#[test]
fn a_pod_is_meant_by_name_uid_or_the_beginning_of_one() {
    let node = Node::new();
    let (one, other) = (Pod::new(&node), Pod::new(&node));
    for (pod, name) in [(&one, "a"), (&other, "b")] {
        let args = format!("K8S_POD_NAMESPACE=ns;K8S_POD_NAME={name};K8S_POD_UID={}", pod.uid);
        pod.add().args(&args).set("attach", json!("never")).run(&node).succeeded();
    }
    for (words, found) in [
        (&["ns/a"][..], true),
        (&[one.uid.as_str()], true),
        (&["ns/a", "net1"], true),
        (&["ns/a", "net2"], false),
        (&["ns/c"], false),
        (&["a"], false),
        (&["ns/"], false),
        (&["ffffffff-"], false),
    ] {
        let told = inspect(&node, words);
        assert!(told.ok == found && told.out.contains("ns/a (uid") == found, "{words:?}: {told:?}");
        assert_eq!(told.err.is_empty(), found, "{words:?}: {told:?}");
    }
    // Their uids begin alike.
    let told = inspect(&node, &[&one.uid[..20]]);
    assert!(!told.ok && told.out.is_empty(), "{told:?}");
    assert!(told.err.contains(&one.uid) && told.err.contains(&other.uid), "{told:?}");
}

#[test]
fn records_that_cannot_be_read_are_shown_as_such() {
    let (node, pod) = Node::with_pod();
    pod.add().set("attach", json!("never")).run(&node).succeeded();
    let directory = format!("{STATE}/pods/{}", pod.uid);
    node.sh(&format!("echo '{{' > {directory}/a@b.json; echo '{{\"format\":99}}' > {directory}/c@d.json"));
    let told = list(&node, &[]);
    assert!(!told.ok && told.out.lines().count() == 2, "{told:?}");
    for words in [format!("{directory}/a@b.json is broken"), format!("{directory}/c@d.json is of format 99")] {
        assert!(told.err.contains(&words), "{words:?} is not in {told:?}");
    }
    let json = list(&node, &["--json"]).json();
    assert_eq!(json["unreadable"].as_array().unwrap().len(), 2, "{json:#}");
    assert_eq!(json["unreadable"][0]["path"], format!("{directory}/a@b.json"));
}

#[test]
fn nothing_that_a_pod_is_called_steers_the_terminal() {
    let (node, pod, _plane) = Node::with_plane();
    let evil = "vm\u{1b}]0owned\u{7}\u{1b}[2J\r\n\u{9b}31m\u{202e}";
    let _double = Double::start(&pod, &json!({"domains": [domain(evil, "1", DOMAIN)]}));
    let args = format!("K8S_POD_NAMESPACE=ns;K8S_POD_NAME={evil};K8S_POD_UID={}", pod.uid);
    pod.add().args(&args).run(&node).succeeded();
    for told in [
        list(&node, &[]),
        list(&node, &["--json"]),
        inspect(&node, &[&pod.uid]),
        inspect(&node, &[&pod.uid, "--json"]),
        inspect(&node, &[evil]),
    ] {
        let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!told.out.contains(steers) && !told.err.contains(steers), "{told:?}");
        assert!(told.out.contains("owned") || told.err.contains("owned"), "{told:?}");
    }
    assert_eq!(list(&node, &[]).out.lines().count(), 2, "one line for one attachment");
    let json = inspect(&node, &[&pod.uid, "--json"]).json();
    assert_eq!(json["attachments"][0]["nic"]["vm"]["name"], evil, "and yet it is the name");
}

#[test]
fn a_libvirt_that_does_not_answer_is_not_waited_for_long() {
    let (node, pod, double, _plane) = Node::with_vm();
    pod.add().run(&node).succeeded();
    let machine = format!("/proc/{0}/task/{0}/children", double.child.id());
    let stopped = std::fs::read_to_string(machine).unwrap().trim().parse().unwrap();
    let signal = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(stopped), signal).unwrap();
    signal(nix::sys::signal::Signal::SIGSTOP);
    let begun = std::time::Instant::now();
    let told = inspect(&node, &[&pod.uid]);
    let took = begun.elapsed();
    signal(nix::sys::signal::Signal::SIGCONT);
    assert!(!told.ok && told.out.contains("VM:") && told.out.contains("UNKNOWN"), "{told:?}");
    assert!(told.out.contains("Data plane:  connected"), "what can be told is told: {told:?}");
    assert!(took < std::time::Duration::from_secs(30), "{took:?}");
}
