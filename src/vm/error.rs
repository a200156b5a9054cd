//! Errors of plugging and unplugging a NIC.

use super::{domain, xml};
use crate::libvirt::{self, Operation};
use crate::quote;

/// A NIC could not be plugged or unplugged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}", no_domain(.asked.as_deref(), .running))]
    NoDomain { asked: Option<String>, running: Vec<String> },
    #[error("the pod runs several VMs ({}): name one with the key \"domain\"", list(.0))]
    SeveralDomains(Vec<String>),
    #[error("{0}")]
    Conflict(String),
    #[error(transparent)]
    Domain(#[from] domain::Error),
    #[error("libvirt is busy with {0} of the VM, so nothing was changed: try again when it ends")]
    Busy(Operation),
    #[error("libvirt's description of the VM cannot be read: {0}")]
    Description(#[from] xml::Error),
    #[error(transparent)]
    Libvirt(#[from] libvirt::Error),
    /// libvirt refused, and the VM's XML shows why.
    #[error("{why}")]
    Explained {
        why: Box<Error>,
        #[source]
        refusal: libvirt::Error,
    },
    #[error("it is not known whether libvirt plugs the NIC: {0}")]
    AttachOpen(#[source] libvirt::Error),
    #[error("the guest has not released the NIC {}: {}", quote::value(.alias), not_released(.last.as_deref(), *.paused))]
    NotReleased {
        alias: String,
        /// libvirt's last message, if it refused to ask the guest.
        last: Option<String>,
        /// Whether the VM was paused, so its guest could not answer.
        paused: bool,
    },
    #[error(
        "the NIC {} is still in the VM's stored description, with which its next start would wait for the data plane: \
         remove it with virsh detach-device --config",
        quote::value(.alias)
    )]
    StillStored { alias: String },
}

impl Error {
    /// Returns true if libvirt may still plug the NIC, so its share and record must stay.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::AttachOpen(_))
    }

    /// Returns true if the same call may succeed later with the same input.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::SeveralDomains(_) | Self::Conflict(_) | Self::Domain(_) | Self::Description(_) => false,
            Self::NoDomain { .. } | Self::Busy(_) | Self::AttachOpen(_) => true,
            Self::NotReleased { .. } | Self::StillStored { .. } => true,
            Self::Libvirt(error) => error.is_retryable() || error.is_no_domain() || error.is_wrong_state(),
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
    // The tenant chose the names.
    let shown: Vec<String> = names.iter().take(8).map(|name| quote::value(name)).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::io;

    use super::*;

    #[test]
    fn the_cause_of_an_error_is_found_and_named_once() {
        let error = libvirt::Error::Io { doing: "testing", source: io::ErrorKind::NotConnected.into() };
        let error = Error::AttachOpen(error);
        let cause = error.source().and_then(|libvirt| libvirt.source()).unwrap();
        assert_eq!(cause.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::NotConnected);
        assert_eq!(error.to_string().matches(&cause.to_string()).count(), 1, "{error}");
        // One that only wraps another is that one.
        assert!(Error::Libvirt(libvirt::Error::TimedOut { doing: "testing" }).source().is_none());
    }
}
