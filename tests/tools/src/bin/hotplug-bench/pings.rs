//! How long until a NIC carries a packet, without any other load.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::lab::{Bench, command, lab, since, succeeded};
use crate::table::Table;

/// What was measured of one ADD, in ms.
pub struct Time {
    to_answer: f64,
    to_ping: f64,
}

/// Adds them to the table.
pub fn report(times: &[Time], table: &mut Table) {
    let column = |of: fn(&Time) -> f64| times.iter().map(of).collect::<Vec<_>>();
    table.row("ping", "CNI call to the first ping answered", &column(|time| time.to_ping));
    table.row("ping", "CNI call to its answer", &column(|time| time.to_answer));
}

/// Plugs NICs and pings each from its first moment on.
pub fn measure(bench: &Bench, pings: u32) -> Vec<Time> {
    if pings == 0 {
        return Vec::new();
    }
    let known = bench.call("add", &json!({}));
    let mac = known["interfaces"][0]["mac"].as_str().unwrap().to_owned();
    let address = known["ips"][0]["address"].as_str().unwrap().to_owned();
    let target = address.split('/').next().unwrap();
    bench.call("del", &json!({}));
    // Nobody waits for an answer to ARP, whose requests are a second apart.
    lab(&["exec", "ip", "neigh", "replace", target, "lladdr", &mac, "dev", "br-int", "nud", "permanent"]);
    // A link is listed a moment before it can be configured.
    let guest = format!(
        "until n=$(nic {mac} 2>/dev/null) && ip addr replace {address} dev $n 2>/dev/null && ip link set $n up; do \
         usleep 5000; done"
    );
    let mut times = Vec::new();
    for round in 0..pings {
        let waiting = command(&["guest", &bench.pod, &guest]).spawn().expect("the lab's script");
        let pinging = Pinging::begin(target);
        std::thread::sleep(Duration::from_millis(500 + u64::from(round) * 379 % 1000));
        let (begun, clock) = (epoch(), Instant::now());
        bench.call("add", &json!({}));
        let to_answer = since(clock);
        let first = pinging.first_answer();
        assert!(waiting.wait_with_output().unwrap().status.success());
        times.push(Time { to_answer, to_ping: (first - begun) * 1000.0 });
        bench.call("del", &json!({}));
        eprint!("\rpings: {} of {pings}", round + 1);
    }
    eprintln!();
    times
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
