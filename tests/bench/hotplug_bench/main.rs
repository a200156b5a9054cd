//! How long the VM stands still for a NIC, how long until that NIC carries a packet, how long plugging and unplugging take,
//! and what a busy node adds to that. Run by `tests/bench/hotplug`, in a lab that is up.

#[path = "../common/mod.rs"]
mod common;
mod gaps;
mod growth;
mod inside;
mod lab;
mod pings;
mod plugs;
mod table;

use std::path::PathBuf;

use clap::Parser;

use common::bars;
use lab::Bench;
use table::Table;

/// Measures plugging and unplugging NICs in the lab.
#[derive(Parser)]
struct Options {
    /// Attaches of each kind during which the guest's clock is watched
    #[arg(long, default_value_t = 50)]
    attaches: u32,
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

fn main() {
    let options = Options::parse();
    if let Some(order) = options.inside {
        return growth::run_inside(&order);
    }
    let bench = Bench::new("bench", &["--vcpus", &options.vcpus.to_string()], options.queues);
    let mut table = Table::new(options.vcpus, options.queues);
    gaps::measure(&bench, options.attaches).report(&mut table);
    plugs::measure(&bench, options.plugs).report(&mut table);
    pings::report(&pings::measure(&bench, options.pings), &mut table);
    print!("{}", table.text());
    let growth = growth::measure(&bench, options.growth_rounds);
    bench.end();
    print!("{}", growth::text(&growth));
    if let Some(file) = options.json {
        let mut all = table.json();
        all["growth"] = growth::json(&growth);
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
