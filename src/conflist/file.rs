//! A list's file, edited while a runtime and kube-ovn's own installer may be at work on it.

use std::fmt;
use std::fs::{Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::text::{List, NotEditable};
use super::{PLUGIN, faults};
use crate::file::{self, Access, Lock};
use crate::sys;

/// Longest list that is read, in bytes. kube-ovn's has 300.
pub const LIMIT: u64 = 1 << 20;

/// How often an edit starts over because the file was changed under it.
const TRIES: usize = 10;

/// Why a list's file was not edited. Nothing has changed then.
#[derive(Debug)]
pub enum Error {
    /// A system call failed.
    System(sys::Error),
    /// What is in the file cannot be edited.
    NotEditable(NotEditable),
    /// It is no ordinary file of a bearable size, in words.
    NotRegular(String),
    /// What would come of the edit has these faults.
    Faulty(Vec<String>),
    /// Another installer works in this directory.
    Locked(PathBuf),
    /// Somebody else changed the file each time before the edit was done.
    KeepsChanging,
}

impl From<sys::Error> for Error {
    fn from(error: sys::Error) -> Self {
        Self::System(error)
    }
}

impl From<NotEditable> for Error {
    fn from(error: NotEditable) -> Self {
        Self::NotEditable(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(error) => write!(f, "{error}"),
            Self::NotEditable(why) => write!(f, "{why}"),
            Self::NotRegular(why) => f.write_str(why),
            Self::Faulty(faults) => write!(f, "with {PLUGIN} in it there would be faults: {}", faults.join("; ")),
            Self::Locked(directory) => write!(f, "another installer is at work in {}", directory.display()),
            Self::KeepsChanging => f.write_str("somebody else keeps changing it"),
        }
    }
}

impl std::error::Error for Error {}

/// A file's text as it was found.
#[derive(Debug)]
pub struct Found {
    /// The text.
    pub text: String,
    metadata: Metadata,
}

impl Found {
    /// Reads a file that a runtime might read.
    ///
    /// # Errors
    /// Those of the file, or that it is not one to be edited.
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
        if metadata.len() > LIMIT {
            return Err(Error::NotRegular(format!(
                "it has {} bytes, and no list has more than {LIMIT}",
                metadata.len()
            )));
        }
        let mut bytes = Vec::new();
        file.take(LIMIT).read_to_end(&mut bytes).map_err(failed)?;
        let text = String::from_utf8(bytes).map_err(|_| Error::NotRegular("it is not UTF-8".to_owned()))?;
        Ok(Self { text, metadata })
    }

    /// Whether the file is still the one that was read.
    fn is_still(&self, path: &Path) -> bool {
        let stamp = |file: &Metadata| {
            (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec())
        };
        path.symlink_metadata().is_ok_and(|now| stamp(&now) == stamp(&self.metadata))
    }
}

/// A link is somebody's way to manage the file, and a rename would put an end to it. Edited where it leads to, the
/// runtime would not notice.
fn link(path: &Path) -> String {
    let target = std::fs::read_link(path).unwrap_or_default();
    format!("it is a symbolic link; put {PLUGIN} into {} where that is made", target.display())
}

/// Keeps other installers out of the directory of lists.
///
/// # Errors
/// [`Error::Locked`] if one stays in it for long, or those of the directory.
pub fn lock(directory: &Path) -> Result<Lock, Error> {
    file::lock(directory)?.ok_or_else(|| Error::Locked(directory.to_owned()))
}

/// What an edit is to do with our entry.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Put it in, with these keys.
    Add(serde_json::Map<String, serde_json::Value>),
    /// Take it out.
    Remove,
}

impl Edit {
    /// The text after the edit.
    fn apply(&self, text: &str) -> Result<String, Error> {
        let list = List::parse(text)?;
        let new = match self {
            Self::Add(keys) => list.with_ours(keys)?,
            Self::Remove => list.without_ours()?,
        };
        // What a runtime could not read must not get there, whatever was wrong with it before.
        let faults = match self {
            Self::Add(_) => faults(&new),
            Self::Remove => List::parse(&new).err().map(|fault| fault.to_string()).into_iter().collect(),
        };
        if faults.is_empty() { Ok(new) } else { Err(Error::Faulty(faults)) }
    }
}

/// Edits a list's file, unless it is `dry`; true if there was something to edit. Call it under the directory's [`lock`].
///
/// The file is replaced as a whole and keeps its mode and owner. The first time that our entry is put in, what was there
/// is kept beside it ([`backup`]); when it is taken out, that goes.
///
/// # Errors
/// See [`Error`].
pub fn edit(path: &Path, edit: &Edit, dry: bool) -> Result<bool, Error> {
    let directory = path.parent().unwrap_or(Path::new("."));
    for _ in 0..TRIES {
        let found = Found::read(path)?;
        let new = edit.apply(&found.text)?;
        let changed = new != found.text;
        if dry {
            return Ok(changed);
        }
        if changed {
            let access = Access::like(&found.metadata);
            if !List::parse(&found.text)?.has(PLUGIN) {
                file::replace(&backup(path), directory, found.text.as_bytes(), access, || true)?;
            }
            // kube-ovn's installer knows no lock. If it wrote since, its text is the one to start from.
            if !file::replace(path, directory, new.as_bytes(), access, || found.is_still(path))? {
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

/// Where the list is kept as it was before our entry came in. No runtime reads a file of that name.
#[must_use]
pub fn backup(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.before-{PLUGIN}"))
}
