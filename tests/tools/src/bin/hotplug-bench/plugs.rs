//! How long plugging and unplugging take, without load in the guest: the plugin's calls and what of them is its own work,
//! virsh, and the bare calls on a connection that is open already. They take turns.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::{Bench, lab, since};
use crate::table::Table;

/// The steps of ADD that others take their time for, as the log names them (the beginning is enough), and as they are shown.
const WAITS: [(&str, &str); 4] = [
    ("data plane met", "ADD: probe, the data plane's round"),
    ("attach", "ADD: attach, with the stand-in"),
    ("stand-in", "ADD: the guest's driver, and 10 ms of quiet"),
    ("data plane connected", "ADD: reconnect, and 50 ms to be sure"),
];

/// The others, its own, likewise.
const OWN: [(&str, &str); 7] = [
    ("lock", "ADD: own: the pod's lock, and confinement"),
    ("mount", "ADD: own: the share"),
    ("pod", "ADD: own: the pod's processes"),
    ("libvirt", "ADD: own: its libvirt, found and opened"),
    ("VM looked at", "ADD: own: the VM's XML, the first record"),
    ("VM not busy", "ADD: own: no job of libvirt's"),
    ("recorded", "ADD: own: the second record"),
];

/// What was measured, in ms, by what it is.
#[derive(Default)]
pub struct Plugs(Vec<(&'static str, Vec<f64>)>);

impl Plugs {
    fn push(&mut self, what: &'static str, millis: f64) {
        match self.0.iter_mut().find(|(name, _)| *name == what) {
            Some((_, values)) => values.push(millis),
            None => self.0.push((what, vec![millis])),
        }
    }

    /// Adds them to the table.
    pub fn report(&self, table: &mut Table) {
        for (what, values) in &self.0 {
            table.row("plug", what, values);
        }
    }
}

/// Plugs and unplugs this many NICs in each way.
pub fn measure(bench: &Bench, plugs: u32) -> Plugs {
    let mut all = Plugs::default();
    for round in 0..plugs {
        bench.call("add", &json!({}));
        let add = bench.last_call("ADD");
        all.push("ADD, the plugin's part of the chain", add.whole());
        let waits = WAITS.map(|(begins, shown)| (shown, add.of(begins)));
        for (shown, millis) in waits {
            all.push(shown, millis);
        }
        let own = add.whole() - waits.iter().map(|(_, millis)| millis).sum::<f64>();
        all.push("ADD: its own work, all the rest", own);
        for (begins, shown) in OWN {
            all.push(shown, add.of(begins));
        }
        bench.call("del", &json!({}));
        let del = bench.last_call("DEL");
        all.push("DEL, the plugin's part of the chain", del.whole());
        all.push("DEL: detach, until the guest let go", del.of("detach"));
        all.push("DEL: its own work, all the rest", del.whole() - del.of("detach"));

        bench.prepare_for_others();
        std::thread::sleep(Duration::from_millis(u64::from(round) * 379 % 1000));
        for (what, shown) in [("attach-device", "virsh attach-device"), ("detach-device", "virsh detach-device")] {
            let begun = Instant::now();
            bench.virsh(what);
            all.push(shown, since(begun));
        }
        let begun = Instant::now();
        bench.virsh_nothing();
        all.push("virsh: of it, script and connection", since(begun));

        std::thread::sleep(Duration::from_millis(u64::from(round) * 379 % 1000));
        let bare = bare(bench);
        for (key, shown) in
            [("attach_ms", "bare call: attach"), ("released_ms", "bare call: detach, until DEVICE_REMOVED")]
        {
            all.push(shown, bare[key].as_f64().expect("a figure"));
        }
        bench.call("del", &json!({}));
        eprint!("\rplugs: {} of {plugs}", round + 1);
    }
    eprintln!();
    all
}

/// The bare calls, made by a program in the same directory, in the node.
fn bare(bench: &Bench) -> Value {
    let program = std::env::current_exe().expect("this program").with_file_name("bare-rpc");
    let root = format!("/proc/{}/root/run", bench.fact("PID"));
    let words = [&format!("{root}/libvirt/libvirt-sock"), &format!("{root}/nic.xml")];
    let text = lab(&["exec", &program.to_string_lossy(), words[0], words[1]]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
