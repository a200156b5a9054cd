//! The sandbox: the network namespace that `CNI_NETNS` names, its links and its processes.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::process::{self, Process};
use crate::sys;

/// Most processes of a sandbox that are looked at; a pod may fork as many as it is allowed.
const PROCESS_LIMIT: usize = 4096;

/// A network namespace, held open.
#[derive(Debug)]
pub struct Sandbox {
    file: File,
    object: (u64, u64),
}

impl Sandbox {
    /// Opens the namespace that `path` names. Whatever else it may name is not opened: a FIFO would be waited for, and a
    /// device may do something when it is.
    ///
    /// # Errors
    /// open(2)'s, fstatfs(2)'s and fstat(2)'s; `EINVAL` for what is no namespace.
    pub fn open(path: &Path) -> Result<Self, sys::Error> {
        let handle = sys::open_handle(path)?;
        let failed = |errno: Errno| sys::Error::of("setns", path, &errno.into());
        if fstatfs(&handle).map_err(failed)?.filesystem_type() != NSFS_MAGIC {
            return Err(failed(Errno::EINVAL));
        }
        let file = sys::open_file(&sys::link(handle.as_fd()))?;
        let object = sys::object(file.as_fd())?;
        Ok(Self { file, object })
    }

    /// The namespace that a process lives in.
    ///
    /// # Errors
    /// open(2)'s and fstat(2)'s.
    pub fn of(process: &Process) -> Result<Self, sys::Error> {
        Self::open(&process.path("ns/net"))
    }

    /// Whether a kernel link of this name is there. kube-ovn makes none for a vhost-user NIC.
    ///
    /// # Errors
    /// Those of entering the namespace (`EINVAL` if it is none) and of asking it.
    pub fn has_link(&self, name: &str) -> Result<bool, sys::Error> {
        let asked = sys::in_netns(self.file.as_fd(), || if_nametoindex(name))?;
        match asked {
            Ok(_) => Ok(true),
            Err(Errno::ENODEV) => Ok(false),
            Err(errno) => Err(sys::Error::of("if_nametoindex", Path::new(name), &errno.into())),
        }
    }

    /// Whether a process lives in this namespace.
    #[must_use]
    pub fn holds(&self, process: &Process) -> bool {
        process.namespace("net").is_ok_and(|object| object == self.object)
    }

    /// The processes that live in this namespace, in the order of their pids; the first 4096 of them. Costs one stat(2)
    /// for each process of the node.
    ///
    /// # Errors
    /// That of listing `/proc`.
    pub fn processes(&self) -> Result<Vec<Process>, sys::Error> {
        let mut found = Vec::new();
        for pid in process::pids()? {
            // A look by name first: a handle costs more, and nearly all processes are somebody else's.
            let namespace = std::fs::metadata(format!("/proc/{pid}/ns/net"));
            if !namespace.is_ok_and(|seen| (seen.dev(), seen.ino()) == self.object) {
                continue;
            }
            if let Ok(process) = Process::open(pid)
                && self.holds(&process)
            {
                found.push(process);
            }
            if found.len() >= PROCESS_LIMIT {
                break;
            }
        }
        found.sort_by_key(Process::pid);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_holds_the_own_process_and_its_links() {
        let sandbox = Sandbox::open(Path::new("/proc/self/ns/net")).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(sandbox.processes().unwrap().iter().any(|process| process.pid() == own));
        assert!(!sandbox.has_link("no-such-link0").unwrap());
    }

    #[test]
    fn a_plain_file_is_no_namespace_and_holds_nobody() {
        assert_eq!(Sandbox::open(Path::new("/etc/passwd")).unwrap_err().errno(), Errno::EINVAL);
        let sandbox = Sandbox::open(Path::new("/proc/self/ns/mnt")).unwrap();
        assert!(sandbox.processes().unwrap().is_empty());
        assert_eq!(sandbox.has_link("lo").unwrap_err().errno(), Errno::EINVAL);
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let path = std::env::temp_dir().join(format!("vhu-netns-fifo-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let fifo = path.clone();
        std::thread::spawn(move || sender.send(Sandbox::open(&fifo).map(drop)).unwrap());
        let opened = receiver.recv_timeout(std::time::Duration::from_secs(10));
        std::fs::remove_file(path).unwrap();
        assert_eq!(opened.expect("an answer").unwrap_err().errno(), Errno::EINVAL);
    }
}
