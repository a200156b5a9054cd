//! The lab, the pod in it, and the ways to plug a NIC there.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use support::limited::Limited;

/// The NIC's name; kube-ovn's stand-in makes its addresses from that.
pub const IFNAME: &str = "net1";

/// The NIC that brings the share for a data plane that is not OVS.
const SHARE: &str = "share0";

/// A command of the lab's script.
pub fn command(words: &[&str]) -> Command {
    command_in(None, words)
}

/// A command of the lab's script, in a cgroup.
fn command_in(group: Option<&Limited>, words: &[&str]) -> Command {
    let program = std::env::var("LAB").expect("LAB names tests/lab/lab: run tests/bench/hotplug");
    let mut all: Vec<String> = group.map(|group| group.enter().to_vec()).unwrap_or_default();
    all.push(program);
    all.extend(words.iter().map(|word| (*word).to_owned()));
    let mut command = Command::new(&all[0]);
    command.args(&all[1..]);
    command
}

/// What a command printed; it must have succeeded.
pub fn succeeded(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.trim_end().to_owned()
}

/// Runs a command of the lab's script; what it printed.
pub fn lab(words: &[&str]) -> String {
    succeeded(&command(words).output().expect("the lab's script"))
}

/// Milliseconds since then.
pub fn since(then: Instant) -> f64 {
    then.elapsed().as_secs_f64() * 1000.0
}

/// A pod with a running VM.
pub struct Bench {
    pub pod: String,
    facts: Vec<(String, String)>,
    keys: Value,
    /// What an ADD answered that plugged nothing: with it, the plugin is called alone.
    share: Option<Value>,
    has_testpmd: bool,
    /// The cgroup in which plugins are called, if it is not this process' own.
    group: Option<Limited>,
}

impl Bench {
    /// Makes the pod, with these options of the lab's, and starts its VM.
    pub fn new(pod: &str, options: &[&str], queues: u32) -> Self {
        let pod = pod.to_owned();
        let facts = lab(&[&["pod", &pod], options].concat());
        let facts = facts.lines().filter_map(|line| line.split_once('='));
        let facts = facts.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self {
            pod,
            facts,
            keys: json!({"queues": queues, "log_level": "debug"}),
            share: None,
            has_testpmd: false,
            group: None,
        }
    }

    /// Has plugins called in a cgroup with the limits that Multus has as it is shipped, beside a process that computes.
    pub fn limit_calls(&mut self) {
        let mut group = Limited::new();
        group.keep_busy();
        self.group = Some(group);
    }

    /// Tells how the cgroup fared, and leaves it.
    pub fn end_limits(&mut self) {
        if let Some(group) = self.group.take() {
            println!("in the cgroup: throttled {} times, {} OOM kills", group.throttled(), group.oom_kills());
        }
    }

    /// Has kube-ovn's stand-in make the NIC's port; from now on, the plugin is called alone.
    pub fn keep_port(&mut self) {
        self.share = Some(self.call("add", &json!({"attach": "never"})));
    }

    /// Removes that port; from now on, the whole chain is called.
    pub fn remove_port(&mut self) {
        self.share = None;
        self.call("del", &json!({}));
    }

    /// Makes testpmd the data plane of the NIC, in place of OVS: it has no port in OVS, and the plugin is called alone.
    pub fn use_testpmd(&mut self) {
        self.share = Some(self.call_for(SHARE, "add", &json!({"attach": "never"})));
        let socket = format!("/run/openvswitch/vhost_sockets/{}/vhostuser-sockets/{IFNAME}", self.fact("POD_UID"));
        lab(&["testpmd", &socket]);
        self.has_testpmd = true;
    }

    /// Returns true if the data plane is OVS.
    pub fn has_ovs(&self) -> bool {
        !self.has_testpmd
    }

    /// What the ADD answered that made the share, if the plugin is called alone.
    pub fn share(&self) -> Option<&Value> {
        self.share.as_ref()
    }

    /// Removes the pod.
    pub fn end(self) {
        if self.has_testpmd {
            lab(&["testpmd-stop"]);
            self.call_for(SHARE, "del", &json!({}));
        }
        lab(&["pod-rm", &self.pod]);
    }

    /// All facts of the pod.
    pub fn facts(&self) -> Value {
        self.facts.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect()
    }

    /// A fact of the pod, as `lab info` tells it.
    pub fn fact(&self, key: &str) -> &str {
        let found = self.facts.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("the lab tells no {key}"))
    }

    /// Plugs the NIC.
    pub fn add(&self) {
        self.plug_or_unplug("add");
    }

    /// Unplugs it.
    pub fn del(&self) {
        self.plug_or_unplug("del");
    }

    fn plug_or_unplug(&self, what: &str) {
        match &self.share {
            Some(share) => self.call_alone(what, share),
            None => drop(self.call(what, &json!({}))),
        }
    }

    /// Calls the plugin alone, with this result of those before it in the chain.
    fn call_alone(&self, what: &str, result: &Value) {
        let mut list: Value = serde_json::from_str(include_str!("../../../../../conflist/hotplug.conflist")).unwrap();
        let mut conf = list["plugins"][1].take();
        conf.as_object_mut().unwrap().extend(self.keys.as_object().unwrap().clone());
        for key in ["name", "cniVersion"] {
            conf[key] = list[key].take();
        }
        conf["prevResult"] = result.clone();
        let mut plugin = self.cni(&["exec", "/opt/cni/bin/vhostuser-hotplug"], IFNAME);
        plugin.env("CNI_COMMAND", what.to_uppercase()).env("CNI_PATH", "/opt/cni/bin");
        let mut plugin = plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the lab's script");
        plugin.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).expect("the plugin reads it");
        succeeded(&plugin.wait_with_output().unwrap());
    }

    /// Calls the chain, kube-ovn's stand-in and the plugin, with these keys in the plugin's object; its result.
    pub fn call(&self, what: &str, keys: &Value) -> Value {
        self.call_for(IFNAME, what, keys)
    }

    fn call_for(&self, ifname: &str, what: &str, keys: &Value) -> Value {
        let mut list: Value = serde_json::from_str(include_str!("../../../../../conflist/hotplug.conflist")).unwrap();
        for keys in [&self.keys, keys] {
            list["plugins"][1].as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        }
        let path = std::env::temp_dir().join(format!("bench-{}.conflist", std::process::id()));
        std::fs::write(&path, list.to_string()).unwrap();
        let output = self.cni(&["runtime", what, path.to_str().unwrap()], ifname).output();
        let text = succeeded(&output.expect("the lab's script"));
        std::fs::remove_file(path).unwrap();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// A command of the lab that calls plugins for a NIC.
    fn cni(&self, words: &[&str], ifname: &str) -> Command {
        // As containerd names the pod.
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            self.fact("NAMESPACE"),
            self.pod,
            self.fact("CID"),
            self.fact("POD_UID")
        );
        let mut command = command_in(self.group.as_ref(), words);
        command.env("CNI_CONTAINERID", self.fact("CID")).env("CNI_IFNAME", ifname).env("CNI_ARGS", args);
        command.env("CNI_NETNS", format!("/proc/{}/ns/net", self.fact("PID")));
        command
    }

    /// Has everything made that an attach by others needs, the port and the share, and the NIC's XML put into the
    /// container: the same that the plugin would send. `call("del", …)` takes port and share away.
    pub fn prepare_for_others(&self) {
        let result = self.call("add", &json!({"attach": "never"}));
        let mac = result["interfaces"][0]["mac"].as_str().unwrap();
        let (path, queues) = (format!("{}/{IFNAME}", self.fact("SOCKETS")), &self.keys["queues"]);
        let xml = format!(
            "<interface type='vhostuser'><mac address='{mac}'/><source type='unix' path='{path}' mode='server'/>\
             <model type='virtio-non-transitional'/><driver name='vhost' queues='{queues}'/><alias name='ua-{IFNAME}'/>\
             </interface>"
        );
        let file = format!("/proc/{}/root/run/nic.xml", self.fact("PID"));
        lab(&["exec", "sh", "-c", &format!("echo \"{xml}\" > {file}")]);
    }

    /// Has virsh attach or detach that NIC.
    pub fn virsh(&self, what: &str) -> String {
        lab(&["virsh", &self.pod, what, self.fact("DOMAIN"), "/run/nic.xml", "--live"])
    }

    /// Has virsh connect, and do next to nothing.
    pub fn virsh_nothing(&self) {
        lab(&["virsh", &self.pod, "domstate", self.fact("DOMAIN")]);
    }

    /// The steps of the last call of this verb, as the plugin tells the log.
    pub fn last_call(&self, verb: &str) -> Steps {
        let log = lab(&["log"]);
        let begins = format!(": {verb} ");
        let done = log.lines().rev().find(|line| line.contains(&begins) && line.contains(": done in "));
        Steps::parse(done.expect("the call's last line"))
    }
}

/// The steps of a call, each with the milliseconds that it took.
pub struct Steps(Vec<(String, f64)>);

impl Steps {
    /// Reads the plugin's last line about a call: "…: done in 472 ms; lock 0.4 ms; …; data plane met: features=… 392.1 ms; …".
    pub fn parse(line: &str) -> Self {
        let words = line.split_once(": done in ").expect("the call's last line").1;
        let step = |step: &str| {
            let (name, millis) = step.strip_suffix(" ms").and_then(|step| step.rsplit_once(' '))?;
            Some((name.to_owned(), millis.parse().ok()?))
        };
        // The first is the whole, in whole milliseconds.
        let steps = words.split("; ").skip(1);
        Self(steps.map(|words| step(words).unwrap_or_else(|| panic!("no step: {words:?}"))).collect())
    }

    /// All of them together.
    pub fn whole(&self) -> f64 {
        self.0.iter().map(|(_, millis)| millis).sum()
    }

    /// The step whose name begins so; nothing if there was none.
    pub fn of(&self, begins: &str) -> f64 {
        self.0.iter().find(|(name, _)| name.starts_with(begins)).map_or(0.0, |(_, millis)| *millis)
    }
}
