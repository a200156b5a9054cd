//! The doctor on a node that is sound, and with each thing broken that it looks at.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use serde_json::Value;
use support::{KUBELET, Node, Pod, STATE, Told, told};

use super::cgroup::Cgroup;

const BINARY: &str = env!("CARGO_BIN_EXE_vhostuser-hotplug");
const CONF: &str = "/run/cni/net.d";
const BIN: &str = "/run/cni/bin";

const LIST: &str = r#"{"name":"kube-ovn","cniVersion":"1.0.0","plugins":[{"type":"kube-ovn"},
    {"type":"vhostuser-hotplug","kubelet_dir":"/run/kubelet"}]}"#;

/// Every check, in its order.
const CHECKS: [&str; 18] = [
    "rights",
    "openat2",
    "pidfd_getfd",
    "SO_PEERPIDFD",
    "confinement",
    "limits",
    "network namespace",
    "syslog",
    "kubelet_dir",
    "socket_base_dir",
    "state_dir",
    "binary",
    "OVS-DPDK",
    "propagation",
    "OVS's view",
    "OVSDB",
    "conflist",
    "runtime",
];

/// A node on which nothing is wrong, before `script` has run on it.
struct Ward {
    node: Node,
    _log: UnixDatagram,
}

/// How the data plane's container begins: mounts of its own that receive the host's.
const OVS: &str = "unshare --mount --propagation slave";

/// For a script: ends the process whose pid is in a file, and waits until it has ended; waits until another has begun.
const END: &str = "end() { pid=$(cat $1); kill $pid; while grep -q 'State:.[^Z]' /proc/$pid/status 2>/dev/null; do sleep 0.05; done; }
    begin() { while grep -qx sh /proc/$(cat $1)/comm; do sleep 0.05; done; }";

impl Ward {
    fn new() -> Self {
        Self::with(OVS, "")
    }

    /// With OVS started in this way, after `script`.
    fn with(ovs: &str, script: &str) -> Self {
        let node = Node::new();
        // A /dev of its own, for the log's socket: the machine's is not to be touched.
        node.sh(&format!(
            "mkdir -p /run/dev {KUBELET}/pods {CONF} {BIN} /run/openvswitch/vhost_sockets /run/doubles
             mount -t tmpfs tmpfs /run/dev
             for name in null zero urandom tty; do touch /run/dev/$name; mount --bind /dev/$name /run/dev/$name; done
             mkdir /run/dev/pts; mount --rbind /dev/pts /run/dev/pts; ln -s pts/ptmx /run/dev/ptmx
             echo '{LIST}' > {CONF}/01-kube-ovn.conflist
             ln -s {BINARY} {BIN}/vhostuser-hotplug
             cp /bin/sleep /run/doubles/ovs-vswitchd
             printf '#!/bin/sh\\nsleep 1000 &\\nwait\\n' > /run/doubles/containerd; chmod +x /run/doubles/containerd
             {script}
             {ovs} /run/doubles/ovs-vswitchd 1000 >/dev/null 2>&1 & echo $! > /run/doubles/ovs"
        ));
        let log = UnixDatagram::bind(node.root().join("run/dev/log")).unwrap();
        node.sh("mount --rbind /run/dev /dev");
        // The machine's own configuration of containerd, if there is one, says nothing of this node.
        node.sh(
            "/run/doubles/containerd --config /run/none >/dev/null 2>&1 & echo $! > /run/doubles/runtime; sleep 0.1",
        );
        for (file, name) in [("ovs", "ovs-vswitchd"), ("runtime", "containerd")] {
            let begun = format!("grep -qx {name} /proc/$(cat /run/doubles/{file})/comm");
            node.sh(&format!("for n in $(seq 200); do {begun} && exit 0; sleep 0.05; done; exit 1"));
        }
        Self { node, _log: log }
    }

    /// The doctor's words, started through other programs.
    fn ask_through(&self, wrapper: &[&str], options: &[&str]) -> Told {
        let words = [wrapper, &[BINARY, "doctor", "--conf-dir", CONF, "--bin-dir", BIN], options].concat();
        told(self.node.command("env").args(["NO_COLOR="]).args(words).output().unwrap())
    }

    fn ask(&self) -> Value {
        self.ask_through(&[], &["--json"]).json()
    }
}

/// What a check came to: its verdict, and all its words.
fn verdict(told: &Value, check: &str) -> (String, String) {
    let found = told["checks"].as_array().unwrap().iter().find(|one| one["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no {check} in {told:#}"));
    let word = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (word("verdict"), format!("{} | {}", word("found"), word("advice")))
}

/// The check has come out so, with this word; what is wrong makes the node unfit, and what is not ok comes with advice.
fn came_out(told: &Value, check: &str, expected: &str, word: &str) {
    let (came, words) = verdict(told, check);
    assert!(
        came == expected && words.contains(word),
        "{check} should be {expected} with {word:?}, but is {came}: {words}"
    );
    assert!(came == "ok" || !words.ends_with("| "), "{check}: no advice: {words}");
    let any_wrong = told["checks"].as_array().unwrap().iter().any(|one| one["verdict"] == "wrong");
    assert_eq!(told["fit"], !any_wrong, "{told:#}");
}

#[test]
fn a_sound_node_is_fit() {
    let ward = Ward::new();
    let told = ward.ask_through(&[], &["--json"]);
    let json = told.json();
    let checks: Vec<&str> =
        json["checks"].as_array().unwrap().iter().map(|one| one["check"].as_str().unwrap()).collect();
    assert_eq!(checks, CHECKS);
    for check in CHECKS.into_iter().filter(|check| *check != "OVS-DPDK") {
        // SO_PEERPIDFD is the kernel's to have.
        let (came, words) = verdict(&json, check);
        assert!(came == "ok" || check == "SO_PEERPIDFD", "{check}: {came}: {words}");
    }
    came_out(&json, "OVS-DPDK", "warning", "huge pages");
    assert!(told.ok && told.err.is_empty(), "a warning is no fault: {told:?}");

    let shown = ward.ask_through(&[], &[]);
    assert!(shown.ok, "{shown:?}");
    for check in CHECKS {
        assert_eq!(
            shown.out.lines().filter(|line| line.get(9..).is_some_and(|rest| rest.starts_with(check))).count(),
            1
        );
    }
    assert!(shown.out.contains("ok       kubelet_dir        /run/kubelet/pods is there\n"), "{}", shown.out);
    let advice = shown.out.lines().filter(|line| line.contains(" to do: ")).count();
    assert_eq!(
        advice,
        shown.out.matches("warning  ").count(),
        "advice for each warning, and for nothing else: {}",
        shown.out
    );
}

#[test]
fn what_the_kernel_or_a_filter_refuses_shows() {
    let ward = Ward::new();
    let strace =
        |fault: &str| ward.ask_through(&["strace", "-f", "-qq", "-o", "/dev/null", "-e", fault], &["--json"]).json();
    let told = strace("inject=openat2:error=ENOSYS");
    came_out(&told, "openat2", "wrong", "5.6");
    came_out(&strace("inject=pidfd_getfd:error=EPERM"), "pidfd_getfd", "wrong", "seccomp");
    came_out(&strace("inject=getsockopt:error=ENOPROTOOPT"), "SO_PEERPIDFD", "warning", "6.5");
    for (fault, kept) in [
        ("inject=seccomp:error=EINVAL", "system calls cannot be dropped"),
        ("inject=capset:error=EPERM", "capabilities cannot be dropped"),
    ] {
        came_out(&strace(fault), "confinement", "warning", kept);
    }
    let told = ward.ask_through(&["setpriv", "--bounding-set", "-setpcap"], &["--json"]).json();
    came_out(&told, "confinement", "warning", "the capability bounding set cannot be dropped");
    let through = |wrapper: &[&str]| ward.ask_through(wrapper, &["--json"]).json();
    for capability in ["sys_admin", "sys_ptrace", "dac_override", "fowner"] {
        let told = through(&["setpriv", "--bounding-set", &format!("-{capability}")]);
        came_out(&told, "rights", "wrong", &format!("CAP_{}", capability.to_uppercase()));
    }
    // Of the first process the kernel says what it would say of a pod's.
    came_out(&through(&["setpriv", "--bounding-set", "-sys_ptrace"]), "pidfd_getfd", "wrong", "CAP_SYS_PTRACE");
    came_out(&strace("inject=mount:error=EPERM"), "rights", "wrong", "could not be mounted");
    came_out(&strace("inject=open_tree:error=ENOSYS"), "rights", "wrong", "open_tree");
    // A kernel before 5.10 passes the unknown flag over.
    came_out(&strace("inject=mount:retval=0:when=4"), "rights", "warning", "5.10");
    came_out(&through(&["setpriv", "--reuid", "65534", "--clear-groups"]), "rights", "wrong", "not root");
    came_out(&through(&["unshare", "--net"]), "network namespace", "warning", "another");
}

#[test]
fn what_is_broken_on_the_host_shows() {
    let ward = Ward::new();
    let node = &ward.node;
    // Broken, then mended: a check that stays as it is would not be one.
    let broken = |check: &str, expected: &str, word: &str, script: &str, mend: &str| {
        node.sh(script);
        came_out(&ward.ask(), check, expected, word);
        node.sh(mend);
        came_out(&ward.ask(), check, "ok", "");
    };
    broken("syslog", "warning", "/dev/log", "mv /dev/log /dev/gol", "mv /dev/gol /dev/log");
    broken("kubelet_dir", "wrong", "root-dir", &format!("rmdir {KUBELET}/pods"), &format!("mkdir {KUBELET}/pods"));
    let base = "/run/openvswitch/vhost_sockets";
    broken(
        "socket_base_dir",
        "wrong",
        "not a directory",
        &format!("rmdir {base}; touch {base}"),
        &format!("rm {base}; mkdir {base}"),
    );
    broken("socket_base_dir", "warning", "chmod o+x", "chmod 750 /run/openvswitch", "chmod 755 /run/openvswitch");
    for (script, word) in [
        (format!("chmod 0777 {base}"), "0777"),
        (format!("chmod 0775 {base}"), "0775"),
        (format!("chown 7 {base}"), "uid 7"),
        (format!("mkdir -m 0777 {base}/pod"), "/pod is owned by uid 0 with mode"),
    ] {
        broken("socket_base_dir", "warning", word, &script, &format!("rm -rf {base}; mkdir -m 0755 {base}"));
    }
    // Its sticky bit keeps what is root's.
    node.sh(&format!("chmod 1777 {base}"));
    came_out(&ward.ask(), "socket_base_dir", "ok", "");
    node.sh(&format!("chmod 0755 {base}"));

    let kubelet = |words: &str, expected: &str, word: &str| {
        node.sh(&format!(
            "cd /run/doubles; printf '#!/bin/sh\nsleep 1000 &\nwait\n' > kubelet; chmod +x kubelet
             ./kubelet {words} >/dev/null 2>&1 & echo $! > kubelet.pid
             for n in $(seq 200); do grep -qx kubelet /proc/$(cat kubelet.pid)/comm && break; sleep 0.05; done"
        ));
        came_out(&ward.ask(), "kubelet_dir", expected, word);
        node.sh(&format!("{END}; end /run/doubles/kubelet.pid"));
    };
    node.sh(&format!("ln -s {KUBELET} /run/link"));
    kubelet("--v=2 --root-dir=/run/kubelet", "ok", "is there");
    kubelet("--root-dir /run/link", "ok", "is there");
    kubelet("--root-dir=/data/kubelet", "wrong", "set the key \"kubelet_dir\" to /data/kubelet");
    kubelet("--v=2", "wrong", "/var/lib/kubelet");
    // Without a process of that name, as with k3s, the pods that run tell.
    let pod = Pod::new(node);
    let _group = Cgroup::new(&format!("kubepods/pod{}/c1", pod.uid), pod.machine_pid());
    came_out(&ward.ask(), "kubelet_dir", "ok", "is there");
    let directory = format!("{KUBELET}/pods/{}", pod.uid);
    broken(
        "kubelet_dir",
        "wrong",
        &pod.uid,
        &format!("mv {directory} /run/away"),
        &format!("mv /run/away {directory}"),
    );

    let absent = format!("rm -rf {STATE}");
    let elsewhere = "/run/other/state";
    broken(
        "state_dir",
        "wrong",
        elsewhere,
        &format!(
            "mkdir -m 700 {STATE} {STATE}/elsewhere; mkdir -p -m 755 {elsewhere}; echo {elsewhere} > {STATE}/elsewhere/0"
        ),
        &format!("chmod 700 {elsewhere}"),
    );
    node.sh(&absent);
    for mode in ["0755", "0710", "0702"] {
        broken("state_dir", "wrong", mode, &format!("mkdir {STATE}; chmod {mode} {STATE}"), &absent);
    }
    broken("state_dir", "wrong", "uid 7", &format!("mkdir -m 700 {STATE}; chown 7 {STATE}"), &absent);
    broken("state_dir", "wrong", "not a directory", &format!("ln -s /tmp {STATE}"), &absent);
    node.sh(&format!("mkdir -m 700 {STATE}"));
    came_out(&ward.ask(), "state_dir", "ok", "root's alone");

    let path = format!("{BIN}/vhostuser-hotplug");
    let good = format!("rm -f {path}; ln -s {BINARY} {path}");
    broken("binary", "wrong", "No such file", &format!("rm {path}"), &good);
    let other =
        |line: &str, mode: &str| format!("rm {path}; printf '#!/bin/sh\\n{line}\\n' > {path}; chmod {mode} {path}");
    let same = concat!("echo vhostuser-hotplug ", env!("CARGO_PKG_VERSION"));
    broken("binary", "wrong", "executed", &other(same, "644"), &good);
    broken("binary", "wrong", "0775", &other(same, "775"), &good);
    broken("binary", "wrong", "0.0.9", &other("echo vhostuser-hotplug 0.0.9", "755"), &good);
    node.sh(&other(same, "755"));
    came_out(&ward.ask(), "binary", "ok", "of this version");
    node.sh(&other("sleep 1000", "755"));
    came_out(&ward.ask(), "binary", "wrong", "does not tell");

    let long = format!("/run/openvswitch/{}", "x".repeat(20));
    let told = ward.ask_through(&[], &["--json", "--socket-base-dir", &long]).json();
    came_out(&told, "socket_base_dir", "wrong", "112 bytes");
}

#[test]
fn what_is_broken_about_ovs_shows() {
    let ward = Ward::new();
    came_out(&ward.ask(), "propagation", "ok", "shared");
    came_out(&ward.ask(), "OVS's view", "ok", "receives its mounts");
    ward.node.sh(&format!("{END}; end /run/doubles/ovs"));
    came_out(&ward.ask(), "OVS-DPDK", "wrong", "ovs_dp_type=userspace");
    drop(ward);
    let ask = |ovs: &str, script: &str| Ward::with(ovs, script).ask();
    let told = ask("", "");
    came_out(&told, "propagation", "ok", "not needed");
    came_out(&told, "OVS's view", "ok", "host's");
    came_out(&ask("unshare --mount --net", ""), "OVS-DPDK", "wrong", "hostNetwork");
    let told = ask("unshare --mount --propagation private", "");
    came_out(&told, "OVS's view", "wrong", "HostToContainer");
    came_out(&told, "propagation", "ok", "");
    let told = ask(OVS, "mount --make-private /run");
    came_out(&told, "propagation", "wrong", "mount --make-rshared /run");
    let tmpfs = "unshare --mount --propagation slave sh -c 'mount -t tmpfs tmpfs /run/openvswitch; exec \"$@\"' x";
    came_out(&ask(tmpfs, ""), "OVS's view", "wrong", "/var/run/openvswitch/vhost_sockets");
    let other = tmpfs.replace("openvswitch;", "openvswitch; mkdir /run/openvswitch/vhost_sockets;");
    came_out(&ask(&other, ""), "OVS's view", "wrong", "another directory");
    came_out(&ask(OVS, "rm -r /run/openvswitch"), "OVS's view", "warning", "start OVS");
}

#[test]
fn what_is_broken_about_the_runtime_shows() {
    let ward = Ward::new();
    let conflist = |script: &str, expected: &str, word: &str| {
        ward.node
            .sh(&format!("rm -rf {CONF}; mkdir {CONF}; cd {CONF}; echo '{LIST}' > 01-kube-ovn.conflist; {script}"));
        came_out(&ward.ask(), "conflist", expected, word);
    };
    let bare = r#"{"name":"other","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#;
    conflist("", "ok", "01-kube-ovn.conflist is the one in use");
    conflist(&format!("rm -r {CONF}"), "wrong", "kube-ovn installed");
    conflist("rm *", "wrong", "has none");
    conflist("echo '{' > 00-broken.conflist", "wrong", "00-broken.conflist: it is not one JSON object");
    conflist(&format!("echo '{bare}' > 00-other.conflist"), "wrong", "comes first");
    conflist(&format!("echo '{bare}' > 10-other.conflist"), "ok", "01-kube-ovn");
    conflist(&format!("echo '{bare}' > 01-kube-ovn.conflist"), "warning", "install.sh");
    conflist("sed -i 's/\\/run\\/kubelet/kubelet/' *", "wrong", "kubelet_dir");
    conflist(
        "sed -i 's/\"kube-ovn\"}/\"kube-ovn\",\"vhost_user_socket_volume_name\":\"x\"}/' *",
        "wrong",
        "not the same",
    );
    conflist(
        "echo '{\"name\":\"m\",\"type\":\"multus-shim\",\"cniVersion\":\"1.0.0\"}' > 00-multus.conf",
        "ok",
        "01-kube-ovn",
    );
    // The same rules as those of install --check.
    let stale = format!(
        "echo '{{\"name\":\"m\",\"type\":\"multus\",\"cniVersion\":\"1.0.0\",\"delegates\":[{}]}}' > 00-multus.conf",
        bare.replace("bridge", "kube-ovn")
    );
    conflist(&stale, "wrong", "restart this node's Multus pod");
    let own = "mkdir kube-ovn; echo '{\"type\":\"vhostuser-hotplug\"}' > kube-ovn/10-x.conf";
    conflist(own, "wrong", "called twice");
    conflist(&format!("{own}; sed -i 's/{{/{{\"loadOnlyInlinedPlugins\":\"TRUE\",/' 01-kube-ovn.conflist"), "ok", "");
    conflist(
        "sed -i 's/{/{\"loadOnlyInlinedPlugins\":\"yes\",/' 01-kube-ovn.conflist",
        "wrong",
        "loadOnlyInlinedPlugins must be",
    );
    let parted = format!(
        "echo '{}' > 01-kube-ovn.conflist; mkdir kube-ovn; echo '{{\"type\":\"vhostuser-hotplug\"}}' > kube-ovn/10-x.conf",
        bare.replace("bridge", "kube-ovn").replace("other", "kube-ovn")
    );
    conflist(&parted, "warning", "drop-ins");

    let runtime = |words: &str, expected: &str, word: &str| {
        ward.node.sh(&format!(
            "{END}; cd /run/doubles; end runtime; {words} >/dev/null 2>&1 & echo $! > runtime; begin runtime"
        ));
        came_out(&ward.ask(), "runtime", expected, word);
    };
    runtime("sleep 1000", "warning", "neither");
    ward.node.sh("cd /run/doubles; cp containerd crio; echo 'conf_dir = \"/other\"' > conf.toml; \
         echo \"bin_dirs = ['/a', '/b']\" > bin.toml; echo 'network_dir = \"/third\"' > crio.toml");
    runtime("exec ./containerd --config /run/doubles/conf.toml", "wrong", "reads \"/other\" and not /run/cni/net.d");
    runtime("exec ./containerd --config=/run/doubles/bin.toml", "wrong", "--bin-dir");
    runtime("exec ./crio -c /run/doubles/crio.toml", "wrong", "\"/third\"");
    runtime("exec ./containerd -c /run/doubles/none.toml", "ok", "containerd, process");
}

#[test]
fn colours_are_for_terminals_and_for_who_wants_them() {
    let ward = Ward::new();
    let words = format!("{BINARY} doctor --conf-dir {CONF} --bin-dir {BIN}");
    let on_terminal = |variables: &[&str]| {
        let mut command = ward.node.command("env");
        command.args(["-u", "NO_COLOR", "TERM=xterm"]).args(variables);
        shown(command.args(["script", "-qec", &words, "/dev/null"]))
    };
    let text = on_terminal(&[]);
    assert!(
        text.contains("\u{1b}[32mok") && text.contains("\u{1b}[33mwarning") && text.contains("\u{1b}[0m"),
        "{text:?}"
    );
    assert!(on_terminal(&["NO_COLOR="]).contains("\u{1b}["), "an empty variable refuses nothing");
    for refusal in ["NO_COLOR=1", "TERM=dumb"] {
        let text = on_terminal(&[refusal]);
        assert!(text.contains("kubelet_dir") && !text.contains('\u{1b}'), "{refusal}: {text:?}");
    }
    assert!(!ward.ask_through(&[], &[]).out.contains('\u{1b}'), "a pipe is no terminal");
}

fn shown(command: &mut Command) -> String {
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}
