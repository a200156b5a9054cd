//! The data plane's double on the node: it dials a pod's socket through the share, as OVS does.

use std::process::{Child, Stdio};

use super::libvirt::example;
use super::node::{Node, Pod, end};

/// A data plane that keeps trying a NIC's socket; it ends with this value.
pub struct DataPlane(Child);

impl DataPlane {
    /// For the NIC whose socket has this name; `options` are the double's own.
    pub fn with(node: &Node, pod: &Pod<'_>, socket: &str, options: &[&str]) -> Self {
        let path = format!("{}/{socket}", node.target(&pod.uid));
        let mut command = node.command(example("dataplane-double"));
        // Twenty times as often as DPDK: these tests are not about its patience.
        command.args([&path, "--round", "50"]).args(options).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// One that answers as OVS-DPDK does.
    pub fn start(node: &Node, pod: &Pod<'_>, socket: &str) -> Self {
        Self::with(node, pod, socket, &[])
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}
