//! The pod's libvirt, reached: found, proved to be the pod's own, and opened.

use crate::cni::Error;
use crate::config::{Config, LibvirtUri};
use crate::deadline::Deadline;
use crate::libvirt::{self, Access, Client, Uri};
use crate::pod::daemon::{self, Daemon, Search};
use crate::pod::identity::PodUid;
use crate::pod::process::Process;

use super::errors;
use crate::pod::running::RunningPod;

/// The pod's libvirt, open.
pub struct Hypervisor {
    /// The connection.
    pub client: Client,
    /// The daemon's process.
    pub process: Process,
}

/// Why it could not be reached.
pub enum Unreached {
    /// No daemon of the pod's own.
    Daemon(daemon::Error),
    /// It does not speak with us.
    Libvirt(libvirt::Error),
}

impl Unreached {
    /// Whether there is no daemon at all, as in a pod whose VM has not been made yet.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Daemon(daemon::Error::Absent { .. }))
    }

    /// As the runtime is told.
    pub fn told(&self) -> Error {
        match self {
            Self::Daemon(error) => errors::daemon(error),
            Self::Libvirt(error) => errors::libvirt(error),
        }
    }
}

/// Connects to the pod's own daemon.
pub fn find(config: &Config, uid: &PodUid, running: &RunningPod, deadline: Deadline) -> Result<Daemon, daemon::Error> {
    let (kubelet_dir, sandbox, sockets) = (&config.kubelet_dir, &running.sandbox, &config.libvirt_sockets);
    Search { kubelet_dir, uid, sandbox, sockets }.connect(&running.processes, deadline)
}

impl Hypervisor {
    /// Finds the pod's daemon, makes sure that it is the pod's, and opens it.
    pub fn reach(
        config: &Config,
        uid: &PodUid,
        running: &RunningPod,
        access: Access,
        deadline: Deadline,
    ) -> Result<Self, Unreached> {
        let daemon = find(config, uid, running, deadline).map_err(Unreached::Daemon)?;
        let uris: &[Uri] = match config.libvirt_uri {
            LibvirtUri::Auto => &[Uri::System, Uri::Session],
            LibvirtUri::System => &[Uri::System],
            LibvirtUri::Session => &[Uri::Session],
        };
        let opened = Client::open_any(daemon.stream, uris, access, deadline).map_err(Unreached::Libvirt)?;
        Ok(Self { client: opened.0, process: daemon.process })
    }
}
