//! Several shares of one pod, and shares that others made: which of them a call makes, leaves and takes away.

use serde_json::json;
use support::{Call, Node, SOCKETS, STATE, VOLUME};

use super::share::{created, listener};

/// Another volume of a pod, as a NAD with a `vhost_user_socket_volume_name` of its own names it.
const SECOND: &str = "second-sockets";

/// Another directory than the usual one, as a changed `socket_base_dir` names it.
const ELSEWHERE: &str = "/run/elsewhere";

/// Makes a second volume of a pod.
fn make_second(node: &Node, uid: &str) {
    node.sh(&format!("d=$(dirname {}) && mkdir $d/{SECOND} && chmod 2777 $d/{SECOND}", node.make_volume(uid)));
}

#[test]
fn each_share_goes_with_the_last_attachment_of_its_own() {
    let node = Node::new();
    // By volume (kube-ovn before 1.13 takes one for each NIC), and by directory (the key was changed meanwhile).
    for (key, base, volume) in
        [("vhost_user_socket_volume_name", SOCKETS, SECOND), ("socket_base_dir", ELSEWHERE, VOLUME)]
    {
        let value = if volume == SECOND { volume } else { base };
        let (uid, netns) = created(&node);
        make_second(&node, &uid);
        let usual = Call::new("ADD", &uid, &netns);
        let other = Call::new("ADD", &uid, &netns).ifname("net2").set(key, json!(value));
        let third = other.clone().ifname("net3");
        let is_there = |place: &str| node.holds(&format!("mountpoint -q {place}"));
        let (first, second) = (node.target(&uid), format!("{base}/{uid}/{volume}"));
        for [early, late] in [[&usual, &other], [&other, &usual]] {
            for call in [&usual, &other, &third] {
                call.run(&node).succeeded();
            }
            assert!(is_there(&first) && is_there(&second));
            third.clone().command("DEL").run(&node).succeeded();
            assert!(is_there(&first) && is_there(&second), "another attachment has it");
            early.clone().command("DEL").run(&node).succeeded();
            let is_first = std::ptr::eq(early, &usual);
            assert_eq!((is_there(&first), is_there(&second)), (!is_first, is_first), "{key}");
            late.clone().command("DEL").run(&node).succeeded();
            assert!(node.is_clean(&uid) && node.holds(&format!("! test -e {second}")), "{}", node.left(&uid));
        }
    }
}

#[test]
fn a_failed_add_takes_away_its_own_share_and_no_other() {
    let (node, pod) = Node::with_pod();
    make_second(&node, &pod.uid);
    // No libvirt answers in the pod.
    let fails = pod.add().ifname("net2");
    let never = pod.add().set("attach", json!("never"));
    never.run(&node).succeeded();
    assert_eq!(fails.clone().set("vhost_user_socket_volume_name", json!(SECOND)).run(&node).code(), 11);
    assert!(node.is_shared(&pod.uid));
    assert!(node.holds(&format!("! test -e {SOCKETS}/{}/{SECOND}", pod.uid)), "{}", node.left(&pod.uid));
}

#[test]
fn what_a_dead_nic_left_in_another_volume_goes_along() {
    let (node, mut pod) = Node::with_pod();
    make_second(&node, &pod.uid);
    let add = pod.add().set("attach", json!("never"));
    add.run(&node).succeeded();
    add.clone().ifname("net2").set("vhost_user_socket_volume_name", json!(SECOND)).run(&node).succeeded();
    // As if it had been plugged, and its QEMU been killed.
    let (second, first) = (format!("{SOCKETS}/{}/{SECOND}", pod.uid), node.target(&pod.uid));
    let nic = json!({
        "alias": "ua-net2", "mac": "00:00:00:24:65:f5", "path": "/run/second/net2", "socket": "net2",
        "domain": "1".repeat(32), "queues": 1, "attached": true,
    });
    let socket = "import socket,sys; [socket.socket(socket.AF_UNIX).bind(path) for path in sys.argv[1:]]";
    node.sh(&format!(
        "sed -i 's|}}$|,\"nic\":{nic}}}|' {STATE}/pods/{}/net2@* && python3 -c '{socket}' {first}/net2 {second}/net2",
        pod.uid
    ));
    pod.die();
    add.clone().command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid) && node.holds(&format!("! test -e {second}")), "{}", node.left(&pod.uid));
    let volumes = format!("{}/..", node.make_volume(&pod.uid));
    assert_eq!(
        node.sh(&format!("cd {volumes} && find . -type s")),
        format!("./{VOLUME}/net2"),
        "the other is no NIC's"
    );
}

#[test]
fn an_add_that_fails_before_it_has_shared_anything_leaves_a_share_that_was_there() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let (volume, target) = (node.make_volume(&uid), node.target(&uid));
    node.sh(&format!("mkdir -p {target} {STATE} && mount --bind {volume} {target} && touch {STATE}/pods"));
    let answer = Call::new("ADD", &uid, &netns).run(&node);
    assert_eq!(answer.code(), 5, "no record can be written: {answer:?}");
    assert!(node.is_shared(&uid), "it may be that of a NIC whose record was lost");
}

#[test]
fn a_del_that_has_no_time_left_to_look_takes_no_share_that_may_be_in_use() {
    let (node, pod) = Node::with_pod();
    let add = pod.add().set("attach", json!("never"));
    add.run(&node).succeeded();
    let mut listener = listener(&pod, "cold");
    // As if another call had had the pod's lock all the time.
    let late = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=flock:delay_exit=1500000"];
    let answer = add.clone().command("DEL").set("detach_timeout", json!(1)).through(&late).run(&node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert!(node.is_shared(&pod.uid));
    support::end(&mut listener);
    add.command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn an_attachment_does_not_move_to_another_share() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let add = Call::new("ADD", &uid, &netns);
    let moved = add.clone().set("socket_base_dir", json!(ELSEWHERE));
    add.run(&node).succeeded();
    let answer = moved.run(&node);
    assert_eq!(answer.code(), 100, "{answer:?}");
    let there = format!("{ELSEWHERE}/{uid}/{VOLUME}");
    assert!(answer.text().contains(&there) && answer.text().contains(&node.target(&uid)), "{answer:?}");
    assert!(node.is_shared(&uid) && node.holds(&format!("! test -e {there}")), "{}", node.left(&uid));
    // By the configuration of today, which is no longer that of the ADD.
    moved.clone().command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&uid), "{}", node.left(&uid));
    moved.run(&node).succeeded();
    assert!(node.holds(&format!("mountpoint -q {there}")));
}
