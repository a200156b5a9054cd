//! The figures, as a table for people, as JSON with every value, and as bars.

use std::fmt::Write as _;

use serde_json::{Value, json};

use tools::bars::{Bar, Chart};
use tools::figures::Sorted;

/// What is printed in the end.
pub struct Table {
    rows: Vec<Row>,
    vcpus: u32,
    queues: u32,
}

/// What was measured of one thing, in ms.
struct Row {
    section: &'static str,
    name: &'static str,
    values: Sorted,
}

impl Table {
    /// One without rows.
    pub fn new(vcpus: u32, queues: u32) -> Self {
        Self { rows: Vec::new(), vcpus, queues }
    }

    /// Adds what was measured of one thing, in milliseconds, unless it was not measured.
    pub fn row(&mut self, section: &'static str, name: &'static str, values: &[f64]) {
        if !values.is_empty() {
            self.rows.push(Row { section, name, values: Sorted::new(values.to_vec()) });
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let mut text = String::new();
        let _ = writeln!(
            text,
            "| {:<42} | {:>4} | {:>8} | {:>8} | {:>8} | {:>8} |",
            "ms", "n", "median", "p95", "p99", "max"
        );
        let _ = writeln!(text, "|{:-<44}|{:->6}|{:->10}|{:->10}|{:->10}|{:->10}|", "", ":", ":", ":", ":", ":");
        for Row { name, values, .. } in &self.rows {
            let [median, p95, p99, max] = figures(values);
            let count = values.values().len();
            let _ =
                writeln!(text, "| {name:<42} | {count:>4} | {median:>8.1} | {p95:>8.1} | {p99:>8.1} | {max:>8.1} |");
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut json = json!({"vcpus": self.vcpus, "queues": self.queues, "unit": "ms"});
        for Row { section, name, values } in &self.rows {
            let ([median, p95, p99, max], values) = (figures(values), values.values());
            json[section][name] =
                json!({"n": values.len(), "median": median, "p95": p95, "p99": p99, "max": max, "values": values});
        }
        json
    }

    /// The rows of a section.
    pub fn chart(&self, section: &str, title: &str) -> Chart {
        let rows = self.rows.iter().filter(|row| row.section == section);
        let bar = |row: &Row| {
            let [median, _, p99, _] = figures(&row.values);
            Bar {
                name: row.name.to_owned(),
                values: [median, p99],
                words: format!("{median:.1} ms, p99 {p99:.1} ms"),
                is_ours: ["ADD", "DEL", "vhostuser-hotplug"].iter().any(|ours| row.name.contains(ours)),
                is_apart: false,
            }
        };
        Chart { title: format!("{title}: median (full) and 99th percentile (pale), ms"), bars: rows.map(bar).collect() }
    }
}

/// Median, 95th and 99th percentile, and maximum.
fn figures(values: &Sorted) -> [f64; 4] {
    [0.5, 0.95, 0.99, 1.0].map(|part| values.quantile(part))
}
