//! Files replaced whole or not at all, and a directory that one process at a time works in.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::deadline::Deadline;
use crate::sys::Error;

/// What a file that is not whole yet ends in. No runtime takes it for a configuration (libcni reads `.conf`,
/// `.conflist` and `.json`) or for a plugin.
const UNFINISHED: &str = "vhostuser-hotplug-new";

/// How long another who works in a directory is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whose a file is and what may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// Owner and group; root's own where there is nobody to follow.
    pub owner: (u32, u32),
}

impl Access {
    /// Root's, with these permission bits.
    #[must_use]
    pub fn of_root(mode: u32) -> Self {
        Self { mode, owner: (0, 0) }
    }

    /// As that of another file.
    #[must_use]
    pub fn like(metadata: &std::fs::Metadata) -> Self {
        Self { mode: metadata.mode() & 0o7777, owner: (metadata.uid(), metadata.gid()) }
    }
}

/// Puts a file in its place by a rename: who opens `path` meanwhile gets the old one or the new one, whole, and after a
/// loss of power one of the two is there. `still` is asked last before the rename: if it says no, nothing has changed,
/// and neither is anything by an error.
///
/// The new file is written into `beside`, on the same file system. For a configuration that is the runtime's directory:
/// containerd reloads when a file is written there or renamed *from* there, but not when one is renamed *to* there from
/// elsewhere, nor for what happens in a directory below.
///
/// # Errors
/// Those of the files.
pub fn replace(
    path: &Path,
    beside: &Path,
    mut content: impl Read,
    access: Access,
    still: impl FnOnce() -> bool,
) -> Result<bool, Error> {
    let unfinished = unfinished(path, beside);
    // What a process that was killed has left. Made anew, so that no link or stranger's mode is taken over.
    remove(&unfinished)?;
    let write = || {
        let failed = |call| move |path: &Path, error: &std::io::Error| Error::of(call, path, error);
        let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished);
        let mut new = new.map_err(|error| failed("open")(&unfinished, &error))?;
        std::io::copy(&mut content, &mut new).map_err(|error| failed("write")(&unfinished, &error))?;
        let made = new.metadata().map_err(|error| failed("stat")(&unfinished, &error))?;
        if (made.uid(), made.gid()) != access.owner {
            let (user, group) = access.owner;
            std::os::unix::fs::fchown(&new, Some(user), Some(group))
                .map_err(|error| failed("fchown")(&unfinished, &error))?;
        }
        new.set_permissions(Permissions::from_mode(access.mode))
            .map_err(|error| failed("fchmod")(&unfinished, &error))?;
        new.sync_all().map_err(|error| failed("fsync")(&unfinished, &error))?;
        if !still() {
            return Ok(false);
        }
        std::fs::rename(&unfinished, path).map_err(|error| failed("rename")(path, &error))?;
        Ok(true)
    };
    match write() {
        Ok(true) => {
            let directory = path.parent().unwrap_or(beside);
            sync_directory(directory)?;
            Ok(true)
        }
        other => {
            let _ = std::fs::remove_file(&unfinished);
            other
        }
    }
}

/// Where a file is before it is whole.
#[must_use]
pub fn unfinished(path: &Path, beside: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    beside.join(format!(".{}.{UNFINISHED}", name.trim_start_matches('.')))
}

/// Removes a file. False if it was not there.
///
/// # Errors
/// unlink(2)'s.
pub fn remove(path: &Path) -> Result<bool, Error> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::of("unlink", path, &error)),
    }
}

/// Makes a directory and those above it that are missing.
///
/// # Errors
/// mkdir(2)'s.
pub fn make_directory(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|error| Error::of("mkdir", path, &error))
}

/// Makes what was renamed or removed in a directory last through a loss of power.
///
/// # Errors
/// fsync(2)'s.
pub fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|error| Error::of("fsync", path, &error))
}

/// A directory that this process alone works in, among those that ask. Nothing is written for it: it is flock(2) on the
/// directory itself, and ends with the process.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

/// Takes the lock of a directory, and waits for it half a minute at most; `None` if others kept it.
///
/// # Errors
/// Those of opening the directory.
pub fn lock(directory: &Path) -> Result<Option<Lock>, Error> {
    let file = File::open(directory).map_err(|error| Error::of("open", directory, &error))?;
    let deadline = Deadline::after(PATIENCE);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(Lock { _directory: file })),
            Err(TryLockError::WouldBlock) if deadline.passed() => return Ok(None),
            // flock(2) has no time limit of its own.
            Err(TryLockError::WouldBlock) => std::thread::sleep(deadline.remaining().min(Duration::from_millis(20))),
            Err(TryLockError::Error(error)) => return Err(Error::of("flock", directory, &error)),
        }
    }
}
