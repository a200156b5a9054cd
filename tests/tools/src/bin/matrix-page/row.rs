//! One row: what was measured of a pair of OVS and libvirt.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `tests/matrix` says of a row.
#[derive(Args)]
pub struct Given {
    #[arg(long)]
    row: String,
    #[arg(long)]
    date: String,
    #[arg(long)]
    machine: String,
    #[arg(long)]
    versions: String,
    #[arg(long)]
    rounds: u32,
    #[arg(long)]
    passed: u32,
    #[arg(long)]
    tests: u32,
    #[arg(long)]
    failed: String,
    #[arg(long)]
    failure: String,
    #[arg(long)]
    bench: PathBuf,
}

/// A row, as it is kept.
#[derive(Serialize, Deserialize)]
pub struct Row {
    /// Its name: OVS, a slash, libvirt, and "+tso" with userspace TSO.
    pub row: String,
    pub date: String,
    pub machine: String,
    /// "OVS 3.5.0, DPDK 24.11.8, libvirt 11.3.0, QEMU 10.0.2".
    pub versions: String,
    /// Windows of each kind, and NICs plugged and unplugged.
    pub rounds: u32,
    pub passed: u32,
    pub tests: u32,
    failed: Vec<String>,
    /// Why nothing was measured, or not all.
    failure: Option<String>,
    /// What hotplug-bench wrote.
    bench: Value,
}

impl Row {
    /// Reads the benchmark's JSON, which is missing if it failed.
    pub fn new(given: Given) -> Self {
        let Given { row, date, machine, versions, rounds, passed, tests, failed, failure, bench } = given;
        let bench = std::fs::read_to_string(bench).ok().and_then(|text| serde_json::from_str(&text).ok());
        let failed = failed.split_whitespace().map(str::to_owned).collect();
        let failure = Some(failure).filter(|words| !words.is_empty());
        Self { row, date, machine, versions, rounds, passed, tests, failed, failure, bench: bench.unwrap_or_default() }
    }

    /// Writes it.
    pub fn keep(&self, file: &Path) {
        let text = serde_json::to_string_pretty(self).expect("a row has a JSON form");
        std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }

    /// Reads one that is kept; nothing if there is none.
    pub fn kept(file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(file).ok()?;
        Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
    }

    /// What has failed.
    pub fn failures(&self) -> Vec<String> {
        let mut all: Vec<String> = self.failure.iter().cloned().collect();
        if self.failure.is_none() && self.tests == 0 {
            all.push("no test ran".to_owned());
        }
        all.extend(self.failed.iter().map(|test| format!("{test} failed")));
        all
    }

    /// Returns true if it has figures.
    pub fn was_measured(&self) -> bool {
        !self.bench.is_null()
    }

    /// What came of it, in a line.
    pub fn outcome(&self) -> String {
        let failures = self.failures();
        if failures.is_empty() {
            format!("passed {} of {} tests", self.passed, self.tests)
        } else {
            failures.join("; ")
        }
    }

    /// How long the guest's clock was watched each time, in seconds.
    pub fn window(&self) -> f64 {
        self.bench["window_s"].as_f64().unwrap_or_default()
    }

    /// A figure of the benchmark, in ms.
    pub fn figure(&self, section: &str, name: &str, which: &str) -> Option<f64> {
        self.bench[section][name][which].as_f64()
    }

    /// The lines "closed during initialization" of OVS's log; nothing if the data plane is not OVS.
    pub fn closed_early(&self) -> Option<u64> {
        self.bench["ovs"]["closed_during_initialization"].as_u64()
    }

    /// How often OVS's main loop stood still for a second or longer, but for removals of ports.
    pub fn stalls(&self) -> Option<usize> {
        self.bench["ovs"]["stalls_ms"].as_array().map(Vec::len)
    }
}

#[cfg(test)]
pub mod sample {
    use super::*;
    use serde_json::json;

    /// A row with figures like those that the benchmark writes.
    pub fn row(name: &str, with_add: f64) -> Row {
        let of = |median: f64| json!({"median": median, "p95": median + 10.0, "max": median + 20.0});
        let bench = json!({
            "longest gap": {"longest gap, nothing done": of(10.0), "longest gap, vhostuser-hotplug ADD": of(with_add)},
            "control": {
                "ADD: reconnect, and 50 ms to be sure": of(55.0), "call: ADD, the plugin's process": of(600.0),
                "OVS's slowest answer: ADD": of(11.0), "OVS's slowest answer: port removed": of(970.0),
            },
            "window_s": 2.0,
            "ovs": {"closed_during_initialization": 0, "stalls_ms": [1001]},
        });
        Row {
            row: name.to_owned(),
            date: "2026-11-27".to_owned(),
            machine: "2 CPUs".to_owned(),
            versions: "OVS 3.5.0, DPDK 24.11.8, libvirt 11.3.0, QEMU 10.0.2".to_owned(),
            rounds: 30,
            passed: 11,
            tests: 11,
            failed: Vec::new(),
            failure: None,
            bench,
        }
    }

    /// One that could not be had.
    pub fn missing(name: &str) -> Row {
        Row {
            failure: Some("cannot be had: no package".to_owned()),
            bench: Value::Null,
            tests: 0,
            passed: 0,
            ..row(name, 0.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_kept_is_read_again() {
        let file = std::env::temp_dir().join(format!("matrix-row-{}.json", std::process::id()));
        sample::row("3.5/11", 20.0).keep(&file);
        let row = Row::kept(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!((row.failures().len(), row.stalls(), row.closed_early()), (0, Some(1), Some(0)));
        assert!(Row::kept(&file).is_none());
    }

    #[test]
    fn a_row_without_tests_has_failed() {
        assert_eq!(Row { tests: 0, ..sample::row("3.5/11", 20.0) }.failures(), ["no test ran"]);
        assert_eq!(sample::missing("3.1/9").failures(), ["cannot be had: no package"]);
    }
}
