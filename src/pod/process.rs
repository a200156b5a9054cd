//! A process, held by its directory below `/proc`, so a reused pid is never mistaken for it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::mounts::{self, Location, Mount};
use crate::sys;

/// Longest cgroup table that is read, in bytes: cgroup v1 has a line for each of some dozen controllers.
const CGROUP_LIMIT: u64 = 64 << 10;

/// Longest command line that is read, in bytes. QEMU's has some thousand.
const COMMAND_LIMIT: u64 = 1 << 20;

/// Longest name of a process that is read, in bytes (`TASK_COMM_LEN` is 16; kernel threads have up to 64).
const NAME_LIMIT: u64 = 64;

/// Most processes of a pod that are examined.
const PROCESS_LIMIT: usize = 16_384;

/// Longest `limits` of a process that is read, in bytes: sixteen lines.
const LIMITS_LIMIT: u64 = 4096;

/// Most containers of a pod that are examined. Its processes may make more mount namespaces.
const CONTAINER_LIMIT: usize = 64;

/// Most descriptors of a process that are examined.
const DESCRIPTOR_LIMIT: usize = 65_536;

/// A running process. Reads through it fail (`ESRCH`) once it has ended, even if its pid is reused.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    proc: OwnedFd,
}

impl Process {
    /// Opens a process.
    ///
    /// # Errors
    /// open(2)'s of its directory below `/proc`.
    pub fn open(pid: i32) -> Result<Self, sys::Error> {
        let proc = sys::open_handle(&PathBuf::from(format!("/proc/{pid}")))?;
        Ok(Self { pid, proc })
    }

    /// Returns the process id in this process' own pid namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns the path of one of its files below `/proc`, valid as long as this value lives.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        sys::link(self.proc.as_fd()).join(name)
    }

    /// Returns its name (`comm`, proc(5)): the first 15 bytes of its program's name, unless it changed it.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn name(&self) -> Result<String, sys::Error> {
        sys::read_text(&self.path("comm"), NAME_LIMIT).map(|name| name.trim_end().to_owned())
    }

    /// Returns the value of an option on its command line: the next argument, or the text after an equals sign. A
    /// process may write anything there.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<String> {
        let line = sys::read_text(&self.path("cmdline"), COMMAND_LIMIT).ok()?;
        let mut arguments = line.split('\0');
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix(name) {
                Some("") => return arguments.next().map(str::to_owned),
                Some(rest) if rest.starts_with('=') => return rest.strip_prefix('=').map(str::to_owned),
                _ => {}
            }
        }
        None
    }

    /// Returns device and inode of one of its namespaces: "net", "mnt".
    ///
    /// # Errors
    /// stat(2)'s.
    pub fn namespace(&self, kind: &str) -> Result<(u64, u64), sys::Error> {
        sys::object(sys::open_handle(&self.path(&format!("ns/{kind}")))?.as_fd())
    }

    /// Returns true if it is in the network namespace of this process, normally the host's; false if unknown.
    #[must_use]
    pub fn is_beside_us(&self) -> bool {
        let own = std::fs::metadata("/proc/self/ns/net").map(|own| (own.dev(), own.ino()));
        self.namespace("net").is_ok_and(|object| own.is_ok_and(|own| own == object))
    }

    /// Returns true if it is in the initial user namespace, in which its capabilities apply to the host's files; false
    /// if unknown.
    #[must_use]
    pub fn is_in_hosts_user_namespace(&self) -> bool {
        let host = std::fs::metadata("/proc/1/ns/user").map(|host| (host.dev(), host.ino()));
        self.namespace("user").is_ok_and(|own| host.is_ok_and(|host| host == own))
    }

    /// Returns a handle on its root directory, which is its container's.
    ///
    /// # Errors
    /// open(2)'s.
    pub fn root(&self) -> Result<OwnedFd, sys::Error> {
        sys::open_handle(&self.path("root"))
    }

    /// Returns the path of its root directory in its mount namespace, and its working directory below that. `None` if
    /// they can't be read.
    #[must_use]
    pub fn directories(&self) -> Option<(PathBuf, PathBuf)> {
        let link = |name: &str| std::fs::read_link(self.path(name)).ok();
        let (root, cwd) = (link("root")?, link("cwd")?);
        let below = cwd.strip_prefix(&root).map(Path::to_owned).unwrap_or(cwd);
        Some((root, below))
    }

    /// Returns its cgroup table, `hierarchy:controllers:path` (cgroups(7)).
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn cgroups(&self) -> Result<String, sys::Error> {
        sys::read_text(&self.path("cgroup"), CGROUP_LIMIT)
    }

    /// Calls `look` for each of its mounts, and returns its first result.
    ///
    /// # Errors
    /// Those of reading its mount table.
    pub fn find_mount<T>(&self, look: impl FnMut(Mount) -> Option<T>) -> Result<Option<T>, sys::Error> {
        mounts::find(&self.path(""), look)
    }

    /// Returns the first mount point where it sees a location.
    ///
    /// # Errors
    /// Those of reading its mount table.
    pub fn mount_point(&self, location: &Location) -> Result<Option<PathBuf>, sys::Error> {
        self.find_mount(|mount| (mount.location() == *location).then_some(mount.point))
    }

    /// Finds which of these sockets (by inode) it has, and their descriptors, among its first 65536.
    ///
    /// # Errors
    /// Those of reading `/proc/<pid>/fd`.
    pub fn descriptors(&self, sockets: &BTreeSet<u64>) -> Result<BTreeMap<u64, i32>, sys::Error> {
        let path = self.path("fd");
        let listing = std::fs::read_dir(&path).map_err(|error| sys::Error::of("readdir", &path, &error))?;
        let mut found = BTreeMap::new();
        for entry in listing.take(DESCRIPTOR_LIMIT).flatten() {
            let inode = std::fs::read_link(entry.path()).ok().and_then(|link| socket_inode(link.to_str()?));
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let (Some(inode), Some(number)) = (inode, number)
                && sockets.contains(&inode)
            {
                found.insert(inode, number);
            }
        }
        Ok(found)
    }
}

/// Returns the most processes of a pod to examine: 16,384, or fewer if this process has too few descriptors. Each takes
/// one, and there may be two lists.
#[must_use]
pub fn most() -> usize {
    let limits = sys::read_text(Path::new("/proc/self/limits"), LIMITS_LIMIT).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let descriptors = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<usize>().ok());
    descriptors.map_or(PROCESS_LIMIT, |descriptors| PROCESS_LIMIT.min(descriptors / 2))
}

/// Returns the first process of each container (by mount namespace), for the first 64 containers.
pub fn of_each_container<'a>(processes: impl IntoIterator<Item = &'a Process>) -> impl Iterator<Item = &'a Process> {
    let mut seen = BTreeSet::new();
    // A process that has ended is skipped.
    let is_first = move |process: &&Process| process.namespace("mnt").is_ok_and(|object| seen.insert(object));
    processes.into_iter().filter(is_first).take(CONTAINER_LIMIT)
}

/// Returns the inode in a descriptor's link to a socket: `socket:[123]`.
#[must_use]
pub fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Returns the pids that `/proc` lists now.
///
/// # Errors
/// Those of reading the directory.
pub fn pids() -> Result<impl Iterator<Item = i32>, sys::Error> {
    let proc = Path::new("/proc");
    let listing = std::fs::read_dir(proc).map_err(|error| sys::Error::of("readdir", proc, &error))?;
    Ok(listing.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_processes_are_held_than_there_are_descriptors_for() {
        let soft = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap();
        assert_eq!(most(), PROCESS_LIMIT.min(usize::try_from(soft / 2).unwrap()));
    }
}
