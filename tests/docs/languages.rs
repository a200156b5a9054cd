//! A page that is there in two languages has the same parts in the same order, with the same commands, names, numbers and links.

use std::path::{Component, Path, PathBuf};

use super::page::{READMES, anchors, english, pairs, quoted, read, targets};

/// What is the same in every language: the names in backticks and the numbers.
fn facts(text: &str) -> Vec<String> {
    let mut facts = quoted(text);
    // Numbers are looked for outside backticks, and outside the targets of links.
    let plain: String = text.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let mut parts = plain.split("](");
    let first = parts.next().unwrap().to_owned();
    let plain = parts.fold(first, |plain, part| plain + part.split_once(')').unwrap_or_default().1);
    let numbers = plain.split(|c: char| !c.is_ascii_digit() && c != '.').map(|number| number.trim_matches('.'));
    facts.extend(numbers.filter(|number| !number.is_empty()).map(str::to_owned));
    facts.sort();
    facts
}

/// Describes each block of a page: its kind, and what of it is the same in every language.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    for (index, part) in text.split("```").enumerate() {
        if index % 2 == 1 {
            // A remark after a command is in the page's language.
            let code = part.lines().map(|line| line.split("   #").next().unwrap().trim_end()).collect::<Vec<_>>();
            blocks.push(format!("code {}", code.join("\n")));
            continue;
        }
        for block in part.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
            let begin = |sign: &str| block.lines().filter(|line| line.starts_with(sign)).count();
            blocks.push(match block {
                _ if block.starts_with('#') => format!("heading {}", block.split(' ').next().unwrap()),
                _ if block.starts_with('|') => {
                    let cells = |row: &str| row.trim_matches('|').split(" | ").map(facts).collect::<Vec<_>>();
                    format!("table {:?}", block.lines().map(cells).collect::<Vec<_>>())
                }
                _ => format!("text with {} items, {:?}", begin("- ") + begin("1. ") + begin("2. "), facts(block)),
            });
        }
    }
    blocks
}

/// The links of a page. The name of a page is that of the English one, and an anchor of it is the heading's number.
fn links(page: &str) -> Vec<String> {
    let link = |target: String| {
        if target.contains("://") {
            // Other projects' pages have languages too.
            return target.replace("/en/", "/");
        }
        let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
        let there = match path {
            "" => page.to_owned(),
            path => normal(&Path::new(page).parent().unwrap().join(path)),
        };
        let heading = read_if_page(&there).and_then(|text| anchors(&text).iter().position(|own| own == anchor));
        format!("{} {heading:?}", english(&there))
    };
    let mut links: Vec<String> = targets(&read(page)).into_iter().map(link).collect();
    links.sort();
    links
}

fn read_if_page(path: &str) -> Option<String> {
    path.ends_with(".md").then(|| read(path))
}

/// Resolves `..` in a path.
fn normal(path: &Path) -> String {
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => assert!(resolved.pop(), "{} leaves the repository", path.display()),
            other => resolved.push(other),
        }
    }
    resolved.to_str().unwrap().to_owned()
}

#[test]
fn a_page_is_the_same_in_both_languages() {
    let pairs = pairs();
    assert!(pairs.len() > 9, "{pairs:?}");
    for pair in &pairs {
        let [(ones, one), (others, other)] = pair.each_ref().map(|page| (blocks(&read(page)), page));
        for (index, (a, b)) in ones.iter().zip(&others).enumerate() {
            assert_eq!(a, b, "{one} and {other}: block {index}, after {:?}", &ones[index.saturating_sub(2)..index]);
        }
        assert_eq!(ones.len(), others.len(), "{one} and {other}");
        assert!(ones.len() > 4, "{one}: {}", ones.len());
        assert_eq!(links(one), links(other), "{one} and {other}");
    }
}

#[test]
fn links_stay_in_the_language_of_the_page() {
    let pairs = pairs();
    for pair in &pairs {
        let names = pair.each_ref().map(|page| Path::new(page).file_name().unwrap().to_str().unwrap());
        for (language, page) in pair.iter().enumerate() {
            let text = read(page);
            let other = names[1 - language];
            assert_eq!(text.lines().nth(2).and_then(|line| line.split_once("](")?.1.strip_suffix(')')), Some(other));
            for target in targets(&text).iter().filter(|target| !target.contains("://") && *target != other) {
                let path = target.split('#').next().unwrap();
                let there = normal(&Path::new(page).parent().unwrap().join(path));
                let leaves = pairs.iter().any(|pair| pair[1 - language] == there);
                assert!(!leaves, "{page}: {target} is a page in the other language");
            }
        }
    }
}

#[test]
fn the_readme_is_short_and_leads_to_every_page_for_operators() {
    for (language, readme) in READMES.iter().enumerate() {
        let text = read(readme);
        assert!(text.lines().count() <= 120, "{readme} has {} lines", text.lines().count());
        let targets = targets(&text);
        for pair in pairs() {
            let page = &pair[language];
            let linked = targets.iter().any(|target| target.split('#').next() == Some(page));
            assert!(linked || page == readme, "{readme} does not link {page}");
        }
    }
}
