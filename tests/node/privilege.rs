//! What is left to the plugin while it speaks with a pod, that it takes no less and no more, and that it goes on where
//! nothing can be dropped.

use std::collections::BTreeSet;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::patience::{output, until};
use support::{Call, DataPlane, Double, INSIDE, Node, Pod, answer, end, new_uid, signals};
use vhostuser_hotplug::privilege::Task;
use vhostuser_hotplug::privilege::filter::{self, Call as SystemCall};

/// A pod with a VM and its data plane.
struct Place<'a> {
    node: &'a Node,
    pod: Pod,
    double: Double,
    _plane: DataPlane,
}

impl<'a> Place<'a> {
    fn new(node: &'a Node) -> Self {
        let pod = Pod::new(node);
        let double = Double::start(&pod, &json!({}));
        let plane = DataPlane::start(node, &pod, "net1");
        Self { node, pod, double, _plane: plane }
    }

    fn call(&self, command: &'static str) -> Call {
        let call = self.pod.call(command);
        // The runtime also wants to be told of the NIC.
        call.set("runtimeConfig", json!({"CNIDeviceInfoFile": "/run/devinfo/net1"}))
    }

    /// As kubelet's runtime had it called when the pod began: the share, and no NIC.
    fn share(&self) {
        self.call("ADD").ifname("eth0").set("attach", json!("never")).run(self.node).succeeded();
    }

    /// Calls the plugin while the pod's libvirt hangs, so that it gets as far as asking it and no further; what is left to
    /// it there is that of the task, after so many filters.
    fn has_left(&self, command: &'static str, task: Task, filters: usize) {
        let libvirt = signals::program(self.double.child.id());
        signals::send("STOP", libvirt);
        let mut call = self.call(command).start(self.node);
        let seen = settled(&call, task, filters);
        end(&mut call);
        signals::go_on(self.double.child.id());
        assert!(seen.is_ok(), "{command}: {}", seen.unwrap_err());
    }
}

/// What the status of a thread says that has just this left.
fn left(task: Task, filters: usize) -> [(&'static str, String); 8] {
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    // The machine may confine the test itself.
    let filters = filters + field(&own, "Seccomp_filters").parse::<usize>().unwrap();
    let capabilities = format!("{:016x}", task.capabilities().bits());
    let nothing = "0".repeat(16);
    [
        ("CapInh", nothing.clone()),
        ("CapPrm", capabilities.clone()),
        ("CapEff", capabilities),
        ("CapBnd", nothing.clone()),
        ("CapAmb", nothing),
        ("NoNewPrivs", "1".to_owned()),
        ("Seccomp", "2".to_owned()),
        ("Seccomp_filters", filters.to_string()),
    ]
}

/// Waits until a thread of the plugin has just this left, and no other has more: the one that watches the deadline never
/// mounts. Else says what they have.
fn settled(call: &Child, task: Task, filters: usize) -> Result<(), String> {
    all_have(call, &left(task, filters), &left(Task::Talk, filters + 1))
}

/// The same of a person's command, all of whose threads have as little.
fn confined(call: &Child, task: Task, filters: usize) -> Result<(), String> {
    all_have(call, &left(task, filters), &left(task, filters))
}

fn all_have(call: &Child, expected: &[(&str, String)], watch: &[(&str, String)]) -> Result<(), String> {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let threads = format!("/proc/{}/task", signals::plugin(call));
        let threads = std::fs::read_dir(threads).into_iter().flatten().flatten();
        let of = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let statuses: Vec<String> = threads.map(of).collect();
        let has = |status: &str, left: &[(&str, String)]| left.iter().all(|(name, value)| field(status, name) == value);
        if statuses.iter().any(|status| has(status, expected))
            && statuses.iter().all(|status| has(status, expected) || has(status, watch))
        {
            return Ok(());
        }
        if Instant::now() > patience {
            return Err(format!("{statuses:#?} instead of {expected:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    status.lines().find_map(value).unwrap_or_default().trim()
}

#[test]
fn what_is_not_needed_is_gone_before_libvirt_is_spoken_to() {
    let node = Node::new();
    let place = Place::new(&node);
    // The share is this call's own, and to be taken away if it fails.
    place.has_left("ADD", Task::Mount, 1);
    place.share();
    place.has_left("ADD", Task::Talk, 2);
    place.call("ADD").run(&node).succeeded();
    place.has_left("CHECK", Task::Talk, 1);
    place.has_left("DEL", Task::Talk, 2);
    place.call("DEL").ifname("eth0").run(&node).succeeded();
    place.call("ADD").run(&node).succeeded();
    place.has_left("DEL", Task::Mount, 1);
    place.call("DEL").run(&node).succeeded();
    assert!(node.is_clean(&place.pod.uid), "{}", node.left(&place.pod.uid));
}

#[test]
fn it_suffices_for_a_pod_whose_files_and_processes_are_another_users() {
    let (node, pod) = Node::with_pod();
    pod.command("sh")
        .args(["-ec", &format!("chown 107:107 /run/libvirt {INSIDE}; chmod 1700 {INSIDE}")])
        .status()
        .unwrap();
    let plane = DataPlane::start(&node, &pod, "net1");
    // Another user's, though it may read a clone of root's, in which the double lies, and write its log there.
    let of_user = "--reuid 107 --regid 107 --clear-groups --inh-caps +dac_override --ambient-caps +dac_override";
    let mut start = |program: &std::path::PathBuf| {
        let mut command = pod.command("setpriv");
        command.args(of_user.split(' ')).args(["sh", "-c", "umask 077; exec \"$@\"", "sh"]).arg(program);
        command
    };
    let double = Double::through(&mut start, &json!({}));
    let call = |command: &'static str, ifname: &str| {
        pod.call(command).ifname(ifname).set("attach", json!(if ifname == "eth0" { "never" } else { "auto" }))
    };
    call("ADD", "eth0").run(&node).succeeded();
    for command in ["ADD", "ADD", "CHECK", "DEL", "DEL", "ADD"] {
        call(command, "net1").run(&node).succeeded();
    }
    // The VM dies, and leaves its socket in a directory where only its owner may remove it.
    drop(double);
    assert!(node.holds(&format!("test -S {}/net1", node.target(&pod.uid))));
    call("DEL", "net1").run(&node).succeeded();
    assert!(node.holds(&format!("! test -e {}/net1", node.target(&pod.uid))));
    drop(plane);
    call("DEL", "eth0").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "{}", node.left(&pod.uid));
}

#[test]
fn the_last_del_of_a_pod_that_is_gone_can_still_unmount() {
    let node = Node::new();
    let mut place = Place::new(&node);
    let _plane = DataPlane::start(&node, &place.pod, "net2");
    place.call("ADD").run(&node).succeeded();
    place.call("ADD").ifname("net2").mac("00:00:00:24:65:F5").run(&node).succeeded();
    end(&mut place.double.child);
    place.pod.die();
    // Nobody calls for net2: what it left goes along, and the share with it.
    place.call("DEL").run(&node).succeeded();
    assert!(node.is_clean(&place.pod.uid), "{}", node.left(&place.pod.uid));
}

#[test]
fn a_call_that_was_stopped_goes_on() {
    let node = Node::new();
    let place = Place::new(&node);
    signals::send("STOP", signals::program(place.double.child.id()));
    let call = place.call("ADD").start(&node);
    settled(&call, Task::Mount, 1).unwrap();
    let plugin = signals::plugin(&call);
    // In poll(2), waiting for libvirt: the wait that is to be resumed.
    let waits =
        |wait: &str| std::fs::read_to_string(format!("/proc/{plugin}/wchan")).unwrap_or_default().contains(wait);
    until("the plugin waits for libvirt", || waits("poll"));
    signals::send("STOP", plugin);
    until("the plugin is stopped", || waits("signal_stop"));
    signals::go_on(call.id());
    until("the plugin waits for libvirt", || waits("poll"));
    signals::go_on(place.double.child.id());
    answer(output(call)).succeeded();
    place.call("DEL").run(&node).succeeded();
}

/// System calls, each with its line of strace(1).
type Trace = Vec<(String, String)>;

/// What a call of the plugin does before the first filter, and since the last.
fn traced(node: &Node, call: &Call) -> (Trace, Trace) {
    let file = std::env::temp_dir().join(format!("vhu-privilege-{}", new_uid()));
    call.clone().through(&["strace", "-f", "-qq", "-o", file.to_str().unwrap()]).run(node).succeeded();
    let trace = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let (mut before, mut since, mut filters) = (Trace::new(), Trace::new(), 0);
    for line in trace.lines() {
        let rest = line.split_once(' ').unwrap().1.trim_start();
        let rest = rest.strip_prefix("<... ").unwrap_or(rest);
        let Some(name) = rest.split(['(', ' ']).next().filter(|name| !name.is_empty() && *name != "+++") else {
            continue;
        };
        if name == "seccomp" {
            filters += 1;
        } else if filters == 0 {
            before.push((name.to_owned(), line.to_owned()));
        } else {
            since.push((name.to_owned(), line.to_owned()));
        }
    }
    (before, since)
}

fn names(lists: &[&[SystemCall]]) -> BTreeSet<String> {
    lists.iter().copied().flatten().map(|call| call.name.to_owned()).collect()
}

#[test]
fn the_lists_hold_what_is_used_and_nothing_else() {
    let node = Node::new();
    let place = Place::new(&node);
    let gc = place.call("GC").gc();
    let mut used = BTreeSet::new();
    for (call, calls) in [
        ("ADD", place.call("ADD")),
        ("CHECK", place.call("CHECK")),
        ("DEL", place.call("DEL")),
        ("ADD of the share", place.call("ADD").ifname("eth0").set("attach", json!("never"))),
        ("ADD with the share there", place.call("ADD")),
        ("DEL with the share staying", place.call("DEL")),
        ("GC", gc),
    ] {
        let (_, seen) = traced(&node, &calls);
        assert!(seen.len() > 20, "{call}: no filter was set");
        for (name, line) in seen {
            // glibc's first try, whose flags no filter sees.
            assert!(name == "clone3" || !line.contains("ENOSYS"), "{call}: {line}");
            used.insert(name);
        }
    }
    assert!(node.is_clean(&place.pod.uid), "{}", node.left(&place.pod.uid));
    used.remove("clone3");
    let (seen, unseen) = (names(&[filter::TALK, filter::OF_THIS_MACHINE]), names(&[filter::UNSEEN]));
    let dropping = BTreeSet::from(["capget", "capset", "prctl", "seccomp"].map(str::to_owned));
    let mount = &names(&[filter::MOUNT]) - &dropping;
    assert_eq!(&(&used - &seen) - &(&unseen | &(&mount | &dropping)), BTreeSet::new(), "used, and on no list");
    assert_eq!(&(&seen | &mount) - &used, BTreeSet::new(), "on a list without being used: if it must be, see UNSEEN");
}

#[test]
fn a_persons_look_at_pods_is_confined_as_a_check_is() {
    let node = Node::new();
    let places = [Place::new(&node), Place::new(&node)];
    for place in &places {
        place.call("ADD").run(&node).succeeded();
        place.share();
    }
    let pod = &places[0].pod;
    for words in [&["list"][..], &["list", "--json"], &["inspect", &pod.uid]] {
        let file = std::env::temp_dir().join(format!("vhu-privilege-{}", new_uid()));
        let mut command = node.command("strace");
        command.args(["-f", "-qq", "-o", file.to_str().unwrap(), support::plugin()]).args(words);
        let told = support::told(command.output().unwrap());
        assert!(told.ok && told.out.contains("ua-net1") || told.out.contains("connected"), "{words:?}: {told:?}");
        let trace = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let (before, since) = trace.split_once(" seccomp(").expect("a filter is set");
        // By then nothing of a pod has been looked at: not its files, nor its processes, nor what is recorded of it.
        for of_a_pod in [&pod.uid, &format!("/proc/{}", pod.pid), "/pods"] {
            assert!(!before.contains(of_a_pod), "{words:?}: {of_a_pod} before the filter");
        }
        assert!(since.contains(&pod.uid) && since.lines().count() > 20, "{words:?}");
        let failed = since.lines().find(|line| line.contains("ENOSYS") && !line.contains("clone3"));
        assert_eq!(failed, None, "{words:?}");
    }
    // While it asks libvirt.
    let libvirt = signals::program(places[0].double.child.id());
    signals::send("STOP", libvirt);
    let inspect =
        node.command(support::plugin()).args(["inspect", &pod.uid]).stdout(std::process::Stdio::piped()).spawn();
    let inspect = inspect.unwrap();
    let seen = confined(&inspect, Task::Talk, 1);
    signals::go_on(places[0].double.child.id());
    assert!(output(inspect).status.success() && seen.is_ok(), "{seen:?}");
}

#[test]
fn a_pod_without_the_volume_costs_no_dropping() {
    let node = Node::new();
    let netns = node.make_netns("sandbox");
    for command in ["ADD", "DEL", "CHECK"] {
        let (before, since) = traced(&node, &Call::new(command, &new_uid(), &netns));
        assert!(since.is_empty() && before.len() > 20, "{command}: a filter was set");
        let dropping = before.iter().find(|(name, _)| ["prctl", "capget", "capset"].contains(&name.as_str()));
        assert_eq!(dropping, None, "{command}");
    }
}

#[test]
fn what_cannot_be_dropped_fails_no_call_and_is_told() {
    let node = Node::new();
    let place = Place::new(&node);
    let inject = |call: &str, errno: &str| {
        let (set, fault) = (format!("trace={call}"), format!("inject={call}:error={errno}"));
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &set, "-e", &fault].map(str::to_owned).to_vec()
    };
    let without = |capabilities: &str| ["setpriv", "--bounding-set", capabilities].map(str::to_owned).to_vec();
    for (wrapper, told) in [
        // A kernel without seccomp, and containers of different severity.
        (inject("seccomp", "EINVAL"), "system calls"),
        (inject("seccomp", "ENOSYS"), "system calls"),
        (inject("prctl", "EPERM"), "the capability bounding set"),
        (inject("capset", "EPERM"), "capabilities"),
        (inject("prctl,capget,capset,seccomp", "EPERM"), "system calls"),
        (without("-setpcap"), "the capability bounding set"),
        (without("-all,+sys_admin,+sys_chroot,+sys_ptrace,+dac_override,+fowner"), "the capability bounding set"),
    ] {
        let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        for command in ["ADD", "CHECK", "DEL"] {
            let answer = place.call(command).set("log_level", json!("info")).through(&words).run(&node);
            answer.succeeded();
            let told = format!("could not drop {told}, and goes on");
            assert!(answer.log.contains(&told), "{command} {words:?}: {}", answer.log);
        }
        assert!(node.is_clean(&place.pod.uid), "{words:?}");
    }
    // Where nothing is in the way, nothing is said.
    let answer = place.call("ADD").run(&node);
    assert!(answer.ok && !answer.log.contains("could not drop"), "{}", answer.log);
    assert_ne!(answer.json, Value::Null);
}
