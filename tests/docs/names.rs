//! The pages name tests that exist.

use std::path::Path;

/// The text of a page, and how many tests it names; each must be there.
fn page(name: &str) -> (String, usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs").join(name)).unwrap();
    let mut found = 0;
    for name in text.split('`').skip(1).step_by(2).filter(|quoted| quoted.contains("::")) {
        let [group, room, test] = name.split("::").collect::<Vec<_>>()[..] else { panic!("{name}") };
        let source = std::fs::read_to_string(root.join(format!("tests/{group}/{room}.rs"))).unwrap_or_default();
        assert!(source.contains(&format!("fn {test}()")), "{name} is no test");
        found += 1;
    }
    (text, found)
}

#[test]
fn each_row_of_the_faults_names_a_test() {
    let (text, found) = page("faults.md");
    let is_row =
        |line: &&str| line.starts_with("| ") && !["| fault ", "| | |"].iter().any(|head| line.starts_with(head));
    assert_eq!(found, text.lines().filter(is_row).count(), "a row without a test, or with several");
}

#[test]
fn the_page_of_the_lies_names_tests() {
    let (_, found) = page("lies.md");
    assert!(found > 10, "{found}");
}

#[test]
fn each_rule_of_cni_has_a_row_and_each_test_of_a_rule_is_in_it() {
    let (text, _) = page("cni-rules.md");
    let rules: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("| R")?.split(' ').next()).collect();
    assert_eq!(rules, (1..=68).map(|rule| rule.to_string()).collect::<Vec<_>>());
    for path in super::page::files("tests/cni", ".rs") {
        let room = path.file_stem().unwrap().to_str().unwrap();
        for line in super::page::read(&path).lines() {
            let Some(test) = line.strip_prefix("fn r").and_then(|rest| rest.strip_suffix("() {")) else { continue };
            if test.starts_with(|c: char| c.is_ascii_digit()) {
                assert!(
                    text.contains(&format!("`cni::{room}::r{test}`")),
                    "cni-rules.md does not name {room}::r{test}"
                );
            }
        }
    }
}

#[test]
fn each_claim_of_the_threat_model_names_a_test() {
    let (text, found) = page("threat-model.md");
    let claims = text.lines().filter(|line| line.starts_with("| ") && line.contains("::")).count();
    assert!(found == claims && found > 25, "{found} tests in {claims} rows");
}
