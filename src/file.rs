//! Files that are replaced whole or not at all, and a directory's lock.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::deadline::Deadline;
use crate::sys::Error;

/// The extension of an unfinished file. No runtime takes it for a configuration (libcni reads `.conf`, `.conflist` and
/// `.json`) or for a plugin.
const UNFINISHED: &str = "vhostuser-hotplug-new";

/// How often a lock is tried: flock(2) has no time limit of its own.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// A file's permission bits, and its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    mode: u32,
    /// Owner and group; `None` leaves them as the kernel sets them.
    owner: Option<(u32, u32)>,
}

impl Attributes {
    /// Sets the permission bits alone.
    #[must_use]
    pub fn mode(mode: u32) -> Self {
        Self { mode, owner: None }
    }

    /// Makes root the owner.
    #[must_use]
    pub fn of_root(mode: u32) -> Self {
        Self { mode, owner: Some((0, 0)) }
    }

    /// Copies those of another file.
    #[must_use]
    pub fn like(metadata: &std::fs::Metadata) -> Self {
        Self { mode: metadata.mode() & 0o7777, owner: Some((metadata.uid(), metadata.gid())) }
    }
}

/// Replaces `path` by a rename: whoever opens it meanwhile gets the old file or the new one, whole, and after a loss of power
/// one of the two is there. Calls `still` just before the rename; if it returns false, nothing has changed, and `replace`
/// returns false. After an error nothing has changed either, unless it is that of syncing the directory.
///
/// The new file is written to `unfinished` first, on the same file system. For a configuration that must be in the runtime's
/// directory ([`unfinished`]): containerd reloads when a file is written there or renamed *from* there, but not when one is
/// renamed *to* there from elsewhere, nor for what happens in a directory below.
///
/// # Errors
/// Those of the files.
pub fn replace(
    path: &Path,
    unfinished: &Path,
    content: impl Read,
    attributes: Attributes,
    still: impl FnOnce() -> bool,
) -> Result<bool, Error> {
    write(unfinished, content, attributes)?;
    let renamed = if still() {
        std::fs::rename(unfinished, path).map(|()| true).map_err(|error| Error::of("rename", path, &error))
    } else {
        Ok(false)
    };
    if matches!(renamed, Ok(true)) {
        sync_directory(path.parent().unwrap_or(Path::new(".")))?;
    } else {
        let _ = std::fs::remove_file(unfinished);
    }
    renamed
}

/// Writes a new file to the disk. Removes what is there first, so that it follows no link and keeps no stranger's mode;
/// after an error, no file is there.
///
/// # Errors
/// Those of the file.
pub fn write(path: &Path, mut content: impl Read, Attributes { mode, owner }: Attributes) -> Result<(), Error> {
    remove(path)?;
    let mut create = || {
        let failed = |call| move |error: std::io::Error| Error::of(call, path, &error);
        let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut new = new.map_err(failed("open"))?;
        std::io::copy(&mut content, &mut new).map_err(failed("write"))?;
        if let Some(owner @ (user, group)) = owner {
            let made = new.metadata().map_err(failed("stat"))?;
            if (made.uid(), made.gid()) != owner {
                std::os::unix::fs::fchown(&new, Some(user), Some(group)).map_err(failed("fchown"))?;
            }
        }
        new.set_permissions(Permissions::from_mode(mode)).map_err(failed("fchmod"))?;
        new.sync_all().map_err(failed("fsync"))
    };
    create().inspect_err(|_| drop(std::fs::remove_file(path)))
}

/// Returns the path in `directory` at which a file is written before it is renamed to `path`.
#[must_use]
pub fn unfinished(path: &Path, directory: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    directory.join(format!(".{}.{UNFINISHED}", name.trim_start_matches('.')))
}

/// Removes a file. Returns false if it wasn't there.
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

/// Creates a directory and its missing parents with these permission bits.
///
/// # Errors
/// mkdir(2)'s.
pub fn create_directories(path: &Path, mode: u32) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|error| Error::of("mkdir", path, &error))
}

/// Makes renames and removals in a directory last through a loss of power.
///
/// # Errors
/// fsync(2)'s.
pub fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|error| Error::of("fsync", path, &error))
}

/// A directory's lock, held until this value is dropped or the process ends. It is flock(2) on the directory itself, so
/// that no file is written for it.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

/// Takes the lock of a directory. Returns `None` if another process keeps it for longer than `patience`.
///
/// # Errors
/// Those of opening the directory, and flock(2)'s.
pub fn lock(directory: &Path, patience: Duration) -> Result<Option<Lock>, Error> {
    let file = File::open(directory).map_err(|error| Error::of("open", directory, &error))?;
    let deadline = Deadline::after(patience);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(Lock { _directory: file })),
            Err(TryLockError::WouldBlock) if deadline.passed() => return Ok(None),
            Err(TryLockError::WouldBlock) => std::thread::sleep(deadline.remaining().min(LOCK_INTERVAL)),
            Err(TryLockError::Error(error)) => return Err(Error::of("flock", directory, &error)),
        }
    }
}
