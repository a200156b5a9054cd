//! A node to test on: namespaces of its own, in which every default of the plugin would be safe, pods in it, and calls
//! of the real binary. Nothing of it outlives the test: its first process dies with the test's, and all else with that.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

#[path = "patience.rs"]
pub mod patience;

use patience::output;

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
    let children = format!("/proc/{0}/task/{0}/children", command.id());
    let child = std::fs::read_to_string(children).ok().and_then(|pid| pid.trim().parse().ok());
    match child {
        Some(child) => drop(kill(Pid::from_raw(child), Signal::SIGKILL)),
        None => drop(command.kill()),
    }
    // It stops along with a command that is stopped.
    let _ = kill(Pid::from_raw(i32::try_from(command.id()).unwrap()), Signal::SIGCONT);
    let _ = command.wait();
}

pub struct Node {
    init: Child,
}

impl Node {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make namespaces and mounts: run them as root");
        let script = "mount -t tmpfs tmpfs /run && mount --make-rshared / && ip link set lo up && \
                      mkdir -p /run/netns && echo ready && exec sleep infinity";
        let mut init = Command::new("unshare");
        init.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]);
        let mut init = init.args(["sh", "-c", script]).stdout(Stdio::piped()).spawn().expect("unshare of util-linux");
        let mut ready = String::new();
        BufReader::new(init.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n", "the node's namespaces could not be made");
        Self { init }
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

    /// The pid of the node's first process, as the machine sees it: the child of unshare.
    pub fn machine_pid(&self) -> String {
        let children = format!("/proc/{0}/task/{0}/children", self.init.id());
        std::fs::read_to_string(children).unwrap().trim().to_owned()
    }

    /// The plugin as a person calls it.
    pub fn person(&self, words: &[&str]) -> Told {
        told(self.command(BINARY).args(words).env("NO_COLOR", "").output().unwrap())
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
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
        let machine_pid = children.trim().parse().unwrap();
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

impl Drop for Node {
    fn drop(&mut self) {
        // The first process of the pid namespace goes with unshare (--kill-child), and everything in it with that.
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

/// The plugin.
pub const BINARY: &str = env!("CARGO_BIN_EXE_vhostuser-hotplug");

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

/// A pod with a running container: a process in namespaces of its own that sees the volume.
pub struct Pod<'a> {
    pub node: &'a Node,
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

impl<'a> Pod<'a> {
    pub fn new(node: &'a Node) -> Self {
        let uid = new_uid();
        let volume = node.make_volume(&uid);
        Self::start(node, uid, &["--mount", "--net"], &container(Some(&volume)))
    }

    /// A pod whose sandbox is being made by a runtime that starts the sandbox's own process first: that does not have
    /// the volume.
    pub fn of_sandbox(node: &'a Node) -> Self {
        let uid = new_uid();
        node.make_volume(&uid);
        Self::start(node, uid, &["--mount", "--net"], &container(None))
    }

    /// Starts another container in this one's sandbox, with the volume or without. What it is, is a pod of the same
    /// uid.
    pub fn start_container(&self, with_volume: bool) -> Self {
        Self::in_netns(self.node, &self.uid, &self.netns(), with_volume)
    }

    /// The same, in a network namespace that nothing may live in yet.
    pub fn in_netns(node: &'a Node, uid: &str, netns: &str, with_volume: bool) -> Self {
        let volume = format!("{KUBELET}/pods/{uid}/volumes/kubernetes.io~empty-dir/{VOLUME}");
        let script = container(with_volume.then_some(&volume));
        let script = format!("exec nsenter --net={netns} sh -c '{script}'");
        Self::start(node, uid.to_owned(), &["--mount"], &script)
    }

    fn start(node: &'a Node, uid: String, namespaces: &[&str], script: &str) -> Self {
        let (child, machine_pid, pid) = node.unshared(namespaces, script);
        Self { node, uid, child, machine_pid, pid }
    }

    /// The process' pid, as the machine sees it.
    pub fn machine_pid(&self) -> u32 {
        self.machine_pid
    }

    pub fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.pid)
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

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        let _ = self.node.command("kill").args(["-9", &self.pid.to_string()]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

/// A call of the plugin.
#[derive(Clone)]
pub struct Call {
    command: &'static str,
    container_id: String,
    ifname: String,
    netns: String,
    args: String,
    config: Value,
    wrapper: Vec<String>,
}

/// What a call answered.
#[derive(Debug)]
pub struct Answer {
    pub ok: bool,
    pub json: Value,
    pub log: String,
}

impl Answer {
    pub fn code(&self) -> u64 {
        assert!(!self.ok, "it succeeded: {self:?}\n{}", self.log);
        self.json["code"].as_u64().unwrap()
    }

    /// Message and details, for a look at the words.
    pub fn text(&self) -> String {
        format!("{} {}", self.json["msg"].as_str().unwrap_or(""), self.json["details"].as_str().unwrap_or(""))
    }

    pub fn succeeded(&self) {
        assert!(self.ok, "{:#}\n{}", self.json, self.log);
    }
}

impl Call {
    /// An ADD for a sandbox, as kubelet's runtime calls it, after kube-ovn.
    pub fn new(command: &'static str, uid: &str, netns: &str) -> Self {
        let config = json!({
            "cniVersion": "1.0.0", "name": "kube-ovn", "type": "vhostuser-hotplug",
            "kubelet_dir": KUBELET, "socket_base_dir": SOCKETS, "state_dir": STATE, "log_level": "debug",
            "attach_timeout": 300, "detach_timeout": 300,
            "prevResult": {
                "cniVersion": "1.0.0",
                "interfaces": [{"name": "net1", "mac": "00:00:00:24:65:F4", "mtu": 1400, "sandbox": netns}],
                "ips": [{"address": "172.18.0.11/16", "interface": 0}], "dns": {},
            },
        });
        Self {
            command,
            container_id: "4f3c2b1a09876543".to_owned(),
            ifname: "net1".to_owned(),
            netns: netns.to_owned(),
            args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=vm;K8S_POD_UID={uid}"),
            config,
            wrapper: Vec::new(),
        }
    }

    pub fn command(mut self, command: &'static str) -> Self {
        self.command = command;
        self
    }

    pub fn container(mut self, container_id: &str) -> Self {
        self.container_id = container_id.to_owned();
        self
    }

    pub fn ifname(mut self, ifname: &str) -> Self {
        self.ifname = ifname.to_owned();
        self.config["prevResult"]["interfaces"][0]["name"] = json!(ifname);
        self
    }

    pub fn netns(mut self, netns: &str) -> Self {
        self.netns = netns.to_owned();
        self
    }

    pub fn args(mut self, args: &str) -> Self {
        self.args = args.to_owned();
        self
    }

    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    pub fn mac(mut self, mac: &str) -> Self {
        self.config["prevResult"]["interfaces"][0]["mac"] = json!(mac);
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.config.as_object_mut().unwrap().remove(key);
        self
    }

    /// The prevResult that it is given.
    pub fn prev_result(&self) -> &Value {
        &self.config["prevResult"]
    }

    /// Has the plugin started through another program.
    pub fn through(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts it; its end is waited for with [`answer`].
    pub fn start(&self, node: &Node) -> Child {
        let mut words = self.wrapper.iter().map(PathBuf::from).chain([PathBuf::from(BINARY)]);
        let mut command = node.command("env");
        command.arg("-i").args([
            format!("CNI_COMMAND={}", self.command),
            format!("CNI_CONTAINERID={}", self.container_id),
            format!("CNI_IFNAME={}", self.ifname),
            format!("CNI_NETNS={}", self.netns),
            format!("CNI_ARGS={}", self.args),
            "CNI_PATH=/opt/cni/bin".to_owned(),
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ]);
        command.arg(words.next().unwrap()).args(words);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nsenter");
        let written = child.stdin.take().unwrap().write_all(self.config.to_string().as_bytes());
        // One that is killed before it reads leaves nobody to write to.
        assert!(written.is_ok() || written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe));
        child
    }

    /// Runs it.
    pub fn run(&self, node: &Node) -> Answer {
        answer(output(self.start(node)))
    }
}

/// What a call that was started answered: always one JSON document or nothing, and exit status 0 or 1.
pub fn answer(output: Output) -> Answer {
    let text = String::from_utf8(output.stdout).unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().unwrap_or_else(|| panic!("ended by a signal: {:?}\n{log}", output.status));
    assert!(code == 0 || code == 1, "exit status {code}: {text}{log}");
    let json = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect(&text) };
    Answer { ok: code == 0, json, log }
}
