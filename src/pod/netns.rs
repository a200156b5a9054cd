//! The sandbox: the network namespace that `CNI_NETNS` names, its links and its processes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::statfs::{NSFS_MAGIC, PROC_SUPER_MAGIC, fstatfs};

use super::process::{self, Process};
use crate::sys;

/// Most symbolic links that are followed to the namespace.
const LINK_LIMIT: usize = 8;

/// A network namespace, held open.
#[derive(Debug)]
pub struct Sandbox {
    file: File,
    object: (u64, u64),
}

impl Sandbox {
    /// Opens the network namespace that a runtime's path names: a bind-mounted file, or a process' own below `/proc`.
    /// Nothing else is opened: a fifo would block, and a device could act.
    ///
    /// # Errors
    /// `ELOOP` for a path through a process' root, working directory or descriptors, which may be a pod's; `EINVAL` if
    /// it is not a namespace; else openat2(2)'s and open(2)'s. A namespace of another kind has no processes here and
    /// can't be entered.
    pub fn open(path: &Path) -> Result<Self, sys::Error> {
        Self::take(&find(path)?, path)
    }

    /// Returns the namespace that a handle is on.
    fn take(handle: &OwnedFd, path: &Path) -> Result<Self, sys::Error> {
        let is_none = |errno: Errno| sys::Error::of("open", path, &errno.into());
        if fstatfs(handle).map_err(is_none)?.filesystem_type() != NSFS_MAGIC {
            return Err(is_none(Errno::EINVAL));
        }
        let file = sys::open_file(&sys::link(handle.as_fd()))?;
        let object = sys::object(file.as_fd())?;
        Ok(Self { file, object })
    }

    /// Returns the namespace of a process.
    ///
    /// # Errors
    /// open(2)'s and fstat(2)'s.
    pub fn of(process: &Process) -> Result<Self, sys::Error> {
        let path = process.path("ns/net");
        Self::take(&sys::open_handle(&path)?, &path)
    }

    /// Returns true if it is the host's: that of this process or of the machine's first one. No pod of a CNI call is
    /// there, but every process of the host is.
    #[must_use]
    pub fn is_hosts(&self) -> bool {
        let names = ["/proc/self/ns/net", "/proc/1/ns/net"];
        let mut seen = names.iter().filter_map(|name| std::fs::metadata(name).ok());
        seen.any(|seen| (seen.dev(), seen.ino()) == self.object)
    }

    /// Returns true if a path names this namespace.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        Self::open(path).is_ok_and(|other| other.object == self.object)
    }

    /// Returns true if it has a kernel link of this name. kube-ovn makes none for a vhost-user NIC.
    ///
    /// # Errors
    /// Those of entering the namespace (`EINVAL` if it is none) and of if_nametoindex(3).
    pub fn has_link(&self, name: &str) -> Result<bool, sys::Error> {
        let asked = sys::in_netns(self.file.as_fd(), || if_nametoindex(name))?;
        match asked {
            Ok(_) => Ok(true),
            Err(Errno::ENODEV) => Ok(false),
            Err(errno) => Err(sys::Error::of("if_nametoindex", Path::new(name), &errno.into())),
        }
    }

    /// Returns true if a process is in another namespace; false if it has ended.
    #[must_use]
    pub fn is_foreign(&self, process: &Process) -> bool {
        process.namespace("net").is_ok_and(|object| object != self.object)
    }

    /// Returns true if a process is in this namespace.
    #[must_use]
    pub fn holds(&self, process: &Process) -> bool {
        process.namespace("net").is_ok_and(|object| object == self.object)
    }

    /// Returns the processes in this namespace by pid, at most [`process::most`]. It costs one readlink(2) for each
    /// process of the node.
    ///
    /// # Errors
    /// That of listing `/proc`; `EMFILE` for want of descriptors.
    pub fn processes(&self) -> Result<Vec<Process>, sys::Error> {
        // Nearly all processes are in other namespaces. Reading the link costs half as much as following it.
        let link = format!("net:[{}]", self.object.1);
        let (mut found, most) = (Vec::new(), process::most());
        for pid in process::pids()? {
            let is_other = |seen: PathBuf| seen.as_os_str() != link.as_str();
            if std::fs::read_link(format!("/proc/{pid}/ns/net")).map_or(true, is_other) {
                continue;
            }
            match Process::open(pid) {
                Ok(process) if self.holds(&process) => found.push(process),
                Err(error) if !error.is_absent() => return Err(error),
                // The pid is reused or free by now.
                _ => {}
            }
            if found.len() >= most {
                break;
            }
        }
        found.sort_by_key(Process::pid);
        Ok(found)
    }
}

/// Opens a handle on a path. It follows the host's own links (`/var/run`, or one to a process' namespace), but no path
/// through a process' entries in `/proc`: a pod may have put anything there, such as a file system that never answers.
/// Only the last component of a path in `/proc` may be such a link: the namespace.
fn find(path: &Path) -> Result<OwnedFd, sys::Error> {
    let mut path = path.to_owned();
    for _ in 0..LINK_LIMIT {
        let error = match sys::open_no_magiclinks(&path) {
            Err(error) if error.errno() == Errno::ELOOP => error,
            // The pod can still be identified. For a pod with a share the call fails later, at its files.
            Err(error) if error.is_without_openat2() => return sys::open_handle(&path),
            other => return other,
        };
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Err(error) };
        let parent = sys::open_no_magiclinks(above)?;
        let entry = sys::link(parent.as_fd()).join(name);
        if fstatfs(&parent).is_ok_and(|found| found.filesystem_type() == PROC_SUPER_MAGIC) {
            return sys::open_handle(&entry);
        }
        let Ok(target) = std::fs::read_link(entry) else { return Err(error) };
        path = above.join(target);
    }
    Err(sys::Error::of("openat2", &path, &Errno::ELOOP.into()))
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
    fn what_is_no_namespace_is_refused_unopened_and_another_kind_holds_nobody() {
        for path in ["/etc/passwd", "/etc", "/dev/null", "/proc/self/fd/0", "/proc/self/exe", "/"] {
            assert_eq!(Sandbox::open(Path::new(path)).unwrap_err().errno(), Errno::EINVAL, "{path}");
        }
        assert!(Sandbox::open(Path::new("")).unwrap_err().is_absent());
        let mounts = Sandbox::open(Path::new("/proc/self/ns/mnt")).unwrap();
        assert!(mounts.processes().unwrap().is_empty());
        assert_eq!(mounts.has_link("lo").unwrap_err().errno(), Errno::EINVAL);
    }

    #[test]
    fn a_path_through_a_process_root_is_refused() {
        for path in ["/proc/self/root/proc/self/ns/net", "/proc/self/cwd/x", "/proc/self/root/proc/1/ns"] {
            assert_eq!(Sandbox::open(Path::new(path)).unwrap_err().errno(), Errno::ELOOP, "{path}");
        }
        assert!(Sandbox::open(Path::new("/proc/thread-self/ns/net")).unwrap().is_hosts());
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let path = std::env::temp_dir().join(format!("vhu-netns-fifo-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let fifo = path.clone();
        std::thread::spawn(move || sender.send(Sandbox::open(&fifo).map(drop)).unwrap());
        let opened = receiver.recv_timeout(std::time::Duration::from_secs(60));
        std::fs::remove_file(path).unwrap();
        assert_eq!(opened.expect("an answer").unwrap_err().errno(), Errno::EINVAL);
    }
}
