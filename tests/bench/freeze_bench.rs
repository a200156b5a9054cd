//! How long the VM stands still for a NIC, and how long until that NIC carries a packet. Run by `tests/bench/freeze`, in a
//! lab that is up.
//!
//! Each round has three windows in which the guest's clock is watched every 2 ms beside a process that computes: one with
//! nothing done, one with the plugin's ADD, one with `virsh attach-device` of the same NIC. They take turns, so that what
//! else the machine does falls on all three alike. Afterwards, without load, NICs are plugged by the chain and pinged.

use std::fmt::Write as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

const USAGE: &str = "usage: freeze-bench [--attaches N] [--pings N] [--vcpus N] [--queues N] [--json FILE]";

/// How long the guest's clock is watched, and how long before the attach that begins, in seconds.
const WINDOW: f64 = 2.6;
const LEAD: f64 = 0.3;

/// The NIC's name; kube-ovn's stand-in makes its addresses from that.
const IFNAME: &str = "net1";

fn main() {
    let (mut attaches, mut pings, mut vcpus, mut queues, mut file) = (50, 20, 2, 2, None);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        let value = args.next().unwrap_or_else(|| usage());
        let number = || value.parse().unwrap_or_else(|_| usage());
        match option.as_str() {
            "--attaches" => attaches = number(),
            "--pings" => pings = number(),
            "--vcpus" => vcpus = number(),
            "--queues" => queues = number(),
            "--json" => file = Some(value),
            _ => usage(),
        }
    }
    let bench = Bench::new(vcpus, queues);
    let gaps = bench.gaps(attaches);
    let times = bench.pings(pings);
    lab(&["pod-rm", &bench.pod]);
    let (table, json) = report(&gaps, &times, vcpus, queues);
    print!("{table}");
    if let Some(file) = file {
        std::fs::write(&file, format!("{json:#}\n")).expect("the file can be written");
    }
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2)
}

fn command(words: &[&str]) -> Command {
    let program = std::env::var("LAB").expect("LAB names tests/lab/lab: run tests/bench/freeze");
    let mut command = Command::new(program);
    command.args(words);
    command
}

fn succeeded(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.trim_end().to_owned()
}

fn lab(words: &[&str]) -> String {
    succeeded(&command(words).output().expect("the lab's script"))
}

/// What was measured in the three kinds of windows, in ms: the longest gap in each, and how long the attach took.
#[derive(Default)]
struct Gaps {
    nothing: Vec<f64>,
    plugin: Vec<f64>,
    virsh: Vec<f64>,
    plugin_took: Vec<f64>,
    virsh_took: Vec<f64>,
}

/// What was measured of one ADD, in ms.
struct Time {
    to_answer: f64,
    to_ping: f64,
    /// The plugin's own steps, from its log.
    steps: Vec<(&'static str, f64)>,
}

/// The steps as the log names them (the beginning is enough), and as they are shown.
const STEPS: [(&str, &str); 4] = [
    ("data plane met", "probe: the data plane's next round"),
    ("attach", "attach, with the stand-in"),
    ("stand-in", "letting the stand-in go"),
    ("data plane connected", "reconnect, and 50 ms to be sure"),
];

struct Bench {
    pod: String,
    facts: Vec<(String, String)>,
    keys: Value,
}

impl Bench {
    fn new(vcpus: u32, queues: u32) -> Self {
        let pod = "freeze".to_owned();
        let facts = lab(&["pod", &pod, "--vcpus", &vcpus.to_string()]);
        let facts = facts.lines().filter_map(|line| line.split_once('='));
        let facts = facts.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { pod, facts, keys: json!({"queues": queues, "log_level": "debug"}) }
    }

    fn fact(&self, key: &str) -> &str {
        let found = self.facts.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("the lab tells no {key}"))
    }

    /// Calls the chain; its result.
    fn call(&self, what: &str, keys: &Value) -> Value {
        let mut list: Value = serde_json::from_str(include_str!("../../conflist/hotplug.conflist")).unwrap();
        for keys in [&self.keys, keys] {
            list["plugins"][1].as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        }
        let path = std::env::temp_dir().join(format!("freeze-{}.conflist", std::process::id()));
        std::fs::write(&path, list.to_string()).unwrap();
        let output = command(&["runtime", what, path.to_str().unwrap()])
            .env("CNI_CONTAINERID", self.fact("CID"))
            .env("CNI_IFNAME", IFNAME)
            .env("CNI_NETNS", format!("/proc/{}/ns/net", self.fact("PID")))
            .env("CNI_ARGS", format!("K8S_POD_NAME={};K8S_POD_NAMESPACE={}", self.pod, self.fact("NAMESPACE")))
            .output();
        let text = succeeded(&output.expect("the lab's script"));
        std::fs::remove_file(path).unwrap();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Watches the guest's clock while something is done; the longest gap and how long that took, in ms.
    fn watch(&self, act: impl FnOnce()) -> (f64, f64) {
        let script = format!("gap-detector --spin {WINDOW} & gap-detector {WINDOW}; wait");
        let child = command(&["guest", &self.pod, &script]).stdout(Stdio::piped()).spawn().expect("the lab's script");
        std::thread::sleep(Duration::from_secs_f64(LEAD));
        let begun = Instant::now();
        act();
        let took = begun.elapsed().as_secs_f64();
        assert!(LEAD + took < WINDOW, "it took {took} s, longer than the clock was watched");
        let text = succeeded(&child.wait_with_output().unwrap());
        let seen: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        (seen["longest_ms"].as_f64().unwrap(), took * 1000.0)
    }

    fn gaps(&self, attaches: u32) -> Gaps {
        let mut gaps = Gaps::default();
        for round in 0..attaches {
            gaps.nothing.push(self.watch(|| std::thread::sleep(Duration::from_secs(1))).0);

            let (gap, took) = self.watch(|| drop(self.call("add", &json!({}))));
            gaps.plugin.push(gap);
            gaps.plugin_took.push(took);
            self.call("del", &json!({}));

            // The port and the mount, which virsh knows nothing of.
            let result = self.call("add", &json!({"attach": "never"}));
            self.write_xml(result["interfaces"][0]["mac"].as_str().unwrap());
            // So that OVS's round is met at any of its moments.
            std::thread::sleep(Duration::from_millis(u64::from(round) * 379 % 1000));
            let (gap, took) = self.watch(|| drop(self.virsh("attach-device")));
            gaps.virsh.push(gap);
            gaps.virsh_took.push(took);
            self.virsh("detach-device");
            self.call("del", &json!({}));
            eprint!("\r{} of {attaches}", round + 1);
        }
        eprintln!();
        gaps
    }

    /// Puts the NIC's XML into the container, the same that the plugin would send.
    fn write_xml(&self, mac: &str) {
        let (path, queues) = (format!("{}/{IFNAME}", self.fact("SOCKETS")), &self.keys["queues"]);
        let xml = format!(
            "<interface type='vhostuser'><mac address='{mac}'/><source type='unix' path='{path}' mode='server'/>\
             <model type='virtio-non-transitional'/><driver name='vhost' queues='{queues}'/><alias name='ua-{IFNAME}'/>\
             </interface>"
        );
        let file = format!("/proc/{}/root/run/nic.xml", self.fact("PID"));
        lab(&["exec", "sh", "-c", &format!("echo \"{xml}\" > {file}")]);
    }

    fn virsh(&self, what: &str) -> String {
        lab(&["virsh", &self.pod, what, self.fact("DOMAIN"), "/run/nic.xml", "--live"])
    }

    /// Plugs NICs and pings each from its first moment on, without any other load.
    fn pings(&self, pings: u32) -> Vec<Time> {
        let known = self.call("add", &json!({}));
        let mac = known["interfaces"][0]["mac"].as_str().unwrap().to_owned();
        let address = known["ips"][0]["address"].as_str().unwrap().to_owned();
        let target = address.split('/').next().unwrap();
        self.call("del", &json!({}));
        // Nobody waits for an answer to ARP, whose requests are a second apart.
        lab(&["exec", "ip", "neigh", "replace", target, "lladdr", &mac, "dev", "br-int", "nud", "permanent"]);
        // A link is listed a moment before it can be configured.
        let guest = format!(
            "until n=$(nic {mac} 2>/dev/null) && ip addr replace {address} dev $n 2>/dev/null && ip link set $n up; do \
             usleep 5000; done"
        );
        let mut times = Vec::new();
        for round in 0..pings {
            let waiting = command(&["guest", &self.pod, &guest]).spawn().expect("the lab's script");
            let pinging = Pinging::begin(target);
            std::thread::sleep(Duration::from_millis(500 + u64::from(round) * 379 % 1000));
            let (begun, clock) = (epoch(), Instant::now());
            self.call("add", &json!({}));
            let to_answer = clock.elapsed().as_secs_f64() * 1000.0;
            let first = pinging.first_answer();
            assert!(waiting.wait_with_output().unwrap().status.success());
            times.push(Time { to_answer, to_ping: (first - begun) * 1000.0, steps: last_steps() });
            self.call("del", &json!({}));
            eprint!("\r{} of {pings}", round + 1);
        }
        eprintln!();
        times
    }
}

fn epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// A ping every 5 ms, from the node, until one is answered. It ends by itself, since it outlives the script that starts it.
struct Pinging(Child);

impl Pinging {
    fn begin(target: &str) -> Self {
        let words = ["exec", "ping", "-n", "-D", "-i", "0.005", "-c", "1", "-w", "10", target];
        Self(command(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the lab's script"))
    }

    /// When the first answer came, in seconds of the epoch.
    fn first_answer(self) -> f64 {
        let text = succeeded(&self.0.wait_with_output().unwrap());
        let answer = text.lines().find(|line| line.contains("bytes from")).expect("an answer");
        // "[1700000000.123456] 64 bytes from …"
        answer.split(['[', ']']).nth(1).and_then(|stamp| stamp.parse().ok()).expect("a time stamp")
    }
}

/// The steps of the last ADD, in ms: "…; data plane met: features=… 976 ms; attach ua-net1 … 19 ms; …".
fn last_steps() -> Vec<(&'static str, f64)> {
    let log = lab(&["log"]);
    let done = log.lines().rev().find(|line| line.contains(": ADD ") && line.contains(": done in ")).expect("its log");
    let steps = done.split("; ").filter_map(|step| {
        let (_, shown) = STEPS.into_iter().find(|(begins, _)| step.starts_with(begins))?;
        let millis = step.strip_suffix(" ms")?.rsplit(' ').next()?.parse().ok()?;
        Some((shown, millis))
    });
    steps.collect()
}

/// Median, 99th percentile (nearest rank) and maximum.
fn figures(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
    [rank(50), rank(99), rank(100)]
}

fn report(gaps: &Gaps, times: &[Time], vcpus: u32, queues: u32) -> (String, Value) {
    let mut table = String::new();
    let mut json = json!({"vcpus": vcpus, "queues": queues, "unit": "ms"});
    let mut row = |section: &str, name: &str, values: &[f64]| {
        if values.is_empty() {
            return;
        }
        let [median, p99, max] = figures(values);
        let _ = writeln!(table, "| {name:<36} | {:>4} | {median:>8.1} | {p99:>8.1} | {max:>8.1} |", values.len());
        json[section][name] = json!({"n": values.len(), "median": median, "p99": p99, "max": max, "values": values});
    };
    row("longest gap", "longest gap, nothing done", &gaps.nothing);
    row("longest gap", "longest gap, vhostuser-hotplug ADD", &gaps.plugin);
    row("longest gap", "longest gap, virsh attach-device", &gaps.virsh);
    row("call", "call: kube-ovn and ADD, under load", &gaps.plugin_took);
    row("call", "call: virsh attach-device, under load", &gaps.virsh_took);
    let column = |of: fn(&Time) -> f64| times.iter().map(of).collect::<Vec<_>>();
    row("ping", "CNI call to the first ping answered", &column(|time| time.to_ping));
    row("ping", "CNI call to its answer", &column(|time| time.to_answer));
    for (_, shown) in STEPS {
        let step = |time: &Time| time.steps.iter().find(|(name, _)| *name == shown).map(|(_, millis)| *millis);
        row("steps", shown, &times.iter().filter_map(step).collect::<Vec<_>>());
    }
    let head = format!("| {:<36} | {:>4} | {:>8} | {:>8} | {:>8} |", "ms", "n", "median", "p99", "max");
    let rule = format!("|{:-<38}|{:->6}|{:->10}|{:->10}|{:->10}|", "", ":", ":", ":", ":");
    (format!("{head}\n{rule}\n{table}"), json)
}
