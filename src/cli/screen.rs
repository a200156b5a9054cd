//! Output for a terminal. Names of pods and VMs are untrusted: they must not move the cursor, hide text or reverse it.

use std::fmt::Write as _;

use serde::Serialize;

use crate::quote::{self, steers};

/// Longest text that is not cut, in bytes.
const TEXT_MAX: usize = 512;

/// Returns a text on one line, of bounded length, with control characters escaped.
pub fn clean(text: &str) -> String {
    quote::line(text, TEXT_MAX)
}

/// Returns a value as JSON over several lines, with all characters escaped that control a terminal: JSON itself escapes only
/// the first 32.
pub fn json(value: &impl Serialize) -> String {
    // Structures of strings and numbers always serialise.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if steers(character) && character != '\n' {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(character);
        }
    }
    shown.push('\n');
    shown
}

/// Formats a time span in at most two units, as `kubectl` does.
pub fn age(seconds: u64) -> String {
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let largest = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(3);
    let mut rest = seconds;
    let mut text = String::new();
    for (size, name) in units.iter().skip(largest).take(2) {
        let count = rest / size;
        rest %= size;
        if count > 0 || text.is_empty() {
            let _ = write!(text, "{count}{name}");
        }
    }
    text
}

/// Formats columns as wide as their content, three blanks apart, without blanks at a line's end.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let header = header.map(str::to_owned);
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        let evil = "a\u{1b}[2Jb\r\n\t\u{9b}31m\u{202e}c\u{200b}é中\u{7f}\u{e0041}";
        let shown = clean(evil);
        assert_eq!(shown, "a\\u{1b}[2Jb\\r\\n\\t\\u{9b}31m\\u{202e}c\\u{200b}é中\\u{7f}\\u{e0041}");
        assert_eq!(clean(&"x".repeat(1 << 20)).chars().count(), TEXT_MAX + 1);
        let shown = json(&evil);
        assert!(shown.trim_end().chars().all(|character| !steers(character)), "{shown:?}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), evil, "it is still the same text");
    }

    #[test]
    fn an_age_has_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (192, "3m12s"),
            (3600, "1h"),
            (18_759, "5h12m"),
            (86_400 * 3 + 3600 * 4 + 5, "3d4h"),
            (86_400 + 59, "1d"),
            (u64::MAX, "213503982334601d7h"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn columns_are_aligned_by_what_stands_in_them() {
        let rows = [["a".to_owned(), "1".to_owned()], ["né".to_owned(), String::new()]];
        assert_eq!(table(["N", "LONG"], &rows), "N    LONG\na    1\nné\n");
        assert_eq!(table(["N"], &[]), "N\n");
    }
}
