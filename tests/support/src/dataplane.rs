//! The data plane's double on the node: it dials a pod's socket through the share, as OVS does.

use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::end;
use crate::patience::until;
use crate::signals::{self, program};
use crate::{Node, Pod, tool};

/// A data plane that keeps trying a NIC's socket; it ends with this value.
pub struct DataPlane(Child);

impl DataPlane {
    /// For the NIC whose socket has this name; `options` are the double's own.
    pub fn with(node: &Node, pod: &Pod, socket: &str, options: &[&str]) -> Self {
        Self::writing(node, pod, socket, options, Stdio::null())
    }

    /// The same, which writes what came of each connection.
    pub fn writing(node: &Node, pod: &Pod, socket: &str, options: &[&str], to: impl Into<Stdio>) -> Self {
        let path = format!("{}/{socket}", node.target(&pod.uid));
        let mut command = node.command(tool("dataplane-double"));
        // Twenty times as often as DPDK: these tests are not about its patience.
        command.args([&path, "--round", "50"]).args(options).stdout(to);
        Self(command.spawn().unwrap())
    }

    /// One that answers as OVS-DPDK does and runs as this user, with no group of the pod's and no capability.
    pub fn as_user(node: &Node, pod: &Pod, socket: &str, uid: u32) -> Self {
        // The machine's directories may be closed to that user.
        node.sh(&format!("cp -n {} /run/dataplane-double", tool("dataplane-double").display()));
        let path = format!("{}/{socket}", node.target(&pod.uid));
        let mut command = node.command("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
        command.args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]);
        command.args(["/run/dataplane-double", &path, "--round", "50"]).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// One that answers as OVS-DPDK does.
    pub fn start(node: &Node, pod: &Pod, socket: &str) -> Self {
        Self::with(node, pod, socket, &[])
    }

    /// Waits until it has stopped itself.
    pub fn until_stopped(&self) {
        // The command that took it into the node stops along with it.
        let stat = format!("/proc/{}/stat", self.0.id());
        until("the data plane stops", || std::fs::read_to_string(&stat).unwrap().contains(") T "));
    }

    /// Its pid, as the machine sees it.
    pub fn pid(&self) -> u32 {
        program(self.0.id())
    }

    /// Lets one that was stopped go on.
    pub fn go_on_all(&self) {
        signals::go_on(self.0.id());
    }

    /// Ends it.
    pub fn end(&mut self) {
        end(&mut self.0);
    }

    /// Lets one that has stopped itself go on.
    pub fn go_on(&self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGCONT).unwrap();
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}
