//! A record's file, read.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{FORMAT, RECORD_LIMIT, Record};
use crate::{quote, sys};

/// What every format has.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Record {
    /// Reads a record from the text of its file.
    ///
    /// # Errors
    /// What is wrong with it, in words that go on after its name.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let broken = |error: serde_json::Error| format!("is broken: {}", quote::words(&error));
        // The format first: what else is in a newer one is for its own version to know.
        let Head { format } = serde_json::from_slice(text).map_err(broken)?;
        if format > FORMAT {
            return Err(format!("is of format {format}, newer than this plugin"));
        }
        serde_json::from_slice(text).map_err(broken)
    }
}

/// The record in a file, `None` if there is no such file; or why it cannot be had, in words that follow its name.
pub fn load(path: &Path) -> Result<Option<Record>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be opened: {error}")),
    };
    let mut text = Vec::new();
    file.take(RECORD_LIMIT as u64).read_to_end(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    Record::parse(&text).map(Some)
}

/// What is in a directory, sorted; nothing if it is not there.
pub fn listing(path: &Path) -> Result<Vec<PathBuf>, sys::Error> {
    let listed = std::fs::read_dir(path).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<PathBuf>>>()
    });
    match listed {
        Ok(mut paths) => {
            paths.sort();
            Ok(paths)
        }
        // Or it went meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(sys::Error::of("readdir", path, &error)),
    }
}
