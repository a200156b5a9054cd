//! The records in all state directories of the node, and a pod's lock.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::warn;

use super::read::{listing, load};
use super::{Error, ID_IN_NAME, RECORD_LIMIT, ReadError, Record, state_dirs};
use crate::config::STATE_DIR;
use crate::deadline::Deadline;
use crate::file::Attributes;
use crate::pod::identity::PodUid;
use crate::{file, quote, sys};

/// The records of the node, in all its state directories.
#[derive(Clone, Debug)]
pub struct Store {
    /// The prefix of every absolute path: "/" on this machine.
    pub(super) root: PathBuf,
    /// The default state directory.
    pub(super) usual: PathBuf,
    /// The state directory of this call, for new records.
    own: PathBuf,
}

/// A held lock of a pod. One call at a time changes a pod's state; other pods do not wait.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    // Released when closed, also if this process is killed.
    _file: File,
}

impl Lock {
    /// Releases the lock and removes its file, because nothing of the pod is left.
    pub fn retire(self) {
        // A call that waits on the old file sees by its inode that it was removed.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Store {
    /// Creates the store of this node. New records go into `state_dir`; directories are made with the first record.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self::below(Path::new("/"), state_dir)
    }

    /// As [`Self::new`], for a machine whose root directory is `root`.
    #[must_use]
    pub fn below(root: &Path, state_dir: &Path) -> Self {
        let place = |path| placed(root, path);
        Self { root: root.to_owned(), usual: place(Path::new(STATE_DIR)), own: place(state_dir) }
    }

    /// Returns the state directories, each once, that of this call first.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        let announced = state_dirs::announced(&self.usual).into_iter().map(|path| placed(&self.root, &path));
        let mut all = vec![self.own.clone()];
        for path in std::iter::once(self.usual.clone()).chain(announced) {
            if !all.contains(&path) {
                all.push(path);
            }
        }
        if all.len() > 1 {
            // Two paths may lead to one directory.
            let (mut seen, mut is_own) = (BTreeSet::new(), true);
            all.retain(|path| {
                let object = std::fs::metadata(path).map(|directory| (directory.dev(), directory.ino()));
                object.map_or(std::mem::take(&mut is_own), |object| {
                    is_own = false;
                    seen.insert(object)
                })
            });
        }
        all
    }

    /// Returns the directories of a pod's records.
    fn pod_directories(&self, uid: &PodUid) -> Vec<PathBuf> {
        self.directories().iter().map(|root| of_pod(root, uid)).collect()
    }

    /// Takes the pod's lock; waits for it until the deadline.
    ///
    /// # Errors
    /// [`Error::LockTimedOut`], or those of the file.
    pub fn lock(&self, uid: &PodUid, deadline: Deadline) -> Result<Lock, Error> {
        let path = self.usual.join("locks").join(uid.as_str());
        file::create_directories(&self.usual.join("locks"), 0o700)?;
        loop {
            let fail = |error: std::io::Error| sys::Error::of("open", &path, &error);
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(fail)?;
            match file.try_lock() {
                Ok(()) => {
                    let held = sys::object(file.as_fd())?;
                    let named = std::fs::metadata(&path).map(|named| (named.dev(), named.ino()));
                    if named.is_ok_and(|named| named == held) {
                        return Ok(Lock { path, _file: file });
                    }
                    // Its last holder removed it between our open and our lock: take the new one.
                }
                Err(TryLockError::WouldBlock) => {
                    if deadline.passed() {
                        return Err(Error::LockTimedOut(uid.clone()));
                    }
                    // flock(2) has no timeout, and a signal handler would need `unsafe`.
                    std::thread::sleep(deadline.remaining().min(Duration::from_millis(5)));
                }
                Err(TryLockError::Error(error)) => return Err(sys::Error::of("flock", &path, &error).into()),
            }
        }
    }

    /// Returns the record of an attachment of a pod.
    #[must_use]
    pub fn find(&self, uid: &PodUid, container_id: &str, ifname: &str) -> Option<Record> {
        let name = file_name(container_id, ifname);
        let mut records = self.pod_directories(uid).into_iter().filter_map(|directory| read(&directory.join(&name)));
        records.find(|record| record.is_of(container_id, ifname))
    }

    /// Returns the record of an attachment of any pod.
    #[must_use]
    pub fn find_anywhere(&self, container_id: &str, ifname: &str) -> Option<Record> {
        self.pods().iter().find_map(|uid| self.find(uid, container_id, ifname))
    }

    /// Returns all records of a pod.
    #[must_use]
    pub fn of_pod(&self, uid: &PodUid) -> Vec<Record> {
        let listings = self.pod_directories(uid).into_iter().filter_map(|directory| std::fs::read_dir(directory).ok());
        let files = listings.flat_map(|listing| listing.flatten().map(|entry| entry.path()));
        files.filter(|path| has_extension(path, "json")).filter_map(|path| read(&path)).collect()
    }

    /// Returns all records of all pods, sorted by file name, with an error for each unreadable one.
    ///
    /// # Errors
    /// Those of listing the directories. Missing directories are not an error.
    pub fn all(&self) -> Result<Vec<Result<Record, ReadError>>, sys::Error> {
        let mut found = Vec::new();
        for root in self.directories() {
            for directory in listing(&root.join("pods"))? {
                for path in listing(&directory)?.into_iter().filter(|path| has_extension(path, "json")) {
                    match load(&path) {
                        Ok(record) => found.extend(record.map(Ok)),
                        Err(why) => found.push(Err(ReadError { path, why })),
                    }
                }
            }
        }
        Ok(found)
    }

    /// Returns all pods that have a directory for records.
    #[must_use]
    pub fn pods(&self) -> Vec<PodUid> {
        self.names("pods")
    }

    /// Returns all pods that have a lock file, held or not.
    #[must_use]
    pub fn locks(&self) -> Vec<PodUid> {
        self.names("locks")
    }

    fn names(&self, directory: &str) -> Vec<PodUid> {
        let listings = self.directories().into_iter().filter_map(|root| std::fs::read_dir(root.join(directory)).ok());
        let entries = listings.flat_map(|listing| listing.flatten());
        let all: BTreeSet<_> = entries.filter_map(|entry| PodUid::parse(entry.file_name().to_str()?)).collect();
        all.into_iter().collect()
    }

    /// Returns true if any file of the pod exists: a record, readable or not, or the lock of a running or killed call.
    #[must_use]
    pub fn knows(&self, uid: &PodUid) -> bool {
        let is_there = |path: PathBuf| path.symlink_metadata().is_ok();
        is_there(self.usual.join("locks").join(uid.as_str())) || self.pod_directories(uid).into_iter().any(is_there)
    }

    /// Writes a record atomically. An existing record stays in its state directory; a new one goes into that of this
    /// call.
    ///
    /// # Errors
    /// Those of the files; `EFBIG` for a record that is too long to be read again.
    pub fn write(&self, uid: &PodUid, record: &Record) -> Result<(), Error> {
        let name = file_name(&record.container_id, &record.ifname);
        let is_there = |root: &PathBuf| of_pod(root, uid).join(&name).symlink_metadata().is_ok();
        let root = self.directories().into_iter().find(is_there).unwrap_or_else(|| self.own.clone());
        let (directory, path) = (of_pod(&root, uid), of_pod(&root, uid).join(&name));
        let fail = |error: std::io::Error| sys::Error::of("write", &path, &error);
        let text = serde_json::to_vec(record).map_err(|error| fail(error.into()))?;
        if text.len() > RECORD_LIMIT {
            return Err(fail(nix::errno::Errno::EFBIG.into()).into());
        }
        let _announced = if root == self.usual { None } else { state_dirs::announce(&self.usual, &root)? };
        file::create_directories(&directory, 0o700)?;
        file::replace(&path, &path.with_extension("new"), text.as_slice(), Attributes::mode(0o600), || true)?;
        Ok(())
    }

    /// Removes the record of an attachment, if it exists.
    ///
    /// # Errors
    /// Those of removing the file.
    pub fn remove(&self, uid: &PodUid, container_id: &str, ifname: &str) -> Result<(), Error> {
        for directory in self.pod_directories(uid) {
            file::remove(&directory.join(file_name(container_id, ifname)))?;
        }
        // Removes the directory if this was the pod's last record.
        self.tidy(uid);
        Ok(())
    }

    /// Removes incomplete records of killed calls. The caller holds the pod's lock.
    pub fn tidy(&self, uid: &PodUid) {
        for root in self.directories() {
            let _ = self.clear(&root, uid, &["new"]);
        }
    }

    /// Removes all records of a pod, also unreadable ones. The caller holds the pod's lock.
    ///
    /// # Errors
    /// Those of removing the files.
    pub fn forget(&self, uid: &PodUid) -> Result<(), Error> {
        for root in self.directories() {
            self.clear(&root, uid, &["json", "new"])?;
        }
        Ok(())
    }

    /// Removes a pod's files with these extensions from a state directory, and then empty directories. Nothing else:
    /// the configured directory may be wrong.
    fn clear(&self, root: &Path, uid: &PodUid, extensions: &[&str]) -> Result<(), Error> {
        let directory = of_pod(root, uid);
        if root != self.usual {
            // Version 0.1.0 had the locks there.
            let _ = std::fs::remove_file(root.join("locks").join(uid.as_str()));
        }
        for path in listing(&directory)? {
            if extensions.iter().any(|extension| has_extension(&path, extension)) {
                file::remove(&path)?;
            }
        }
        if std::fs::remove_dir(&directory).is_ok() && root != self.usual {
            state_dirs::withdraw(&self.usual, root);
        }
        Ok(())
    }

    /// Withdraws the announcements of state directories without records, which killed calls may have left.
    pub fn withdraw_unused(&self) {
        for path in state_dirs::announced(&self.usual) {
            state_dirs::withdraw(&self.usual, &path);
        }
    }

    /// Removes the store's own directories if they are empty. Returns true if it removed one.
    #[must_use]
    pub fn retire(&self) -> bool {
        let mut gone = false;
        // The default one last: it has the announcements of the others.
        for root in self.directories().iter().filter(|root| **root != self.usual).chain([&self.usual]) {
            for name in ["pods", "locks"] {
                let _ = std::fs::remove_dir(root.join(name));
            }
            if *root == self.usual {
                state_dirs::retire(root);
            } else {
                state_dirs::withdraw(&self.usual, root);
            }
            gone |= std::fs::remove_dir(root).is_ok();
        }
        gone
    }
}

/// Returns an absolute path as it is on the machine whose root directory is `root`.
fn placed(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

pub(super) fn of_pod(root: &Path, uid: &PodUid) -> PathBuf {
    root.join("pods").join(uid.as_str())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|it| it == extension)
}

/// Returns the name of a record's file. An interface name has no slash, a container id only letters, digits, `_`, `.`
/// and `-` (SPEC.md, Parameters).
fn file_name(container_id: &str, ifname: &str) -> String {
    let id: String = container_id.chars().take(ID_IN_NAME).collect();
    format!("{ifname}@{id}.json")
}

/// Reads a record. An unreadable one is logged and skipped.
fn read(path: &Path) -> Option<Record> {
    load(path).unwrap_or_else(|why| {
        warn!("record {} {why}", quote::value(&path.to_string_lossy()));
        None
    })
}
