//! The page, from its rows.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::row::Row;

/// What stands where a data plane has no such figure.
const NOTHING: &str = "–";

/// The most that is expected, in ms: between the guest's gaps, of their medians and 95th percentiles, of the reconnect's median, of OVS's answers.
const GAP_LIMIT: f64 = 20.0;
const RECONNECT_LIMIT: f64 = 100.0;
const ANSWER_LIMIT: f64 = 50.0;

/// Writes the page.
pub fn text(rows: &[(String, Option<Row>)]) -> String {
    let mut text = String::from(include_str!("page_head.md"));
    text.push('\n');
    text += &measured_on(rows);
    text.push('\n');
    text += include_str!("table_head.md");
    for (name, row) in rows {
        let _ = writeln!(text, "| {} | {} |", shown(name).join(" | "), figures(row.as_ref()).join(" | "));
    }
    text.push('\n');
    text += include_str!("page_middle.md");
    text += "| OVS | TSO | libvirt | what ran | windows of each kind | measured on |\n|---|---|---|---|--:|---|\n";
    for (name, row) in rows {
        let cells = row
            .as_ref()
            .map_or([NOTHING; 3].map(str::to_owned), |row| [versions(row), row.rounds.to_string(), row.date.clone()]);
        let _ = writeln!(text, "| {} | {} |", shown(name).join(" | "), cells.join(" | "));
    }
    text
}

/// The machine, and what of it was measured alike.
fn measured_on(rows: &[(String, Option<Row>)]) -> String {
    let measured: Vec<&Row> =
        rows.iter().filter_map(|(_, row)| row.as_ref()).filter(|row| row.was_measured()).collect();
    let all = |of: fn(&Row) -> String| {
        let distinct: BTreeSet<String> = measured.iter().map(|row| of(row)).collect();
        distinct.into_iter().collect::<Vec<_>>().join(" or ")
    };
    format!(
        "Measured on {}; guests under emulation (TCG, no KVM); windows of {} s, and as many ADDs and DELs as windows of each kind.\n",
        all(|row| row.machine.clone()),
        all(|row| row.window().to_string())
    )
}

/// The first columns of a row: OVS, TSO, libvirt.
fn shown(name: &str) -> [String; 3] {
    let (pair, tso) = name.strip_suffix("+tso").map_or((name, "off"), |pair| (pair, "on"));
    let (ovs, libvirt) = pair.split_once('/').unwrap_or((pair, ""));
    match ovs {
        "testpmd" => ["testpmd".to_owned(), NOTHING.to_owned(), libvirt.to_owned()],
        _ => [ovs.to_owned(), tso.to_owned(), libvirt.to_owned()],
    }
}

/// The versions of what ran: testpmd's in place of OVS's.
fn versions(row: &Row) -> String {
    match row.versions.split_once(", ") {
        _ if row.versions.is_empty() => NOTHING.to_owned(),
        Some((_, others)) if row.row.starts_with("testpmd") => format!("testpmd of {others}"),
        _ => row.versions.clone(),
    }
}

/// The other columns, 13 of them.
fn figures(row: Option<&Row>) -> Vec<String> {
    let Some(row) = row else { return [vec!["not run".to_owned()], vec![NOTHING.to_owned(); 12]].concat() };
    let mut cells = vec![tests(row)];
    let figure = |section, name, which| row.figure(section, name, which);
    let gap = |name, which| figure("longest gap", name, which);
    for which in ["median", "p95"] {
        let (nothing, add) =
            (gap("longest gap, nothing done", which), gap("longest gap, vhostuser-hotplug ADD", which));
        cells.extend([number(nothing, f64::INFINITY), number(add, f64::INFINITY)]);
        cells.push(number(nothing.zip(add).map(|(nothing, add)| add - nothing), GAP_LIMIT));
    }
    let control = |name, which| figure("control", name, which);
    cells.push(number(control("ADD: reconnect, and 50 ms to be sure", "median"), RECONNECT_LIMIT));
    cells.push(number(control("call: ADD, the plugin's process", "median"), f64::INFINITY));
    cells.push(count(row.closed_early()));
    cells.push(count(row.stalls().map(|stalls| stalls as u64)));
    cells.push(number(control("OVS's slowest answer: ADD", "max"), ANSWER_LIMIT));
    cells.push(number(control("OVS's slowest answer: port removed", "median"), f64::INFINITY));
    cells
}

/// How many tests passed, and what failed. Messages stay in the log: they may name hosts and paths of the machine.
fn tests(row: &Row) -> String {
    let count = (row.tests > 0).then(|| format!("{} of {}", row.passed, row.tests));
    let failures = row.failures();
    let failures = failures.iter().map(|words| words.split(": ").next().unwrap_or_default().to_owned());
    count.into_iter().chain(failures).collect::<Vec<_>>().join("; ")
}

fn number(value: Option<f64>, limit: f64) -> String {
    value.map_or(NOTHING.to_owned(), |value| marked(format!("{value:.1}"), value > limit))
}

fn count(value: Option<u64>) -> String {
    value.map_or(NOTHING.to_owned(), |value| marked(value.to_string(), value > 0))
}

/// What is beyond its limit is in bold.
fn marked(text: String, is_beyond: bool) -> String {
    if is_beyond { format!("**{text}**") } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::row::sample;
    use super::*;

    fn line(text: &str, start: &str) -> String {
        text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {text}")).to_owned()
    }

    #[test]
    fn every_row_has_every_column() {
        let rows = [
            ("3.1/9".to_owned(), Some(sample::missing("3.1/9"))),
            ("3.5/11+tso".to_owned(), Some(sample::row("3.5/11+tso", 31.0))),
            ("4.0/12".to_owned(), None),
        ];
        let text = text(&rows);
        let head = include_str!("table_head.md").lines().next().unwrap();
        for start in ["| 3.1 | off | 9 |", "| 3.5 | on | 11 |", "| 4.0 | off | 12 |"] {
            assert_eq!(line(&text, start).matches(" |").count(), head.matches(" |").count(), "{start}");
        }
        assert!(line(&text, "| 3.1 | off | 9 |").starts_with("| 3.1 | off | 9 | cannot be had | – |"));
        assert_eq!(
            line(&text, "| 3.5 | on | 11 |"),
            "| 3.5 | on | 11 | 11 of 11 | 10.0 | 31.0 | **21.0** | 20.0 | 41.0 | **21.0** | 55.0 | 600.0 | 0 | **1** | 31.0 | 970.0 |"
        );
    }

    #[test]
    fn testpmd_is_named_in_place_of_ovs() {
        let row = sample::row("testpmd/11", 20.0);
        assert_eq!(versions(&row), "testpmd of DPDK 24.11.8, libvirt 11.3.0, QEMU 10.0.2");
        assert_eq!(shown("testpmd/11"), ["testpmd", NOTHING, "11"]);
    }
}
