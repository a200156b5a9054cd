//! The README's table of errors has the words of the binary, and its table of keys the plugin's.

use std::collections::BTreeSet;

use super::page::{READMES, files, read, table};

const ERRORS: [&str; 2] = ["| code | message |", "| 错误码 | 消息 |"];
const KEYS: [&str; 2] = ["| key | default |", "| 键 | 默认值 |"];

/// The source as one text, without remarks and tests, in which a string that goes over several lines stands in one piece.
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
    for (readme, head) in READMES.iter().zip(ERRORS) {
        let rows = table(&read(readme), head);
        assert!(rows.len() > 20, "{readme}: {} rows", rows.len());
        for row in rows {
            let message = row[1].split("<br>").next().unwrap();
            // The dots stand for what differs from call to call.
            let parts: Vec<&str> = message.split(['…', ';']).map(str::trim).filter(|part| !part.is_empty()).collect();
            assert!(parts.iter().any(|part| part.len() > 12), "{readme}: {message} says too little");
            for part in parts {
                assert!(source.contains(&part.to_lowercase()), "{readme}: no message of the binary has {part:?}");
            }
        }
    }
}

#[test]
fn each_code_of_the_protocol_is_told() {
    let codes = read("src/cni/error.rs");
    let codes = codes.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(": u32 = "));
    let codes: Vec<&str> = codes.map(|(_, code)| code.trim_end_matches(';')).collect();
    assert!(codes.len() > 10, "{codes:?}");
    for (readme, head) in READMES.iter().zip(ERRORS) {
        let text = read(readme);
        let told: BTreeSet<String> = table(&text, head).into_iter().map(|row| row[0].clone()).collect();
        let before = text.split_once(head).unwrap().0.rsplit_once("\n### ").unwrap().1;
        let numbers: Vec<&str> = before.split(|c: char| !c.is_ascii_digit()).collect();
        for code in &codes {
            assert!(told.contains(*code) || numbers.contains(code), "{readme} does not tell what code {code} means");
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
    for (readme, head) in READMES.iter().zip(KEYS) {
        let told = table(&read(readme), head);
        let told: BTreeSet<String> =
            told.iter().flat_map(|row| row[0].split('`').skip(1).step_by(2).map(str::to_owned)).collect();
        assert_eq!(told, keys, "{readme}");
    }
}
