//! `validate FILE`: is this conflist sound?

use std::fmt::Write as _;
use std::path::Path;

use super::Answer;
use crate::{conflist, sys};

/// Longest conflist that is read, in bytes: as much as a plugin takes on stdin.
const LIMIT: u64 = 4 << 20;

/// Names each fault of the conflist, if it has any.
pub fn run(file: &Path) -> Answer {
    let faults = match sys::read_text(file, LIMIT) {
        Ok(text) => conflist::faults(&text),
        Err(error) => vec![format!("it cannot be read: {error}")],
    };
    if faults.is_empty() {
        return Answer::of(format!("{}: sound\n", file.display()), true);
    }
    let mut text = String::new();
    for fault in faults {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}: {fault}", file.display());
    }
    Answer::of(text, false)
}
