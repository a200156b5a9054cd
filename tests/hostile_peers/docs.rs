//! docs/lies.md has the table's lies, all of them and no others.

use std::collections::BTreeSet;
use std::path::Path;

use super::peers;
use super::row::PEAK_MAX;

#[test]
fn the_page_has_a_row_for_each_lie_and_a_lie_for_each_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/lies.md")).unwrap();
    let cells = |line: &str| line.trim_matches(['|', ' ']).split(" | ").map(str::to_owned).collect();
    let lines = text.lines().skip_while(|line| !line.starts_with("| lie |")).skip(2);
    let told: Vec<Vec<String>> = lines.take_while(|line| line.starts_with('|')).map(cells).collect();
    let rows = peers::all();
    let shown: Vec<Vec<String>> = rows.iter().map(|row| row.cells().to_vec()).collect();
    let (told, shown): (BTreeSet<_>, BTreeSet<_>) = (told.into_iter().collect(), shown.into_iter().collect());
    assert_eq!(shown.len(), rows.len(), "two lies of one name");
    let only = |these: &BTreeSet<Vec<String>>, those: &BTreeSet<Vec<String>>| format!("{:#?}", these - those);
    assert_eq!(told, shown, "only the page has {}; only the table has {}", only(&told, &shown), only(&shown, &told));
    assert!(text.contains(&format!("{} MiB", PEAK_MAX / 1024)), "the bound on memory");
}
