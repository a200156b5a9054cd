//! Shares that others take: kube-ovn's DEL of a pod's last vhost-user NIC unmounts the share and removes its directory,
//! after this plugin's DEL, without its lock. And shares whose directories others may rename.

use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::patience::{output, until};
use support::signals::{self, go_on, plugin};
use support::{Answer, Call, DataPlane, Double, KUBELET, Node, Pod, SOCKETS, VOLUME, answer, new_uid};

/// Takes the share as kube-ovn does.
fn take(node: &Node, uid: &str) {
    let target = node.target(uid);
    node.sh(&format!("umount {target} && rmdir {target}"));
}

#[test]
fn a_share_that_no_nic_needs_is_not_missing() {
    let (node, pod, double, _plane) = Node::with_vm();
    let eth0 = pod.add().ifname("eth0").set("attach", json!("never"));
    let check = |call: &Call| call.clone().command("CHECK").run(&node);
    eth0.run(&node).succeeded();
    pod.add().run(&node).succeeded();
    // While a NIC needs it, it is missing, whoever looks.
    node.sh(&format!("umount {}", node.target(&pod.uid)));
    assert_eq!((check(&eth0).code(), check(&pod.add()).code()), (104, 104));
    let list = |nic: &str| -> Value {
        let listed = node.person(&["list", "--json"]).json();
        let all = listed["attachments"].as_array().unwrap();
        all.iter().find(|one| one["interface"] == nic).unwrap()["mount"].clone()
    };
    assert_eq!((&list("eth0")["ok"], &list("net1")["ok"]), (&json!(false), &json!(false)));
    assert!(!node.person(&["inspect", "default/vm", "eth0"]).ok);
    pod.add().run(&node).succeeded();
    assert!(node.is_shared(&pod.uid), "a repeated ADD makes it again");

    pod.del().run(&node).succeeded();
    take(&node, &pod.uid);
    check(&eth0).succeeded();
    assert_eq!(list("eth0"), json!({"path": node.target(&pod.uid), "needed": false, "ok": true}));
    let told = node.person(&["list"]);
    assert!(told.ok && told.out.contains("not needed") && !told.out.contains("missing"), "{told:?}");
    let told = node.person(&["inspect", "default/vm"]);
    assert!(told.ok && told.out.contains("not needed") && !told.out.contains("MISSING"), "{told:?}");
    // The next NIC has it again.
    pod.add().run(&node).succeeded();
    assert!(node.is_shared(&pod.uid) && list("eth0")["ok"] == true && list("eth0")["needed"].is_null());
    assert_eq!(double.count("attach"), 2);
    pod.del().run(&node).succeeded();
    take(&node, &pod.uid);
    eth0.command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "{}", node.left(&pod.uid));

    // A volume that is gone is another matter.
    let eth0 = pod.add().ifname("eth0").set("attach", json!("never"));
    eth0.run(&node).succeeded();
    node.sh(&format!("umount {} && rm -r {KUBELET}/pods/{}", node.target(&pod.uid), pod.uid));
    let answer = check(&eth0);
    assert!(answer.code() == 104 && answer.text().contains("volume"), "{answer:?}");
}

/// Whether a process is stopped.
fn is_stopped(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "))
}

/// An ADD that meets a libvirt which stops itself at this step, what `meanwhile` does then, and the ADD's answer.
fn interrupted(node: &Node, pod: &Pod, stop: &Value, meanwhile: impl FnOnce(&Child)) -> (Answer, Double) {
    let double = Double::start(pod, &json!({"stop": stop}));
    let call = pod.add().start(node);
    until("libvirtd or QEMU stops", || is_stopped(double.libvirtd) || is_stopped(double.qemu()));
    meanwhile(&call);
    for pid in [double.libvirtd, double.qemu()] {
        signals::send("CONT", pid);
    }
    go_on(double.child.id());
    (answer(output(call)), double)
}

#[test]
fn a_share_that_is_taken_during_an_add_is_made_again() {
    // Before QEMU makes its socket, and before the NIC is given to the guest.
    for stop in [json!({"libvirtd": "chardev-add"}), json!({"libvirtd": "device-add"})] {
        let (node, pod, _plane) = Node::with_plane();
        let (answer, double) = interrupted(&node, &pod, &stop, |_| take(&node, &pod.uid));
        answer.succeeded();
        assert!(node.is_shared(&pod.uid), "{stop}");
        assert_eq!((double.count("attach"), double.count("detach-alias")), (1, 0), "{stop}");
        pod.call("CHECK").run(&node).succeeded();
        pod.del().run(&node).succeeded();
        assert!(node.is_clean(&pod.uid), "{stop}: {}", node.left(&pod.uid));
    }
}

/// Takes the share while an ADD waits for a data plane.
fn take_while_it_waits(node: &Node, pod: &Pod) {
    let volume = format!("{KUBELET}/pods/{}/volumes/kubernetes.io~empty-dir/{VOLUME}", pod.uid);
    until("the plugin listens", || node.holds(&format!("test -S {volume}/net1")));
    take(node, &pod.uid);
}

#[test]
fn a_share_that_is_taken_while_the_data_plane_is_waited_for_is_made_again() {
    let (node, pod) = Node::with_pod();
    let double = Double::start(&pod, &json!({}));
    let call = pod.add().start(&node);
    take_while_it_waits(&node, &pod);
    let plane = DataPlane::start(&node, &pod, "net1");
    answer(output(call)).succeeded();
    assert!(node.is_shared(&pod.uid));
    pod.del().run(&node).succeeded();
    drop(plane);

    // One that may not mount says so, and does not wait for a data plane that cannot come.
    let eth0 = pod.add().ifname("eth0").set("attach", json!("never"));
    eth0.run(&node).succeeded();
    let call = pod.add().start(&node);
    take_while_it_waits(&node, &pod);
    let told = answer(output(call));
    assert!(told.code() == 11 && told.text().contains("was removed while"), "{told:?}");
    assert_eq!(double.count("attach"), 1);
    let _plane = DataPlane::start(&node, &pod, "net1");
    pod.add().run(&node).succeeded();
    pod.del().run(&node).succeeded();
    eth0.command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "{}", node.left(&pod.uid));
}

#[test]
fn an_add_that_may_no_longer_mount_says_that_the_share_was_taken_and_the_next_one_makes_it_again() {
    for stop in [json!({"libvirtd": "chardev-add"}), json!({"libvirtd": "device-add"})] {
        let (node, pod, _plane) = Node::with_plane();
        // With the share there, an ADD gives up the right to mount before it speaks with libvirt.
        let eth0 = pod.add().ifname("eth0").set("attach", json!("never"));
        eth0.run(&node).succeeded();
        let (answer, double) = interrupted(&node, &pod, &stop, |_| take(&node, &pod.uid));
        assert_eq!(answer.code(), 11, "{stop}: {answer:?}");
        assert!(answer.text().contains("was removed while"), "{stop}: {answer:?}");
        assert_eq!((double.count("attach"), double.count("detach-alias")), (1, 1), "{stop}");
        drop(double);
        let _double = Double::start(&pod, &json!({}));
        pod.add().run(&node).succeeded();
        assert!(node.is_shared(&pod.uid), "{stop}");
        pod.del().run(&node).succeeded();
        eth0.command("DEL").run(&node).succeeded();
        assert!(node.is_clean(&pod.uid), "{stop}: {}", node.left(&pod.uid));
    }
}

/// Starts a call that strace(1) stops just after it has made this system call for the first time, does something then,
/// and returns the answer.
fn stopped_after(node: &Node, call: &Call, system_call: &str, then: impl FnOnce(u32)) -> Answer {
    let trace = std::env::temp_dir().join(format!("vhu-taken-{}", new_uid()));
    let (set, stop) = (format!("trace={system_call}"), format!("inject={system_call}:signal=STOP:when=1"));
    let words = ["strace", "-f", "-qq", "-o", trace.to_str().unwrap(), "-e", &set, "-e", &stop];
    let mut call = call.clone().through(&words).start(node);
    let told = || std::fs::read_to_string(&trace).unwrap_or_default();
    until("the plugin is stopped", || told().contains("stopped by SIGSTOP"));
    let strace = plugin(&call);
    let children = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap();
    let pid = children.split_whitespace().next().unwrap().parse().unwrap();
    then(pid);
    // Each of its threads stops at its own first one.
    let go_on = || kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGCONT);
    while call.try_wait().unwrap().is_none() {
        let _ = go_on();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let answer = answer(output(call));
    std::fs::remove_file(trace).unwrap();
    answer
}

#[test]
fn a_pods_directory_that_is_renamed_under_the_mount_leads_nobody_astray() {
    let (node, pod) = Node::with_pod();
    let other = new_uid();
    // As kube-ovn leaves them, and as a launcher sees them that has them mounted.
    node.sh(&format!("mkdir -p {SOCKETS}/{}/{VOLUME} {SOCKETS}/{other}/{VOLUME} && chmod -R 0777 {SOCKETS}", pod.uid));
    let never = pod.add().set("attach", json!("never"));
    let swap = |_| {
        let script = format!("cd {SOCKETS} && mv {0} x && mv {other} {0}", pod.uid);
        let user = ["--reuid", "107", "--regid", "107", "--clear-groups", "sh", "-ec", &script];
        assert!(node.command("setpriv").args(user).status().unwrap().success());
    };
    let answer = stopped_after(&node, &never, "open_tree", swap);
    answer.succeeded();
    assert!(node.is_shared(&pod.uid), "success says that the data plane's path leads to the volume");
    assert_eq!(node.sh("grep -c vhost_sockets/ /proc/self/mountinfo || true"), "1", "no mount has gone astray");
    never.command("DEL").run(&node).succeeded();
}

#[test]
fn a_pods_directory_that_is_renamed_during_the_attach_misleads_no_success() {
    for step in ["chardev-add", "device-add"] {
        let (node, pod) = Node::with_pod();
        let other = new_uid();
        node.sh(&format!(
            "mkdir -p {SOCKETS}/{}/{VOLUME} {SOCKETS}/{other}/{VOLUME} && chmod -R 0777 {SOCKETS}",
            pod.uid
        ));
        let _plane = DataPlane::start(&node, &pod, "net1");
        let swap = |_: &Child| drop(node.sh(&format!("cd {SOCKETS} && mv {0} x && mv {other} {0}", pod.uid)));
        let (answer, _double) = interrupted(&node, &pod, &json!({"libvirtd": step}), swap);
        answer.succeeded();
        assert!(node.is_shared(&pod.uid) && node.holds(&format!("test -S {}/net1", node.target(&pod.uid))), "{step}");
        pod.call("CHECK").run(&node).succeeded();
    }
}

#[test]
fn nobody_but_root_may_rename_what_the_plugin_makes() {
    let (node, pod) = Node::with_pod();
    let never = pod.add().set("attach", json!("never"));
    // Whatever umask the runtime has.
    for umask in ["0", "0077"] {
        never.clone().through(&["sh", "-c", &format!("umask {umask}; exec \"$@\""), "sh"]).run(&node).succeeded();
        let directories = format!("{SOCKETS} {SOCKETS}/{} /run/openvswitch", pod.uid);
        assert_eq!(node.sh(&format!("stat -c '%a %u' {directories}")), "755 0\n755 0\n755 0", "umask {umask}");
        let script = format!("cd {SOCKETS} && mv {} x", pod.uid);
        let user = ["--reuid", "107", "--regid", "107", "--clear-groups", "sh", "-c", &script];
        assert!(!node.command("setpriv").args(user).status().unwrap().success());
        never.clone().command("DEL").run(&node).succeeded();
        node.sh("rm -r /run/openvswitch");
    }
}

#[test]
fn a_call_keeps_no_file_system_of_the_node_busy() {
    let (node, pod) = Node::with_pod();
    node.sh("mkdir /run/unrelated && mount -t tmpfs unrelated /run/unrelated");
    let never = pod.add().set("attach", json!("never"));
    let answer = stopped_after(&node, &never, "open_tree", |pid| {
        let tables = || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
            threads.map(|thread| std::fs::read_to_string(thread.path().join("mountinfo")).unwrap()).collect::<Vec<_>>()
        };
        let own = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let namespaces: std::collections::BTreeSet<_> =
            own.map(|thread| std::fs::read_link(thread.path().join("ns/mnt")).unwrap()).collect();
        assert_eq!(namespaces.len(), 2, "a thread has a copy of the node's mounts");
        assert!(tables().iter().all(|table| table.contains("/run/unrelated")));
        node.sh("umount /run/unrelated");
        assert!(tables().iter().all(|table| !table.contains("/run/unrelated")), "it went from the copy, too");
        // And nothing comes from there.
        node.sh("mount -t tmpfs later /run/unrelated");
    });
    answer.succeeded();
    assert!(node.is_shared(&pod.uid));
    // What is mounted in the volume later does not show at the target.
    let volume = node.make_volume(&pod.uid);
    node.sh(&format!("mkdir {volume}/deep && mount -t tmpfs deep {volume}/deep && touch {volume}/deep/file"));
    assert!(node.holds(&format!("! test -e {}/deep/file", node.target(&pod.uid))));
    let mount = node.sh(&format!("findmnt -n -o PROPAGATION {}", node.target(&pod.uid)));
    assert!(!mount.contains("slave"), "{mount}");
    node.sh(&format!("umount {volume}/deep"));
    never.command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "{}", node.left(&pod.uid));
}
