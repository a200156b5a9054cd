//! What a call finds on the node, in namespaces of the benchmark's own: pods, mounts, processes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

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
        std::fs::create_dir_all(scene.path("mounts")).expect("a directory");
        scene.make_pod(UID);
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

    fn make_pod(&self, uid: &str) {
        let volumes = self.kubelet().join("pods").join(uid).join("volumes");
        for volume in ["kubernetes.io~empty-dir/cache", "kubernetes.io~projected/kube-api-access-x2x4k"] {
            std::fs::create_dir_all(volumes.join(volume)).expect("a directory");
        }
    }

    /// Sees to it that there are this many pods.
    pub fn set_pods(&self, wanted: usize) {
        let pods = self.kubelet().join("pods");
        let _ = std::fs::remove_dir_all(&pods);
        self.make_pod(UID);
        for number in 1..wanted {
            self.make_pod(&format!("{number:08x}-0000-4000-8000-000000000000"));
        }
    }

    /// Makes this many mounts; they go with the value.
    pub fn mounts(&self, wanted: usize) -> Mounts {
        let base = self.path("mounts");
        let paths: Vec<_> = (0..wanted).map(|number| base.join(number.to_string())).collect();
        let nothing: Option<&Path> = None;
        for path in &paths {
            std::fs::create_dir_all(path).expect("a directory");
            mount(Some(&base), path, nothing, MsFlags::MS_BIND, nothing).expect("a bind mount");
        }
        Mounts(paths)
    }

    /// Starts this many processes, which sleep; they end with the value.
    pub fn processes(&self, wanted: usize) -> Processes {
        // A shell's children cost less than as many programs.
        let script = format!("i=0; while [ $i -lt {wanted} ]; do read -r _ & i=$((i+1)); done; echo ready; read -r _");
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().expect("a shell");
        wait_for_word(&mut shell);
        Processes(shell)
    }
}

/// Waits until the script of a shell says that it is ready.
fn wait_for_word(shell: &mut Child) {
    let mut word = String::new();
    let output = shell.stdout.take().expect("its output is a pipe");
    BufReader::new(output).read_line(&mut word).expect("its output");
    assert_eq!(word, "ready\n");
}

/// Mounts that go with this value.
pub struct Mounts(Vec<PathBuf>);

impl Drop for Mounts {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
}

/// Processes that end with this value.
pub struct Processes(Child);

impl Drop for Processes {
    fn drop(&mut self) {
        // Its children read from the same pipe, and end with it.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
