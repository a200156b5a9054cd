//! One deadline for a whole call, whatever it is that takes its time.

use std::fmt::Display;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::json;
use support::patience::MARGIN;
use support::{Call, DataPlane, Double, Node, STATE};

#[test]
fn a_fifo_for_a_namespace_is_not_waited_for() {
    let (node, pod) = Node::with_pod();
    node.sh("mkfifo /run/fifo");
    let began = Instant::now();
    let answer = Call::new("ADD", &pod.uid, "/run/fifo").run(&node);
    assert_eq!(answer.code(), 4, "{answer:?}");
    Call::new("DEL", &pod.uid, "/run/fifo").args("K8S_POD_NAME=x").run(&node).succeeded();
    assert!(began.elapsed() < MARGIN, "{:?}", began.elapsed());
}

/// Mounts a file system on this path, as this process of the machine sees it, that answers nobody, as long as the file lives
/// that is returned.
fn mount_mute(process: impl Display, path: &str) -> File {
    let fuse = File::options().read(true).write(true).open("/dev/fuse").expect("the kernel has FUSE");
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
    let mounts = File::open(format!("/proc/{process}/ns/mnt")).unwrap();
    // On a thread of its own, for a namespace belongs to one.
    let mounted = std::thread::scope(|scope| {
        let work = || {
            unshare(CloneFlags::CLONE_FS)?;
            setns(mounts, CloneFlags::CLONE_NEWNS)?;
            mount(Some("fuse"), path, Some("fuse"), MsFlags::empty(), Some(options.as_str()))
        };
        scope.spawn(work).join().unwrap()
    });
    mounted.unwrap();
    fuse
}

#[test]
fn a_file_system_of_the_pod_that_does_not_answer_is_waited_for_until_the_deadline() {
    let (node, pod, _plane) = Node::with_plane();
    let add = pod.add().set("attach_timeout", json!(1)).set("detach_timeout", json!(1));
    let held_up = |command: &'static str| {
        let mute = mount_mute(pod.machine_pid(), "/run/libvirt");
        let began = Instant::now();
        let answer = add.clone().command(command).run(&node);
        assert_eq!(answer.code(), 11, "{answer:?}");
        assert!(answer.text().contains("took too long"), "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(1) + MARGIN, "{:?}", began.elapsed());
        drop(mute);
        assert!(pod.command("umount").arg("/run/libvirt").status().unwrap().success());
    };
    held_up("ADD");
    let _double = Double::start(&pod, &json!({}));
    let call = |command| pod.call(command);
    call("ADD").run(&node).succeeded();
    held_up("DEL");
    assert!(node.is_shared(&pod.uid), "whether the VM has the NIC is not known");
    call("CHECK").run(&node).succeeded();
    call("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "the next calls mend what was left");
}

#[test]
fn a_file_system_of_the_node_that_does_not_answer_ends_the_call_and_no_more() {
    let (node, pod) = Node::with_pod();
    node.sh(&format!("mkdir -p {STATE}"));
    let mute = mount_mute(node.machine_pid(), STATE);
    let began = Instant::now();
    let add = pod.add().set("attach_timeout", json!(1));
    let answer = add.run(&node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert!(answer.text().contains("given up after its deadline"), "{answer:?}");
    // Its own deadline, and the grace that a call has after that.
    assert!(began.elapsed() < Duration::from_secs(1 + 5) + MARGIN, "{:?}", began.elapsed());
    drop(mute);
    node.sh(&format!("umount {STATE}"));
    add.set("attach", json!("never")).set("attach_timeout", json!(60)).run(&node).succeeded();
}

#[test]
fn the_nics_of_one_pod_hold_up_a_gc_once() {
    let (node, pod) = Node::with_pod();
    let _planes = ["net1", "net2"].map(|name| DataPlane::start(&node, &pod, name));
    let _double = Double::start(&pod, &json!({"detach": {"guest": "never"}}));
    let add = pod.add();
    add.run(&node).succeeded();
    add.clone().ifname("net2").mac("00:00:00:24:65:f5").run(&node).succeeded();
    let began = Instant::now();
    let answer = add.gc().set("detach_timeout", json!(10)).run(&node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert!(answer.text().contains("2 leftovers"), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "each on its own: {:?}", began.elapsed());
}
