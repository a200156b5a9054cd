//! How long the VM stands still for a NIC, how long until that NIC carries a packet, and how long plugging and unplugging
//! take. Run by `tests/bench/hotplug`, in a lab that is up.

mod gaps;
mod lab;
mod pings;
mod plugs;
mod table;

use std::path::PathBuf;

use clap::Parser;

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
    /// The VM's
    #[arg(long, default_value_t = 2)]
    vcpus: u32,
    /// Queue pairs of the NIC
    #[arg(long, default_value_t = 2)]
    queues: u32,
    /// Where to write all values as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() {
    let options = Options::parse();
    let bench = Bench::new(options.vcpus, options.queues);
    let mut table = Table::new(options.vcpus, options.queues);
    gaps::measure(&bench, options.attaches).report(&mut table);
    plugs::measure(&bench, options.plugs).report(&mut table);
    pings::report(&pings::measure(&bench, options.pings), &mut table);
    bench.end();
    print!("{}", table.text());
    if let Some(file) = options.json {
        std::fs::write(&file, format!("{:#}\n", table.json())).expect("the file can be written");
    }
}
