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

/// Most links that lead from one to the next before the namespace comes.
const LINK_LIMIT: usize = 8;

/// A network namespace, held open.
#[derive(Debug)]
pub struct Sandbox {
    file: File,
    object: (u64, u64),
}

impl Sandbox {
    /// Opens the network namespace that `path` names, as a runtime does: a file that one is mounted on, or a process' own
    /// below `/proc`. Anything else is only looked at: a fifo would be waited at, and a device would act.
    ///
    /// # Errors
    /// `ELOOP` for a path that leads through a process' root, working directory or descriptors, which may be a pod's;
    /// `EINVAL` for what is no namespace; else openat2(2)'s and open(2)'s. A namespace of another kind holds nobody, and
    /// cannot be entered.
    pub fn open(path: &Path) -> Result<Self, sys::Error> {
        Self::take(&find(path)?, path)
    }

    /// The namespace that a handle is on.
    fn take(handle: &OwnedFd, path: &Path) -> Result<Self, sys::Error> {
        let is_none = |errno: Errno| sys::Error::of("open", path, &errno.into());
        if fstatfs(handle).map_err(is_none)?.filesystem_type() != NSFS_MAGIC {
            return Err(is_none(Errno::EINVAL));
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
        let path = process.path("ns/net");
        Self::take(&sys::open_handle(&path)?, &path)
    }

    /// Whether it is the host's own: this process' or that of the machine's first one. No pod that a CNI plugin is called
    /// for lives there, and every process of the host does.
    #[must_use]
    pub fn is_hosts(&self) -> bool {
        let names = ["/proc/self/ns/net", "/proc/1/ns/net"];
        let mut seen = names.iter().filter_map(|name| std::fs::metadata(name).ok());
        seen.any(|seen| (seen.dev(), seen.ino()) == self.object)
    }

    /// Whether a path names this very namespace.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        Self::open(path).is_ok_and(|other| other.object == self.object)
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

    /// Whether a process lives in another namespace; one that has ended lives nowhere.
    #[must_use]
    pub fn is_foreign(&self, process: &Process) -> bool {
        process.namespace("net").is_ok_and(|object| object != self.object)
    }

    /// Whether a process lives in this namespace.
    #[must_use]
    pub fn holds(&self, process: &Process) -> bool {
        process.namespace("net").is_ok_and(|object| object == self.object)
    }

    /// The processes that live in this namespace, in the order of their pids; as many as [`process::most`] says. Costs
    /// one readlink(2) for each process of the node.
    ///
    /// # Errors
    /// That of listing `/proc`; `EMFILE` for want of descriptors.
    pub fn processes(&self) -> Result<Vec<Process>, sys::Error> {
        // Nearly all processes are somebody else's. What the link reads tells that for half of what following it costs.
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
                // Another's by now, or nobody's.
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

/// A handle on what a path names. Links of the host's own lead on (`/var/run`, or one to a process' namespace); through
/// what `/proc` has of a process no path does, for there a pod may have put anything, a file system of its own that never
/// answers included. Only the last part of a path in `/proc` itself is such a link: the namespace.
fn find(path: &Path) -> Result<OwnedFd, sys::Error> {
    let mut path = path.to_owned();
    for _ in 0..LINK_LIMIT {
        let error = match sys::open_no_magiclinks(&path) {
            Err(error) if error.errno() == Errno::ELOOP => error,
            // Which pod it is may still be told: what is done for one of ours is refused where its files are.
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
