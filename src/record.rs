//! Attachments on disk, and the lock of a pod.
//!
//! `<state_dir>/pods/<uid>/<ifname>@<container id>.json`, one file for each attachment that changed something, and
//! `<state_dir>/locks/<uid>`. Root's alone. A record is what a DEL without any other knowledge goes by.

mod read;

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::warn;
use serde::{Deserialize, Serialize};

use crate::deadline::Deadline;
use crate::device_info::DeviceInfo;
use crate::pod::identity::PodUid;
use crate::{file, quote, sys};

use read::{listing, load};

/// The format that this version writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// Longest record that is written or read, in bytes. One that could not be read again must not be written: nothing would
/// undo what it stands for.
const RECORD_LIMIT: usize = 64 << 10;

/// Longest part of a container id that goes into a file name (the whole id is in the record): 255 bytes are allowed.
const ID_IN_NAME: usize = 200;

/// What one ADD did, until a DEL has undone it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The format's version.
    pub format: u32,
    /// Name of the network whose chain this was.
    pub network: String,
    /// CNI_CONTAINERID: the sandbox.
    pub container_id: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's namespace and name, as the runtime gave them; for people.
    #[serde(default)]
    pub pod: String,
    /// CNI_NETNS, by which a DEL without it finds the pod's processes.
    #[serde(default)]
    pub netns: PathBuf,
    /// Name of the emptyDir, which is shared as long as the record is there.
    pub volume: String,
    /// Where it is shared.
    pub socket_base_dir: PathBuf,
    /// Whether a process of the pod is known to have had the volume mounted in this sandbox: its containers have run,
    /// so a missing VM is a failure. The first ADD that sees it sets it in every record of the sandbox. Earlier
    /// versions don't write it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub started: bool,
    /// The NIC, if one was plugged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<Nic>,
    /// What the runtime was told of the NIC, if it named a file for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_info: Option<DeviceInfo>,
    /// When the record was first written, in seconds since 1970.
    pub created: u64,
}

/// A NIC as it was plugged into a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The device's alias in the domain.
    pub alias: String,
    /// MAC address, lower case with colons.
    pub mac: String,
    /// Path of the socket as QEMU knows it.
    pub path: String,
    /// Name of the socket's file in the volume.
    pub socket: String,
    /// UUID of the domain, 32 hexadecimal digits.
    pub domain: String,
    /// Number of queue pairs; not known of a NIC that was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// The MTU of its network, if kube-ovn told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The MTU that the guest took for it, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_mtu: Option<u32>,
    /// Whether libvirt is known to have plugged it. If not, an attach may have been sent and may still be carried out.
    pub attached: bool,
    /// Whether the guest may have been asked to release it. QEMU keeps such a request until the guest answers, across the
    /// guest's reset too, and the domain's XML doesn't show it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detaching: bool,
}

/// The file of a record that cannot be read as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, in words that follow its name.
    pub why: String,
}

/// Why a record or a lock could not be had.
#[derive(Debug)]
pub enum Error {
    /// A file or directory of the store failed.
    System(sys::Error),
    /// The pod's other calls took until the deadline.
    LockTimedOut(PodUid),
}

impl From<sys::Error> for Error {
    fn from(error: sys::Error) -> Self {
        Self::System(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(error) => write!(f, "{error}"),
            Self::LockTimedOut(uid) => {
                write!(f, "other calls for the pod {uid} are still at work: its lock was not free in time")
            }
        }
    }
}

impl std::error::Error for Error {}

/// The directory of the records.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
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
    /// The store below `state_dir`; nothing is made until something is written.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { root: state_dir.to_owned() }
    }

    /// Takes the pod's lock; waits for it until the deadline.
    ///
    /// # Errors
    /// [`Error::LockTimedOut`], or those of the file.
    pub fn lock(&self, uid: &PodUid, deadline: Deadline) -> Result<Lock, Error> {
        let path = self.root.join("locks").join(uid.as_str());
        self.make_directory("locks")?;
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
        let record = read(&self.directory(uid).join(file_name(container_id, ifname)))?;
        record.is_of(container_id, ifname).then_some(record)
    }

    /// The record of an attachment of whatever pod.
    #[must_use]
    pub fn find_anywhere(&self, container_id: &str, ifname: &str) -> Option<Record> {
        self.pods().iter().find_map(|uid| self.find(uid, container_id, ifname))
    }

    /// All records of a pod.
    #[must_use]
    pub fn of_pod(&self, uid: &PodUid) -> Vec<Record> {
        let Ok(listing) = std::fs::read_dir(self.directory(uid)) else { return Vec::new() };
        let files = listing.flatten().map(|entry| entry.path());
        files
            .filter(|path| path.extension().is_some_and(|kind| kind == "json"))
            .filter_map(|path| read(&path))
            .collect()
    }

    /// All records of all pods, also those that cannot be read: in the order of their files' names.
    ///
    /// # Errors
    /// Those of listing the directories; that there are none (yet) is no error.
    pub fn all(&self) -> Result<Vec<Result<Record, Unreadable>>, sys::Error> {
        let directories = listing(&self.root.join("pods"))?;
        let mut found = Vec::new();
        for directory in directories {
            let files = listing(&directory)?.into_iter();
            for path in files.filter(|path| path.extension().is_some_and(|kind| kind == "json")) {
                match load(&path) {
                    Ok(record) => found.extend(record.map(Ok)),
                    Err(why) => found.push(Err(Unreadable { path, why })),
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
        let Ok(listing) = std::fs::read_dir(self.root.join(directory)) else { return Vec::new() };
        listing.flatten().filter_map(|entry| PodUid::parse(entry.file_name().to_str()?)).collect()
    }

    /// Whether any file of the pod is there: a record, readable or not, or the lock of a call that is at work or was killed.
    #[must_use]
    pub fn knows(&self, uid: &PodUid) -> bool {
        ["pods", "locks"].iter().any(|kind| self.root.join(kind).join(uid.as_str()).symlink_metadata().is_ok())
    }

    /// Writes a record whole or not at all: to a file beside, then renamed.
    ///
    /// # Errors
    /// Those of the files; `EFBIG` for a record that would be too long to be read again.
    pub fn write(&self, uid: &PodUid, record: &Record) -> Result<(), Error> {
        let path = self.directory(uid).join(file_name(&record.container_id, &record.ifname));
        let beside = path.with_extension("new");
        let fail = |call, path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| sys::Error::of(call, &path, &error)
        };
        let text = serde_json::to_vec(record).map_err(|error| fail("write", &path)(error.into()))?;
        if text.len() > RECORD_LIMIT {
            return Err(fail("write", &path)(nix::errno::Errno::EFBIG.into()).into());
        }
        self.make_directory(&format!("pods/{uid}"))?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside);
        let mut file = file.map_err(fail("open", &beside))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(fail("write", &beside))?;
        std::fs::rename(&beside, &path).map_err(fail("rename", &path))?;
        Ok(())
    }

    /// Forgets an attachment. One that is not there is forgotten already.
    ///
    /// # Errors
    /// Those of removing the file.
    pub fn remove(&self, uid: &PodUid, container_id: &str, ifname: &str) -> Result<(), Error> {
        let path = self.directory(uid).join(file_name(container_id, ifname));
        file::remove(&path)?;
        // The directory goes only when it was the last of the pod.
        self.tidy(uid);
        Ok(())
    }

    /// Removes what a call that was killed while it wrote has left of a record that never was. The pod's lock is held.
    pub fn tidy(&self, uid: &PodUid) {
        let files = std::fs::read_dir(self.directory(uid)).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in files.filter(|path| path.extension().is_some_and(|kind| kind == "new")) {
            let _ = std::fs::remove_file(path);
        }
        let _ = std::fs::remove_dir(self.directory(uid));
    }

    /// Forgets all of a pod's attachments, also those whose records cannot be read. The pod's lock is held.
    ///
    /// # Errors
    /// Those of removing the directory.
    pub fn forget(&self, uid: &PodUid) -> Result<(), Error> {
        let path = self.directory(uid);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(sys::Error::of("rmdir", &path, &error).into())
            }
            _ => Ok(()),
        }
    }

    /// Removes the store's own directories, if nothing is in them. Returns whether they are gone now and were there.
    #[must_use]
    pub fn retire(&self) -> bool {
        for name in ["pods", "locks"] {
            let _ = std::fs::remove_dir(self.root.join(name));
        }
        std::fs::remove_dir(&self.root).is_ok()
    }

    fn directory(&self, uid: &PodUid) -> PathBuf {
        self.root.join("pods").join(uid.as_str())
    }

    fn make_directory(&self, name: &str) -> Result<(), sys::Error> {
        let path = self.root.join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| sys::Error::of("mkdir", &path, &error))
    }
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

impl Record {
    /// A new record of an attachment, which is told by the network's name, the container id and the interface's name.
    #[must_use]
    pub fn new(
        (network, container_id, ifname): (&str, &str, &str),
        uid: &PodUid,
        netns: &Path,
        (volume, socket_base_dir): (&str, &Path),
    ) -> Self {
        Self {
            format: FORMAT,
            network: network.to_owned(),
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
            uid: uid.to_string(),
            pod: "-/-".to_owned(),
            netns: netns.to_owned(),
            volume: volume.to_owned(),
            socket_base_dir: socket_base_dir.to_owned(),
            started: false,
            nic: None,
            device_info: None,
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        }
    }

    /// The current format's number.
    #[must_use]
    pub fn format() -> u32 {
        FORMAT
    }

    /// Whether it is the record of this attachment (SPEC.md: a container id and an interface name).
    #[must_use]
    pub fn is_of(&self, container_id: &str, ifname: &str) -> bool {
        self.container_id == container_id && self.ifname == ifname
    }
}

#[cfg(test)]
mod tests;
