//! Finds ports of earlier sandboxes, so that they are removed before they do harm.
//!
//! A port outlives its sandbox if kube-ovn gets no DEL, or one without CNI_NETNS: always after a node reset. The pod's
//! next sandbox gets a port with the same path, and two such ports break DPDK until it is restarted
//! (lib/vhost/socket.c). So the first port is removed while it is the only one.

use std::path::Path;

use super::database::{CLIENT, Interface, Snapshot};
use super::path::SocketPath;
use super::port::{dead_netns, sandbox_of};

/// Selects the ports to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of<'a> {
    /// The ports of all sandboxes except this one.
    OtherSandboxes(&'a str),
    /// The ports of this sandbox.
    Sandbox(&'a str),
    /// The port of one NIC.
    Nic {
        sandbox: &'a str,
        /// The name of its socket in the share.
        socket: &'a str,
    },
}

/// Returns the ports in a pod's share that certainly belong to a dead sandbox and can be removed while OVS runs:
/// kube-ovn made them, their network namespace is gone, no VM is connected, and no other port has exactly the same
/// path.
#[must_use]
pub fn stale<'a>(snapshot: &'a Snapshot, share: &Path, of: Of<'_>) -> Vec<&'a Interface> {
    let any = SocketPath::new(&share.join("any"));
    let path = |port: &'a Interface| port.options.get("vhost-server-path");
    let is_stale = |port: &&'a Interface| {
        let Some((path_here, id)) = path(port).zip(sandbox_of(&port.name)) else { return false };
        let is_meant = match of {
            Of::OtherSandboxes(own) => !own.starts_with(id),
            Of::Sandbox(dead) => dead.starts_with(id),
            Of::Nic { sandbox, socket } => {
                sandbox.starts_with(id) && SocketPath::new(&share.join(socket)).is_at(Path::new(path_here))
            }
        };
        let has_pod = port.external_ids.get("pod_name").is_some() && port.external_ids.get("pod_namespace").is_some();
        let is_alone = snapshot.ports.iter().filter(|other| path(other) == Some(path_here)).count() == 1;
        port.kind == CLIENT
            && is_meant
            && has_pod
            && is_alone
            && port.link_state.as_deref() != Some("up")
            && any.is_beside(Path::new(path_here))
            && dead_netns(port).is_some()
    };
    snapshot.ports.iter().filter(is_stale).collect()
}
