//! libvirt and the VM fail, end and come back; and many rounds leave nothing behind. docs/faults.md is the summary.

use std::time::{Duration, Instant};

use serde_json::json;

use super::lab::{Answer, Nic, Pod, holds, lab, log};
use super::watch::PATIENCE;

fn signal(pod: &Pod, signal: &str) {
    lab(&["exec", "kill", &format!("-{signal}"), &pod.process("LIBVIRTD_PID")]);
}

fn start_libvirtd(pod: &Pod) {
    // As all that a container starts, it is in the container's cgroups.
    let join = format!(
        "for procs in $(find /sys/fs/cgroup -path '*/pod{}/*' -name cgroup.procs); do echo $$ >$procs; done; exec \"$@\"",
        pod.fact("POD_UID")
    );
    let shell = ["exec", "sh", "-ec", &join, "sh"];
    let container = ["nsenter", "--target", pod.fact("PID"), "--mount", "--net", "--pid", "--ipc", "--uts"];
    let daemon = ["libvirtd", "--daemon", "--config", "/etc/libvirt/libvirtd.conf"];
    lab(&[&shell[..], &container[..], &daemon[..]].concat());
    let end = Instant::now() + PATIENCE;
    while !holds(&["virsh", &pod.name, "version"]) {
        assert!(Instant::now() < end, "libvirtd does not come back");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// It ends with 11 within these seconds, and all that the NIC needs is still there.
fn kept(pod: &Pod, seconds: u64, call: impl FnOnce() -> Answer) -> Answer {
    let began = Instant::now();
    let answer = call();
    assert_eq!(answer.code(), 11, "{answer:#?}\n{}", log());
    assert!(began.elapsed() < Duration::from_secs(seconds), "{:?}", began.elapsed());
    let left = pod.leftovers();
    for part in ["/run/vhostuser-hotplug/pods/", "/vhostuser-sockets/net1", "/run/openvswitch/vhost_sockets/"] {
        assert!(left.iter().any(|path| path.contains(part)), "{part} is not in {left:?}");
    }
    assert!(left.iter().any(|name| !name.starts_with('/')), "kube-ovn's port must stay: {left:?}");
    answer
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_guest_that_uses_its_nic_and_lets_go_only_when_it_reboots() {
    let pod = Pod::new(&["--stubborn"]);
    let nic = pod.add("net1").nic();
    let end = Instant::now() + PATIENCE;
    while !pod.guest_has(&nic) {
        assert!(Instant::now() < end, "the guest looks for new NICs once a second");
    }
    pod.ping(&nic);
    for _ in 0..2 {
        let answer = kept(&pod, 40, || pod.call("del", "net1", &json!({"detach_timeout": 3})));
        assert!(answer.json.to_string().contains("has not released"), "{answer:#?}");
        pod.ping(&nic);
    }
    lab(&["vm", &pod.name, "reboot"]);
    pod.del("net1").succeeded();
    assert!(!pod.guest_has(&nic));
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn libvirtd_is_killed_while_a_del_waits_and_comes_back() {
    let pod = Pod::new(&["--stubborn"]);
    pod.add("net1").succeeded();
    let answer = std::thread::scope(|scope| {
        let del = scope.spawn(|| kept(&pod, 40, || pod.call("del", "net1", &json!({"detach_timeout": 60}))));
        std::thread::sleep(Duration::from_secs(2));
        signal(&pod, "KILL");
        del.join().unwrap()
    });
    assert!(answer.json.to_string().contains("libvirt"), "{answer:#?}");
    // No daemon, but QEMU still has the NIC's socket.
    kept(&pod, 40, || pod.call("del", "net1", &json!({"detach_timeout": 3})));
    start_libvirtd(&pod);
    // The guest may release it at any time.
    let check = pod.call("check", "net1", &json!({}));
    assert_eq!(check.code(), 104, "{check:#?}");
    assert!(check.json.to_string().contains("asked to release"), "{check:#?}");
    lab(&["vm", &pod.name, "reboot"]);
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn libvirtd_is_restarted_between_add_and_del() {
    let pod = Pod::new(&[]);
    let nic = pod.add("net1").nic();
    signal(&pod, "KILL");
    start_libvirtd(&pod);
    pod.add("net1").succeeded();
    pod.ping(&nic);
    pod.del("net1").succeeded();
    assert!(!pod.guest_has(&nic));
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn libvirtd_hangs_and_goes_on() {
    let pod = Pod::new(&[]);
    signal(&pod, "STOP");
    let began = Instant::now();
    let answer = pod.call("add", "net1", &json!({"attach_timeout": 3}));
    assert_eq!(answer.code(), 11, "{answer:#?}\n{}", log());
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    signal(&pod, "CONT");
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
    let nic = pod.add("net1").nic();
    pod.ping(&nic);

    signal(&pod, "STOP");
    kept(&pod, 40, || pod.call("del", "net1", &json!({"detach_timeout": 3})));
    signal(&pod, "CONT");
    pod.del("net1").succeeded();
    assert!(!pod.guest_has(&nic));
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_vm_that_is_rebooted_keeps_its_nic_and_one_that_is_started_anew_gets_it_back() {
    let pod = Pod::new(&[]);
    let nic = pod.add("net1").nic();
    lab(&["vm", &pod.name, "reboot"]);
    assert!(pod.guest_has(&nic), "after the guest's reboot");
    pod.call("check", "net1", &json!({})).succeeded();
    pod.ping(&nic);

    lab(&["vm", &pod.name, "destroy"]);
    assert_eq!(pod.call("check", "net1", &json!({})).code(), 104);
    lab(&["vm", &pod.name, "start"]);
    assert!(!pod.guest_has(&nic), "it was never persistent");
    assert_eq!(pod.call("check", "net1", &json!({})).code(), 104);
    let again = pod.add("net1").nic();
    assert_eq!(again.mac, nic.mac);
    pod.ping(&again);
    pod.del("net1").succeeded();
    assert!(!pod.guest_has(&nic));
    assert_eq!(pod.leftovers(), Vec::<String>::new());
    assert!(holds(&["guest", &pod.name, "true"]), "the guest runs on");

    pod.add("net1").succeeded();
    lab(&["vm", &pod.name, "destroy"]);
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

/// Somebody has the NIC stored too.
fn make_persistent(pod: &Pod, nic: &Nic) {
    let xml = format!(
        "<interface type='vhostuser'><mac address='{}'/><source type='unix' path='{}/net1' mode='server'/><model type='virtio'/></interface>",
        nic.mac,
        pod.fact("SOCKETS")
    );
    lab(&["exec", "sh", "-c", &format!("echo \"{xml}\" > /proc/{}/root/tmp/nic.xml", pod.fact("PID"))]);
    lab(&["virsh", &pod.name, "attach-device", pod.fact("DOMAIN"), "/tmp/nic.xml", "--config"]);
    assert!(stored(pod).contains(&nic.mac));
}

/// What the domain's next start uses.
fn stored(pod: &Pod) -> String {
    lab(&["virsh", &pod.name, "dumpxml", "--inactive", pod.fact("DOMAIN")])
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_that_was_made_persistent_does_not_hold_up_the_next_start() {
    let pod = Pod::new(&[]);
    let nic = pod.add("net1").nic();
    make_persistent(&pod, &nic);
    pod.del("net1").succeeded();
    assert!(!stored(&pod).contains("<interface"), "{}", stored(&pod));
    assert!(!pod.guest_has(&nic));
    assert_eq!(pod.leftovers(), Vec::<String>::new());

    // The same with a VM that is shut off when the DEL comes.
    let nic = pod.add("net1").nic();
    make_persistent(&pod, &nic);
    lab(&["vm", &pod.name, "destroy"]);
    pod.del("net1").succeeded();
    assert!(!stored(&pod).contains("<interface"), "{}", stored(&pod));
    assert_eq!(pod.leftovers(), Vec::<String>::new());
    lab(&["vm", &pod.name, "start"]);
    assert!(!pod.guest_has(&nic));
}

/// Kills the plugin's call for the pod, this long after it was first seen.
fn kill_plugin(pod: &Pod, after: f64) -> bool {
    let script = format!(
        "for i in $(seq 500); do for p in /proc/[0-9]*; do \
         if [ $p/exe -ef /opt/cni/bin/vhostuser-hotplug ] && grep -q {} $p/environ; then \
         sleep {after}; kill -KILL ${{p#/proc/}}; exit; fi; done; sleep 0.01; done; exit 1",
        pod.fact("CID")
    );
    holds(&["exec", "sh", "-c", &script])
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn the_plugin_is_killed_in_the_middle_of_an_add() {
    let pod = Pod::new(&[]);
    let mut killed = 0;
    for round in 0..14 {
        let after = f64::from(round) * 0.05;
        let hit = std::thread::scope(|scope| {
            let kill = scope.spawn(|| kill_plugin(&pod, after));
            pod.add("net1");
            kill.join().unwrap()
        });
        killed += u32::from(hit);
        if round % 2 == 0 {
            let nic = pod.add("net1").nic();
            let xml = lab(&["virsh", &pod.name, "dumpxml", pod.fact("DOMAIN")]);
            assert_eq!(xml.matches("<interface").count(), 1, "after {after} s\n{xml}");
            pod.ping(&nic);
        }
        // A runtime repeats a DEL until it passes: the attach may still be at work in libvirt.
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = pod.del("net1");
            if answer.ok {
                break;
            }
            assert!(answer.code() == 11 && Instant::now() < end, "after {after} s: {answer:#?}\n{}", log());
        }
        let xml = lab(&["virsh", &pod.name, "dumpxml", pod.fact("DOMAIN")]);
        assert!(!xml.contains("<interface"), "after {after} s\n{xml}");
        assert_eq!(pod.leftovers(), Vec::<String>::new(), "after {after} s");
    }
    println!("killed {killed} of 14 ADDs");
    assert!(killed >= 7, "only {killed} were killed");
}

/// What a leak would show in: descriptors of libvirtd and QEMU, memory of libvirtd in KiB, mounts of the node, unix sockets
/// of the pod, and the domain's XML.
#[derive(Debug)]
struct Capabilities {
    libvirtd_descriptors: usize,
    qemu_descriptors: usize,
    libvirtd_kib: usize,
    mounts: usize,
    sockets: usize,
    xml: String,
}

fn figures(pod: &Pod) -> Capabilities {
    let (libvirtd, qemu) = (pod.process("LIBVIRTD_PID"), pod.process("QEMU_PID"));
    let number = |script: &str| lab(&["exec", "sh", "-c", script]).trim().parse().unwrap();
    Capabilities {
        libvirtd_descriptors: number(&format!("ls /proc/{libvirtd}/fd | wc -l")),
        qemu_descriptors: number(&format!("ls /proc/{qemu}/fd | wc -l")),
        libvirtd_kib: number(&format!("sed -n 's/^VmRSS:\\s*\\([0-9]*\\) kB/\\1/p' /proc/{libvirtd}/status")),
        mounts: number("wc -l < /proc/self/mountinfo"),
        sockets: number(&format!("wc -l < /proc/{libvirtd}/net/unix")),
        xml: lab(&["virsh", &pod.name, "dumpxml", pod.fact("DOMAIN")]),
    }
}

/// What a VM whose guest does not answer is doing.
fn state(pod: &Pod) -> String {
    let ask = |words: &[&str]| if holds(words) { lab(words) } else { "does not answer".to_owned() };
    let monitor = ask(&["virsh", &pod.name, "qemu-monitor-command", pod.fact("DOMAIN"), "--hmp", "info cpus"]);
    let guest = ask(&["guest", &pod.name, "ls /sys/class/net; dmesg | tail -20"]);
    let qemu =
        ask(&["exec", "sh", "-c", &format!("tail -n 20 /proc/{}/root/var/log/libvirt/qemu/*.log", pod.fact("PID"))]);
    let console = lab(&["console", &pod.name]);
    format!("QEMU: {monitor}\n{qemu}\nguest: {guest}\nconsole: {console}\n{}", log())
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn many_rounds_leave_nothing_behind() {
    let rounds: u32 = std::env::var("VHU_ROUNDS").map_or(100, |rounds| rounds.parse().expect("VHU_ROUNDS is a number"));
    let pod = Pod::new(&[]);
    let mut before = None;
    let began = Instant::now();
    for round in 0..rounds {
        let nic = pod.add("net1").nic();
        // The lab's serial line loses a command now and then; a guest that hangs loses all three.
        assert!((0..3).any(|_| pod.guest_has(&nic)), "round {round}: {}", state(&pod));
        pod.del("net1").succeeded();
        assert!(!pod.guest_has(&nic), "round {round}");
        // The first rounds fill libvirtd's pools of threads and memory.
        if round == 4 {
            before = Some(figures(&pod));
        }
    }
    let (before, after) = (before.expect("more than five rounds"), figures(&pod));
    println!(
        "{rounds} rounds in {:?}: libvirtd {} -> {} descriptors, {} -> {} KiB; QEMU {} -> {} descriptors; sockets {} -> {}; mounts {} -> {}",
        began.elapsed(),
        before.libvirtd_descriptors,
        after.libvirtd_descriptors,
        before.libvirtd_kib,
        after.libvirtd_kib,
        before.qemu_descriptors,
        after.qemu_descriptors,
        before.sockets,
        after.sockets,
        before.mounts,
        after.mounts,
    );
    assert_eq!(after.xml, before.xml, "the domain is as it was, PCI slots included");
    assert_eq!(after.qemu_descriptors, before.qemu_descriptors);
    assert_eq!(after.mounts, before.mounts);
    let little = |before: usize, after: usize, more: usize| after <= before + more;
    assert!(little(before.libvirtd_descriptors, after.libvirtd_descriptors, 1), "{before:?} {after:?}");
    assert!(little(before.sockets, after.sockets, 1), "{before:?} {after:?}");
    assert!(little(before.libvirtd_kib, after.libvirtd_kib, 2048), "{before:?} {after:?}");
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}
