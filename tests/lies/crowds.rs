//! Pods that have as much as they can of what the kernel lists: unix sockets with names that are no text, mounts, processes.
//! No list is held, so that none of it shows in the plugin's memory.

use std::io::Read;
use std::process::{Child, Stdio};

use serde_json::json;

use super::dataplane::DataPlane;
use super::libvirt::Double;
use super::node::{Call, Node, Pod, end};
use super::row::{PEAK_MAX, measured};

/// Binds sockets to abstract names, as long as they can be and of bytes that are no text.
const SOCKETS: &str = r#"
import os, resource, socket, sys, time
wanted = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
# A process may not have as many descriptors.
share = min(wanted, 10000)
for first in range(0, wanted, share):
    told = os.pipe()
    if os.fork() == 0:
        kept = [socket.socket(socket.AF_UNIX) for number in range(share)]
        for number, one in enumerate(kept):
            one.bind(b"\0" + str(first + number).encode() + b"\xff" * 90)
        os.write(told[1], b"1")
        time.sleep(6000)
    os.close(told[1])
    assert os.read(told[0], 1) == b"1"
print(1, flush=True)
time.sleep(6000)
"#;

/// Makes mounts with long names in the pod.
const MOUNTS: &str = r#"
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
base = b"/run/libvirt/" + b"\xff" * 200
os.mkdir(base)
for number in range(int(sys.argv[1])):
    at = base + b"/" + str(number).encode() + b"\xfe" * 200
    os.mkdir(at)
    assert libc.mount(base, at, None, 4096, None) == 0, os.strerror(ctypes.get_errno())
print(1, flush=True)
time.sleep(6000)
"#;

/// Starts processes.
const PROCESSES: &str = r#"
import os, sys, time
for number in range(int(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(6000)
        os._exit(0)
print(1, flush=True)
time.sleep(6000)
"#;

/// A crowd in a pod, which goes with this value: its leader is the head of a process group.
struct Crowd(Child);

impl Crowd {
    fn new(pod: &Pod<'_>, script: &str, size: u32) -> Self {
        let mut leader = pod.command("python3");
        let leader = leader.args(["-c", script, &size.to_string()]).stdout(Stdio::piped());
        let mut leader = leader.spawn().unwrap();
        leader.stdout.as_mut().unwrap().read_exact(&mut [0; 2]).expect("the machine takes such a crowd");
        Self(leader)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// Plugs and unplugs a NIC in a pod that has this much of each. A slow machine may need longer than the deadline for it, and then
/// says so.
fn plugged_in_a_crowd(sockets: u32, mounts: u32, processes: u32) {
    let node = Node::new();
    let pod = Pod::new(&node);
    // As a pod begins: what it makes later has higher pids.
    let _double = Double::start(&pod, &json!({}));
    let crowds =
        [(SOCKETS, sockets), (MOUNTS, mounts), (PROCESSES, processes)].into_iter().filter(|(_, size)| *size > 0);
    let crowds: Vec<Crowd> = crowds.map(|(script, size)| Crowd::new(&pod, script, size)).collect();
    let _plane = DataPlane::start(&node, &pod, "net1");
    let add = Call::new("ADD", &pod.uid, &pod.netns());
    let add = add.set("attach_timeout", json!(120)).set("detach_timeout", json!(120));
    for command in ["ADD", "CHECK", "DEL"] {
        let (answer, outcome) = measured(add.clone().command(command), &node);
        let (took, peak) = (outcome.took.as_millis(), outcome.peak);
        println!("{sockets} sockets, {mounts} mounts, {processes} processes: {command} {took} ms, {peak} KiB");
        println!("{}", if answer.ok { "it succeeded".to_owned() } else { answer.text() });
        assert!(peak < PEAK_MAX, "{command} took {peak} KiB");
        assert!(answer.ok || answer.text().len() > 40, "{answer:#?}");
    }
    drop(crowds);
    add.command("DEL").run(&node).succeeded();
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
