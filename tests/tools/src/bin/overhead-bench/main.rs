//! What the plugin costs the pods that it has nothing to do with, beside what other chained plugins cost them. Run by
//! `tests/bench/overhead`, as the first process of namespaces of its own.
//!
//! Every figure is of whole processes, the start included, as a runtime pays for them. Contenders take turns, so that what
//! else the machine does falls on all alike, and what counts is their ratio to a static no-op in the same run.

mod contenders;
mod growth;
mod load;
mod measure;
mod report;
mod scene;

use std::path::PathBuf;

use clap::Parser;
use serde_json::json;

/// Measures what pods without a vhost-user NIC pay for the plugin.
#[derive(Parser)]
pub struct Options {
    /// The plugin
    #[arg(long)]
    plugin: PathBuf,
    /// The no-op that all is held against
    #[arg(long)]
    noop: PathBuf,
    /// Where containernetworking-plugins lie
    #[arg(long, default_value = "/usr/lib/cni")]
    peers: PathBuf,
    /// Calls of each kind
    #[arg(long, default_value_t = 300)]
    rounds: usize,
    /// Calls of each kind in each scene of the growth
    #[arg(long, default_value_t = 100)]
    growth_rounds: usize,
    /// Pods started and ended in the load
    #[arg(long, default_value_t = 250)]
    pods: usize,
    /// How many of them at once
    #[arg(long, default_value_t = 32)]
    parallel: usize,
    /// Where to write the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where to draw them
    #[arg(long)]
    svg: Option<PathBuf>,
}

fn main() {
    let options = Options::parse();
    let scene = scene::Scene::new();
    let calls = contenders::calls(&options, &scene);

    let table = measure::interleaved(&calls, options.rounds);
    print!("{}", report::calls(&table));
    let growth = growth::run(&options, &scene);
    print!("{}", report::growth(&growth));
    let load = load::run(&options, &scene);
    print!("{}", report::load(&load));

    if let Some(file) = options.json {
        let all = json!({
            "calls": report::calls_json(&table), "growth": report::growth_json(&growth), "load": report::load_json(&load)
        });
        std::fs::write(file, format!("{all:#}\n")).expect("the file can be written");
    }
    if let Some(file) = options.svg {
        std::fs::write(file, report::svg(&table)).expect("the file can be written");
    }
}
