//! The figures that the README and the comparison quote are those of docs/results.md.

use super::page::{READMES, read, table};

const COMPARISONS: [&str; 2] = ["docs/comparison.md", "docs/comparison.zh-CN.md"];

/// A cell as a number.
fn number(cell: &str) -> f64 {
    cell.trim_matches('*').parse().unwrap_or_else(|_| panic!("{cell:?} is no number"))
}

#[test]
fn the_freeze_is_that_of_its_page() {
    let rows = table(&read("docs/results.md"), "| longest gap in the guest |");
    let row = |start: &str| rows.iter().find(|row| row[0].contains(start)).unwrap();
    let (noise, ours, virsh) = (row("nothing done"), row("vhostuser-hotplug"), row("virsh"));
    let (noise, ours) = (number(&noise[2]), number(&ours[2]));
    let (median, most) = (number(&virsh[2]), number(&virsh[4]));
    let quotes = [
        format!("[longest gap {ours:.0} ms](no-freeze.md#measured), median; {noise:.0} ms with nothing done"),
        format!("[最长停顿 {ours:.0} ms](no-freeze.md#measured)，中位数；什么都不做时为 {noise:.0} ms"),
    ];
    let virsh =
        [format!("[{median:.0} ms, median; at most {most:.0}]"), format!("[中位数 {median:.0} ms，最长 {most:.0}]")];
    for ((page, quote), virsh) in COMPARISONS.iter().zip(quotes).zip(virsh) {
        let text = read(page);
        assert!(text.contains(&quote), "{page} does not say {quote:?}");
        assert!(text.contains(&virsh), "{page} does not say {virsh:?}");
    }
}

#[test]
fn what_other_pods_pay_is_what_its_page_says() {
    let rows = table(&read("docs/results.md"), "| verb | plugin |");
    let row = |plugin: &str| rows.iter().find(|row| row[0] == "ADD" && row[1] == plugin).unwrap();
    let ours = row("vhostuser-hotplug");
    let wall = number(&ours[2]) / number(&row("no-op")[2]);
    for peer in ["tuning", "portmap"] {
        let share = number(&ours[6]) / number(&row(peer)[6]);
        assert!((0.22..0.28).contains(&share), "{share} of {peer}'s CPU time is not a quarter");
    }
    let quotes = [
        [format!("{wall:.1} times a"), "a quarter of the CPU time of `tuning` or `portmap`".to_owned()],
        [format!("静态空插件的 {wall:.1} 倍"), "CPU 时间是 `tuning`、`portmap` 的四分之一".to_owned()],
    ];
    for (readme, quotes) in READMES.iter().zip(quotes) {
        // Lines break where they may.
        let text = read(readme).split_whitespace().collect::<Vec<_>>().join(" ");
        for quote in quotes {
            assert!(text.contains(&quote), "{readme} does not say {quote:?}");
        }
    }
}
