//! Links lead somewhere, and paths that are named exist.

use super::page::{all, anchors, quoted, read, root, targets};

#[test]
fn relative_links_and_their_anchors_lead_somewhere() {
    let mut count = 0;
    for page in all() {
        let text = read(&page);
        for target in targets(&text).iter().filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let there = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(root().join(&there).exists(), "{}: {target} leads nowhere", page.display());
            if !anchor.is_empty() {
                let anchors = anchors(&read(&there));
                assert!(anchors.iter().any(|own| own == anchor), "{}: {target}: only {anchors:?}", page.display());
            }
            count += 1;
        }
    }
    assert!(count > 40, "{count} links found");
}

#[test]
fn paths_of_the_repository_that_are_named_exist() {
    let folders = ["src/", "tests/", "docs/", "conflist/", "deploy/", "fuzz/"];
    let mut count = 0;
    for page in all() {
        for words in quoted(&read(&page)) {
            // Of a command too, its first word.
            let path = words.split(' ').next().unwrap();
            if folders.iter().any(|folder| path.starts_with(folder)) && !path.contains("::") {
                // Modules are named from src on.
                let there = root().join(path).exists() || root().join("src").join(path).exists();
                assert!(there, "{}: {path} is not there", page.display());
                count += 1;
            }
        }
    }
    assert!(count > 20, "{count} paths found");
}

#[test]
fn the_module_map_names_what_is_there_and_all_of_it() {
    let map = read("docs/development.md");
    let words: Vec<&str> = map.split([' ', '\n', '(', ')', ',']).collect();
    for path in words.iter().filter(|word| word.starts_with("src/") || word.starts_with("tests/")) {
        assert!(root().join(path).exists(), "{path} is not there");
    }
    for folder in ["src", "tests"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            // A file that several share a line with is named without its folder.
            let named = map.contains(&format!("{folder}/{name}")) || (name.ends_with(".rs") && words.contains(&&*name));
            assert!(named || name == "lib.rs", "{folder}/{name} is not in the map");
        }
    }
}
