//! The canary: files, directories and listening sockets of the host's that no pod can see, and a record of how they were.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use support::libvirt::SOCKET;
use support::{Node, VOLUME};

/// Where it is on the node. Mounted when the pods are there already: in theirs, the directory is empty.
pub const CANARY: &str = "/run/canary";

/// A path of the node's as one of the test's own.
pub fn on(node: &Node, path: impl AsRef<Path>) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", node.machine_pid(), path.as_ref().display()))
}

/// All that can be told of a file, short of when it was read.
#[derive(Debug, PartialEq)]
struct Seen {
    object: (u64, u64),
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    changed: [(i64, i64); 2],
    content: Vec<u8>,
}

type State = (BTreeMap<PathBuf, Seen>, Vec<String>);

pub struct Canary {
    root: PathBuf,
    mounts: PathBuf,
    device: String,
    before: State,
    connections: Arc<AtomicU64>,
}

impl Canary {
    /// Makes it, with something of every name that a race leads to it.
    pub fn new(node: &Node) -> Self {
        let socket = Path::new(SOCKET).file_name().unwrap().to_str().unwrap();
        node.sh(&format!(
            "mkdir {CANARY} && mount -t tmpfs -o mode=751 canary {CANARY} && cd {CANARY} && \
             mkdir -m 0750 {VOLUME} sockets && echo secret > file && chmod 0600 file && cp file {VOLUME}/ && mkfifo fifo"
        ));
        let root = on(node, CANARY);
        let connections = Arc::new(AtomicU64::new(0));
        for name in [socket, "net1", "sockets/net1", &format!("{VOLUME}/net1"), &format!("sockets/{socket}")] {
            let (listener, count) = (UnixListener::bind(root.join(name)).unwrap(), Arc::clone(&connections));
            std::thread::spawn(move || {
                for connection in listener.incoming() {
                    count.fetch_add(1, Ordering::SeqCst);
                    drop(connection);
                }
            });
        }
        let device = root.metadata().unwrap().dev();
        let device = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let mounts = PathBuf::from(format!("/proc/{}/mountinfo", node.machine_pid()));
        let mut canary = Self { root, mounts, device, before: State::default(), connections };
        canary.before = canary.state();
        assert!(canary.before.0.len() > 9 && canary.before.1.len() == 1, "{:?}", canary.before);
        canary
    }

    /// Nothing of it has been made, changed, removed, mounted, mounted on or connected to.
    pub fn lives(&self) {
        assert_eq!(self.connections.load(Ordering::SeqCst), 0, "somebody connected to the canary");
        assert_eq!(self.state(), self.before, "the canary was touched");
    }

    fn state(&self) -> State {
        let mut files = BTreeMap::new();
        self.look(&self.root, &mut files);
        let table = std::fs::read_to_string(&self.mounts).unwrap();
        // What shows it anywhere, and what is mounted on it.
        let on_it = |line: &&str| line.contains(CANARY) || line.split(' ').nth(2) == Some(&self.device);
        (files, table.lines().filter(on_it).map(str::to_owned).collect())
    }

    fn look(&self, path: &Path, files: &mut BTreeMap<PathBuf, Seen>) {
        let found = path.symlink_metadata().unwrap();
        let content = if found.is_file() { std::fs::read(path).unwrap() } else { Vec::new() };
        if found.is_dir() {
            std::fs::read_dir(path).unwrap().for_each(|entry| self.look(&entry.unwrap().path(), files));
        }
        let seen = Seen {
            object: (found.dev(), found.ino()),
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            links: found.nlink(),
            size: found.size(),
            changed: [(found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec())],
            content,
        };
        files.insert(path.to_owned(), seen);
    }
}
