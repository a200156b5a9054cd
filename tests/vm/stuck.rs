//! VMs that stand still in somebody's attach, and how they are freed; attaches that come late.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::json;

use super::lab::{Answer, Pod, holds, lab, lab_with, log, program};
use super::stop::steps;
use super::watch::{monitor_answers, until};

/// A plain attach, as any client of libvirt sends it: `virsh attach-device`. It ends when QEMU has its back end.
struct BareAttach {
    virsh: Child,
    begun: Instant,
}

impl BareAttach {
    /// Begins one at this socket of the volume, and waits until the VM stands still in it.
    fn begin(pod: &Pod, socket: &str) -> Self {
        let path = format!("{}/{socket}", pod.fact("SOCKETS"));
        let mac = if socket.ends_with('2') { "52:54:00:00:00:98" } else { "52:54:00:00:00:99" };
        let xml = format!(
            "<interface type='vhostuser'><mac address='{mac}'/><source type='unix' path='{path}' mode='server'/>\
             <model type='virtio-non-transitional'/><driver name='vhost' queues='2'/><alias name='ua-{socket}'/></interface>"
        );
        lab_with(&["exec", "sh", "-c", &format!("cat >/proc/{}/root/tmp/{socket}.xml", pod.fact("PID"))], &xml);
        let file = format!("/tmp/{socket}.xml");
        let words = ["virsh", &pod.name, "attach-device", pod.fact("DOMAIN"), &file, "--live"];
        let virsh = Command::new(program()).args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("QEMU waits", || is_stuck(pod));
        Self { virsh, begun: Instant::now() }
    }

    /// It succeeds, as far as virsh knows.
    fn ends_well(self) {
        let output = self.virsh.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// Whether QEMU's main thread is in a poll(2) of two descriptors: in an attach, and nowhere else.
fn is_stuck(pod: &Pod) -> bool {
    let syscall = lab(&["exec", "cat", &format!("/proc/{}/syscall", pod.process("QEMU_PID"))]);
    let words: Vec<&str> = syscall.split(' ').collect();
    words.get(2) == Some(&"0x2") && words.get(3) == Some(&"0xffffffff")
}

fn rescue(words: &[&str]) -> Answer {
    let rescue = ["exec", "/opt/cni/bin/vhostuser-hotplug", "rescue"];
    let output = Command::new(program()).args([&rescue[..], words].concat()).output().unwrap();
    let mut answer = Answer::of(&output);
    answer.words = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    answer
}

/// The VM runs, and has no NIC.
fn runs_without_nic(pod: &Pod) {
    assert!(monitor_answers(pod), "{}", log());
    let first: f64 = pod.guest("cut -d ' ' -f 1 /proc/uptime").trim().parse().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let then: f64 = pod.guest("cut -d ' ' -f 1 /proc/uptime").trim().parse().unwrap();
    assert!(then > first, "the guest's clock stands still: {first} {then}");
    let xml = pod.xml();
    assert!(!xml.contains("<interface"), "{xml}");
    assert_eq!(pod.guest("ls /sys/class/net | grep -v lo | wc -l"), "0");
}

fn rescued(pod: &Pod, attach: BareAttach, words: &[&str], socket: &str) {
    let begun = Instant::now();
    let answer = rescue(words);
    println!("rescue took {:?}; the VM had stood still for {:?}", begun.elapsed(), begun - attach.begun);
    assert!(answer.ok, "{answer:?}\n{}", log());
    let expected = format!("/{socket}: it runs again, and the NIC ua-{socket} was unplugged.");
    assert!(answer.words.contains(&expected), "{answer:?}");
    runs_without_nic(pod);
    attach.ends_well();
    let again = rescue(words);
    assert!(again.ok && again.words.contains("No QEMU of the pod waits"), "{again:?}");
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_vm_that_stands_still_in_anybodys_attach_is_freed() {
    let pod = Pod::new(&[]);
    // By its uid; by any of its processes; and, once a record knows it, by its name.
    rescued(&pod, BareAttach::begin(&pod, "bare"), &[pod.fact("POD_UID")], "bare");
    let container = format!("pid:{}", pod.fact("PID"));
    rescued(&pod, BareAttach::begin(&pod, "bare"), &[&container], "bare");
    pod.call("add", "net1", &json!({"attach": "never"})).succeeded();
    let name = format!("{}/{}", pod.fact("NAMESPACE"), pod.name);
    let attach = BareAttach::begin(&pod, "bare");
    let other = rescue(&[&name, "net7"]);
    assert!(other.ok && other.words.contains("No QEMU of the pod waits"), "it is not that NIC: {other:?}");
    assert!(is_stuck(&pod));
    rescued(&pod, attach, &[&name, "bare"], "bare");
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_vm_whose_data_plane_qemu_refuses_for_ever_is_freed() {
    let pod = Pod::new(&["--cells", "10"]);
    pod.call("add", "net1", &json!({"attach": "never"})).succeeded();
    let path = format!("/run/openvswitch/vhost_sockets/{}/vhostuser-sockets/bare", pod.fact("POD_UID"));
    // Its limit is the protocol's, 8 regions: QEMU hangs up on it, again and again.
    let double = std::env::var("DATAPLANE_DOUBLE").expect("tests/run names the double");
    lab(&["exec", "sh", "-c", &format!("{double} {path} >/dev/null 2>&1 & echo $! >/run/double.pid")]);
    let attach = BareAttach::begin(&pod, "bare");
    std::thread::sleep(std::time::Duration::from_secs(2));
    rescued(&pod, attach, &[pod.fact("POD_UID")], "bare");
    lab(&["exec", "sh", "-c", "kill $(cat /run/double.pid)"]);
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn the_share_stays_while_another_clients_attach_waits_in_it() {
    let pod = Pod::new(&[]);
    let attach = BareAttach::begin(&pod, "bare");
    let shared = || pod.leftovers().iter().any(|left| left.contains("vhost_sockets"));
    assert!(!shared());
    // libvirt is busy with the other attach.
    for command in ["add", "del"] {
        let answer = pod.call(command, "net1", &json!({"attach_timeout": 3, "detach_timeout": 3}));
        assert_eq!(answer.code(), 11, "{command}: {answer:#?}");
        assert!(is_stuck(&pod), "nobody dials there");
        assert!(shared(), "{command} took the share away through which a data plane would free the VM");
    }
    rescued(&pod, attach, &[pod.fact("POD_UID")], "bare");
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn an_attach_that_comes_late_fails_and_freezes_no_vm() {
    for libvirt in ["11", "9"] {
        let pod = Pod::new(&["--libvirt", libvirt]);
        let port = pod.call("add", "net1", &json!({"attach": "never"}));
        port.succeeded();
        // libvirtd stops just before the attach is sent, which then waits in its socket.
        let trace = "/run/late-attach";
        let found = steps(&pod, "add", &port.json);
        let before = found.iter().find(|step| step.name == "attach").unwrap().nth - 1;
        pod.call_plugin_alone("del", "net1", &json!({}), &port.json).succeeded();
        let keys = json!({"attach_timeout": 8, "detach_timeout": 4});
        let port = pod.call("add", "net1", &json!({"attach": "never"})).json;
        lab(&["exec", "rm", "-f", trace]);
        let inject = format!("inject=sendto:signal=SIGSTOP:when={before}");
        let words = ["strace", "-f", "-qq", "-o", trace, "-e", "trace=sendto", "-e", &inject];
        let mut call = pod.start_plugin(&words, "add", "net1", &keys, &port);
        until("the plugin stops", || holds(&["exec", "grep", "-q", "stopped by SIGSTOP", trace]));
        lab(&["exec", "kill", "-STOP", &pod.process("LIBVIRTD_PID")]);
        while call.try_wait().unwrap().is_none() {
            let _ = holds(&["exec", "pkill", "-CONT", "-x", "vhostuser-hotpl"]);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let add = Answer::of(&call.wait_with_output().unwrap());
        let del = pod.call_plugin_alone("del", "net1", &keys, &port);
        lab(&["exec", "kill", "-CONT", &pod.process("LIBVIRTD_PID")]);
        assert_eq!((add.code(), del.code()), (11, 11), "{add:#?} {del:#?}\n{}", log());
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert!(!is_stuck(&pod), "libvirt {libvirt}: {add:#?} {del:#?}\n{}", log());
        runs_without_nic(&pod);
        pod.del("net1").succeeded();
        assert_eq!(pod.leftovers(), Vec::<String>::new());
        let nic = pod.add("net1").nic();
        pod.ping(&nic);
        pod.del("net1").succeeded();
        assert_eq!(pod.leftovers(), Vec::<String>::new());
    }
}

/// As a libvirt that ends after `chardev-add`, `netdev_add` or `device_add` leaves it. The message's own commands are the way out.
#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_socket_that_qemu_has_kept_is_told_with_the_way_out() {
    let pod = Pod::new(&[]);
    let monitor = |words: &str| lab(&["virsh", &pod.name, "qemu-monitor-command", pod.fact("DOMAIN"), "--hmp", words]);
    let path = format!("{}/net1", pod.fact("SOCKETS"));
    let steps = [
        format!("chardev-add socket,id=charua-net1,path={path},server=on,wait=off"),
        "netdev_add vhost-user,chardev=charua-net1,id=hostua-net1".to_owned(),
        "device_add virtio-net-pci-non-transitional,netdev=hostua-net1,id=ua-net1,bus=pci.4,addr=0x0,mac=52:54:00:00:00:97".to_owned(),
    ];
    for count in 1..=steps.len() {
        for (number, step) in steps[..count].iter().enumerate() {
            let said = monitor(step);
            assert!(said.is_empty() || said.starts_with("info:"), "{step}: {said}");
            if number == 0 {
                // It leaves the share, since the socket is in use, and OVS's port: netdev_add waits for that.
                assert_eq!(pod.add("net1").code(), 11);
            }
        }
        let answers = [pod.add("net1"), pod.del("net1")];
        let [told, again] = answers.each_ref().map(|answer| answer.json["msg"].as_str().unwrap());
        let listens = format!("QEMU (process {}) listens at its socket {path}", pod.process("QEMU_PID"));
        let monitor_of_vm = format!(
            "virsh qemu-monitor-command {} --hmp",
            lab(&["virsh", &pod.name, "domuuid", pod.fact("DOMAIN")]).trim()
        );
        for (answer, told) in answers.iter().zip([told, again]) {
            assert_eq!(answer.code(), 11, "{answer:#?}");
            assert!(told.contains(&listens) && told.contains(&monitor_of_vm), "{told}");
            assert!(!told.contains("stands still"), "{told}");
        }
        let nothing = rescue(&[pod.fact("POD_UID")]);
        assert!(nothing.ok && nothing.words.contains("No QEMU of the pod waits"), "{nothing:?}");
        let commands = told.split("--hmp '").skip(1).filter_map(|rest| rest.split('\'').next());
        let commands: Vec<&str> = commands.filter(|command| *command != "info chardev").collect();
        assert_eq!(commands, ["device_del ua-net1", "netdev_del hostua-net1", "chardev-remove charua-net1"], "{told}");
        for command in commands {
            monitor(command);
            // The guest takes a moment to release a device.
            until("QEMU removes it", || {
                !command.starts_with("device_del") || !monitor("info network").contains(" ua-net1:")
            });
        }
        let nic = pod.add("net1").nic();
        pod.ping(&nic);
        pod.del("net1").succeeded();
        assert_eq!(pod.leftovers(), Vec::<String>::new());
    }
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn attaches_that_wait_behind_one_another_are_all_freed() {
    let pod = Pod::new(&[]);
    let first = BareAttach::begin(&pod, "bare1");
    // It waits in libvirt for the first one's end.
    let second = BareAttach::begin(&pod, "bare2");
    let answer = rescue(&[pod.fact("POD_UID")]);
    assert!(answer.ok, "{answer:?}\n{}", log());
    for socket in ["bare1", "bare2"] {
        let expected = format!("/{socket}: it runs again, and the NIC ua-{socket} was unplugged.");
        assert!(answer.words.contains(&expected), "{answer:?}");
    }
    runs_without_nic(&pod);
    first.ends_well();
    second.ends_well();
}
