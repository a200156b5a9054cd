//! How long the guest stands still.
//!
//! Each round has a window of each kind, in which the guest's clock is watched every 2 ms beside a process that computes: with
//! nothing done, with the plugin's ADD or DEL, with `virsh attach-device` of the same NIC. They take turns, so that what else the
//! machine does falls on all kinds alike.

use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::lab::{Bench, command, since, succeeded};
use crate::table::Table;

/// How long before the attach the watch begins, in seconds.
const LEAD: f64 = 0.3;

/// What is done in a window.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Nothing: the detector's own noise
    Nothing,
    /// The plugin's ADD
    Add,
    /// The plugin's DEL
    Del,
    /// virsh attach-device
    Virsh,
}

/// What is measured.
pub struct Plan<'a> {
    /// Windows of each kind.
    pub attaches: u32,
    /// The kinds of windows.
    pub kinds: &'a [Kind],
    /// How long each is, in seconds.
    pub window: f64,
}

/// What was measured in the windows, in ms: the longest gap in each, and how long the attach took.
#[derive(Default)]
pub struct Gaps {
    nothing: Vec<f64>,
    plugin: Vec<f64>,
    del: Vec<f64>,
    virsh: Vec<f64>,
    plugin_took: Vec<f64>,
    del_took: Vec<f64>,
    virsh_took: Vec<f64>,
}

impl Gaps {
    /// Adds them to the table. The plugin was called in its chain or alone.
    pub fn report(&self, table: &mut Table, in_chain: bool) {
        let call = if in_chain { "call: kube-ovn and ADD, under load" } else { "call: ADD alone, under load" };
        table.row("longest gap", "longest gap, nothing done", &self.nothing);
        table.row("longest gap", "longest gap, vhostuser-hotplug ADD", &self.plugin);
        table.row("longest gap", "longest gap, vhostuser-hotplug DEL", &self.del);
        table.row("longest gap", "longest gap, virsh attach-device", &self.virsh);
        table.row("call", call, &self.plugin_took);
        table.row("call", "call: DEL, under load", &self.del_took);
        table.row("call", "call: virsh attach-device, under load", &self.virsh_took);
    }
}

/// Watches the guest's clock in all windows. Returns how long each was, too, in seconds: longer than planned, if the data
/// plane took longer.
pub fn measure(bench: &Bench, plan: &Plan<'_>) -> (Gaps, f64) {
    let mut gaps = Gaps::default();
    // All windows are of one length: the longer one is, the more noise it sees.
    let mut window = plan.window;
    let mut round = 0;
    while round < plan.attaches {
        let Some(Round { nothing, plugin, del, virsh }) = one_round(bench, plan.kinds, round, window) else {
            gaps = Gaps::default();
            (window, round) = (window * 1.5, 0);
            eprintln!(
                "\ngaps: an attach took longer than the clock was watched: begins again, with windows of {window} s"
            );
            continue;
        };
        gaps.nothing.extend(nothing.map(|(gap, _)| gap));
        gaps.plugin.extend(plugin.map(|(gap, _)| gap));
        gaps.plugin_took.extend(plugin.map(|(_, took)| took));
        gaps.del.extend(del.map(|(gap, _)| gap));
        gaps.del_took.extend(del.map(|(_, took)| took));
        gaps.virsh.extend(virsh.map(|(gap, _)| gap));
        gaps.virsh_took.extend(virsh.map(|(_, took)| took));
        round += 1;
        eprint!("\rgaps: {round} of {}", plan.attaches);
    }
    eprintln!();
    (gaps, window)
}

/// The longest gap and how long what was done took, in ms, for each kind of window.
#[derive(Default)]
struct Round {
    nothing: Option<(f64, f64)>,
    plugin: Option<(f64, f64)>,
    del: Option<(f64, f64)>,
    virsh: Option<(f64, f64)>,
}

/// Measures a window of each kind; nothing if one was too short.
fn one_round(bench: &Bench, kinds: &[Kind], number: u32, window: f64) -> Option<Round> {
    let mut round = Round::default();
    if kinds.contains(&Kind::Nothing) {
        round.nothing = Some(watch(bench, window, || std::thread::sleep(Duration::from_secs(1)))?);
    }
    if kinds.contains(&Kind::Add) || kinds.contains(&Kind::Del) {
        let done = |kind, act: &dyn Fn()| {
            if kinds.contains(&kind) {
                return Some(watch(bench, window, act));
            }
            act();
            None
        };
        let (add, del) = (done(Kind::Add, &|| bench.add()), done(Kind::Del, &|| bench.del()));
        if add == Some(None) || del == Some(None) {
            return None;
        }
        (round.plugin, round.del) = (add.flatten(), del.flatten());
    }
    if kinds.contains(&Kind::Virsh) {
        bench.prepare_for_others();
        // So that OVS's round is met at any of its moments.
        std::thread::sleep(Duration::from_millis(u64::from(number) * 379 % 1000));
        let watched = watch(bench, window, || drop(bench.virsh("attach-device")));
        bench.virsh("detach-device");
        bench.call("del", &json!({}));
        round.virsh = Some(watched?);
    }
    Some(round)
}

/// Watches the guest's clock while something is done: the longest gap and how long that took, in ms. Nothing if it took
/// longer than the clock was watched.
fn watch(bench: &Bench, window: f64, act: impl FnOnce()) -> Option<(f64, f64)> {
    let script = format!("gap-detector --spin {window} & gap-detector {window}; wait");
    let child = command(&["guest", &bench.pod, &script]).stdout(Stdio::piped()).spawn().expect("the lab's script");
    std::thread::sleep(Duration::from_secs_f64(LEAD));
    let begun = Instant::now();
    act();
    let took = since(begun);
    let text = succeeded(&child.wait_with_output().unwrap());
    let seen: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (LEAD + took / 1000.0 < window).then(|| (seen["longest_ms"].as_f64().unwrap(), took))
}
