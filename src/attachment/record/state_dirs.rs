//! The node's state directories: the default one, and others that networks set with the key `state_dir`.
//!
//! A call without keys must find the records of all of them. So each other directory with records is announced in the
//! default one: a file `elsewhere/<number>` has its path. The file is written before the first record of its directory,
//! and removed after the last one, both under the lock of the directory `elsewhere`.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use log::warn;
use nix::errno::Errno;

use crate::file::{Attributes, Lock, lock};
use crate::{file, quote, sys};

/// The directory of the announcements in the default state directory.
const DIRECTORY: &str = "elsewhere";

/// Most directories that are announced. Operators use a few, not one for each pod.
const LIMIT: u8 = 64;

/// Longest path that is announced, in bytes (Linux' PATH_MAX, less the final NUL).
const PATH_MAX: usize = 4095;

/// How long to wait for the lock. Holders make a few system calls; a stopped one must not block others.
const PATIENCE: Duration = Duration::from_secs(1);

/// Returns the announced directories. Incomplete files and invalid paths are ignored.
pub fn announced(usual: &Path) -> Vec<PathBuf> {
    entries(usual).into_iter().map(|(_, path)| path).collect()
}

/// Announces a directory, unless it is announced already. It can't be withdrawn until the returned lock is dropped.
///
/// # Errors
/// Those of the files; `ENOSPC` if too many are announced, `ENAMETOOLONG` if the path could not be read again.
pub fn announce(usual: &Path, path: &Path) -> Result<Option<Lock>, sys::Error> {
    let directory = usual.join(DIRECTORY);
    file::create_directories(&directory, 0o700)?;
    let lock = lock(&directory, PATIENCE)?;
    let there = entries(usual);
    if there.iter().any(|(_, other)| other == path) {
        return Ok(lock);
    }
    let refused = |errno: Errno| sys::Error::of("announce", path, &errno.into());
    let text = path.to_str().filter(|text| parse(format!("{text}\n").as_bytes()).as_deref() == Some(path));
    let text = text.ok_or_else(|| refused(Errno::ENAMETOOLONG))?;
    let is_free = |number: &u8| !directory.join(number.to_string()).exists();
    let number = (0..LIMIT).find(is_free).ok_or_else(|| refused(Errno::ENOSPC))?;
    let (new, whole) = (directory.join("new"), directory.join(number.to_string()));
    file::replace(&whole, &new, format!("{text}\n").as_bytes(), Attributes::mode(0o600), || true)?;
    Ok(lock)
}

/// Withdraws the announcement of a directory without records. If that fails, the next call that removes a record there
/// tries again.
pub fn withdraw(usual: &Path, path: &Path) {
    let Ok(Some(_lock)) = lock(&usual.join(DIRECTORY), PATIENCE) else { return };
    let is_gone = |error: std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    // This fails if a pod's directory is left in it.
    let is_empty = std::fs::remove_dir(path.join("pods")).map_or_else(is_gone, |()| true);
    for (file, _) in entries(usual).iter().filter(|(_, other)| is_empty && other == path) {
        let _ = file::remove(file);
    }
}

/// Removes the directory of the announcements if it is empty.
pub fn retire(usual: &Path) {
    let directory = usual.join(DIRECTORY);
    let _ = file::remove(&directory.join("new"));
    let _ = std::fs::remove_dir(directory);
}

/// Returns the announcements: files with the directories that they name.
fn entries(usual: &Path) -> Vec<(PathBuf, PathBuf)> {
    let Ok(listing) = std::fs::read_dir(usual.join(DIRECTORY)) else { return Vec::new() };
    let numbered = listing.flatten().filter(|entry| {
        let number: Option<u8> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        number.is_some_and(|number| number < LIMIT)
    });
    let mut files: Vec<PathBuf> = numbered.map(|entry| entry.path()).take(LIMIT.into()).collect();
    files.sort();
    files.into_iter().filter_map(|file| read(&file).map(|path| (file, path))).collect()
}

fn read(path: &Path) -> Option<PathBuf> {
    let (mut text, limit) = (Vec::new(), PATH_MAX.saturating_add(2));
    let opened = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).ok()?;
    opened.take(limit.try_into().unwrap_or(u64::MAX)).read_to_end(&mut text).ok()?;
    let named = parse(&text);
    if named.is_none() {
        warn!("{} names no state directory, and is ignored", quote::value(&path.to_string_lossy()));
    }
    named
}

/// Parses an absolute path without "..", and a newline, without which the file is incomplete.
fn parse(text: &[u8]) -> Option<PathBuf> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('\n')?;
    let path = Path::new(text);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    (path.is_absolute() && !climbs && text.len() <= PATH_MAX && !text.contains(char::is_control)).then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_announced_once_and_withdrawn_when_it_is_empty() {
        let root = std::env::temp_dir().join(format!("vhu-state-dirs-{}", std::process::id()));
        let (usual, one, two) = (root.join("usual"), root.join("one"), root.join("two"));
        assert_eq!(announced(&usual), Vec::<PathBuf>::new());
        for path in [&one, &two, &one] {
            drop(announce(&usual, path).unwrap());
        }
        assert_eq!(announced(&usual), [one.clone(), two.clone()]);
        std::fs::create_dir_all(one.join("pods/x")).unwrap();
        withdraw(&usual, &one);
        assert_eq!(announced(&usual).len(), 2, "a pod is recorded in it");
        std::fs::remove_dir(one.join("pods/x")).unwrap();
        withdraw(&usual, &one);
        // Its directory is gone.
        assert_eq!(announced(&usual), std::slice::from_ref(&two));
        withdraw(&usual, &two);
        assert_eq!(announced(&usual), Vec::<PathBuf>::new());
        retire(&usual);
        assert!(!usual.join(DIRECTORY).exists());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_is_no_path_is_passed_over_and_their_number_is_bounded() {
        let usual = std::env::temp_dir().join(format!("vhu-state-dirs-odd-{}", std::process::id()));
        let directory = usual.join(DIRECTORY);
        std::fs::create_dir_all(directory.join("7")).unwrap();
        let long = format!("/{}\n", "x".repeat(PATH_MAX));
        for (name, text) in
            [("0", "/cut"), ("1", "rel\n"), ("2", "/a/../b\n"), ("3", "/a\nb\n"), ("4", &long), ("5", "")]
        {
            std::fs::write(directory.join(name), text).unwrap();
        }
        for name in ["255", "64", "x", "new"] {
            std::fs::write(directory.join(name), "/hidden\n").unwrap();
        }
        assert_eq!(announced(&usual), Vec::<PathBuf>::new());
        for number in 0..LIMIT {
            let told = announce(&usual, Path::new(&format!("/{number}")));
            // Seven names are taken by what is above.
            assert_eq!(told.is_ok(), number < LIMIT - 7, "{number}: {told:?}");
        }
        assert_eq!(announced(&usual).len(), usize::from(LIMIT) - 7);
        assert!(announce(&usual, Path::new(long.trim_end())).is_err());
        std::fs::remove_dir_all(usual).unwrap();
    }
}
