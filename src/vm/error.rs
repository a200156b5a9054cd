//! What can go wrong between a NIC and a VM.

use std::fmt;

use super::domain::Obstacle;
use super::xml;
use crate::libvirt::{self, Operation};
use crate::quote;

/// Why a NIC could not be plugged or unplugged.
#[derive(Debug)]
pub enum Error {
    /// The daemon runs no VM, or not the one that was named.
    NoDomain {
        /// The name that was asked for.
        asked: Option<String>,
        /// The names of those that run.
        running: Vec<String>,
    },
    /// The daemon runs several VMs and none was named.
    SeveralDomains(Vec<String>),
    /// Something else has the NIC's alias, MAC or socket, or it is there with other properties: in words.
    Conflict(String),
    /// The VM was not started so that it can take the NIC.
    Obstacle(Obstacle),
    /// libvirt is busy with the VM, and would keep what is asked waiting until that ends.
    Busy(Operation),
    /// The daemon's description of the domain cannot be read.
    Description(xml::Error),
    /// libvirt failed or refused.
    Libvirt(libvirt::Error),
    /// libvirt refused, and the VM's description shows why: a [`Error::Conflict`] or [`Error::Obstacle`].
    Explained {
        /// Why.
        why: Box<Error>,
        /// What libvirt said.
        refusal: libvirt::Error,
    },
    /// libvirt did not answer the attach in time, or the connection was lost. The attach may still be carried out.
    AttachOpen(libvirt::Error),
    /// The guest still has the NIC at the deadline.
    NotReleased {
        /// The NIC's alias.
        alias: String,
        /// What libvirt said last, if it refused to ask the guest.
        last: Option<String>,
        /// Whether the VM was paused then, so that its guest could not answer.
        paused: bool,
    },
    /// libvirt removed the NIC from the domain's stored description, it said, and did not.
    StillStored {
        /// The NIC's alias.
        alias: String,
    },
}

impl From<libvirt::Error> for Error {
    fn from(error: libvirt::Error) -> Self {
        Self::Libvirt(error)
    }
}

impl Error {
    /// Whether what was asked for may still happen, so that nothing it needs can be taken away.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::AttachOpen(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDomain { asked: None, .. } => f.write_str("no VM runs in the pod"),
            Self::NoDomain { asked: Some(name), running } => {
                write!(f, "no VM named {} runs in the pod (running: {})", quote::value(name), list(running))
            }
            Self::SeveralDomains(names) => {
                write!(f, "the pod runs several VMs ({}): name one with the key \"domain\"", list(names))
            }
            Self::Conflict(text) => f.write_str(text),
            Self::Obstacle(obstacle) => obstacle.fmt(f),
            Self::Busy(operation) => {
                write!(f, "libvirt is busy with {operation} of the VM, so nothing was changed: try again when it ends")
            }
            Self::Description(error) => write!(f, "libvirt's description of the VM cannot be read: {error}"),
            Self::Libvirt(error) => error.fmt(f),
            Self::Explained { why, .. } => why.fmt(f),
            Self::AttachOpen(error) => write!(f, "it is not known whether libvirt plugs the NIC: {error}"),
            Self::NotReleased { alias, last, paused } => {
                let why = if *paused {
                    "the VM is paused: resume it"
                } else {
                    "check that its operating system is up and supports PCI hot-plug"
                };
                write!(f, "the guest has not released the NIC {}: {why}", quote::value(alias))?;
                last.as_ref().map_or(Ok(()), |last| write!(f, " ({last})"))
            }
            Self::StillStored { alias } => write!(
                f,
                "the NIC {} is still in the VM's stored description, with which its next start would wait for the data \
                 plane: remove it with virsh detach-device --config",
                quote::value(alias)
            ),
        }
    }
}

impl std::error::Error for Error {}

fn list(names: &[String]) -> String {
    // The names are the tenant's.
    let shown: Vec<String> = names.iter().take(8).map(|name| quote::value(name)).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}
