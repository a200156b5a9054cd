//! Calls of the plugins in the lab's node, by this program itself: so that what is timed is the plugin's process and nothing
//! else.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::control;
use crate::growth;
use crate::lab::{Bench, Steps, command, lab, since, succeeded};

/// How long the guest's driver is given to take a NIC: asked sooner, the guest lets go only when it is ready.
pub const DRIVER: Duration = Duration::from_millis(500);

/// Where the configuration of a call is written.
const CONFIGURATION: &str = "/run/hotplug-bench.json";

/// Starts this program in the node, with this order for it; what it measured there.
pub fn run(bench: &Bench, mut order: Value) -> Value {
    let program = std::env::current_exe().expect("this program");
    (order["facts"], order["share"]) = (bench.facts(), bench.share().cloned().into());
    let mut inside = command(&["exec", &program.to_string_lossy(), "--inside", &order.to_string()]);
    // It says how far it is.
    let text = succeeded(&inside.stderr(Stdio::inherit()).output().expect("the lab's script"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Follows the order, in the node; prints what was measured.
pub fn follow(order: &str) {
    let mut order: Value = serde_json::from_str(order).expect("an order");
    let pod = Pod::new(order["facts"].take(), order["share"].take());
    let (part, rounds) = (order["part"].as_str().expect("a part"), order["rounds"].as_u64().expect("a number"));
    let measured = match part {
        "control" => control::run_inside(rounds, pod),
        _ => growth::run_inside(part, rounds, pod),
    };
    println!("{measured}");
}

/// A pod with a VM, as the lab tells of it.
pub struct Pod {
    facts: Value,
    /// The result of the NIC whose share another data plane than OVS uses; null with OVS.
    share: Value,
    calls: u32,
}

/// What one NIC took, in ms.
pub struct Took {
    /// ADD but for what others take their time for; DEL but for the detach.
    pub own: [f64; 2],
    /// libvirt's attach and the guest's driver, the data plane's reconnect, the detach.
    pub waits: [f64; 3],
}

impl Pod {
    /// By the lab's facts.
    pub fn new(facts: Value, share: Value) -> Self {
        Self { facts, share, calls: 0 }
    }

    /// Returns true if its data plane is OVS.
    pub fn has_ovs(&self) -> bool {
        self.share.is_null()
    }

    fn fact(&self, key: &str) -> &str {
        self.facts[key].as_str().unwrap_or_else(|| panic!("the lab tells no {key}"))
    }

    /// Plugs and unplugs a NIC; prevResult has at least `size` bytes.
    pub fn measure(&mut self, ifname: &str, size: usize) -> Took {
        let result = self.port(ifname, size);
        let (added, add) = self.timed("ADD", ifname, &result);
        std::thread::sleep(DRIVER);
        let (deleted, del) = self.timed("DEL", ifname, &result);
        self.remove_port(ifname);
        // The guest's driver, which the stand-in waits for, is started by the attach.
        let (attach, connected) = (add.of("attach") + add.of("stand-in"), add.of("data plane connected"));
        Took {
            own: [added - add.of("data plane met") - attach - connected, deleted - del.of("detach")],
            waits: [attach, connected, del.of("detach")],
        }
    }

    /// Plugs a NIC that stays.
    pub fn plug(&mut self, ifname: &str) -> Value {
        let result = self.port(ifname, 0);
        self.timed("ADD", ifname, &result);
        result
    }

    /// Unplugs it.
    pub fn unplug(&mut self, ifname: &str, result: &Value) {
        self.timed("DEL", ifname, result);
        self.remove_port(ifname);
    }

    /// Has kube-ovn's stand-in remove the port.
    pub fn remove_port(&self, ifname: &str) {
        if self.has_ovs() {
            self.call("kube-ovn", "DEL", ifname, self.fact("NAME"), &Value::Null);
        }
    }

    /// Has kube-ovn's stand-in make the port; its result, with as many routes as it takes to reach `size`.
    pub fn port(&self, ifname: &str, size: usize) -> Value {
        if !self.has_ovs() {
            return self.share.clone();
        }
        let answer = self.call("kube-ovn", "ADD", ifname, self.fact("NAME"), &Value::Null).0;
        let mut result: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let route = json!({"dst": "10.96.0.0/12", "gw": "172.18.0.1"});
        let routes = vec![route.clone(); size / route.to_string().len()];
        if !routes.is_empty() {
            result["routes"] = routes.into();
        }
        result
    }

    /// A call of the plugin: how long its process took, and the steps that it tells the log.
    pub fn timed(&mut self, verb: &str, ifname: &str, result: &Value) -> (f64, Steps) {
        self.calls += 1;
        // By this name, which nobody needs, the call is found in the log.
        let name = format!("{}-{}-{}", self.fact("NAME"), std::process::id(), self.calls);
        let took = self.call("vhostuser-hotplug", verb, ifname, &name, result).1;
        let (head, begun) = (format!("pod={}/{name} ", self.fact("NAMESPACE")), Instant::now());
        loop {
            let log = lab(&["log"]);
            let of_call = log.lines().find(|line| line.contains(&head) && line.contains(": done in "));
            if let Some(line) = of_call {
                return (took, Steps::parse(line));
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "the log does not tell of {verb} {head}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A call of a plugin of the list: what it printed, and how long its process took.
    fn call(&self, plugin: &str, verb: &str, ifname: &str, name: &str, result: &Value) -> (String, f64) {
        let list: Value = serde_json::from_str(include_str!("../../../../../conflist/hotplug.conflist")).unwrap();
        let plugins = list["plugins"].as_array().unwrap();
        let mut object = plugins.iter().find(|object| object["type"] == plugin).unwrap().clone();
        for key in ["name", "cniVersion"] {
            object[key] = list[key].clone();
        }
        if !result.is_null() {
            object["prevResult"] = result.clone();
        }
        object["queues"] = json!(2);
        std::fs::write(CONFIGURATION, object.to_string()).unwrap();
        let (namespace, uid) = (self.fact("NAMESPACE"), self.fact("POD_UID"));
        let mut command = Command::new(format!("/opt/cni/bin/{plugin}"));
        command.stdin(File::open(CONFIGURATION).unwrap()).stderr(Stdio::inherit());
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", self.fact("CID")).env("CNI_IFNAME", ifname);
        command.env("CNI_NETNS", format!("/proc/{}/ns/net", self.fact("PID"))).env("CNI_PATH", "/opt/cni/bin");
        command.env("CNI_ARGS", format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"));
        let begun = Instant::now();
        let output = command.output().expect("a plugin");
        let took = since(begun);
        (succeeded(&output), took)
    }
}
