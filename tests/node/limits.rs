//! Calls in a cgroup with the limits that Multus' DaemonSet has: a call that deals with a pod leaves it, and any other
//! stays.

use std::io::Read;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use serde_json::json;
use support::limited::Limited;
use support::patience::{output, until};
use support::{Answer, Call, DataPlane, Double, Node, Pod, answer, end, signals};

/// Makes cgroups read-only where the plugin looks for them, as on a node where they are not for it to change, and
/// leaves a way to enter one.
const READ_ONLY: &str = "mkdir /run/cgroups && mount --rbind /sys/fs/cgroup /run/cgroups && \
     for m in $(awk '$2 ~ \"^/sys/fs/cgroup\" { print $2 }' /proc/mounts); do mount -o remount,bind,ro $m; done";
const ELSEWHERE: &str = "/run/cgroups";

/// Calls the plugin in the limited cgroup.
fn limited(call: &Call, group: &Limited, before: &[&str]) -> Call {
    let entered = group.enter();
    let words: Vec<&str> = entered.iter().map(String::as_str).chain(before.iter().copied()).collect();
    call.clone().through(&words)
}

/// The plugin's process, once it is there. Other programs lead to it, each of which becomes the next.
fn plugin(call: &mut Child) -> u32 {
    let pid = signals::plugin(call);
    while std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default() != "vhostuser-hotpl\n" {
        if call.try_wait().unwrap().is_some() {
            let mut told = String::new();
            call.stderr.take().unwrap().read_to_string(&mut told).unwrap();
            panic!("it has ended: {told}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    pid
}

/// Calls the plugin while the pod's libvirt hangs, waits until it has left the group, and lets it end.
fn leaves(call: &Call, group: &Limited, double: &Double, node: &Node) -> Answer {
    signals::send("STOP", signals::program(double.child.id()));
    let mut call = call.start(node);
    let pid = plugin(&mut call);
    until("the plugin has left the cgroup", || !group.has(pid));
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    signals::go_on(double.child.id());
    assert!(status.is_ok(), "it has not left by ending");
    answer(output(call))
}

#[test]
fn a_call_that_deals_with_a_pod_leaves_the_limits_of_its_caller() {
    let (node, group) = (Node::new(), Limited::new());
    let pod = Pod::new(&node);
    let double = Double::start(&pod, &json!({}));
    let _plane = DataPlane::start(&node, &pod, "net1");
    let add = pod.add();
    for before in [&[][..], &["unshare", "--cgroup", "--mount", "--"]] {
        for command in ["ADD", "CHECK", "DEL"] {
            let call = limited(&add.clone().command(command), &group, before);
            let answer = leaves(&call, &group, &double, &node);
            answer.succeeded();
            for limit in group.limits() {
                let line = answer.log.lines().find(|line| line.contains("left cgroup") && line.contains(limit));
                assert!(line.is_some(), "{limit} is not in {}", answer.log);
            }
            assert!(!answer.log.contains("could not leave"), "{}", answer.log);
        }
    }
    assert_eq!(group.oom_kills(), 0);
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn a_call_for_any_other_pod_stays_where_it_is() {
    let (node, group) = (Node::new(), Limited::new());
    let netns = node.make_netns("other");
    let answer = limited(&Call::new("ADD", &support::new_uid(), &netns), &group, &[]).run(&node);
    answer.succeeded();
    assert!(!answer.log.contains("cgroup"), "{}", answer.log);
}

#[test]
fn a_caller_without_limits_is_not_left() {
    let (node, group) = (Node::new(), Limited::without_limits());
    let pod = Pod::new(&node);
    let double = Double::start(&pod, &json!({}));
    let _plane = DataPlane::start(&node, &pod, "net1");
    signals::send("STOP", signals::program(double.child.id()));
    let mut call = limited(&pod.add(), &group, &[]).start(&node);
    let pid = plugin(&mut call);
    // It speaks with libvirt: what it does before is done.
    let threads = format!("/proc/{pid}/task");
    until("it is confined", || std::fs::read_dir(&threads).is_ok_and(|threads| threads.count() > 1));
    assert!(group.has(pid));
    signals::go_on(double.child.id());
    end(&mut call);
}

#[test]
fn what_cannot_be_left_is_told_and_the_call_goes_on() {
    let (node, group) = (Node::new(), Limited::new());
    let pod = Pod::new(&node);
    let _double = Double::start(&pod, &json!({}));
    let _plane = DataPlane::start(&node, &pod, "net1");
    node.sh(READ_ONLY);
    let entered = group.enter_below(ELSEWHERE);
    let call = pod.add().through(&entered.each_ref().map(String::as_str));
    let answer = call.run(&node);
    answer.succeeded();
    for limit in group.limits() {
        let line = answer.log.lines().find(|line| line.contains("could not leave cgroup") && line.contains(limit));
        assert!(line.is_some_and(|line| line.contains("Read-only")), "{limit} is not in {}", answer.log);
    }
    call.command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn nice_values_are_left_and_the_cpus_are_kept() {
    let (node, group) = (Node::new(), Limited::new());
    let pod = Pod::new(&node);
    let double = Double::start(&pod, &json!({}));
    let _plane = DataPlane::start(&node, &pod, "net1");
    signals::send("STOP", signals::program(double.child.id()));
    let before = ["taskset", "--cpu-list", "0", "nice", "-n", "10"];
    let mut call = limited(&pod.add(), &group, &before).start(&node);
    let pid = plugin(&mut call);
    let field = |number: usize| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(number - 3).unwrap().to_owned()
    };
    // The 19th field of proc(5) is the nice value.
    until("the nice value is left", || field(19) == "0");
    until("the cgroup is left", || !group.has(pid));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    signals::go_on(double.child.id());
    assert!(status.lines().any(|line| line == "Cpus_allowed_list:\t0"), "{status}");
    let answer = answer(output(call));
    answer.succeeded();
    assert!(answer.log.contains("left nice 10"), "{}", answer.log);
}

/// The doctor in the group, on a node as it is and on one whose cgroups cannot be changed.
#[test]
fn the_doctor_leaves_them_too_or_says_why_it_cannot() {
    let (node, group) = (Node::new(), Limited::new());
    let doctor = |entered: [String; 3]| {
        let words = entered.into_iter().map(PathBuf::from).chain([support::plugin().into(), "doctor".into()]);
        let output = node.command("env").args(["NO_COLOR="]).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let told = doctor(group.enter());
    assert!(group.limits().iter().all(|limit| told.contains(limit)) && told.contains("can be left"), "{told}");
    node.sh(READ_ONLY);
    let told = doctor(group.enter_below(ELSEWHERE));
    assert!(group.limits().iter().all(|limit| told.contains(limit)) && told.contains("could not leave"), "{told}");
    assert!(told.contains("mounted writable"), "{told}");
}
