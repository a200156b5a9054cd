//! Pods that have as much as they can of what the kernel lists: unix sockets with names that are no text, mounts, processes.
//! No list is held, so that none of it shows in the plugin's memory.

use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::json;
use support::patience::until;
use support::{DataPlane, Double, Node, Pod};

use super::row::{PEAK_MAX, measured};

/// Makes sockets. Every tenth is bound to an abstract name, as long as it can be and of bytes that are no text; for each of
/// them the kernel looks through many of the others.
const SOCKETS: &str = r#"
import os, resource, socket, sys
wanted = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
# A process may not have as many descriptors.
share = min(wanted, 10000)
for first in range(0, wanted, share):
    told = os.pipe()
    if os.fork() == 0:
        kept = [socket.socket(socket.AF_UNIX) for number in range(share)]
        for number, one in enumerate(kept[::10]):
            one.bind(b"\0" + str(first + number).encode() + b"\xff" * 90)
        os.write(told[1], b"1")
        os.read(0, 1)
        os._exit(0)
    os.close(told[1])
    assert os.read(told[0], 1) == b"1"
print(1, flush=True)
os.read(0, 1)
"#;

/// Makes mounts with long names in the pod.
const MOUNTS: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
base = b"/run/libvirt/" + b"\xff" * 200
os.mkdir(base)
for number in range(int(sys.argv[2])):
    at = base + b"/" + str(number).encode() + b"\xfe" * 200
    os.mkdir(at)
    assert libc.mount(base, at, None, 4096, None) == 0, os.strerror(ctypes.get_errno())
print(1, flush=True)
os.read(0, 1)
"#;

/// Starts processes, which wait for the end of what they read. A shell's children cost less than as many programs.
const PROCESSES: &str = "exec 3<&0; i=0; while [ $i -lt $1 ]; do read -r _ <&3 & i=$((i+1)); done; echo 1; wait";

/// One crowd at a time: they are as much as some machines take.
static TURN: Mutex<()> = Mutex::new(());

/// A crowd in a pod, which goes with its leader, or at the latest with the node.
struct Crowd(Child);

impl Crowd {
    fn new(pod: &Pod, script: &str, size: u32) -> Self {
        let (program, size) = (if script == PROCESSES { "sh" } else { "python3" }, size.to_string());
        let mut leader = pod.command(program);
        let leader = leader.args(["-c", script, "crowd"]).arg(size).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut leader = leader.spawn().unwrap();
        leader.stdout.as_mut().unwrap().read_exact(&mut [0; 2]).expect("the machine takes such a crowd");
        Self(leader)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It waits for this, and so does each process of it.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Plugs and unplugs a NIC in a pod that has this much of each. A slow machine may need longer than the deadline for it, and then
/// says so.
fn plugged_in_a_crowd(sockets: u32, mounts: u32, processes: u32) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (node, pod) = Node::with_pod();
    // As a pod begins: what it makes later has higher pids.
    let _double = Double::start(&pod, &json!({}));
    let crowds =
        [(SOCKETS, sockets), (MOUNTS, mounts), (PROCESSES, processes)].into_iter().filter(|(_, size)| *size > 0);
    let crowds: Vec<Crowd> = crowds.map(|(script, size)| Crowd::new(&pod, script, size)).collect();
    let _plane = DataPlane::start(&node, &pod, "net1");
    let add = pod.add();
    let add = add.set("attach_timeout", json!(60)).set("detach_timeout", json!(60));
    for command in ["ADD", "CHECK", "DEL"] {
        let (answer, outcome) = measured(add.clone().command(command), &node);
        let (took, peak) = (outcome.took.as_millis(), outcome.peak);
        println!("{sockets} sockets, {mounts} mounts, {processes} processes: {command} {took} ms, {peak} KiB");
        println!("{}", if answer.ok { "it succeeded".to_owned() } else { answer.text() });
        assert!(peak < PEAK_MAX, "{command} took {peak} KiB");
        assert!(answer.ok || answer.code() == 11, "{answer:#?}");
    }
    drop(crowds);
    // Its processes may still be ending.
    let del = add.command("DEL");
    until("a DEL succeeds", || del.run(&node).ok);
    assert!(node.is_clean(&pod.uid), "{}", node.left(&pod.uid));
}

#[test]
fn many_unix_sockets_of_a_pod_take_no_memory() {
    plugged_in_a_crowd(200_000, 0, 0);
}

#[test]
fn many_mounts_of_a_pod_take_no_memory() {
    plugged_in_a_crowd(0, 10_000, 0);
}

#[test]
fn many_processes_of_a_pod_take_no_memory() {
    plugged_in_a_crowd(0, 0, 10_000);
}
