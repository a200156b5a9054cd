//! Where a call happens: a container that is a real network namespace, and directories for all that the plugin keeps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

/// A directory of one test, removed with it.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vhostuser-hotplug-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A test that failed may have left it in any state; the next one has another.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `act` in a network namespace of its own, and in a mount namespace of its own, so that mounts end with it too.
/// Processes that it starts are in both.
pub fn in_new_namespaces<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    assert!(geteuid().is_root(), "These tests make network namespaces and must run as root.");
    // Namespaces belong to threads, and this one ends here.
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            nix::mount::mount(
                None::<&str>,
                "/",
                None::<&str>,
                nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC,
                None::<&str>,
            )
            .unwrap();
            act()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A container's network namespace with one ordinary link, `eth0`, as the plugins before this one leave it.
pub struct Sandbox {
    /// A process in it. It ends when its input does, so also when the test is killed.
    keeper: Child,
}

impl Sandbox {
    pub fn new() -> Self {
        assert!(geteuid().is_root(), "These tests make network namespaces and must run as root.");
        let keeper = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip("link add eth0 type veth peer name eth0-host");
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
        });
        Self { keeper: keeper.join().unwrap() }
    }

    /// The namespace as /proc names it.
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.keeper.id()))
    }

    /// Removes `eth0`, as a container that has gone wrong may.
    pub fn lose_link(&self) {
        let netns = fs::File::open(self.netns()).unwrap();
        let lost = thread::spawn(move || {
            nix::sched::setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            ip("link delete eth0");
        });
        lost.join().unwrap();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        self.keeper.wait().unwrap();
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    let status = status.unwrap_or_else(|error| panic!("These tests need `ip` of iproute2: {error}"));
    assert!(status.success(), "ip {arguments}: {status}");
}

/// One container, and one set of directories that the plugin is configured with.
pub struct Scene {
    pub sandbox: Sandbox,
    pub directory: Directory,
}

impl Scene {
    pub fn new() -> Self {
        let directory = Directory::new();
        for name in ["kubelet", "sockets", "cwd"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { sandbox: Sandbox::new(), directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}
