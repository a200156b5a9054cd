//! A page in two languages has the same blocks in the same order, with the same commands, names, numbers and links.

use std::path::Path;

use super::page::{READMES, anchors, english, pairs, quoted, read, root, targets};

/// Returns what is the same in every language: the names in backticks and the numbers.
fn facts(text: &str) -> Vec<String> {
    let mut facts = quoted(text);
    // Numbers count outside backticks and outside the targets of links.
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
            blocks.push(match block {
                _ if block.starts_with('#') => format!("heading {}", block.split(' ').next().unwrap()),
                _ if block.starts_with('|') => {
                    let cells = |row: &str| row.trim_matches('|').split(" | ").map(facts).collect::<Vec<_>>();
                    format!("table {:?}", block.lines().map(cells).collect::<Vec<_>>())
                }
                _ => {
                    let items = block.lines().filter(|line| line.starts_with("- ")).count();
                    format!("text with {items} items, {:?}", facts(block))
                }
            });
        }
    }
    blocks
}

/// Resolves a relative link of a page to a path from the root.
fn resolve(page: &str, path: &str) -> String {
    let there = root().join(page).parent().unwrap().join(path).canonicalize().unwrap();
    there.strip_prefix(root().canonicalize().unwrap()).unwrap().to_str().unwrap().to_owned()
}

/// Returns the links of a page, in a form that both languages share: the English page's path, and the number of the heading.
fn links(page: &str) -> Vec<String> {
    let link = |target: String| {
        if target.contains("://") {
            // Other projects' pages have languages too.
            return target.replace("/en/", "/");
        }
        let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
        let there = if path.is_empty() { page.to_owned() } else { resolve(page, path) };
        let heading = match anchor {
            "" => None,
            anchor => anchors(&read(&there)).iter().position(|own| own == anchor),
        };
        format!("{} {heading:?}", english(&there))
    };
    let mut links: Vec<String> = targets(&read(page)).into_iter().map(link).collect();
    links.sort();
    links
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
            let elsewhere = |target: &&String| !target.contains("://") && !target.starts_with('#') && *target != other;
            for target in targets(&text).iter().filter(elsewhere) {
                let there = resolve(page, target.split('#').next().unwrap());
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
