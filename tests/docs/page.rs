//! The project's pages, as text.

use std::path::{Path, PathBuf};

/// The README, in each of its languages.
pub const READMES: [&str; 2] = ["README.md", "README.zh-CN.md"];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page by its path in the repository.
pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of a folder, and of those below it, whose names end so; from the root.
pub fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = Path::new(folder).join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(path.to_str().unwrap(), end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every page of the repository.
pub fn all() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = READMES.iter().map(PathBuf::from).collect();
    pages.extend(files("docs", ".md"));
    let others = ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "tests/lab/README.md", "fuzz/README.md"];
    pages.extend(others.map(PathBuf::from));
    pages
}

/// The text without what stands in fences.
pub fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// What stands between backticks, fences aside.
pub fn quoted(text: &str) -> Vec<String> {
    prose(text).split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rows of the table that begins with this line, without it; each as its cells.
pub fn table(text: &str, head: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows: Vec<Vec<String>> = lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "no table {head:?}");
    rows
}
