//! The figures, as a table for people and as JSON with every value.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// What is printed in the end.
pub struct Table {
    text: String,
    json: Value,
}

impl Table {
    /// One without rows.
    pub fn new(vcpus: u32, queues: u32) -> Self {
        let mut text = String::new();
        let _ = writeln!(text, "| {:<36} | {:>4} | {:>8} | {:>8} | {:>8} |", "ms", "n", "median", "p99", "max");
        let _ = writeln!(text, "|{:-<38}|{:->6}|{:->10}|{:->10}|{:->10}|", "", ":", ":", ":", ":");
        Self { text, json: json!({"vcpus": vcpus, "queues": queues, "unit": "ms"}) }
    }

    /// Adds what was measured of one thing, in milliseconds, unless it was not measured.
    pub fn row(&mut self, section: &str, name: &str, values: &[f64]) {
        if values.is_empty() {
            return;
        }
        let [median, p99, max] = figures(values);
        let _ = writeln!(self.text, "| {name:<36} | {:>4} | {median:>8.1} | {p99:>8.1} | {max:>8.1} |", values.len());
        self.json[section][name] =
            json!({"n": values.len(), "median": median, "p99": p99, "max": max, "values": values});
    }

    /// For people.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// For programs.
    pub fn json(&self) -> &Value {
        &self.json
    }
}

/// Median, 99th percentile (nearest rank) and maximum.
fn figures(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
    [rank(50), rank(99), rank(100)]
}
