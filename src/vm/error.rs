//! What can go wrong between a NIC and a VM.

use super::{domain, xml};
use crate::libvirt::{self, Operation};
use crate::quote;

/// Why a NIC could not be plugged or unplugged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon runs no VM, or not the one that was named.
    #[error("{}", no_domain(.asked.as_deref(), .running))]
    NoDomain {
        /// The name that was asked for.
        asked: Option<String>,
        /// The names of those that run.
        running: Vec<String>,
    },
    /// The daemon runs several VMs and none was named.
    #[error("the pod runs several VMs ({}): name one with the key \"domain\"", list(.0))]
    SeveralDomains(Vec<String>),
    /// Something else has the NIC's alias, MAC or socket, or it is there with other properties: in words.
    #[error("{0}")]
    Conflict(String),
    /// The VM was not started so that it can take the NIC.
    #[error(transparent)]
    Domain(#[from] domain::Error),
    /// libvirt is busy with the VM, and would keep what is asked waiting until that ends.
    #[error("libvirt is busy with {0} of the VM, so nothing was changed: try again when it ends")]
    Busy(Operation),
    /// The daemon's description of the domain cannot be read.
    #[error("libvirt's description of the VM cannot be read: {0}")]
    Description(#[from] xml::Error),
    /// libvirt failed or refused.
    #[error(transparent)]
    Libvirt(#[from] libvirt::Error),
    /// libvirt refused, and the VM's description shows why: a [`Error::Conflict`] or [`Error::Obstacle`].
    #[error("{why}")]
    Explained {
        /// Why.
        why: Box<Error>,
        /// What libvirt said.
        #[source]
        refusal: libvirt::Error,
    },
    /// libvirt did not answer the attach in time, or the connection was lost. The attach may still be carried out.
    #[error("it is not known whether libvirt plugs the NIC: {0}")]
    AttachOpen(#[source] libvirt::Error),
    /// The guest still has the NIC at the deadline.
    #[error("the guest has not released the NIC {}: {}", quote::value(.alias), not_released(.last.as_deref(), *.paused))]
    NotReleased {
        /// The NIC's alias.
        alias: String,
        /// What libvirt said last, if it refused to ask the guest.
        last: Option<String>,
        /// Whether the VM was paused then, so that its guest could not answer.
        paused: bool,
    },
    /// libvirt removed the NIC from the domain's stored description, it said, and did not.
    #[error(
        "the NIC {} is still in the VM's stored description, with which its next start would wait for the data plane: \
         remove it with virsh detach-device --config",
        quote::value(.alias)
    )]
    StillStored {
        /// The NIC's alias.
        alias: String,
    },
}

impl Error {
    /// Whether what was asked for may still happen, so that nothing it needs can be taken away.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::AttachOpen(_))
    }

    /// Returns true if the same call may succeed later without anybody changing what is asked.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoDomain { .. } | Self::Busy(_) | Self::NotReleased { .. } | Self::StillStored { .. } => true,
            Self::AttachOpen(_) => true,
            Self::Libvirt(error) => error.is_retryable() || error.is_no_domain() || error.is_wrong_state(),
            Self::SeveralDomains(_) | Self::Conflict(_) | Self::Domain(_) | Self::Description(_) => false,
            Self::Explained { why, .. } => why.is_retryable(),
        }
    }
}

fn no_domain(asked: Option<&str>, running: &[String]) -> String {
    asked.map_or_else(
        || "no VM runs in the pod".to_owned(),
        |name| format!("no VM named {} runs in the pod (running: {})", quote::value(name), list(running)),
    )
}

fn not_released(last: Option<&str>, paused: bool) -> String {
    let what_to_do = match paused {
        true => "the VM is paused: resume it",
        false => "check that its operating system is up and supports PCI hot-plug",
    };
    last.map_or_else(|| what_to_do.to_owned(), |last| format!("{what_to_do} ({last})"))
}

fn list(names: &[String]) -> String {
    // The names are the tenant's.
    let shown: Vec<String> = names.iter().take(8).map(|name| quote::value(name)).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}
