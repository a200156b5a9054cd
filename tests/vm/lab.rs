//! The lab's words, and calls of the plugins in it through libcni.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use support::limited::Limited;

/// How long a command of the lab is waited for, before the test is given up: longer than the lab itself waits for anything.
const PATIENCE: Duration = Duration::from_secs(900);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The lab's script.
pub fn program() -> String {
    std::env::var("LAB")
        .expect("these tests need the lab: run tests/run, or set LAB to tests/lab/lab of a lab that is up")
}

fn output(words: &[&str], variables: &[(&str, &str)], stdin: &str) -> Output {
    let mut command = Command::new(program());
    command.args(words).envs(variables.iter().copied());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the lab's script");
    // What does not read its input may have ended already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    receiver
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| panic!("lab {words:?} has not ended within {PATIENCE:?}"))
        .unwrap()
}

/// Runs a command of the lab, which must succeed; its output.
pub fn lab(words: &[&str]) -> String {
    lab_with(words, "")
}

/// The same, with this on its standard input.
pub fn lab_with(words: &[&str], stdin: &str) -> String {
    let output = output(words, &[], stdin);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "lab {words:?}\n{out}{err}");
    out.trim_end().to_owned()
}

/// Whether a command of the lab succeeds.
pub fn holds(words: &[&str]) -> bool {
    output(words, &[], "").status.success()
}

/// A pod of the lab.
pub struct Pod {
    pub name: String,
    facts: HashMap<String, String>,
}

/// A NIC's address, from the result of its ADD.
pub struct Nic {
    pub mac: String,
    pub address: String,
}

/// What libcni answered.
#[derive(Debug)]
pub struct Answer {
    pub ok: bool,
    pub json: Value,
    pub words: String,
}

impl Answer {
    pub fn of(output: &Output) -> Self {
        Self {
            ok: output.status.success(),
            json: serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
            words: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn nic(&self) -> Nic {
        assert!(self.ok, "{self:#?}\n{}", log());
        let text = |pointer: &str| self.json.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
        Nic { mac: text("/interfaces/0/mac"), address: text("/ips/0/address") }
    }

    pub fn succeeded(&self) {
        assert!(self.ok, "{self:#?}\n{}", log());
    }

    pub fn code(&self) -> u64 {
        assert!(!self.ok, "it succeeded: {}", self.words);
        self.json["code"].as_u64().unwrap_or_else(|| panic!("{self:#?}"))
    }
}

/// Runs a command of the lab that calls plugins, with these variables.
pub fn call(words: &[&str], variables: &[(&str, &str)], stdin: &str) -> Answer {
    Answer::of(&output(words, variables, stdin))
}

/// A network's configuration in a file; it goes with this value.
pub struct Conflist(PathBuf);

impl Conflist {
    pub fn new(list: &Value) -> Self {
        let name = format!("{}-{}.conflist", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, list.to_string()).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Conflist {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The end of what the plugin logged.
pub fn log() -> String {
    let log = lab(&["log"]);
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("vhostuser-hotplug")).collect();
    lines.iter().skip(lines.len().saturating_sub(12)).map(|line| format!("{line}\n")).collect()
}

impl Pod {
    /// Makes a pod; `options` are those of `lab pod`.
    pub fn new(options: &[&str]) -> Self {
        Self::named(&format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)), options)
    }

    /// The same, by this name.
    pub fn named(name: &str, options: &[&str]) -> Self {
        let facts = lab(&[&["pod", name][..], options].concat());
        let facts = facts.lines().filter_map(|line| line.split_once('='));
        let facts = facts.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { name: name.to_owned(), facts }
    }

    pub fn fact(&self, key: &str) -> &str {
        self.facts.get(key).unwrap_or_else(|| panic!("the lab tells no {key}"))
    }

    /// The conflist of a hot-plug NIC, with keys of the test's own in the plugin's object.
    fn conflist(keys: &Value) -> Conflist {
        let mut list: Value = serde_json::from_str(include_str!("../../conflist/hotplug.conflist")).unwrap();
        let ours = list["plugins"][1].as_object_mut().unwrap();
        ours.insert("log_level".to_owned(), json!("debug"));
        ours.extend(keys.as_object().unwrap().clone());
        Conflist::new(&list)
    }

    /// Calls the chain through libcni, as a controller of one's own does: no uid, the namespace of a process of the pod.
    pub fn call(&self, command: &str, ifname: &str, keys: &Value) -> Answer {
        let pid = self.facts.get("PID").or_else(|| self.facts.get("PAUSE_PID"));
        let netns = pid.map_or_else(|| self.fact("NETNS").to_owned(), |pid| format!("/proc/{pid}/ns/net"));
        let args = format!("K8S_POD_NAME={};K8S_POD_NAMESPACE={}", self.name, self.fact("NAMESPACE"));
        self.call_with(command, ifname, keys, &netns, &args)
    }

    /// Calls the chain through libcni, as kubelet's runtime does.
    pub fn call_as_kubelet(&self, command: &str, ifname: &str, keys: &Value) -> Answer {
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            self.fact("NAMESPACE"),
            self.name,
            self.fact("CID"),
            self.fact("POD_UID")
        );
        self.call_with(command, ifname, keys, self.fact("NETNS"), &args)
    }

    fn call_with(&self, command: &str, ifname: &str, keys: &Value, netns: &str, args: &str) -> Answer {
        let conflist = Self::conflist(keys);
        call(&["runtime", command, conflist.path()], &self.variables(ifname, netns, args), "")
    }

    /// Calls the chain as kubelet's runtime does, in a cgroup.
    pub fn call_in(&self, group: &Limited, command: &str, ifname: &str) -> Answer {
        let conflist = Self::conflist(&json!({}));
        let args = format!("IgnoreUnknown=1;K8S_POD_UID={};K8S_POD_NAME={}", self.fact("POD_UID"), self.name);
        let args = format!("{args};K8S_POD_NAMESPACE={}", self.fact("NAMESPACE"));
        let netns = format!("/proc/{}/ns/net", self.fact("PID"));
        let [shell, option, script] = group.enter();
        let mut runtime = Command::new(shell);
        let runtime = runtime.args([&option, &script, &program(), "runtime", command, conflist.path()]);
        let runtime = runtime.envs(self.variables(ifname, &netns, &args)).stdin(Stdio::null());
        Answer::of(&runtime.output().unwrap())
    }

    fn variables<'a>(&'a self, ifname: &'a str, netns: &'a str, args: &'a str) -> [(&'static str, &'a str); 4] {
        [("CNI_CONTAINERID", self.fact("CID")), ("CNI_IFNAME", ifname), ("CNI_NETNS", netns), ("CNI_ARGS", args)]
    }

    /// Calls the plugin alone, with what the ones before it in the chain would have answered.
    pub fn call_plugin_alone(&self, command: &str, ifname: &str, keys: &Value, result: &Value) -> Answer {
        Answer::of(&self.start_plugin(&[], command, ifname, keys, result).wait_with_output().unwrap())
    }

    /// Starts the same as the last of these words.
    pub fn start_plugin(&self, words: &[&str], command: &str, ifname: &str, keys: &Value, result: &Value) -> Child {
        let mut list: Value = serde_json::from_str(include_str!("../../conflist/hotplug.conflist")).unwrap();
        let mut conf = list["plugins"][1].take();
        let ours = conf.as_object_mut().unwrap();
        ours.insert("cniVersion".to_owned(), list["cniVersion"].take());
        ours.insert("name".to_owned(), list["name"].take());
        ours.insert("log_level".to_owned(), json!("debug"));
        ours.extend(keys.as_object().unwrap().clone());
        if !result.is_null() {
            ours.insert("prevResult".to_owned(), result.clone());
        }
        let mut child = Command::new(program())
            .arg("exec")
            .args(words)
            .arg("/opt/cni/bin/vhostuser-hotplug")
            .env("CNI_COMMAND", command.to_uppercase())
            .env("CNI_CONTAINERID", self.fact("CID"))
            .env("CNI_IFNAME", ifname)
            .env("CNI_NETNS", format!("/proc/{}/ns/net", self.fact("PID")))
            .env("CNI_ARGS", format!("K8S_POD_NAME={};K8S_POD_NAMESPACE={}", self.name, self.fact("NAMESPACE")))
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        child
    }

    /// A process of the pod, as the lab tells it now: LIBVIRTD_PID, QEMU_PID.
    pub fn process(&self, which: &str) -> String {
        let facts = lab(&["info", &self.name]);
        let fact = facts.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix('='));
        fact.unwrap_or_else(|| panic!("no {which} in {facts}")).to_owned()
    }

    /// The VM's description.
    pub fn xml(&self) -> String {
        lab(&["virsh", &self.name, "dumpxml", self.fact("DOMAIN")])
    }

    pub fn add(&self, ifname: &str) -> Answer {
        self.call("add", ifname, &json!({}))
    }

    pub fn del(&self, ifname: &str) -> Answer {
        self.call("del", ifname, &json!({}))
    }

    /// Runs a command in the guest, which must succeed; its output.
    pub fn guest(&self, script: &str) -> String {
        lab(&["guest", &self.name, script])
    }

    /// Whether the guest has a NIC with this address.
    pub fn guest_has(&self, nic: &Nic) -> bool {
        holds(&["guest", &self.name, &format!("nic {}", nic.mac)])
    }

    /// Brings the NIC up in the guest and pings it from the node, through OVS-DPDK.
    pub fn ping(&self, nic: &Nic) {
        let (mac, address) = (&nic.mac, &nic.address);
        // A guest with two NICs in one subnet must answer for each address with that NIC's own, or the node remembers the
        // other's, which may be unplugged.
        self.guest(&format!(
            "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore; echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce; \
             n=$(nic {mac}) && ip addr replace {address} dev $n && ip link set $n up"
        ));
        let target = address.split('/').next().unwrap();
        let pings = || output(&["exec", "ping", "-c", "3", "-i", "0.2", "-w", "10", target], &[], "");
        let first = pings();
        if first.status.success() {
            return;
        }
        // Whether it was the guest or the way to it, and for how long, nobody can tell afterwards.
        let state = self.why_silent(nic);
        let again = pings();
        panic!(
            "{target} does not answer:\n{}{state}\nasked again, it {}:\n{}",
            String::from_utf8_lossy(&first.stdout),
            if again.status.success() { "answers" } else { "does not, either" },
            String::from_utf8_lossy(&again.stdout)
        );
    }

    /// What the guest, its console, QEMU's threads and OVS say of a NIC that does not answer.
    fn why_silent(&self, nic: &Nic) -> String {
        let inside = format!(
            "n=$(nic {}); grep $n /proc/net/dev; ip addr show $n; cat /sys/class/net/$n/carrier; \
             grep virtio /proc/interrupts; dmesg | tail -n 20",
            nic.mac
        );
        let threads = "for s in /proc/$(pgrep -n qemu-system)/task/*/stat; do cut -d ' ' -f 2,3,14,15 $s; done";
        let switch = "ovs-vsctl --columns=name,link_state,status,statistics list interface; \
                      for words in dpif-netdev/pmd-rxq-show 'fdb/show br-int'; do \
                      ovs-appctl -t /var/run/openvswitch/ovs-vswitchd-dpdk.*.ctl $words; done; \
                      log=$(readlink /proc/$(cat /var/run/openvswitch/ovs-vswitchd.pid)/fd/* | grep -m 1 'vswitchd.log$'); \
                      grep -v VHOST_CONFIG $log | tail -n 30";
        let asked: [(&str, &[&str]); 4] = [
            ("guest", &["guest", &self.name, &inside]),
            ("console", &["console", &self.name]),
            ("QEMU's threads: state, hundredths of a second of a CPU", &["exec", "sh", "-c", threads]),
            ("OVS", &["exec", "sh", "-c", switch]),
        ];
        asked
            .map(|(what, words)| {
                let output = output(words, &[], "");
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text).into_owned();
                let lines: Vec<&str> = text.lines().collect();
                let end = lines[lines.len().saturating_sub(60)..].join("\n");
                format!("\n--- {what} ({})\n{end}", output.status)
            })
            .concat()
    }

    /// What is left of the pod on the node, besides what kubelet makes: nothing, if the list is empty.
    pub fn leftovers(&self) -> Vec<String> {
        let uid = self.fact("POD_UID");
        let script = format!(
            "ls -d /run/openvswitch/vhost_sockets/{uid} /run/vhostuser-hotplug/pods/{uid} /run/vhostuser-hotplug/locks/{uid} 2>/dev/null; \
             grep -o '/run/openvswitch/vhost_sockets/{uid}[^ ]*' /proc/self/mountinfo; \
             find /var/lib/kubelet/pods/{uid} -type s -path '*vhostuser-sockets*' 2>/dev/null; \
             ovs-vsctl --bare --columns=name find interface external_ids:pod_name={}; true",
            self.name
        );
        lab(&["exec", "sh", "-c", &script]).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}

impl Pod {
    /// Undoes what a test that failed has left, by what libcni remembers: other tests look at the node, too.
    fn undo(&self) {
        let remembered = output(&["exec", "ls", "/var/lib/cni/results"], &[], "");
        let names = String::from_utf8_lossy(&remembered.stdout);
        for ifname in names.lines().filter_map(|name| name.strip_prefix(&format!("dpdk1-{}-", self.fact("CID")))) {
            let _ = self.del(ifname);
        }
    }
}

impl Pod {
    /// Says so where the VM of a test that failed has a CPU that the emulator left for dead (tests/lab/README.md): tests/run has
    /// such a test run once more.
    fn tell_of_the_emulator(&self) {
        let stuck = output(&["stuck", &self.name], &[], "").stdout;
        let Some(file) = std::env::var_os("EMULATOR_FAULTS").filter(|_| !stuck.is_empty()) else { return };
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let line =
            format!("{test} {}: {}\n", self.name, String::from_utf8_lossy(&stuck).trim_end().replace('\n', ", "));
        let file = std::fs::OpenOptions::new().append(true).open(file);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_of_the_emulator();
        }
        let removed = output(&["pod-rm", &self.name], &[], "");
        if std::thread::panicking() {
            // Now that no guest is there any more that may not let go.
            return self.undo();
        }
        assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    }
}
