//! The two READMEs have the same parts in the same order, the same commands, links and codes.

use super::page::{READMES, prose, read};

/// What each block of a page is: its kind, and what of it is the same in every language.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    for (index, part) in text.split("```").enumerate() {
        if index % 2 == 1 {
            // Commands; a remark after one is in the page's language.
            let code = part.lines().map(|line| line.split("   #").next().unwrap().trim_end()).collect::<Vec<_>>();
            blocks.push(format!("code {}", code.join("\n")));
            continue;
        }
        for block in part.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
            let lines: Vec<&str> = block.lines().collect();
            let begin = |sign: &str| lines.iter().filter(|line| line.starts_with(sign)).count();
            blocks.push(match block {
                _ if block.starts_with('#') => format!("heading {}", block.split(' ').next().unwrap()),
                _ if block.starts_with('|') => {
                    let first = |line: &&str| {
                        let cell = line.split('|').nth(1).unwrap_or_default().trim().to_owned();
                        if cell.starts_with(['`', '1', '5', '7']) { cell.replace('、', ", ") } else { "-".to_owned() }
                    };
                    format!("table {:?}", lines.iter().map(first).collect::<Vec<_>>())
                }
                _ if block.starts_with("- ") => format!("list of {}", begin("- ")),
                _ if block.starts_with("1. ") => format!("steps {}", begin("1. ") + begin("2. ") + begin("3. ")),
                _ => "paragraph".to_owned(),
            });
        }
    }
    blocks
}

/// Where the links lead that lead elsewhere.
fn links(text: &str) -> Vec<String> {
    let text = prose(text);
    let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()));
    let mut targets: Vec<String> =
        targets.filter(|target| !target.starts_with('#') && !target.starts_with("README")).collect();
    // Others' pages have languages too.
    targets.iter_mut().for_each(|target| *target = target.replace("/en/", "/"));
    targets.sort();
    targets
}

#[test]
fn the_readme_is_the_same_in_both_languages() {
    let [one, other] = READMES.map(read);
    let (ones, others) = (blocks(&one), blocks(&other));
    for (index, (one, other)) in ones.iter().zip(&others).enumerate() {
        assert_eq!(one, other, "block {index}, after {:?}", &ones[index.saturating_sub(3)..index]);
    }
    assert_eq!(ones.len(), others.len());
    assert!(ones.len() > 60, "{}", ones.len());
    assert_eq!(links(&one), links(&other));
}

#[test]
fn names_in_backticks_are_the_same_in_both_languages() {
    let names = |text: String| {
        let mut names = super::page::quoted(&text);
        names.sort();
        names.dedup();
        names
    };
    let [one, other] = READMES.map(|readme| names(read(readme)));
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|name| !those.contains(name)).cloned().collect()
    };
    assert_eq!(only(&one, &other), only(&other, &one), "only in the first; only in the second");
}
