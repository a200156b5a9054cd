//! A record's file, read.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{FORMAT, Record};
use crate::sys;

/// Longest record that is read, in bytes.
const RECORD_LIMIT: u64 = 64 << 10;

/// What every format has.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// The record in a file, `None` if there is no such file; or why it cannot be had, in words that follow its name.
pub fn load(path: &Path) -> Result<Option<Record>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be opened: {error}")),
    };
    let mut text = Vec::new();
    file.take(RECORD_LIMIT).read_to_end(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    // The format first: what else is in a newer one is for its own version to know.
    let record = serde_json::from_slice::<Head>(&text).and_then(|head| match head.format {
        ..=FORMAT => serde_json::from_slice(&text).map(Ok),
        newer => Ok(Err(newer)),
    });
    match record {
        Ok(Ok(record)) => Ok(Some(record)),
        Ok(Err(newer)) => Err(format!("is of format {newer}, newer than this plugin")),
        Err(error) => Err(format!("is broken: {error}")),
    }
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
