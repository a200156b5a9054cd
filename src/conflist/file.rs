//! A list's file, edited while a runtime and kube-ovn's own installer may use it.

use std::fs::{Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;

use super::PLUGIN;
use super::chain::Chain;
use super::text::{ListText, NotEditable};
use crate::file::{self, Attributes, Lock};
use crate::sys;

/// Longest list that is read, in bytes. kube-ovn's has 300.
pub const LIMIT: u64 = 1 << 20;

/// How long to wait for another installer.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// How often an edit starts over because the file was changed under it.
const TRIES: usize = 10;

/// Why a list's file was not read or edited. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    System(#[from] sys::Error),
    /// The text can't be edited.
    #[error(transparent)]
    NotEditable(#[from] NotEditable),
    /// The path isn't a regular file of text within [`LIMIT`].
    #[error("{0}")]
    NotRegular(String),
    /// The edited list would have these faults.
    #[error("with {PLUGIN} in it there would be faults: {}", .0.join("; "))]
    Faulty(Vec<String>),
    /// Another installer has locked this directory.
    #[error("another installer is at work in {}", .0.display())]
    Locked(PathBuf),
    /// Another program changed the file during each try.
    #[error("another program keeps changing it")]
    KeepsChanging,
}

/// A list's file as it was read.
#[derive(Debug)]
pub struct ListFile {
    /// Its text.
    pub text: String,
    metadata: Metadata,
}

impl ListFile {
    /// Reads a file that may be edited: a regular one, and no symbolic link.
    ///
    /// # Errors
    /// Those of the file, or [`Error::NotRegular`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let open =
            OpenOptions::new().read(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path);
        let file = match open {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => return Err(Error::NotRegular(link(path))),
            Err(error) => return Err(sys::Error::of("open", path, &error).into()),
        };
        let failed = |error: std::io::Error| sys::Error::of("read", path, &error);
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(Error::NotRegular("it is no file".to_owned()));
        }
        let mut bytes = Vec::new();
        file.take(LIMIT.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Self { text: text(bytes).map_err(Error::NotRegular)?, metadata })
    }

    /// Returns true if the file is still the one that was read.
    fn is_still(&self, path: &Path) -> bool {
        let stamp = |file: &Metadata| {
            (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec())
        };
        path.symlink_metadata().is_ok_and(|now| stamp(&now) == stamp(&self.metadata))
    }
}

/// Reads a list that is only looked at. Follows symbolic links, as a runtime does.
///
/// # Errors
/// A sentence that goes on after the file's name.
pub fn read_text(path: &Path) -> Result<String, String> {
    text(sys::read_bytes(path, LIMIT).map_err(|error| format!("it can't be read: {error}"))?)
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LIMIT {
        return Err(format!("it is too large: no list has more than {LIMIT} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// Whoever made the link manages the file through it. A rename would replace the link; and a runtime doesn't notice a change
/// of the file that the link leads to.
fn link(path: &Path) -> String {
    let target = std::fs::read_link(path).unwrap_or_default();
    format!("it is a symbolic link; put {PLUGIN} into {} where that is made", target.display())
}

/// Keeps other installers out of the directory of lists.
///
/// # Errors
/// [`Error::Locked`] if one stays in it for [`LOCK_PATIENCE`], or those of the directory.
pub fn lock(directory: &Path) -> Result<Lock, Error> {
    file::lock(directory, LOCK_PATIENCE)?.ok_or_else(|| Error::Locked(directory.to_owned()))
}

/// What an edit does with the plugin's entry.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Adds it with these keys.
    Add(serde_json::Map<String, serde_json::Value>),
    /// Removes it.
    Remove,
}

impl Edit {
    /// Returns the edited text.
    fn apply(&self, text: &str) -> Result<String, Error> {
        let list = ListText::parse(text)?;
        let new = match self {
            Self::Add(keys) => list.with_entry(keys)?,
            Self::Remove => list.without_entry()?,
        };
        // Never write what a runtime can't read, whatever was wrong before.
        let faults = match self {
            Self::Add(_) => Chain::parse(&new).map_or_else(|why| vec![why], |chain| chain.judge().faults),
            Self::Remove => ListText::parse(&new).err().map(|fault| fault.to_string()).into_iter().collect(),
        };
        if faults.is_empty() { Ok(new) } else { Err(Error::Faulty(faults)) }
    }
}

/// Edits a list's file, or only looks if `dry` is set. Returns true if the edit changes something. Call it under the
/// directory's [`lock`].
///
/// Replaces the file as a whole; its mode and owner stay. Makes a copy ([`backup`]) before the entry is added for the first
/// time, and removes the copy together with the entry.
///
/// # Errors
/// See [`Error`].
pub fn edit(path: &Path, edit: &Edit, dry: bool) -> Result<bool, Error> {
    let directory = path.parent().unwrap_or(Path::new("."));
    for _ in 0..TRIES {
        let found = ListFile::read(path)?;
        let new = edit.apply(&found.text)?;
        let changed = new != found.text;
        if dry {
            return Ok(changed);
        }
        if changed {
            let attributes = Attributes::like(&found.metadata);
            let unfinished = |path: &Path| file::unfinished(path, directory);
            if !ListText::parse(&found.text)?.has(PLUGIN) {
                let backup = backup(path);
                file::replace(&backup, &unfinished(&backup), found.text.as_bytes(), attributes, || true)?;
            }
            // kube-ovn's installer takes no lock. If it wrote meanwhile, start over from its text.
            if !file::replace(path, &unfinished(path), new.as_bytes(), attributes, || found.is_still(path))? {
                continue;
            }
        }
        if matches!(edit, Edit::Remove) {
            file::remove(&backup(path))?;
        }
        return Ok(changed);
    }
    Err(Error::KeepsChanging)
}

/// Returns the path of the list's copy from before the plugin's entry was added. No runtime reads a file of that name.
#[must_use]
pub fn backup(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.before-{PLUGIN}"))
}
