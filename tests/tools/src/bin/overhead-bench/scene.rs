//! What a call finds on the node, in namespaces of the benchmark's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};

use tools::crowd::{make_pod, wait_for_word};

/// The pod that is started and ended: it has a directory, as every pod, and no volume for sockets.
pub const UID: &str = "8f3a1c52-0b6e-4a7d-9c41-5a0f4de9b7c1";

/// The node's directories, on a tmpfs that only this process and its children see.
pub struct Scene {
    root: PathBuf,
    /// A process of the pod: its network namespace is the pod's. Everything here ends with the benchmark, which is the
    /// first process.
    pod: Child,
}

impl Scene {
    /// A node with one pod.
    pub fn new() -> Self {
        assert_eq!(std::process::id(), 1, "this is run by tests/bench/overhead, in namespaces of its own");
        let root = PathBuf::from("/run");
        let nothing: Option<&Path> = None;
        mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), nothing).expect("a tmpfs");
        // The CHECK of tuning looks for the link.
        let script = "ip link add eth0 type veth peer name veth0 netns 1 && echo ready && exec sleep infinity";
        let mut pod = Command::new("unshare");
        let mut pod =
            pod.args(["--net", "sh", "-c", script]).stdout(Stdio::piped()).spawn().expect("unshare of util-linux");
        wait_for_word(&mut pod);
        let scene = Self { root, pod };
        std::fs::create_dir_all(scene.kubelet()).expect("a directory");
        make_pod(&scene.kubelet(), UID);
        scene
    }

    /// The pod's network namespace.
    pub fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.pod.id())
    }

    /// Something below the scene.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// kubelet's directory.
    pub fn kubelet(&self) -> PathBuf {
        self.path("kubelet")
    }
}
