//! Connects to the pod's libvirt: finds the daemon, verifies that it is the pod's own, and opens it.

use crate::config::{Config, LibvirtUri};
use crate::deadline::Deadline;
use crate::libvirt::{self, Access, Client, Uri};
use crate::pod::daemon::{self, Daemon, Search};
use crate::pod::identity::PodUid;
use crate::pod::process::Process;

use crate::pod::running::RunningPod;

/// An open connection to the pod's libvirt.
pub struct Hypervisor {
    /// The connection.
    pub client: Client,
    /// The daemon's process.
    pub process: Process,
}

/// The pod's libvirt can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No daemon was found that is the pod's own.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    /// The daemon could not be talked to.
    #[error(transparent)]
    Libvirt(#[from] libvirt::Error),
}

impl Error {
    /// Returns true if there is no daemon at all, as in a pod whose VM doesn't exist yet.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Daemon(daemon::Error::Absent { .. }))
    }
}

/// Connects to the pod's own daemon.
pub fn find(config: &Config, uid: &PodUid, running: &RunningPod, deadline: Deadline) -> Result<Daemon, daemon::Error> {
    let (kubelet_dir, sandbox, sockets) = (&config.kubelet_dir, &running.sandbox, &config.libvirt_sockets);
    Search { kubelet_dir, uid, sandbox, sockets }.connect(&running.processes, deadline)
}

impl Hypervisor {
    /// Finds and verifies the pod's daemon, and opens it.
    pub fn reach(
        config: &Config,
        uid: &PodUid,
        running: &RunningPod,
        access: Access,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let daemon = find(config, uid, running, deadline)?;
        let uris: &[Uri] = match config.libvirt_uri {
            LibvirtUri::Auto => &[Uri::System, Uri::Session],
            LibvirtUri::System => &[Uri::System],
            LibvirtUri::Session => &[Uri::Session],
        };
        let (client, _) = Client::open_any(daemon.stream, uris, access, deadline)?;
        Ok(Self { client, process: daemon.process })
    }
}
