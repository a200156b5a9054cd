//! `validate FILE`: can a runtime use this conflist, and does it call the plugin?

use std::fmt::Write as _;
use std::path::Path;

use super::Answer;
use crate::conflist::PLUGIN;
use crate::conflist::chain::{Chain, Placement};
use crate::conflist::file::read_text;

/// Names each fault of the conflist, and of the files that are dropped in beside it. Older runtimes read no drop-ins, so the
/// conflist itself must have the plugin.
pub fn run(file: &Path) -> Answer {
    let judged = read_text(file).and_then(|text| Chain::of_file(file, &text)).map(|chain| chain.judge());
    let faults = match judged {
        Ok(judgement) => match judgement.placement {
            Placement::DroppedIn(other) if judgement.faults.is_empty() => {
                let other = other.display();
                vec![format!(
                    "no plugin of it is {PLUGIN}: {other} adds it, which runtimes with libcni before 1.3 do not read"
                )]
            }
            _ => judgement.faults,
        },
        Err(why) => vec![why],
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
