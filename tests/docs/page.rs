//! The project's pages, as text.

use std::path::{Path, PathBuf};

/// The README, in each of its languages.
pub const READMES: [&str; 2] = ["README.md", "README.zh-CN.md"];

/// How the name of a Chinese page ends.
const CHINESE: &str = ".zh-CN.md";

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reads a page by its path in the repository.
pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the files in this folder and its subfolders whose names end with `end`, as paths from the root.
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

/// Returns every page of the repository.
pub fn all() -> Vec<PathBuf> {
    let names = std::fs::read_dir(root()).unwrap().map(|entry| PathBuf::from(entry.unwrap().file_name()));
    let mut pages: Vec<PathBuf> = names.filter(|name| name.extension().is_some_and(|end| end == "md")).collect();
    pages.extend(files("docs", ".md"));
    let others = ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "tests/lab/README.md", "fuzz/README.md"];
    pages.extend(others.map(PathBuf::from));
    pages
}

/// Returns the pages that are there in two languages: the English one, and the Chinese one.
pub fn pairs() -> Vec<[String; 2]> {
    let chinese = all().into_iter().map(|page| page.to_str().unwrap().to_owned());
    chinese.filter_map(|page| Some([format!("{}.md", page.strip_suffix(CHINESE)?), page])).collect()
}

/// Returns the English page of this one.
pub fn english(page: &str) -> String {
    page.replace(CHINESE, ".md")
}

/// Returns the text outside code blocks.
pub fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// Returns what is between backticks, outside code blocks.
pub fn quoted(text: &str) -> Vec<String> {
    prose(text).split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns the targets of the links and pictures.
pub fn targets(text: &str) -> Vec<String> {
    let text = prose(text);
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// Returns the anchors of a page's headings, as GitHub makes them.
pub fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).lines().filter_map(|line| Some(line.strip_prefix('#')?.to_owned())).collect::<Vec<_>>();
    let slug = |heading: &String| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.iter().map(slug).collect()
}

/// Returns the rows below the head of the table that begins with this line; each row as its cells.
pub fn table(text: &str, head: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows: Vec<Vec<String>> = lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "no table {head:?}");
    rows
}
