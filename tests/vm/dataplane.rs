//! What the plugin leaves in OVS, what the guest is shown of it, and OVS that is killed, stopped, restarted or replaced.

use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::lab::{Answer, Nic, Pod, holds, lab, log};
use super::watch::PATIENCE;

/// Bits of the virtio network device's features.
const HOST_TSO4: u32 = 11;
const MAC: u32 = 5;

/// What OVS logs of a connection that ended before it had its device.
const CLOSED_EARLY: &str = "closed during initialization";

/// The lines that OVS has logged since it had logged this many.
fn ovs_log(since: usize) -> Vec<String> {
    lab(&["ovs-log"]).lines().skip(since).map(str::to_owned).collect()
}

/// Sets whether OVS has userspace TSO, which it reads when it starts.
fn set_tso(on: bool) {
    lab(&["ovs", "--no-wait", "set", "open_vswitch", ".", &format!("other_config:userspace-tso-enable={on}")]);
    lab(&["ovs-stop"]);
    lab(&["ovs-start"]);
}

/// OVS as the lab started it, however the test ends.
struct Restored {
    version: String,
}

impl Restored {
    fn at_the_end() -> Self {
        let version = lab(&["ovs", "--version"]);
        let version = version.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap();
        Self { version: version.rsplit_once('.').unwrap().0.to_owned() }
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let _ = holds(&["ovs-cont"]);
        if !lab(&["ovs", "--version"]).contains(&format!(" {}.", self.version)) {
            lab(&["ovs-switch", &self.version]);
        }
        if !holds(&["exec", "sh", "-c", "kill -0 $(cat /var/run/openvswitch/ovs-vswitchd.pid)"]) {
            lab(&["ovs-start"]);
        }
        if holds(&["ovs", "get", "open_vswitch", ".", "other_config:userspace-tso-enable"]) {
            lab(&["ovs", "remove", "open_vswitch", ".", "other_config", "userspace-tso-enable"]);
            lab(&["ovs-stop"]);
            lab(&["ovs-start"]);
        }
    }
}

/// A feature that the guest's driver has taken, as Linux shows it: a digit for each bit, the lowest first.
fn has(pod: &Pod, nic: &Nic, bit: u32) -> bool {
    let features = pod.guest(&format!("cat /sys/class/net/$(nic {})/device/features", nic.mac));
    features.as_bytes().get(usize::try_from(bit).unwrap()).is_some_and(|digit| *digit == b'1')
}

/// The features with which OVS has taken up its only guest: it writes them down some seconds later.
fn features_in_ovs() -> u64 {
    let find = ["--bare", "--columns=name", "find", "interface", "type=dpdkvhostuserclient"];
    let port = lab(&[&["ovs"], &find[..]].concat());
    lab(&["ovs", "--timeout=30", "wait-until", "interface", &port, "status:status=connected"]);
    let features = lab(&["ovs", "get", "interface", &port, "status:features"]);
    u64::from_str_radix(features.trim_matches('"').trim_start_matches("0x"), 16).unwrap()
}

/// The rounds of the test below. The matrix takes 30.
fn rounds() -> usize {
    std::env::var("OVS_ROUNDS").map_or(5, |text| text.parse().unwrap())
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn an_add_leaves_no_trace_in_ovs() {
    let pod = Pod::new(&[]);
    let before = ovs_log(0).len();
    for _ in 0..rounds() {
        let nic = pod.add("net1").nic();
        pod.ping(&nic);
        pod.del("net1").succeeded();
    }
    let log = ovs_log(before);
    let closed: Vec<&String> = log.iter().filter(|line| line.contains(CLOSED_EARLY)).collect();
    assert!(closed.is_empty(), "OVS took the probe for a guest that failed: {closed:#?}");
    // Registered once, when kube-ovn made the port. OVS would do it again for a guest that failed.
    let registered = log.iter().filter(|line| line.contains("created in 'client' mode")).count();
    assert_eq!(registered, rounds(), "{log:#?}");
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn the_guest_is_shown_what_the_port_offers_with_tso_and_without() {
    let _ovs = Restored::at_the_end();
    let pod = Pod::new(&["--vcpus", "4"]);
    for tso in [true, false] {
        set_tso(tso);
        for queues in [1, 2, 8] {
            let nic = pod.call("add", "net1", &json!({"queues": queues})).nic();
            pod.ping(&nic);
            let shown = (has(&pod, &nic, MAC), has(&pod, &nic, HOST_TSO4));
            assert_eq!(shown, (true, tso), "TSO {tso}, {queues} queues");
            assert_eq!(features_in_ovs() >> HOST_TSO4 & 1 == 1, tso, "TSO {tso}, {queues} queues");
            pod.del("net1").succeeded();
        }
    }
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

/// Has a guest fail on the port: it connects, and goes before it has said anything.
fn fail(pod: &Pod, socket: &str) {
    let path = format!("/run/openvswitch/vhost_sockets/{}/vhostuser-sockets/{socket}", pod.fact("POD_UID"));
    let before = ovs_log(0).len();
    lab(&["exec", "timeout", "10", "socat", &format!("UNIX-LISTEN:{path},mode=666,unlink-early"), "EXEC:true"]);
    let end = Instant::now() + PATIENCE;
    while !ovs_log(before)
        .iter()
        .any(|line| line.contains(CLOSED_EARLY) || line.contains("connection has been destroyed"))
    {
        assert!(Instant::now() < end, "OVS has not come to {path}: {:#?}", ovs_log(before));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn features_that_another_guest_has_changed_are_not_what_the_guest_is_shown() {
    let _ovs = Restored::at_the_end();
    let pod = Pod::new(&[]);
    set_tso(true);
    for _ in 0..2 {
        pod.call("add", "net1", &json!({"attach": "never"})).succeeded();
        // From then on the port offers no TSO to the next guest, and TSO to the one after that.
        fail(&pod, "net1");
        let nic = pod.add("net1").nic();
        pod.ping(&nic);
        assert!(has(&pod, &nic, HOST_TSO4));
        assert_eq!(features_in_ovs() >> HOST_TSO4 & 1, 1, "{}", log());
        pod.del("net1").succeeded();
    }
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

/// What is done to OVS at a step of the probe, and how it is brought back.
#[derive(Clone, Copy, Debug)]
enum Act {
    Kill,
    Pause,
    /// With userspace TSO where it had none, and without where it had it.
    Restart,
}

impl Act {
    fn begin(self, tso: &mut bool) {
        match self {
            Self::Kill => drop(lab(&["ovs-kill"])),
            Self::Pause => drop(lab(&["ovs-pause"])),
            Self::Restart => {
                *tso = !*tso;
                set_tso(*tso);
            }
        }
    }

    fn end(self) {
        match self {
            Self::Kill => drop(lab(&["ovs-start"])),
            Self::Pause => drop(lab(&["ovs-cont"])),
            Self::Restart => {}
        }
    }
}

/// The messages of the probe after which something is done, among them its last: the questions of the first connection, the
/// first and the last step to a device, the question after it, the questions of the second connection, the last question
/// before the VM is touched. PROBE_STEPS=all takes all of them.
const STEPS: [u32; 8] = [1, 4, 5, 12, 19, 20, 21, 25];

fn steps() -> Vec<(u32, Act)> {
    let acts = [Act::Kill, Act::Pause, Act::Restart];
    if std::env::var_os("PROBE_STEPS").is_some() {
        return (1..=STEPS[STEPS.len() - 1]).flat_map(|step| acts.map(|act| (step, act))).collect();
    }
    STEPS.into_iter().zip(acts.into_iter().cycle()).collect()
}

/// Calls the plugin's ADD, which stops itself after it has sent this many messages to the data plane.
fn stopped_add(pod: &Pod, step: u32, port: &Value) -> Child {
    let inject = format!("inject=sendmsg:signal=SIGSTOP:when={step}");
    let strace = ["strace", "-f", "-qq", "-o", "/run/probe-steps", "-e", "trace=sendmsg", "-e", &inject];
    let child = pod.start_plugin(&strace, "add", "net1", &json!({}), port);
    let end = Instant::now() + PATIENCE;
    while !holds(&["exec", "grep", "-q", "stopped by SIGSTOP", "/run/probe-steps"]) {
        assert!(
            Instant::now() < end,
            "the probe sends no {step} messages: {}",
            lab(&["exec", "cat", "/run/probe-steps"])
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

/// How often a NIC was attached, by the plugin's log.
fn attaches() -> usize {
    lab(&["log"]).matches(": attach ua-net1").count()
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn ovs_that_is_killed_stopped_or_restarted_at_any_step_of_the_probe_does_no_harm() {
    let _ovs = Restored::at_the_end();
    let pod = Pod::new(&[]);
    let mut tso = false;
    for (step, act) in steps() {
        let port = pod.call("add", "net1", &json!({"attach": "never"}));
        port.succeeded();
        lab(&["exec", "rm", "-f", "/run/probe-steps"]);
        let before = attaches();
        let mut call = stopped_add(&pod, step, &port.json);
        act.begin(&mut tso);
        // strace counts for each thread, so another one may stop later.
        while call.try_wait().unwrap().is_none() {
            let _ = holds(&["exec", "pkill", "-CONT", "-x", "vhostuser-hotpl"]);
            std::thread::sleep(Duration::from_millis(100));
        }
        let output = call.wait_with_output().unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        let answer = Answer { ok: output.status.success(), json, words: String::new() };
        let what = format!("{act:?} after {step} messages: {answer:#?}\n{}", log());
        let xml = lab(&["virsh", &pod.name, "dumpxml", pod.fact("DOMAIN")]);
        if answer.ok {
            // OVS was back in time.
            assert!(matches!(act, Act::Restart) && xml.contains("<interface"), "{what}");
        } else {
            assert_eq!(answer.code(), 11, "{what}");
            assert!(!xml.contains("<interface"), "{what}");
            // The last message is answered already: what is done to OVS then meets the attach.
            let touched = attaches() > before;
            assert!(!touched || step == STEPS[STEPS.len() - 1], "the VM was touched: {what}");
        }
        act.end();
        let nic = pod.add("net1").nic();
        pod.ping(&nic);
        assert_eq!(has(&pod, &nic, HOST_TSO4), tso, "{what}");
        pod.del("net1").succeeded();
        assert_eq!(pod.leftovers(), Vec::<String>::new(), "{what}");
    }
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn an_ovs_that_lacks_what_the_guest_uses_is_told_of_and_a_new_nic_works() {
    let _ovs = Restored::at_the_end();
    let pod = Pod::new(&[]);
    lab(&["ovs-switch", "3.5"]);
    let nic = pod.add("net1").nic();
    pod.ping(&nic);
    // It does not offer VIRTIO_NET_F_CSUM, which the guest has taken.
    lab(&["ovs-switch", "3.1"]);
    let answer = pod.call("add", "net1", &json!({"attach_timeout": 10}));
    assert_eq!(answer.code(), 11, "{answer:#?}");
    assert!(answer.json.to_string().contains("vhost lacks feature mask"), "{answer:#?}");
    let answer = pod.call("check", "net1", &json!({}));
    assert_eq!(answer.code(), 104, "{answer:#?}");
    let qemu = lab(&["exec", "sh", "-c", &format!("cat /proc/{}/root/var/log/libvirt/qemu/*.log", pod.fact("PID"))]);
    assert!(qemu.contains("vhost lacks feature mask 0x1 "), "{qemu}");
    assert!(pod.guest_has(&nic), "the guest runs on");
    lab(&["ovs-switch", "3.5"]);
    pod.add("net1").succeeded();
    pod.ping(&nic);
    lab(&["ovs-switch", "3.1"]);
    pod.del("net1").succeeded();
    let nic = pod.add("net1").nic();
    pod.ping(&nic);
    // And what offers more is taken as it is.
    lab(&["ovs-switch", "3.5"]);
    pod.add("net1").succeeded();
    pod.ping(&nic);
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}
