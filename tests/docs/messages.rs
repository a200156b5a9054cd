//! The table of errors quotes messages of the binary, and the table of keys has the plugin's keys.

use std::collections::BTreeSet;

use super::page::{files, read, table};

const ERROR_PAGES: [&str; 2] = ["docs/troubleshooting.md", "docs/troubleshooting.zh-CN.md"];
const ERRORS: [&str; 2] = ["| code | message |", "| 错误码 | 消息 |"];
/// Parts of the sample outputs in docs/operation.md.
const SHOWN: [&str; 12] = [
    "done in",
    "it runs again, and the NIC ",
    "VM looked at",
    "data plane met: ",
    "VM not busy",
    "stand-in: ",
    "data plane connected",
    "DATA PLANE",
    " runs, but has no huge pages",
    "DPDK has most likely not started: ovs-vsctl get Open_vSwitch . dpdk_initialized",
    "a NIC is plugged only when the data plane connects to it, and that is seen in the host's network namespace",
    " in its container is the host's, and receives its mounts",
];
const KEY_PAGES: [&str; 2] = ["docs/configuration.md", "docs/configuration.zh-CN.md"];
const KEYS: [&str; 2] = ["| key | default |", "| 键 | 默认值 |"];

/// Returns the source as one text, without comments and tests. A string that continues over several lines is in one piece.
fn source() -> String {
    let mut all = String::new();
    for path in files("src", ".rs").into_iter().filter(|path| !path.ends_with("tests.rs")) {
        let text = read(path);
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let mut continued = false;
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let line = if continued { line.trim_start() } else { line };
            continued = line.ends_with('\\');
            all.push_str(line.trim_end_matches('\\'));
            if !continued {
                all.push('\n');
            }
        }
    }
    // As they are printed.
    all.replace("\\\"", "\"").to_lowercase()
}

#[test]
fn each_message_in_the_table_of_errors_is_one_of_the_binary() {
    let source = source();
    for (page, head) in ERROR_PAGES.iter().zip(ERRORS) {
        let rows = table(&read(page), head);
        assert!(rows.len() > 20, "{page}: {} rows", rows.len());
        for row in rows {
            let message = row[1].split("<br>").next().unwrap();
            // The dots stand for what differs from call to call.
            let parts: Vec<&str> = message.split(['…', ';']).map(str::trim).filter(|part| !part.is_empty()).collect();
            assert!(parts.iter().any(|part| part.len() > 12), "{page}: {message} says too little");
            for part in parts {
                assert!(source.contains(&part.to_lowercase()), "{page}: no message of the binary has {part:?}");
            }
        }
    }
}

#[test]
fn both_languages_quote_the_same_messages() {
    let quotes = |index: usize| -> Vec<(String, String)> {
        let rows = table(&read(ERROR_PAGES[index]), ERRORS[index]).into_iter();
        rows.map(|row| (row[0].clone(), row[1].split("<br>").next().unwrap().to_owned())).collect()
    };
    assert_eq!(quotes(0), quotes(1));
}

#[test]
fn the_sample_outputs_are_the_binarys() {
    let (source, page) = (source(), read("docs/operation.md"));
    let outputs: String = page.split("```").skip(1).step_by(2).collect();
    for shown in SHOWN {
        assert!(outputs.contains(shown), "docs/operation.md does not show {shown:?}");
        assert!(source.contains(&shown.to_lowercase()), "no output of the binary has {shown:?}");
    }
}

#[test]
fn each_code_of_the_protocol_is_told() {
    let codes = read("src/cni/error.rs");
    let codes = codes.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(": u32 = "));
    let codes: Vec<&str> = codes.map(|(_, code)| code.trim_end_matches(';')).collect();
    assert!(codes.len() > 10, "{codes:?}");
    for (page, head) in ERROR_PAGES.iter().zip(ERRORS) {
        let text = read(page);
        let told: BTreeSet<String> = table(&text, head).into_iter().map(|row| row[0].clone()).collect();
        let before = text.split_once(head).unwrap().0.rsplit_once("\n## ").unwrap().1;
        let numbers: Vec<&str> = before.split(|c: char| !c.is_ascii_digit()).collect();
        for code in &codes {
            assert!(told.contains(*code) || numbers.contains(code), "{page} does not tell what code {code} means");
        }
    }
}

#[test]
fn the_table_of_keys_has_the_plugins_and_no_others() {
    let source = read("src/config/mod.rs");
    let after = |start: &str| -> BTreeSet<String> {
        // rustfmt puts some calls over two lines.
        let joined: String = source.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(");
        joined.split(start).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
    };
    let keys: BTreeSet<String> = after(".key(\"").into_iter().chain(after(".path(\"")).collect();
    assert!(keys.len() > 10, "{keys:?}");
    for (page, head) in KEY_PAGES.iter().zip(KEYS) {
        let told = table(&read(page), head);
        let told: BTreeSet<String> =
            told.iter().flat_map(|row| row[0].split('`').skip(1).step_by(2).map(str::to_owned)).collect();
        assert_eq!(told, keys, "{page}");
    }
}
