//! The VM does not stand still for its NIC, whatever the data plane does.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::lab::{Answer, Pod, holds, lab, log, program};
use super::watch::{Watch, assert_ran_on, monitor_answers, until, watched};

/// Runs OVS again, whatever was done to it, however the test ends.
struct Ovs;

impl Drop for Ovs {
    fn drop(&mut self) {
        let _ = holds(&["ovs-cont"]);
        if !holds(&["exec", "sh", "-c", "kill -0 $(cat /var/run/openvswitch/ovs-vswitchd.pid)"]) {
            lab(&["ovs-start"]);
        }
    }
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn one_two_and_four_queues_are_plugged_without_a_stop() {
    let pod = Pod::new(&["--vcpus", "4"]);
    for queues in [1, 2, 4] {
        let add = || pod.call("add", "net1", &json!({"queues": queues})).nic();
        let (nic, longest) = watched(&pod, add, || pod.del("net1").succeeded());
        assert_ran_on(&pod, longest, &format!("with {queues} queues"));
        pod.ping(&nic);
        pod.del("net1").succeeded();
    }
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn more_queues_than_the_data_plane_has_are_refused_before_the_vm_is_touched() {
    let pod = Pod::new(&[]);
    // OVS-DPDK says 128, which is also the most that the configuration allows: a data plane of one's own says less.
    let answer = pod.call("add", "net1", &json!({"attach": "never"}));
    answer.succeeded();
    let path = format!("/run/openvswitch/vhost_sockets/{}/vhostuser-sockets/net2", pod.fact("POD_UID"));
    let double = std::env::var("DATAPLANE_DOUBLE").expect("tests/run names the double");
    lab(&["exec", "sh", "-c", &format!("{double} {path} --queues 2 >/dev/null 2>&1 & echo $! >/run/double.pid")]);
    let answer = pod.call_plugin_alone("add", "net2", &json!({"queues": 4}), &answer.json);
    lab(&["exec", "sh", "-c", "kill $(cat /run/double.pid)"]);
    assert_eq!(answer.code(), 7, "{answer:#?}");
    assert!(answer.json.to_string().contains("4 queue pairs, and the data plane offers 2"), "{answer:#?}");
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn eight_nics_one_after_another_and_two_at_once() {
    let pod = Pod::new(&["--ports", "10"]);
    let nics: Vec<_> = (0..8).map(|number| (format!("net{number}"), pod.add(&format!("net{number}")).nic())).collect();
    let watch = Watch::begin(&pod, 6);
    let both = std::thread::scope(|scope| {
        let calls = ["net8", "net9"].map(|ifname| scope.spawn(|| pod.add(ifname).nic()));
        calls.map(|call| call.join().unwrap())
    });
    let longest = watch.longest();
    assert_ran_on(&pod, longest, "with two at once");
    for nic in nics.iter().map(|(_, nic)| nic).chain(&both) {
        pod.ping(nic);
    }
    for number in 0..10 {
        pod.del(&format!("net{number}")).succeeded();
    }
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn without_a_data_plane_nothing_is_touched_and_the_call_ends_in_time() {
    let pod = Pod::new(&[]);
    pod.call("add", "net1", &json!({"attach": "never"})).succeeded();
    for (stop, start) in [("ovs-pause", "ovs-cont"), ("ovs-kill", "ovs-start")] {
        let _ovs = Ovs;
        // kube-ovn made the port before; only our own call is without its data plane.
        let port = pod.call("add", "net1", &json!({"attach": "never"}));
        port.succeeded();
        lab(&[stop]);
        let watch = Watch::begin(&pod, 8);
        let begun = Instant::now();
        let answer = pod.call_plugin_alone("add", "net1", &json!({"attach_timeout": 8}), &port.json);
        assert_eq!(answer.code(), 11, "{answer:#?}");
        assert!(answer.json.to_string().contains("No data plane connected to /var/run/openvswitch/vhost_sockets"));
        assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
        assert!(monitor_answers(&pod));
        let longest = watch.longest();
        assert_ran_on(&pod, longest, &format!("after {stop}"));
        let seen = lab(&["virsh", &pod.name, "dumpxml", pod.fact("DOMAIN")]);
        assert!(!seen.contains("<interface"), "{seen}");
        lab(&[start]);
        let nic = pod.add("net1").nic();
        pod.ping(&nic);
        pod.del("net1").succeeded();
    }
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

/// Moments of an ADD: the step that the plugin has logged, and so many milliseconds later.
const MOMENTS: [(&str, u64); 5] =
    [("VM looked at", 0), ("data plane met", 0), ("VM not busy", 4), ("attach ua-net1", 0), ("stand-in: ", 0)];

/// Has OVS killed or stopped (`how`) at a moment of an ADD; what that answered, and whether it was under way still.
fn disturb(pod: &Pod, how: &str, (step, millis): (&str, u64)) -> (Answer, bool) {
    let seconds = format!("{}.{:03}", millis / 1000, millis % 1000);
    let mut at = Command::new(program());
    let mut at = at.args(["ovs-at", step, &seconds, how]).stdout(Stdio::piped()).spawn().unwrap();
    let mut says = BufReader::new(at.stdout.take().unwrap()).lines();
    assert_eq!(says.next().unwrap().unwrap(), "ready");
    let answer = pod.call("add", "net1", &json!({"attach_timeout": 6}));
    let word = says.next().unwrap_or_else(|| panic!("{answer:#?}\n{}", log())).unwrap();
    assert!(at.wait().unwrap().success());
    (answer, word == "in time")
}

/// ADDs while OVS is killed or stopped at a moment of theirs; then OVS is back, and ADD succeeds.
fn disturbed(how: &str, start: &str, tries: usize) {
    let pod = Pod::new(&[]);
    let mut worst = Vec::new();
    let mut late = 0;
    while worst.len() < tries {
        let _ovs = Ovs;
        let (step, millis) = MOMENTS[worst.len() % MOMENTS.len()];
        // Each round of them somewhat later than the one before.
        let moment = (step, millis + u64::try_from(worst.len() / MOMENTS.len() * 4).unwrap());
        let watch = Watch::begin(&pod, 9);
        let (answer, in_time) = disturb(&pod, how, moment);
        if in_time {
            assert!(answer.ok || answer.code() == 11, "{answer:#?}");
            assert!(monitor_answers(&pod), "the monitor does not answer, {how} at {moment:?}: {answer:#?}\n{}", log());
        }
        let longest = if in_time {
            let longest = watch.longest();
            lab(&[start]);
            longest
        } else {
            // The VM may wait for OVS, and then tells nothing before that is back.
            lab(&[start]);
            watch.longest()
        };
        let nic = pod.add("net1").nic();
        pod.ping(&nic);
        pod.del("net1").succeeded();
        if !in_time {
            // Nothing is asked of an ADD that was over before: it must be tried again.
            late += 1;
            println!("{how} at {moment:?} came after the end of the ADD");
            assert!(late <= tries, "this machine is too busy to stop OVS while an ADD is under way: {worst:?}");
            continue;
        }
        worst.push((longest, moment, answer.ok));
        assert_ran_on(&pod, longest, &format!("{how} at {moment:?}; {worst:?}"));
    }
    println!("{how}: longest gap in ms, moment, whether the ADD succeeded: {worst:?}");
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

/// How many ADDs are disturbed. FREEZE_TRIES=50 takes some 20 minutes.
fn tries() -> usize {
    std::env::var("FREEZE_TRIES").map_or(5, |text| text.parse().unwrap())
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_data_plane_killed_at_any_moment_does_not_stop_the_vm() {
    disturbed("kill", "ovs-start", tries());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_data_plane_stopped_at_any_moment_does_not_stop_the_vm() {
    disturbed("pause", "ovs-cont", tries());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_whose_data_plane_hangs_is_unplugged_without_a_stop() {
    let pod = Pod::new(&[]);
    let _ovs = Ovs;
    let nic = pod.add("net1").nic();
    pod.ping(&nic);
    lab(&["ovs-pause"]);
    let watch = Watch::begin(&pod, 5);
    let port = pod.call_plugin_alone("del", "net1", &json!({}), &Value::Null);
    assert!(port.ok, "{port:#?}");
    let longest = watch.longest();
    assert_ran_on(&pod, longest, "while its data plane hung");
    assert!(!pod.guest_has(&nic));
    lab(&["ovs-cont"]);
    until("OVS answers again", || holds(&["ovs", "--timeout=2", "show"]));
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn an_attach_of_somebody_elses_that_is_stuck_is_named_and_not_waited_for() {
    let pod = Pod::new(&[]);
    let port = pod.call("add", "net1", &json!({"attach": "never"}));
    let nic = port.nic();
    let _ovs = Ovs;
    lab(&["ovs-pause"]);
    let path = format!("{}/net1", pod.fact("SOCKETS"));
    let xml = format!(
        "<interface type='vhostuser'><mac address='{}'/><source type='unix' path='{path}' mode='server'/>\
         <model type='virtio-non-transitional'/><driver name='vhost' queues='2'/><alias name='ua-net1'/></interface>",
        nic.mac
    );
    let virsh = format!(
        "echo \"{xml}\" > /tmp/nic.xml && exec timeout 120 virsh -c {} attach-device {} /tmp/nic.xml --live",
        pod.fact("LIBVIRT_URI"),
        pod.fact("DOMAIN")
    );
    let script = format!("nsenter -t {} -m -n -p sh -c '{}'", pod.fact("PID"), virsh.replace('\'', "'\\''"));
    let mut virsh = Command::new(program()).args(["exec", "sh", "-c", &script]).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let begun = Instant::now();
    let answer = pod.call_plugin_alone("add", "net1", &json!({"attach_timeout": 5}), &port.json);
    assert_eq!(answer.code(), 11, "{answer:#?}");
    assert!(answer.json.to_string().contains("stuck"), "{answer:#?}");
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    lab(&["ovs-cont"]);
    assert!(virsh.wait().unwrap().success());
    pod.add("net1").succeeded();
    pod.ping(&nic);
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_call_that_is_killed_leaves_a_vm_that_runs_and_the_next_one_mends() {
    let pod = Pod::new(&[]);
    for millis in [20, 200, 600, 900, 1000, 1050, 1100, 1200] {
        let watch = Watch::begin(&pod, 4);
        std::thread::scope(|scope| {
            let call = scope.spawn(|| pod.add("net1"));
            std::thread::sleep(Duration::from_millis(millis));
            // The plugin alone: a runtime that kills it lives on.
            let _ = holds(&["exec", "pkill", "-KILL", "-x", "vhostuser-hotpl"]);
            call.join().unwrap()
        });
        let longest = watch.longest();
        let nic = pod.add("net1").nic();
        pod.ping(&nic);
        pod.del("net1").succeeded();
        assert_eq!(pod.leftovers(), Vec::<String>::new());
        // Killed between the attach and the hand-over, the VM waits for OVS's next round, a second at most.
        assert_ran_on(&pod, longest - 1000.0, &format!("and a second, killed after {millis} ms"));
    }
}
