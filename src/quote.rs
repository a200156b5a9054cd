//! Shows untrusted text in log records and error messages.
//!
//! It follows logfmt. A value of plain characters is unchanged; any other is in double quotes, with a backslash before
//! `"` and `\`. So text in quotes is untrusted, and text outside is the plugin's own: neither a `key=value` nor the end
//! of a list can be forged. Control and invisible characters are escaped, and every text has a limit.

use std::fmt::{self, Write};

/// Longest value that is shown whole, in bytes as shown. A pod's namespace and name have at most 317.
const VALUE_MAX: usize = 384;

/// Longest text that is shown whole, in bytes as shown.
const TEXT_MAX: usize = 1024;

/// Longest message of a library that is shown whole, in bytes as shown.
const WORDS_MAX: usize = 300;

/// Returns a value unchanged if it is plain, else in quotes.
#[must_use]
pub fn value(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./@+:,|".contains(c);
    let is_plain = !text.is_empty() && text.len() <= VALUE_MAX && text.chars().all(plain);
    // A colon ends a record's head where a space follows it.
    if is_plain && !text.ends_with([':', ',']) { text.to_owned() } else { cut(text, VALUE_MAX) }
}

/// Returns a text, such as another program's message, in quotes.
#[must_use]
pub fn text(text: &str) -> String {
    cut(text, TEXT_MAX)
}

/// Returns the text in quotes, cut to `max` bytes with an ellipsis for the rest.
#[must_use]
pub fn cut(text: &str, max: usize) -> String {
    let mut line = LogLine::new(max);
    line.text.push('"');
    for c in text.chars() {
        if line.is_full() {
            break;
        }
        if matches!(c, '"' | '\\') {
            line.text.push('\\');
        }
        line.push(c);
    }
    line.text.push('"');
    line.text
}

/// Returns the text as one line of at most `max` bytes and an ellipsis.
#[must_use]
pub fn line(text: &str, max: usize) -> String {
    let mut line = LogLine::new(max);
    // It fails when it is full; the ellipsis shows that.
    let _ = line.write_str(text);
    line.text
}

/// Returns a library's message about a text that it could not read. The message may quote the text at any length.
#[must_use]
pub fn words(error: &dyn fmt::Display) -> String {
    line(&error.to_string(), WORDS_MAX)
}

/// A line with a limit of bytes.
#[derive(Debug)]
pub struct LogLine {
    text: String,
    max: usize,
    is_cut: bool,
}

impl LogLine {
    /// Creates an empty line of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { text: String::new(), max, is_cut: false }
    }

    /// Returns the text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    /// Returns true if the line is full; an ellipsis then ends it.
    fn is_full(&mut self) -> bool {
        if !self.is_cut && self.text.len() >= self.max {
            self.text.push('…');
            self.is_cut = true;
        }
        self.is_cut
    }

    fn push(&mut self, c: char) {
        if steers(c) {
            self.text.extend(c.escape_default());
        } else {
            self.text.push(c);
        }
    }
}

impl Write for LogLine {
    /// Fails when the line is full, so that a text of megabytes is not formatted to its end.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.is_full() {
                return Err(fmt::Error);
            }
            self.push(c);
        }
        Ok(())
    }
}

/// Control characters, line separators, and the invisible ones that reorder or hide text.
#[must_use]
pub fn steers(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_value_stands_as_it_is_and_any_other_in_quotes() {
        for plain in ["vm-1", "default/vm1", "/proc/222/ns/net", "00:00:00:24:65:f4", "eth0.100", "a@b+c_d"] {
            assert_eq!(value(plain), plain);
        }
        for (odd, shown) in [
            ("", r#""""#),
            ("a b", r#""a b""#),
            ("a=b", r#""a=b""#),
            ("x:", r#""x:""#),
            ("a;b", r#""a;b""#),
            (r#"a"b\c"#, r#""a\"b\\c""#),
            ("a\nb\u{1b}[2J\0\u{202e}", r#""a\nb\u{1b}[2J\u{0}\u{202e}""#),
            ("Zürich", "\"Zürich\""),
            ("a\u{e0041}", "\"a\\u{e0041}\""),
        ] {
            assert_eq!(value(odd), shown);
        }
        assert_eq!(text("plain"), "\"plain\"");
    }

    #[test]
    fn every_length_is_bounded_and_every_quote_ends() {
        for long in ["a".repeat(1 << 20), "\n".repeat(1 << 20), "\\\"".repeat(1 << 20), "é".repeat(1 << 20)] {
            for shown in [value(&long), text(&long), cut(&long, 80)] {
                assert!(shown.len() <= TEXT_MAX + 20, "{}", shown.len());
                assert!(shown.starts_with('"') && shown.ends_with("…\""), "{shown}");
            }
            assert!(line(&long, 100).len() <= 120);
        }
        assert_eq!(line("détaché: a\nb\t\"c\"", 100), "détaché: a\\nb\\t\"c\"");
        assert_eq!(line("abc", 3), "abc");
        assert_eq!(line("abcd", 3), "abc…");
    }

    #[test]
    fn a_full_line_stops_who_writes_it() {
        let mut line = LogLine::new(10);
        assert!(write!(line, "{}", "x".repeat(10)).is_ok());
        assert!(write!(line, "y").is_err() && write!(line, "z").is_err());
        assert_eq!(line.into_text(), "xxxxxxxxxx…");
    }
}
