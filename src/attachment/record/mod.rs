//! Attachments on disk, and the lock of a pod.
//!
//! `<state_dir>/pods/<uid>/<ifname>@<container id>.json`: one file for each attachment that changed something, readable
//! only by root. A DEL without other information uses the record.
//!
//! A call may lack the key `state_dir`, and networks of one pod may have different ones. So every call reads the
//! records of all state directories of the node (`record/state_dirs.rs`), and a pod's lock is in the default one:
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

/// Longest record that is written or read, in bytes. A record that can't be read again must not be written: its
/// attachment could not be undone.
const RECORD_LIMIT: usize = 256 << 10;

/// Longest part of a container id in a file name, which may have 255 bytes. The whole id is in the record.
const ID_IN_NAME: usize = 200;

/// What one ADD did, until a DEL undoes it.
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
    /// The pod's namespace and name, as the runtime gave them; for display.
    #[serde(default)]
    pub pod: String,
    /// CNI_NETNS, by which a DEL without it finds the pod's processes.
    #[serde(default)]
    pub netns: PathBuf,
    /// Name of the emptyDir, which is shared as long as the record exists.
    pub volume: String,
    /// Where it is shared.
    pub socket_base_dir: PathBuf,
    /// Whether a process of the pod has had the volume mounted in this sandbox: its containers have run, so a missing
    /// VM is an error. The first ADD that sees it sets it in every record of the sandbox. Earlier versions don't write
    /// it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub started: bool,
    /// The NIC, if one was plugged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<Nic>,
    /// The device information, if the runtime named a file for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_info: Option<DeviceInfo>,
    /// The keys of the ADD that later calls need; none in a record of version 0.1.0.
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
    /// Number of queue pairs; unknown for a NIC that was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// The MTU of its network, if kube-ovn reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The MTU that the guest set, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_mtu: Option<u32>,
    /// Whether libvirt has plugged it. If not, libvirt may still carry out an attach that was sent.
    pub attached: bool,
    /// Whether the guest may have been asked to release it. QEMU keeps that request until the guest answers, even
    /// across a reset, and the domain's XML doesn't show it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detaching: bool,
}

/// A record's file that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it; follows the file's name in messages.
    pub why: String,
}

/// An error of a record or a lock.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the store failed.
    #[error(transparent)]
    System(#[from] sys::Error),
    /// Other calls for the pod held the lock until the deadline.
    #[error("other calls for the pod {0} are still at work: its lock was not free in time")]
    LockTimedOut(PodUid),
}

impl Record {
    /// Creates a record of an attachment, which is identified by the network's name, the container id and the
    /// interface's name.
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

    /// Returns the number of the current format.
    #[must_use]
    pub fn format() -> u32 {
        FORMAT
    }

    /// Returns true if it is the record of this attachment (SPEC.md: a container id and an interface name).
    #[must_use]
    pub fn is_of(&self, container_id: &str, ifname: &str) -> bool {
        self.container_id == container_id && self.ifname == ifname
    }
}

#[cfg(test)]
mod tests;
