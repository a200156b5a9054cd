//! Calls of the plugin, as a runtime makes them.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};

use serde_json::{Value, json};

use crate::node::{KUBELET, SOCKETS, STATE};
use crate::patience::output;
use crate::{Node, plugin};

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

    /// Makes it a GC of a runtime that knows no attachment.
    pub fn gc(self) -> Self {
        let call = self.command("GC").args("").container("").netns("").ifname("").without("prevResult");
        call.set("cniVersion", json!("1.1.0")).set("cni.dev/valid-attachments", json!([]))
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
        let mut words = self.wrapper.iter().map(PathBuf::from).chain([PathBuf::from(plugin())]);
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
