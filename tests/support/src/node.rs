//! A node to test on: namespaces of its own, in which every default of the plugin would be safe, pods in it, and calls
//! of the real binary. Nothing of it outlives the test: its first process dies with the test's, and all else with that.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::libvirt::Double;
use crate::{DataPlane, Pod, plugin};

/// kubelet's directory, kube-ovn's directory for sockets, and the plugin's own, on the node's tmpfs.
pub const KUBELET: &str = "/run/kubelet";
pub const SOCKETS: &str = "/run/openvswitch/vhost_sockets";
pub const STATE: &str = "/run/vhostuser-hotplug";
pub const VOLUME: &str = "vhostuser-sockets";
/// Where a pod's container has its volume.
pub const INSIDE: &str = "/run/vm/sockets";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A pod's uid that no other test has.
pub fn new_uid() -> String {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:08x}-0000-4000-8000-{count:012x}", std::process::id())
}

/// Ends a command of a node, and waits for it. nsenter forks to enter the pid namespace: its child is the command.
pub fn end(command: &mut Child) {
    match children(command.id()).first() {
        Some(child) => drop(kill(Pid::from_raw(i32::try_from(*child).unwrap()), Signal::SIGKILL)),
        None => drop(command.kill()),
    }
    // It stops along with a command that is stopped.
    let _ = kill(Pid::from_raw(i32::try_from(command.id()).unwrap()), Signal::SIGCONT);
    let _ = command.wait();
}

/// The processes that a process' first thread has started.
pub fn children(of: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// A handle on the namespaces, which end with the last one.
#[derive(Clone)]
pub struct Node(Arc<Init>);

struct Init {
    /// unshare(1).
    child: Child,
    /// The pid of the node's first process, as the machine sees it.
    pid: u32,
}

impl Node {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make namespaces and mounts: run them as root");
        // cat(1) ends with its input: also when the test is killed.
        let script = "mount -t tmpfs tmpfs /run && mount --make-rshared / && ip link set lo up && \
                      mkdir -p /run/netns && echo ready && exec cat";
        let mut unshare = Command::new("unshare");
        unshare.args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ]);
        unshare.args(["sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = unshare.spawn().expect("unshare of util-linux");
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n", "the node's namespaces could not be made");
        let pid = children(child.id())[0];
        Self(Arc::new(Init { child, pid }))
    }

    /// A node with a pod.
    pub fn with_pod() -> (Self, Pod) {
        let node = Self::new();
        let pod = Pod::new(&node);
        (node, pod)
    }

    /// A node with a pod, and the data plane of its NIC `net1`.
    pub fn with_plane() -> (Self, Pod, DataPlane) {
        let (node, pod) = Self::with_pod();
        let plane = DataPlane::start(&node, &pod, "net1");
        (node, pod, plane)
    }

    /// The same, with a VM in the pod.
    pub fn with_vm() -> (Self, Pod, Double, DataPlane) {
        Self::with_libvirt(&json!({}))
    }

    /// The same; `changes` go over the script of libvirt's double.
    pub fn with_libvirt(changes: &Value) -> (Self, Pod, Double, DataPlane) {
        let (node, pod, plane) = Self::with_plane();
        let double = Double::start(&pod, changes);
        (node, pod, double, plane)
    }

    /// A command in the node, as the host's root would run it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--net", "--pid", "--target", &self.machine_pid(), "--"]).arg(program);
        command
    }

    /// The node's root directory, as the machine reaches it.
    pub fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.machine_pid()).into()
    }

    /// The pid of the node's first process, as the machine sees it.
    pub fn machine_pid(&self) -> String {
        self.0.pid.to_string()
    }

    /// The plugin as a person calls it.
    pub fn person(&self, words: &[&str]) -> Told {
        told(self.command(plugin()).args(words).env("NO_COLOR", "").output().unwrap())
    }

    /// Starts a shell script in namespaces of its own, which says `ready` and stays; its starter, and its pid as the
    /// machine and as the node sees it.
    pub fn unshared(&self, namespaces: &[&str], script: &str) -> (Child, u32, i32) {
        let mut child = self.command("unshare");
        let mut child = child.args(namespaces).args(["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n", "the namespaces could not be made");
        // nsenter forks to enter the pid namespace: the script's process is its child.
        let machine_pid = children(child.id())[0];
        let status = std::fs::read_to_string(format!("/proc/{machine_pid}/status")).unwrap();
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
        (child, machine_pid, pids.split_whitespace().last().unwrap().parse().unwrap())
    }

    /// Runs a shell script in the node; its output. It must succeed.
    pub fn sh(&self, script: &str) -> String {
        let output = self.command("sh").args(["-ec", script]).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}\n{out}{err}");
        out.trim_end().to_owned()
    }

    /// Whether a shell test holds in the node.
    pub fn holds(&self, test: &str) -> bool {
        self.command("sh").args(["-c", test]).status().unwrap().success()
    }

    /// Makes a pod's directories with the volume, as kubelet does before anything of the pod runs.
    pub fn make_volume(&self, uid: &str) -> String {
        let path = format!("{KUBELET}/pods/{uid}/volumes/kubernetes.io~empty-dir/{VOLUME}");
        self.sh(&format!("mkdir -p '{path}' && chmod 2777 '{path}'"));
        path
    }

    /// Makes a network namespace that nothing lives in, as a runtime has it at a sandbox' ADD.
    pub fn make_netns(&self, name: &str) -> String {
        self.sh(&format!("ip netns add {name}"));
        format!("/run/netns/{name}")
    }

    /// The directory that the data plane would look into.
    pub fn target(&self, uid: &str) -> String {
        format!("{SOCKETS}/{uid}/{VOLUME}")
    }

    /// Whether the data plane would see the pod's volume there: what is created on one side shows on the other.
    pub fn is_shared(&self, uid: &str) -> bool {
        let volume = format!("{KUBELET}/pods/{uid}/volumes/kubernetes.io~empty-dir/{VOLUME}");
        let probe = format!("probe-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let target = self.target(uid);
        self.holds(&format!("touch {volume}/{probe} && test -e {target}/{probe}; s=$?; rm {volume}/{probe}; exit $s"))
    }

    /// What is left of a pod, for a message.
    pub fn left(&self, uid: &str) -> String {
        self.sh(&format!(
            "find {SOCKETS}/{uid} {STATE} -path '*{uid}*' 2>/dev/null || true; grep {uid} /proc/self/mountinfo || true"
        ))
    }

    /// Whether nothing is left of a pod: no share, no record, no lock.
    pub fn is_clean(&self, uid: &str) -> bool {
        self.holds(&format!(
            "! test -e {SOCKETS}/{uid} && ! test -e {STATE}/pods/{uid} && ! test -e {STATE}/locks/{uid} && \
             ! grep -q {uid}/{VOLUME} /proc/self/mountinfo"
        ))
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        // The first process of the pid namespace goes with unshare (--kill-child), and everything in it with that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a person was told.
#[derive(Debug)]
pub struct Told {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Told {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// What a call with arguments told: its exit status is 0 or 1.
pub fn told(output: Output) -> Told {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let told = Told { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) };
    assert!(matches!(output.status.code(), Some(0 | 1)), "{:?}: {told:?}", output.status);
    told
}
