//! Which sandboxes may still call the plugin after it left the chain: those that were made while it was in.
//!
//! CRI-O and Multus send DEL by the list that they kept at ADD. If a plugin of that list is gone, the pod can never end.
//!
//! libcni keeps the list's file alone (`list.Bytes`), without drop-ins; so no DEL by a kept list calls a drop-in.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::PLUGIN;
use crate::sys;

/// Longest kept list that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// How far below the cache's directory files are searched: `results/<file>`, `multus/<file>`, `cache/results/<file>`.
const DEPTH: u32 = 3;

/// What libcni keeps of an ADD, except for what doesn't matter here.
#[derive(Deserialize)]
struct CachedResult<'a> {
    /// The list, in base64.
    #[serde(borrow, default)]
    config: Option<&'a str>,
}

/// Returns the files below a runtime's cache that hold a list with the plugin in it.
#[must_use]
pub fn sandboxes(cache_dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(cache_dir, DEPTH, &mut found);
    found.sort();
    found
}

fn walk(directory: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth > 1 {
            walk(&entry.path(), depth.saturating_sub(1), found);
        } else if kind.is_file() && sys::read_text(&entry.path(), LIMIT).is_ok_and(|text| has_plugin(&text)) {
            found.push(entry.path());
        }
    }
}

/// Returns true if a file's text holds such a list. Multus keeps lists in plain text, libcni in base64.
fn has_plugin(text: &str) -> bool {
    let list = serde_json::from_str::<CachedResult<'_>>(text).ok().and_then(|kept| decoded(kept.config?));
    text.contains(PLUGIN) || list.is_some_and(|list| String::from_utf8_lossy(&list).contains(PLUGIN))
}

/// Decodes base64 (RFC 4648, section 4), as Go's encoding/json writes bytes.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let (mut bits, mut held) = (0_u32, 0_u32);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter.checked_sub(b'A')?,
            b'a'..=b'z' => letter.checked_sub(b'a')?.checked_add(26)?,
            b'0'..=b'9' => letter.checked_sub(b'0')?.checked_add(52)?,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        held = held.checked_add(6)?;
        if held >= 8 {
            held = held.checked_sub(8)?;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_go_writes_it() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("//79", b"\xff\xfe\xfd"),
            ("Kys=", b"++"),
        ] {
            assert_eq!(decoded(text).as_deref(), Some(bytes), "{text}");
        }
        assert_eq!(decoded("Z!=="), None);
    }
}
