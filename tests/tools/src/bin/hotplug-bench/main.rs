//! How long the VM stands still for a NIC, how long until that NIC carries a packet, how long plugging and unplugging take,
//! what that costs OVS's main loop, and what a busy node adds to that. Run by `tests/bench/hotplug`, in a lab that is up.

mod control;
mod gaps;
mod growth;
mod inside;
mod lab;
mod ovs_log;
mod pings;
mod plugs;
mod table;
mod unixctl;

use std::path::PathBuf;

use clap::Parser;

use control::Control;
use gaps::{Kind, Plan};
use lab::Bench;
use table::Table;
use tools::bars;

/// Measures plugging and unplugging NICs in the lab.
#[derive(Parser)]
struct Options {
    /// Attaches of each kind during which the guest's clock is watched
    #[arg(long, default_value_t = 50)]
    attaches: u32,
    /// What is done in the windows in which the guest's clock is watched
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Nothing, Kind::Add, Kind::Virsh])]
    kinds: Vec<Kind>,
    /// How long each window is, in seconds
    #[arg(long, default_value_t = 2.6)]
    window: f64,
    /// Keeps OVS's port between the windows, and calls the plugin alone; without virsh
    #[arg(long)]
    keep_port: bool,
    /// Calls the plugins of those windows in a cgroup with a tenth of a CPU and 50 MiB, beside a process that computes
    #[arg(long)]
    limited: bool,
    /// NICs plugged and unplugged while OVS's control socket is asked
    #[arg(long, default_value_t = 20)]
    control: u32,
    /// NICs that are pinged from their first moment on
    #[arg(long, default_value_t = 20)]
    pings: u32,
    /// NICs plugged and unplugged in each way
    #[arg(long, default_value_t = 20)]
    plugs: u32,
    /// NICs plugged and unplugged in each scene of the growth
    #[arg(long, default_value_t = 7)]
    growth_rounds: u32,
    /// The VM's
    #[arg(long, default_value_t = 2)]
    vcpus: u32,
    /// Queue pairs of the NIC
    #[arg(long, default_value_t = 2)]
    queues: u32,
    /// Makes DPDK's testpmd the data plane, in place of OVS; without virsh, pings, plugs and growth
    #[arg(long)]
    testpmd: bool,
    /// Where to write all values as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where to draw them
    #[arg(long)]
    svg: Option<PathBuf>,
    /// For this program alone, which starts itself in the lab's node
    #[arg(long, hide = true)]
    inside: Option<String>,
}

impl Options {
    /// Leaves out what a data plane other than OVS, or a port that stays, does not go with.
    fn without_what_does_not_fit(mut self) -> Self {
        if self.testpmd {
            (self.pings, self.plugs, self.growth_rounds) = (0, 0, 0);
        }
        if self.testpmd || self.keep_port {
            self.kinds.retain(|kind| *kind != Kind::Virsh);
        }
        self
    }

    /// Makes the pod, and its data plane ready.
    fn bench(&self) -> Bench {
        let mut bench = Bench::new("bench", &["--vcpus", &self.vcpus.to_string()], self.queues);
        if self.testpmd {
            bench.use_testpmd();
        }
        bench
    }

    /// Watches the guest's clock; how long each time, in seconds.
    fn watch_guest(&self, bench: &mut Bench, table: &mut Table) -> f64 {
        let keep_port = self.keep_port && bench.has_ovs();
        if keep_port {
            bench.keep_port();
        }
        if self.limited {
            bench.limit_calls();
        }
        let plan = Plan { attaches: self.attaches, kinds: &self.kinds, window: self.window };
        let (gaps, window) = gaps::measure(bench, &plan);
        gaps.report(table, bench.share().is_none());
        bench.end_limits();
        if keep_port {
            bench.remove_port();
        }
        window
    }
}

fn main() {
    let mut options = Options::parse();
    if let Some(order) = options.inside.take() {
        return inside::follow(&order);
    }
    let options = options.without_what_does_not_fit();
    let mut bench = options.bench();
    let mut table = Table::new(options.vcpus, options.queues);
    let window = options.watch_guest(&mut bench, &mut table);
    let control = control::measure(&bench, options.control);
    if let Some(control) = &control {
        control.report(&mut table);
    }
    plugs::measure(&bench, options.plugs).report(&mut table);
    pings::report(&pings::measure(&bench, options.pings), &mut table);
    print!("{}{}", table.text(), control.as_ref().map(Control::text).unwrap_or_default());
    let growth = growth::measure(&bench, options.growth_rounds);
    bench.end();
    print!("{}", growth::text(&growth));
    if let Some(file) = options.json {
        let mut all = table.json();
        all["window_s"] = window.into();
        all["growth"] = growth::json(&growth);
        all["ovs"] = control.as_ref().map(Control::json).unwrap_or_default();
        std::fs::write(&file, format!("{all:#}\n")).expect("the file can be written");
    }
    if let Some(file) = options.svg {
        let charts = [
            table.chart("longest gap", "The guest's clock stands still"),
            table.chart("plug", "Plugging and unplugging"),
            growth::chart(&growth),
        ];
        std::fs::write(&file, bars::svg(&charts)).expect("the file can be written");
    }
}
