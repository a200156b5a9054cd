//! The records in all state directories of the node, and a pod's lock.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::warn;

use super::read::{listing, load};
use super::{Error, ID_IN_NAME, RECORD_LIMIT, Record, Unreadable, state_dirs};
use crate::config::STATE_DIR;
use crate::deadline::Deadline;
use crate::file::Attributes;
use crate::pod::identity::PodUid;
use crate::{file, quote, sys};

/// The records of the node, in all its state directories.
#[derive(Clone, Debug)]
pub struct Store {
    /// What is put before every absolute path: "/" on this machine.
    pub(super) root: PathBuf,
    /// The usual state directory.
    pub(super) usual: PathBuf,
    /// The state directory of this call, for new records.
    own: PathBuf,
}

/// A pod's lock, held. One call at a time changes what belongs to a pod; other pods do not wait.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    // Released when closed, by the kernel if we die.
    _file: File,
}

impl Lock {
    /// Lets go for good: nothing of the pod is left, so neither is its lock's file.
    pub fn retire(self) {
        // Whoever waits on the old file sees by its inode that it is no longer the pod's.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Store {
    /// The records of this node. New ones go into `state_dir`; nothing is made until something is written.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self::below(Path::new("/"), state_dir)
    }

    /// The same for a machine whose root directory is `root`.
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

    /// Where a pod's records are.
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
                    // Its last holder retired it between our open and our lock: take the next one.
                }
                Err(TryLockError::WouldBlock) => {
                    if deadline.passed() {
                        return Err(Error::LockTimedOut(uid.clone()));
                    }
                    // flock(2) has no time limit of its own, and a signal's handler cannot be had without `unsafe`.
                    std::thread::sleep(deadline.remaining().min(Duration::from_millis(5)));
                }
                Err(TryLockError::Error(error)) => return Err(sys::Error::of("flock", &path, &error).into()),
            }
        }
    }

    /// The record of an attachment whose pod is known.
    #[must_use]
    pub fn find(&self, uid: &PodUid, container_id: &str, ifname: &str) -> Option<Record> {
        let name = file_name(container_id, ifname);
        let mut records = self.pod_directories(uid).into_iter().filter_map(|directory| read(&directory.join(&name)));
        records.find(|record| record.is_of(container_id, ifname))
    }

    /// The record of an attachment of whatever pod.
    #[must_use]
    pub fn find_anywhere(&self, container_id: &str, ifname: &str) -> Option<Record> {
        self.pods().iter().find_map(|uid| self.find(uid, container_id, ifname))
    }

    /// All records of a pod.
    #[must_use]
    pub fn of_pod(&self, uid: &PodUid) -> Vec<Record> {
        let listings = self.pod_directories(uid).into_iter().filter_map(|directory| std::fs::read_dir(directory).ok());
        let files = listings.flat_map(|listing| listing.flatten().map(|entry| entry.path()));
        files.filter(|path| has_extension(path, "json")).filter_map(|path| read(&path)).collect()
    }

    /// All records of all pods, also those that cannot be read: in the order of their files' names.
    ///
    /// # Errors
    /// Those of listing the directories; that there are none (yet) is no error.
    pub fn all(&self) -> Result<Vec<Result<Record, Unreadable>>, sys::Error> {
        let mut found = Vec::new();
        for root in self.directories() {
            for directory in listing(&root.join("pods"))? {
                for path in listing(&directory)?.into_iter().filter(|path| has_extension(path, "json")) {
                    match load(&path) {
                        Ok(record) => found.extend(record.map(Ok)),
                        Err(why) => found.push(Err(Unreadable { path, why })),
                    }
                }
            }
        }
        Ok(found)
    }

    /// All pods that have a directory for records.
    #[must_use]
    pub fn pods(&self) -> Vec<PodUid> {
        self.names("pods")
    }

    /// All pods that have a lock's file, held or not.
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

    /// Whether any file of the pod is there: a record, readable or not, or the lock of a call that is at work or was
    /// killed.
    #[must_use]
    pub fn knows(&self, uid: &PodUid) -> bool {
        let is_there = |path: PathBuf| path.symlink_metadata().is_ok();
        is_there(self.usual.join("locks").join(uid.as_str())) || self.pod_directories(uid).into_iter().any(is_there)
    }

    /// Writes a record whole or not at all: to a file beside, then renamed. A record that is there stays in its state
    /// directory; a new one goes into that of this call.
    ///
    /// # Errors
    /// Those of the files; `EFBIG` for a record that would be too long to be read again.
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

    /// Forgets an attachment. One that is not there is forgotten already.
    ///
    /// # Errors
    /// Those of removing the file.
    pub fn remove(&self, uid: &PodUid, container_id: &str, ifname: &str) -> Result<(), Error> {
        for directory in self.pod_directories(uid) {
            file::remove(&directory.join(file_name(container_id, ifname)))?;
        }
        // The directory goes only when it was the last of the pod.
        self.tidy(uid);
        Ok(())
    }

    /// Removes what a call that was killed while it wrote has left of a record that never was. The pod's lock is held.
    pub fn tidy(&self, uid: &PodUid) {
        for root in self.directories() {
            let _ = self.clear(&root, uid, &["new"]);
        }
    }

    /// Forgets all of a pod's attachments, also those whose records cannot be read. The pod's lock is held.
    ///
    /// # Errors
    /// Those of removing the files.
    pub fn forget(&self, uid: &PodUid) -> Result<(), Error> {
        for root in self.directories() {
            self.clear(&root, uid, &["json", "new"])?;
        }
        Ok(())
    }

    /// Removes a pod's files with these extensions from a state directory, and what is empty then. Nothing else goes:
    /// the directory may be another than was meant.
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

    /// Withdraws the announcements of state directories that hold no record, as calls that were killed have left them.
    pub fn withdraw_unused(&self) {
        for path in state_dirs::announced(&self.usual) {
            state_dirs::withdraw(&self.usual, &path);
        }
    }

    /// Removes the store's own directories, if nothing is in them. Returns whether they are gone now and were there.
    #[must_use]
    pub fn retire(&self) -> bool {
        let mut gone = false;
        // The usual one last: it tells of the others.
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

/// An interface name holds no slash, a container id only letters, digits, `_`, `.` and `-` (SPEC.md, Parameters).
fn file_name(container_id: &str, ifname: &str) -> String {
    let id: String = container_id.chars().take(ID_IN_NAME).collect();
    format!("{ifname}@{id}.json")
}

/// A record that cannot be read does not block what else is to be done.
fn read(path: &Path) -> Option<Record> {
    load(path).unwrap_or_else(|why| {
        warn!("record {} {why}", quote::value(&path.to_string_lossy()));
        None
    })
}
