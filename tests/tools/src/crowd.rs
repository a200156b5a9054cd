//! What there is much of on a busy node: pods, mounts, processes. Each goes with the value that stands for it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Makes the directories that kubelet has of a pod without a volume for sockets; the pod's own directory.
pub fn make_pod(kubelet: &Path, uid: &str) -> PathBuf {
    let pod = kubelet.join("pods").join(uid);
    for volume in ["kubernetes.io~empty-dir/cache", "kubernetes.io~projected/kube-api-access-x2x4k"] {
        std::fs::create_dir_all(pod.join("volumes").join(volume)).expect("a directory");
    }
    pod
}

/// Pods of kubelet's beside the one that is measured.
pub struct Pods(Vec<PathBuf>);

impl Pods {
    /// Makes so many that there are `wanted`, with the one that is measured.
    pub fn beside_one(kubelet: &Path, wanted: usize) -> Self {
        let make = |number| make_pod(kubelet, &format!("{number:08x}-0000-4000-8000-000000000000"));
        Self((1..wanted).map(make).collect())
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for pod in &self.0 {
            let _ = std::fs::remove_dir_all(pod);
        }
    }
}

/// Mounts, in one of their own.
pub struct Mounts(PathBuf);

impl Mounts {
    /// Makes this many, below a directory.
    pub fn below(base: &Path, wanted: usize) -> Self {
        let nothing: Option<&Path> = None;
        let at = |source, path: &Path, flags| mount(source, path, Some("tmpfs"), flags, nothing).expect("a mount");
        std::fs::create_dir_all(base).expect("a directory");
        at(Some(Path::new("tmpfs")), base, MsFlags::empty());
        // Else each would appear below each of the others.
        at(None, base, MsFlags::MS_PRIVATE);
        for number in 0..wanted {
            let path = base.join(number.to_string());
            std::fs::create_dir(&path).expect("a directory");
            at(Some(base), &path, MsFlags::MS_BIND);
        }
        Self(base.to_owned())
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Processes, which sleep.
pub struct Processes(Child);

impl Processes {
    /// Starts this many.
    pub fn start(wanted: usize) -> Self {
        // A shell's children cost less than as many programs. What a shell starts in the background would read nothing, and
        // so end at once, were it not told where to read.
        let script = format!(
            "exec 3<&0; i=0; while [ $i -lt {wanted} ]; do read -r _ <&3 & i=$((i+1)); done; echo ready; read -r _; wait"
        );
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().expect("a shell");
        wait_for_word(&mut shell);
        Self(shell)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // Its children read from the same pipe, and end with it.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Waits until the script of a shell says that it is ready.
pub fn wait_for_word(shell: &mut Child) {
    let mut word = String::new();
    let output = shell.stdout.take().expect("its output is a pipe");
    BufReader::new(output).read_line(&mut word).expect("its output");
    assert_eq!(word, "ready\n");
}
