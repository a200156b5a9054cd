//! Attachments on disk, and the lock of a pod.
//!
//! `<state_dir>/pods/<uid>/<ifname>@<container id>.json`, one file for each attachment that changed something. Root's
//! alone. A record is what a DEL without any other knowledge goes by.
//!
//! A call may have lost the key `state_dir`, and the networks of one pod may have different ones. So every call reads
//! the records of all state directories of the node (`record/state_dirs.rs`), and a pod's lock is in the usual one:
//! `/run/vhostuser-hotplug/locks/<uid>`.

mod read;
mod state_dirs;
mod store;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::attachment::device_info::DeviceInfo;
use crate::config::Keys;
use crate::pod::identity::PodUid;
use crate::sys;

pub use store::{Lock, Store};

/// The format that this version writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// Longest record that is written or read, in bytes. One that could not be read again must not be written: nothing would
/// undo what it stands for.
const RECORD_LIMIT: usize = 256 << 10;

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
    /// The keys that the ADD had, as far as later calls need them; none in a record of version 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Keys>,
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
pub struct ReadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, in words that follow its name.
    pub why: String,
}

/// Why a record or a lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the store failed.
    #[error(transparent)]
    System(#[from] sys::Error),
    /// The pod's other calls took until the deadline.
    #[error("other calls for the pod {0} are still at work: its lock was not free in time")]
    LockTimedOut(PodUid),
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
            keys: None,
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
