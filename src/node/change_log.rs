//! What was changed on the node, for the person who asked for it.

use std::fmt;
use std::path::Path;

/// What was changed, or would be by a run that isn't dry.
#[derive(Debug, Default)]
pub struct ChangeLog {
    dry: bool,
    lines: Vec<String>,
}

impl ChangeLog {
    /// Creates an empty log; a dry run changes nothing.
    #[must_use]
    pub fn new(dry: bool) -> Self {
        Self { dry, lines: Vec::new() }
    }

    /// Returns true if nothing may be changed.
    #[must_use]
    pub fn is_dry(&self) -> bool {
        self.dry
    }

    /// Adds what was done to a file, as a participle: "removed".
    pub fn changed(&mut self, path: &Path, what: impl fmt::Display) {
        let would = if self.dry { "would be " } else { "" };
        self.say(path, format_args!("{would}{what}"));
    }

    /// Adds how a file was found.
    pub fn say(&mut self, path: &Path, what: impl fmt::Display) {
        self.lines.push(format!("{}: {what}", path.display()));
    }

    /// Returns the lines so far.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}
