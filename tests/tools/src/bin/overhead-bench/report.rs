//! Tables, JSON and a picture of what was measured.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::contenders::{NOOP, OURS};
use crate::growth::Point;
use crate::load::Burden;
use crate::measure::Row;
use tools::bars::{self, Bar, Chart};

fn base<'a>(rows: &'a [Row], row: &Row) -> &'a Row {
    let found = rows.iter().find(|other| other.call.name == NOOP && other.call.verb == row.call.verb);
    found.expect("the no-op is measured with every verb")
}

/// The calls, one a line, with their ratios to the no-op.
pub fn calls(rows: &[Row]) -> String {
    let mut text = String::from(
        "\n| verb | plugin | wall ms: median | p95 | p99 | x no-op | CPU ms | x no-op | peak KiB | syscalls | page faults | instructions |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let noop = base(rows, row);
        let (wall, cpu) = (row.wall.median(), row.cpu.median());
        let known = |figure: Option<u64>| figure.map_or_else(|| "-".to_owned(), |figure| figure.to_string());
        let (memory, instructions) = (known(row.memory), known(row.instructions));
        let _ = writeln!(
            text,
            "| {} | {} | {wall:.3} | {:.3} | {:.3} | {:.2} | {cpu:.3} | {:.2} | {memory} | {} | {:.0} | {instructions} |",
            row.call.verb,
            row.call.name,
            row.wall.quantile(0.95),
            row.wall.quantile(0.99),
            wall / noop.wall.median(),
            cpu / noop.cpu.median(),
            row.syscalls,
            row.faults.median(),
        );
    }
    text
}

/// The scenes, one a line.
pub fn growth(points: &[Point]) -> String {
    let mut text = String::from(
        "\n| ADD with | | ms: median | p99 | no-op | x no-op | x the first of its kind |\n|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for point in points {
        let (ours, noop) = (point.ours.median(), point.noop.median());
        let first = points.iter().find(|other| other.what == point.what).expect("at least itself");
        let _ = writeln!(
            text,
            "| {} | {} | {ours:.3} | {:.3} | {noop:.3} | {:.2} | {:.2} |",
            point.what,
            point.size,
            point.ours.quantile(0.99),
            ours / noop,
            ours / first.ours.median(),
        );
    }
    text
}

/// The load, one plugin a line.
pub fn load(burdens: &[Burden]) -> String {
    let mut text = String::from(
        "\n| pods started and ended with | CPU ms | wall ms | a call, ms: median | p99 |\n|---|--:|--:|--:|--:|\n",
    );
    for burden in burdens {
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.2} | {:.2} |",
            burden.name,
            burden.cpu,
            burden.wall,
            burden.calls.median(),
            burden.calls.quantile(0.99)
        );
    }
    text
}

pub fn calls_json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "plugin": row.call.name, "verb": row.call.verb, "n": row.wall.values().len(),
            "wall_ms": {"median": row.wall.median(), "p95": row.wall.quantile(0.95), "p99": row.wall.quantile(0.99)},
            "cpu_ms": row.cpu.median(), "peak_kib": row.memory, "syscalls": row.syscalls,
            "page_faults": row.faults.median(), "instructions": row.instructions,
        })
    };
    rows.iter().map(row).collect()
}

pub fn growth_json(points: &[Point]) -> Value {
    let point = |point: &Point| {
        json!({
            "with": point.what, "size": point.size, "wall_ms": point.ours.median(), "noop_wall_ms": point.noop.median(),
        })
    };
    points.iter().map(point).collect()
}

pub fn load_json(burdens: &[Burden]) -> Value {
    let burden = |burden: &Burden| {
        json!({
            "plugin": burden.name, "cpu_ms": burden.cpu, "wall_ms": burden.wall,
            "call_ms": {"median": burden.calls.median(), "p99": burden.calls.quantile(0.99)},
        })
    };
    burdens.iter().map(burden).collect()
}

/// Bars of each call's wall and processor time.
pub fn svg(rows: &[Row]) -> String {
    let bar = |row: &Row| {
        let (wall, cpu) = (row.wall.median(), row.cpu.median());
        Bar {
            name: format!("{} {}", row.call.verb, row.call.name),
            values: [wall, cpu],
            words: format!("{wall:.2} ms, CPU {cpu:.2} ms"),
            is_ours: row.call.name == OURS,
            is_apart: row.call.name == NOOP,
        }
    };
    let title = "A pod without a vhost-user NIC: wall time (full) and CPU time (pale) of one call, medians";
    bars::svg(&[Chart { title: title.to_owned(), bars: rows.iter().map(bar).collect() }])
}
