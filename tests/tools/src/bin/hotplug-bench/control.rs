//! What plugging and unplugging cost OVS's main loop, which serves the control of the whole node's data plane.
//!
//! This program, started in the lab's node, plugs and unplugs a NIC again and again while OVS's control socket is asked
//! without pause ([`crate::unixctl`]). Afterwards OVS's log is read ([`crate::ovs_log`]).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::inside::{self, DRIVER, Pod};
use crate::lab::{Bench, IFNAME, lab};
use crate::ovs_log::{self, Said, Stall};
use crate::table::Table;
use crate::unixctl::Pulse;

/// How long after the last DEL OVS may take to write its log.
const LOGGED: Duration = Duration::from_secs(1);

/// The parts of a round: kube-ovn's stand-in makes the port; the plugin's ADD, with the half second after it in which OVS
/// sets the port up for the guest; the plugin's DEL; kube-ovn's stand-in removes the port.
const PARTS: [&str; 4] = ["port made", "ADD", "DEL", "port removed"];

/// What was measured, in ms, and what OVS logged meanwhile.
pub struct Control {
    add: Vec<f64>,
    reconnect: Vec<f64>,
    /// The slowest answers of OVS in each part of a round, by [`PARTS`]. Empty if the data plane is not OVS.
    slowest: [Vec<f64>; 4],
    said: Option<Said>,
    /// When the port was removed: from and to, in milliseconds of the epoch.
    removals: Vec<(f64, f64)>,
}

/// Plugs and unplugs a NIC this many times.
pub fn measure(bench: &Bench, rounds: u32) -> Option<Control> {
    if rounds == 0 {
        return None;
    }
    let before = bench.has_ovs().then(|| lab(&["ovs-log"]).lines().count());
    let measured = inside::run(bench, json!({"part": "control", "rounds": rounds}));
    let said = before.map(|before| {
        std::thread::sleep(LOGGED);
        let log = lab(&["ovs-log"]);
        ovs_log::read(&log.lines().skip(before).collect::<Vec<_>>())
    });
    let column = |values: &Value| {
        let values = values.as_array().unwrap_or_else(|| panic!("a column is missing: {measured}"));
        values.iter().filter_map(Value::as_f64).collect()
    };
    let slowest = PARTS.map(|part| column(&measured["slowest"][part]));
    let removals: [Vec<f64>; 2] = ["removals_begin", "removals_end"].map(|key| column(&measured[key]));
    let removals = std::iter::zip(removals[0].clone(), removals[1].clone()).collect();
    Some(Control { add: column(&measured["add"]), reconnect: column(&measured["reconnect"]), slowest, said, removals })
}

/// The rounds, in the node.
pub fn run_inside(rounds: u64, mut pod: Pod) -> Value {
    let pulse = pod.has_ovs().then(Pulse::start);
    let (mut add, mut reconnect, mut times, mut removals) =
        (Vec::new(), Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for round in 0..rounds {
        // So that OVS's round, a second long, is met at any of its moments: the removal of a port ends with one.
        std::thread::sleep(Duration::from_millis(round * 379 % 1000));
        let mut moments = vec![Instant::now()];
        let mut ends = || moments.push(Instant::now());
        let port = pod.port(IFNAME, 0);
        ends();
        let (took, steps) = pod.timed("ADD", IFNAME, &port);
        std::thread::sleep(DRIVER);
        ends();
        pod.timed("DEL", IFNAME, &port);
        ends();
        removals[0].push(epoch_millis());
        pod.remove_port(IFNAME);
        removals[1].push(epoch_millis());
        ends();
        add.push(took);
        reconnect.push(steps.of("data plane connected"));
        times.push(moments);
        eprint!("\rcontrol: {} of {rounds}", round + 1);
    }
    eprintln!();
    let mut slowest = json!({});
    let answers = pulse.map(Pulse::stop).unwrap_or_default();
    for (number, part) in PARTS.iter().enumerate() {
        let of_part = |moments: &Vec<Instant>| answers.slowest(moments[number], moments[number + 1]);
        slowest[part] = times.iter().filter_map(of_part).collect();
    }
    let [begin, end] = removals;
    json!({"add": add, "reconnect": reconnect, "slowest": slowest, "removals_begin": begin, "removals_end": end})
}

fn epoch_millis() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}

impl Control {
    /// Adds it to the table.
    pub fn report(&self, table: &mut Table) {
        table.row("control", "call: ADD, the plugin's process", &self.add);
        table.row("control", "ADD: reconnect, and 50 ms to be sure", &self.reconnect);
        let shown = [
            "OVS's slowest answer: port made",
            "OVS's slowest answer: ADD",
            "OVS's slowest answer: DEL",
            "OVS's slowest answer: port removed",
        ];
        for (name, values) in shown.into_iter().zip(&self.slowest) {
            table.row("control", name, values);
        }
    }

    /// For how long OVS's main loop stood still each time, in ms: while the port was removed, or for the plugin's calls.
    fn stalls(&self, in_removals: bool) -> Vec<u64> {
        let stalls = self.said.iter().flat_map(|said| &said.stalls);
        stalls.filter(|stall| is_within(stall, &self.removals) == in_removals).map(|stall| stall.millis).collect()
    }

    /// What OVS logged, for people.
    pub fn text(&self) -> String {
        self.said.as_ref().map_or_else(String::new, |said| {
            format!(
                "OVS logged {} connections closed during initialization. Its main loop stood still for a second or longer: \
                 {:?} ms; while a port was removed: {:?} ms. {} lines that look so are of removed devices.\n",
                said.closed_early,
                self.stalls(false),
                self.stalls(true),
                said.false_alarms
            )
        })
    }

    /// What OVS logged, for programs.
    pub fn json(&self) -> Value {
        self.said.as_ref().map_or(Value::Null, |said| {
            json!({
                "closed_during_initialization": said.closed_early, "stalls_ms": self.stalls(false),
                "stalls_in_removals_ms": self.stalls(true), "false_alarms": said.false_alarms, "slowest_answers_of_adds_ms": self.slowest[1],
            })
        })
    }
}

/// Returns true if the middle of the stall is in one of these times.
fn is_within(stall: &Stall, times: &[(f64, f64)]) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of the epoch are exact")]
    let middle = stall.end.saturating_sub(stall.millis / 2) as f64;
    times.iter().any(|(from, to)| (*from..=*to).contains(&middle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_belongs_to_what_was_done_in_its_middle() {
        let stall = Stall { end: 2000, millis: 1000 };
        assert!(is_within(&stall, &[(0.0, 900.0), (1100.0, 2100.0)]));
        assert!(!is_within(&stall, &[(0.0, 1400.0), (1600.0, 2100.0)]));
    }
}
