//! How long the guest stands still.
//!
//! Each round has three windows in which the guest's clock is watched every 2 ms beside a process that computes: one with
//! nothing done, one with the plugin's ADD, one with `virsh attach-device` of the same NIC. They take turns, so that what
//! else the machine does falls on all three alike.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::{Bench, command, since, succeeded};
use crate::table::Table;

/// How long the guest's clock is watched, and how long before the attach that begins, in seconds.
const WINDOW: f64 = 2.6;
const LEAD: f64 = 0.3;

/// What was measured in the three kinds of windows, in ms: the longest gap in each, and how long the attach took.
#[derive(Default)]
pub struct Gaps {
    nothing: Vec<f64>,
    plugin: Vec<f64>,
    virsh: Vec<f64>,
    plugin_took: Vec<f64>,
    virsh_took: Vec<f64>,
}

impl Gaps {
    /// Adds them to the table.
    pub fn report(&self, table: &mut Table) {
        table.row("longest gap", "longest gap, nothing done", &self.nothing);
        table.row("longest gap", "longest gap, vhostuser-hotplug ADD", &self.plugin);
        table.row("longest gap", "longest gap, virsh attach-device", &self.virsh);
        table.row("call", "call: kube-ovn and ADD, under load", &self.plugin_took);
        table.row("call", "call: virsh attach-device, under load", &self.virsh_took);
    }
}

/// Watches this many attaches of each kind.
pub fn measure(bench: &Bench, attaches: u32) -> Gaps {
    let mut gaps = Gaps::default();
    for round in 0..attaches {
        gaps.nothing.push(watch(bench, || std::thread::sleep(Duration::from_secs(1))).0);

        let (gap, took) = watch(bench, || drop(bench.call("add", &json!({}))));
        gaps.plugin.push(gap);
        gaps.plugin_took.push(took);
        bench.call("del", &json!({}));

        bench.prepare_for_others();
        // So that OVS's round is met at any of its moments.
        std::thread::sleep(Duration::from_millis(u64::from(round) * 379 % 1000));
        let (gap, took) = watch(bench, || drop(bench.virsh("attach-device")));
        gaps.virsh.push(gap);
        gaps.virsh_took.push(took);
        bench.virsh("detach-device");
        bench.call("del", &json!({}));
        eprint!("\rgaps: {} of {attaches}", round + 1);
    }
    eprintln!();
    gaps
}

/// Watches the guest's clock while something is done; the longest gap and how long that took, in ms.
fn watch(bench: &Bench, act: impl FnOnce()) -> (f64, f64) {
    let script = format!("gap-detector --spin {WINDOW} & gap-detector {WINDOW}; wait");
    let child = command(&["guest", &bench.pod, &script]).stdout(Stdio::piped()).spawn().expect("the lab's script");
    std::thread::sleep(Duration::from_secs_f64(LEAD));
    let begun = Instant::now();
    act();
    let took = since(begun);
    assert!(LEAD + took / 1000.0 < WINDOW, "it took {took} ms, longer than the clock was watched");
    let text = succeeded(&child.wait_with_output().unwrap());
    let seen: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (seen["longest_ms"].as_f64().unwrap(), took)
}
