//! Finds the pod's libvirt daemon by its socket, verifies that it is the pod's own, and connects to it.
//!
//! A socket's path leads through the container's file systems. One of these may be a tenant's server (NFS, a FUSE
//! daemon) that never answers. So paths are opened and connected on other threads, which are abandoned at the deadline.
//!
//! The kernel identifies the process that called listen(2) (SO_PEERCRED, unix(7)). It must be in the pod's network
//! namespace. If the pod's processes are in cgroups that name the pod, it must be in one too: only the runtime writes
//! cgroups. Without this check a process from outside, or of another pod, could pass as the pod's daemon.

use std::collections::BTreeSet;
use std::iter::once_with;
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
use super::process::{self, Process};
use super::volume::{self, Volume};
use crate::deadline::{Deadline, TimedOut};
use crate::sys::{self, Walk};

/// KubeVirt's emptyDir with the daemon's socket (virt-controller, services/rendervolumes.go). It needs no pid.
const RUNTIME_VOLUME: &str = "libvirt-runtime";

/// The socket's name there: virtqemud's, or that of the monolithic libvirtd.
const RUNTIME_SOCKETS: [&str; 2] = ["virtqemud-sock", "libvirt-sock"];

/// A libvirt daemon of the pod, connected.
#[derive(Debug)]
pub struct Daemon {
    /// The connection; non-blocking.
    pub stream: UnixStream,
    /// The process that listens. QEMU has the same mounts and sockets.
    pub process: Process,
    /// The socket's path, for messages.
    pub socket: String,
}

/// No daemon was found.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{}", absent(.tried))]
    Absent {
        /// The paths that were tried, with the results.
        tried: Vec<String>,
    },
    #[error("{socket}: {what}")]
    Untrusted {
        /// Where it was found.
        socket: String,
        what: String,
    },
    #[error(transparent)]
    System(#[from] sys::Error),
}

fn absent(tried: &[String]) -> String {
    match tried {
        [] => "no libvirt socket was found in the pod".to_owned(),
        _ => format!("no libvirt daemon answers in the pod: {}", tried.join("; ")),
    }
}

/// Where to look, and what a daemon must match.
#[derive(Debug)]
pub struct Search<'a> {
    pub kubelet_dir: &'a Path,
    pub uid: &'a PodUid,
    /// The pod's network namespace, in which the daemon must run.
    pub sandbox: &'a Sandbox,
    /// Paths inside the containers.
    pub sockets: &'a [PathBuf],
}

/// A possible path of a daemon's socket.
struct SocketCandidate {
    directory: OwnedFd,
    path: PathBuf,
    walk: Walk,
}

/// The result of opening a path.
enum Found {
    Nothing,
    Socket {
        handle: OwnedFd,
        object: (u64, u64),
    },
    /// Something else, with a description.
    Untrusted(&'static str),
}

/// The result of verifying a listener.
enum Listener {
    /// The pod's own daemon.
    Own(UnixStream, Process),
    /// Nobody listens, or the process has ended.
    Nobody(&'static str),
    /// Another process listens.
    Untrusted(&'static str),
}

impl Search<'_> {
    /// Connects to the first daemon that is the pod's own.
    ///
    /// # Errors
    /// [`Error::Untrusted`] if something pretends to be one; [`Error::Absent`] if there is none.
    pub fn connect(&self, processes: &[Process], deadline: Deadline) -> Result<Daemon, Error> {
        let mut tried = Vec::new();
        let mut untrusted = None;
        // One socket often has several paths: /run and /var/run, a volume and its mount point.
        let mut seen = BTreeSet::new();
        let (names, candidates): (Vec<_>, Vec<_>) = self.candidates(processes).into_iter().unzip();
        for (name, looked) in names.into_iter().zip(deadline.bound(candidates.into_iter().map(look))) {
            let listener = match looked {
                Ok(Found::Nothing) => continue,
                Ok(Found::Socket { object, .. }) if !seen.insert(object) => continue,
                Ok(Found::Socket { handle, .. }) => self.dial_and_verify(handle, processes, deadline)?,
                Ok(Found::Untrusted(what)) => Listener::Untrusted(what),
                Err(TimedOut) => Listener::Nobody("looking there took too long"),
            };
            match listener {
                Listener::Own(stream, process) => return Ok(Daemon { stream, process, socket: name }),
                Listener::Nobody(why) => tried.push(format!("{name}: {why}")),
                Listener::Untrusted(what) => {
                    untrusted.get_or_insert(Error::Untrusted { socket: name, what: what.to_owned() });
                }
            }
        }
        if processes.len() >= process::most() {
            tried.push(format!("the pod has more processes than were looked at, which are {}", processes.len()));
        }
        Err(untrusted.unwrap_or(Error::Absent { tried }))
    }

    /// Returns the possible sockets, with names for messages: KubeVirt's volume first, then each container's root.
    fn candidates(&self, processes: &[Process]) -> Vec<(String, SocketCandidate)> {
        let mut candidates = Vec::new();
        if let Ok(Some(runtime)) = Volume::open(self.kubelet_dir, self.uid.as_str(), RUNTIME_VOLUME) {
            let volume = volume::directory(self.kubelet_dir, self.uid.as_str()).join(RUNTIME_VOLUME);
            for socket in RUNTIME_SOCKETS {
                if let Ok(directory) = runtime.fd().try_clone_to_owned() {
                    let name = volume.join(socket).display().to_string();
                    candidates.push((name, SocketCandidate { directory, path: socket.into(), walk: Walk::Strict }));
                }
            }
        }
        for process in process::of_each_container(processes) {
            // The process has ended.
            let Ok(root) = process.root() else { continue };
            for path in self.sockets {
                let Ok(directory) = root.try_clone() else { continue };
                let name = format!("{} in the container of process {}", path.display(), process.pid());
                candidates.push((name, SocketCandidate { directory, path: path.clone(), walk: Walk::Rooted }));
            }
        }
        candidates
    }

    /// Connects to a socket and verifies who listens.
    fn dial_and_verify(
        &self,
        handle: OwnedFd,
        processes: &[Process],
        deadline: Deadline,
    ) -> Result<Listener, sys::Error> {
        let mut dialled = deadline.bound(once_with(move || dial(&handle, deadline)));
        match dialled.next() {
            Some(Ok(Ok(stream))) => self.verify(stream, processes),
            Some(Ok(Err(errno))) => Ok(Listener::Nobody(errno.desc())),
            Some(Err(TimedOut)) | None => Ok(Listener::Nobody("connecting there took too long")),
        }
    }

    fn verify(&self, stream: UnixStream, processes: &[Process]) -> Result<Listener, sys::Error> {
        let Some(process) = peer(&stream)? else {
            return Ok(Listener::Nobody("the process that listened has ended"));
        };
        if !self.sandbox.holds(&process) {
            return Ok(Listener::Untrusted("who answers there does not live in the pod's network namespace"));
        }
        let is_marked = |process: &Process| identity::of_process(process).as_ref() == Some(self.uid);
        Ok(match identity::of_process(&process) {
            Some(uid) if uid == *self.uid => Listener::Own(stream, process),
            Some(_) => Listener::Untrusted("who answers there belongs to another pod"),
            // Without cgroups of the runtime none of the pod's processes names the pod.
            None if processes.iter().any(is_marked) => {
                Listener::Untrusted("who answers there is in none of the pod's cgroups")
            }
            None => Listener::Own(stream, process),
        })
    }
}

/// Opens a path.
fn look(SocketCandidate { directory, path, walk }: SocketCandidate) -> Found {
    let handle = match sys::open_below(directory.as_fd(), &path, walk) {
        Ok(handle) => handle,
        Err(error) if error.is_escape() && walk == Walk::Rooted => {
            return Found::Untrusted("a link that leads out of the container");
        }
        // Not there, or being moved.
        Err(_) => return Found::Nothing,
    };
    match sys::stat(handle.as_fd()) {
        Ok(stat) if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK => {
            Found::Socket { handle, object: (stat.st_dev, stat.st_ino) }
        }
        Ok(_) => Found::Untrusted("not a socket, though it bears the name of libvirt's"),
        Err(_) => Found::Nothing,
    }
}

/// Connects through the handle, so the name can't be swapped and can't be too long for `sun_path`.
fn dial(handle: &OwnedFd, deadline: Deadline) -> Result<UnixStream, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(&sys::link(handle.as_fd()))?;
    loop {
        match connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            // The listener's backlog is full (unix(7)). poll(2) does not report when it has room, so try again.
            Err(Errno::EAGAIN) if !deadline.passed() => {
                std::thread::sleep(deadline.remaining().min(Duration::from_millis(20)));
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Returns the process that listens at the other end; `None` if it has ended.
fn peer(stream: &UnixStream) -> Result<Option<Process>, sys::Error> {
    let fail = |errno: Errno| sys::Error::of("getsockopt", Path::new("SO_PEERCRED"), &errno.into());
    let pid = getsockopt(stream, PeerCredentials).map_err(fail)?.pid();
    if pid <= 0 {
        // The daemon's pid namespace is not below ours: the plugin does not run in the host's.
        return Err(fail(Errno::ESRCH));
    }
    let process = match Process::open(pid) {
        Ok(process) => process,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error),
    };
    // From Linux 6.5 the peer's pidfd shows if the pid still belonged to it when the handle was taken. Before, the
    // process that now has the pid is verified like any other.
    match getsockopt(stream, PeerPidfd) {
        Ok(pidfd) => {
            let mut watch = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            Ok((poll(&mut watch, PollTimeout::ZERO).map_err(fail)? == 0).then_some(process))
        }
        Err(Errno::ENOPROTOOPT) => Ok(Some(process)),
        // The kernel has no pidfd for a process that has ended.
        Err(Errno::EINVAL | Errno::ESRCH | Errno::ENODATA) => Ok(None),
        Err(errno) => Err(fail(errno)),
    }
}
