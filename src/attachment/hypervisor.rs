//! The pod's libvirt: found, proved to be the pod's own, and opened.

use crate::cni::Error;
use crate::config::{Config, LibvirtUri};
use crate::deadline::Deadline;
use crate::libvirt::{self, Access, Client, Uri};
use crate::pod::daemon::{self, Daemon, Search};
use crate::pod::identity::PodUid;
use crate::pod::process::Process;
use crate::pod::running::RunningPod;

use super::errors;

/// A connection to the pod's libvirt.
pub struct Hypervisor {
    pub client: Client,
    /// The daemon's process.
    pub process: Process,
}

/// Why the pod's libvirt can't be reached.
pub enum Unreached {
    Daemon(daemon::Error),
    Libvirt(libvirt::Error),
}

impl Unreached {
    /// Returns true if there is no daemon at all, as in a pod whose VM has not been made yet.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Daemon(daemon::Error::Absent { .. }))
    }
}

impl From<Unreached> for Error {
    fn from(unreached: Unreached) -> Self {
        match unreached {
            Unreached::Daemon(error) => errors::daemon(&error),
            Unreached::Libvirt(error) => errors::libvirt(&error),
        }
    }
}

/// Connects to the pod's own daemon.
pub fn find(config: &Config, uid: &PodUid, running: &RunningPod, deadline: Deadline) -> Result<Daemon, daemon::Error> {
    let (kubelet_dir, sandbox, sockets) = (&config.kubelet_dir, &running.sandbox, &config.libvirt_sockets);
    Search { kubelet_dir, uid, sandbox, sockets }.connect(&running.processes, deadline)
}

impl Hypervisor {
    /// Connects to the pod's own daemon, and opens its driver.
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
