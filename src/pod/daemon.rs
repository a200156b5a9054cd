//! The pod's libvirt daemon: found by its socket, proved to be the pod's own, connected to.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use nix::sys::stat::SFlag;

use super::identity::{self, PodUid};
use super::netns::Sandbox;
use super::process::Process;
use super::volume::{self, Entry, Volume};
use crate::deadline::Deadline;
use crate::sys::{self, Walk};

/// KubeVirt's emptyDir with the daemon's socket (virt-controller, services/rendervolumes.go): reached without a pid.
const RUNTIME_VOLUME: &str = "libvirt-runtime";

/// What the daemon's socket is called there: virtqemud's, or the monolithic libvirtd's.
const RUNTIME_SOCKETS: [&str; 2] = ["virtqemud-sock", "libvirt-sock"];

/// Most containers of a pod that are searched for a socket.
const CONTAINER_LIMIT: usize = 64;

/// A libvirt daemon of the pod, connected.
#[derive(Debug)]
pub struct Daemon {
    /// The connection; non-blocking.
    pub stream: UnixStream,
    /// The process that listens: its mounts and its sockets are QEMU's.
    pub process: Process,
    /// Where the socket was found, for messages.
    pub socket: String,
}

/// Why no daemon could be had.
#[derive(Clone, Debug)]
pub enum Error {
    /// No socket, or nobody behind any: there is no VM yet, or no more.
    Absent {
        /// The places that were looked at and what was found there.
        tried: Vec<String>,
    },
    /// A socket is there, but is not the pod's own daemon's, or no socket at all.
    Foul {
        /// Where it was found.
        socket: String,
        /// What is wrong with it.
        what: String,
    },
    /// A system call failed.
    System(sys::Error),
}

impl From<sys::Error> for Error {
    fn from(error: sys::Error) -> Self {
        Self::System(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { tried } if tried.is_empty() => f.write_str("no libvirt socket was found in the pod"),
            Self::Absent { tried } => write!(f, "no libvirt daemon answers in the pod: {}", tried.join("; ")),
            Self::Foul { socket, what } => write!(f, "{socket}: {what}"),
            Self::System(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Where to look, and what must hold for what is found.
#[derive(Debug)]
pub struct Search<'a> {
    /// kubelet's directory on the host.
    pub kubelet_dir: &'a Path,
    /// The pod.
    pub uid: &'a PodUid,
    /// The pod's network namespace, in which the daemon must live.
    pub sandbox: &'a Sandbox,
    /// Paths inside the containers.
    pub sockets: &'a [PathBuf],
}

impl Search<'_> {
    /// Connects to the first daemon that is the pod's own.
    ///
    /// # Errors
    /// [`Error::Foul`] if there is none and something pretends to be one; [`Error::Absent`] if there is none.
    pub fn connect(&self, processes: &[Process], deadline: Deadline) -> Result<Daemon, Error> {
        let mut tried = Vec::new();
        let mut foul = None;
        let mut seen = BTreeSet::new();
        for (name, handle) in self.candidates(processes)? {
            // One socket often has several names: /run and /var/run, a volume and where it is mounted.
            if !seen.insert(sys::object(handle.as_fd())?) {
                continue;
            }
            match self.try_one(&name, &handle, deadline) {
                Ok(daemon) => return Ok(daemon),
                Err(Error::Absent { tried: here }) => tried.extend(here),
                Err(error @ Error::Foul { .. }) => foul = foul.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(foul.unwrap_or(Error::Absent { tried }))
    }

    /// What bears a socket's name, with a name for messages: KubeVirt's volume first, then each container's root.
    fn candidates(&self, processes: &[Process]) -> Result<Vec<(String, OwnedFd)>, Error> {
        let mut found = Vec::new();
        if let Ok(Some(runtime)) = Volume::open(self.kubelet_dir, self.uid.as_str(), RUNTIME_VOLUME) {
            for name in RUNTIME_SOCKETS {
                if runtime.entry(name)? == Entry::Socket
                    && let Ok(handle) = sys::open_below(runtime.fd(), Path::new(name), Walk::Strict)
                {
                    let path = volume::directory(self.kubelet_dir, self.uid.as_str()).join(RUNTIME_VOLUME).join(name);
                    found.push((path.display().to_string(), handle));
                }
            }
        }
        let mut containers = BTreeSet::new();
        for process in processes {
            // A process that ended meanwhile, or whose root is gone, has no daemon to offer.
            let (Ok(container), Ok(root)) = (process.namespace("mnt"), process.root()) else { continue };
            if containers.len() >= CONTAINER_LIMIT || !containers.insert(container) {
                continue;
            }
            for socket in self.sockets {
                if let Ok(handle) = sys::open_below(root.as_fd(), socket, Walk::Rooted) {
                    found.push((format!("{} in the container of process {}", socket.display(), process.pid()), handle));
                }
            }
        }
        Ok(found)
    }

    fn try_one(&self, name: &str, handle: &OwnedFd, deadline: Deadline) -> Result<Daemon, Error> {
        let foul = |what: &str| Error::Foul { socket: name.to_owned(), what: what.to_owned() };
        let absent = |what: &str| Error::Absent { tried: vec![format!("{name}: {what}")] };

        let kind = SFlag::from_bits_truncate(sys::stat(handle.as_fd())?.st_mode) & SFlag::S_IFMT;
        if kind != SFlag::S_IFSOCK {
            return Err(foul("not a socket, though it bears the name of libvirt's"));
        }
        let stream = dial(handle, deadline).map_err(|errno| absent(errno.desc()))?;
        let Some(process) = peer(&stream)? else {
            return Err(absent("the process that listened has ended"));
        };
        if !self.sandbox.holds(&process) {
            return Err(foul("who answers there does not live in the pod's network namespace"));
        }
        if identity::of_process(&process).is_some_and(|uid| uid != *self.uid) {
            return Err(foul("who answers there belongs to another pod"));
        }
        Ok(Daemon { stream, process, socket: name.to_owned() })
    }
}

/// Connects through the handle: neither can the name be swapped, nor is it too long for `sun_path`.
fn dial(handle: &OwnedFd, deadline: Deadline) -> Result<UnixStream, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(&sys::link(handle.as_fd()))?;
    loop {
        match connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            // The listener's backlog is full (unix(7)): no readiness tells when it is not, so look again.
            Err(Errno::EAGAIN) if !deadline.passed() => {
                std::thread::sleep(deadline.remaining().min(Duration::from_millis(20)));
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The process that listens on the other side; `None` if it has ended.
fn peer(stream: &UnixStream) -> Result<Option<Process>, sys::Error> {
    let fail = |errno: Errno| sys::Error::of("getsockopt", Path::new("SO_PEERCRED"), &errno.into());
    let pid = getsockopt(stream, PeerCredentials).map_err(fail)?.pid();
    if pid <= 0 {
        // The daemon's pid namespace is no descendant of ours: the plugin does not run in the host's.
        return Err(fail(Errno::ESRCH));
    }
    let process = match Process::open(pid) {
        Ok(process) => process,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error),
    };
    // From Linux 6.5 the peer's own pidfd tells whether the pid was still its own when the handle was taken.
    if let Ok(pidfd) = getsockopt(stream, PeerPidfd) {
        let mut watch = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut watch, PollTimeout::ZERO).map_err(fail)? > 0 {
            return Ok(None);
        }
    }
    Ok(Some(process))
}
