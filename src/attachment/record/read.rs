//! Reads a record's file.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::{FORMAT, RECORD_LIMIT, Record};
use crate::{quote, sys};

/// The part that every format has.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Record {
    /// Reads a record from the text of its file.
    ///
    /// # Errors
    /// What is wrong with it; follows the file's name in messages.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let broken = |error: serde_json::Error| format!("is broken: {}", quote::words(&error));
        // Check the format first: a newer one may have other fields.
        let Head { format } = serde_json::from_slice(text).map_err(broken)?;
        if format > FORMAT {
            return Err(format!("is of format {format}, newer than this plugin"));
        }
        serde_json::from_slice(text).map_err(broken)
    }

    /// Returns what is wrong with the names and paths that a DEL uses. An ADD never writes invalid ones.
    fn problem(&self) -> Option<String> {
        let is_name = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
        let climbs = self.socket_base_dir.components().any(|part| part == Component::ParentDir);
        if !is_name(&self.volume) {
            return Some(format!("volume {} is no file name", quote::value(&self.volume)));
        }
        if !self.socket_base_dir.is_absolute() || climbs {
            return Some("socket_base_dir is no absolute path without \"..\"".to_owned());
        }
        let socket = self.nic.as_ref().map(|nic| nic.socket.as_str()).filter(|socket| !is_name(socket))?;
        Some(format!("socket {} is no file name", quote::value(socket)))
    }
}

/// Reads the record in a file; `None` if there is no such file. The error follows the file's name in messages.
pub fn load(path: &Path) -> Result<Option<Record>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be opened: {error}")),
    };
    let mut text = Vec::new();
    file.take(RECORD_LIMIT as u64).read_to_end(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    let record = Record::parse(&text)?;
    record.problem().map_or(Ok(Some(record)), |problem| Err(format!("is broken: {problem}")))
}

/// Returns the sorted entries of a directory; none if it does not exist.
pub fn listing(path: &Path) -> Result<Vec<PathBuf>, sys::Error> {
    let listed = std::fs::read_dir(path).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<PathBuf>>>()
    });
    match listed {
        Ok(mut paths) => {
            paths.sort();
            Ok(paths)
        }
        // Or it was removed meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(sys::Error::of("readdir", path, &error)),
    }
}
