//! Pods of a node.

use std::process::{Child, Command, Stdio};

use crate::node::{INSIDE, KUBELET, SOCKETS, VOLUME, new_uid};
use crate::{Call, Node};

/// A pod with a running container: a process in namespaces of its own that sees the volume.
pub struct Pod {
    pub node: Node,
    pub uid: String,
    child: Child,
    machine_pid: u32,
    /// The process' pid, as the node sees it.
    pub pid: i32,
}

/// What the first process of a container does: mounts of its own, its volume if it has it, and nothing that the host
/// shares.
fn container(volume: Option<&String>) -> String {
    let bind = volume.map_or("true".to_owned(), |volume| format!("mount --bind {volume} {INSIDE}"));
    format!(
        "mount --make-rprivate / && mkdir -p {INSIDE} /run/libvirt && mount -t tmpfs tmpfs /run/libvirt && \
         {bind} && umount -R {SOCKETS} 2>/dev/null; ip link set lo up && echo ready && exec sleep infinity"
    )
}

impl Pod {
    pub fn new(node: &Node) -> Self {
        let uid = new_uid();
        let volume = node.make_volume(&uid);
        Self::start(node, uid, &["--mount", "--net"], &container(Some(&volume)))
    }

    /// A pod whose sandbox is being made by a runtime that starts the sandbox's own process first: that does not have
    /// the volume.
    pub fn of_sandbox(node: &Node) -> Self {
        let uid = new_uid();
        node.make_volume(&uid);
        Self::start(node, uid, &["--mount", "--net"], &container(None))
    }

    /// Starts another container in this one's sandbox, with the volume or without. What it is, is a pod of the same
    /// uid.
    pub fn start_container(&self, with_volume: bool) -> Self {
        Self::in_netns(&self.node, &self.uid, &self.netns(), with_volume)
    }

    /// The same, in a network namespace that nothing may live in yet.
    pub fn in_netns(node: &Node, uid: &str, netns: &str, with_volume: bool) -> Self {
        let volume = format!("{KUBELET}/pods/{uid}/volumes/kubernetes.io~empty-dir/{VOLUME}");
        let script = container(with_volume.then_some(&volume));
        let script = format!("exec nsenter --net={netns} sh -c '{script}'");
        Self::start(node, uid.to_owned(), &["--mount"], &script)
    }

    fn start(node: &Node, uid: String, namespaces: &[&str], script: &str) -> Self {
        let (child, machine_pid, pid) = node.unshared(namespaces, script);
        Self { node: node.clone(), uid, child, machine_pid, pid }
    }

    /// The process' pid, as the machine sees it.
    pub fn machine_pid(&self) -> u32 {
        self.machine_pid
    }

    pub fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.pid)
    }

    /// A call for its NIC `net1`, as kubelet's runtime makes it after kube-ovn.
    pub fn call(&self, command: &'static str) -> Call {
        Call::new(command, &self.uid, &self.netns())
    }

    pub fn add(&self) -> Call {
        self.call("ADD")
    }

    pub fn del(&self) -> Call {
        self.call("DEL")
    }

    /// A command in the pod's container.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.node.command("nsenter");
        command.args(["--mount", "--net", "--target", &self.pid.to_string(), "--"]).arg(program);
        command
    }

    /// Ends the pod's processes, as a runtime does before the sandbox' DEL.
    pub fn die(&mut self) {
        self.node.sh(&format!("kill -9 {}", self.pid));
        let _ = self.child.wait();
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.node.command("kill").args(["-9", &self.pid.to_string()]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}
