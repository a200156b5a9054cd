//! The pod's libvirt daemon: found by its socket, proved to be the pod's own, connected to.
//!
//! A socket's path leads through the container's file systems, and one of these may be a server of the tenant's own (NFS, a
//! FUSE daemon) that never answers. So the places are looked at, and connected to, on threads that are left alone at the
//! deadline.
//!
//! Who listens is proved by the process that called listen(2) (SO_PEERCRED, unix(7)), which must live in the pod's network
//! namespace and, where the pod's processes bear its mark at all, in its cgroup: only the runtime writes that. A process
//! that bears none there came from outside, and one of another pod's would be taken for the pod's own otherwise.

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

/// KubeVirt's emptyDir with the daemon's socket (virt-controller, services/rendervolumes.go): reached without a pid.
const RUNTIME_VOLUME: &str = "libvirt-runtime";

/// What the daemon's socket is called there: virtqemud's, or the monolithic libvirtd's.
const RUNTIME_SOCKETS: [&str; 2] = ["virtqemud-sock", "libvirt-sock"];

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
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No socket, or nobody behind any: there is no VM yet, or no more.
    #[error("{}", absent(.tried))]
    Absent {
        /// The places that were looked at and what was found there.
        tried: Vec<String>,
    },
    /// A socket is there, but is not the pod's own daemon's, or no socket at all.
    #[error("{socket}: {what}")]
    Untrusted {
        /// Where it was found.
        socket: String,
        /// What is wrong with it.
        what: String,
    },
    /// A system call failed.
    #[error(transparent)]
    System(#[from] sys::Error),
}

fn absent(tried: &[String]) -> String {
    match tried {
        [] => "no libvirt socket was found in the pod".to_owned(),
        _ => format!("no libvirt daemon answers in the pod: {}", tried.join("; ")),
    }
}

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

/// A path at which a daemon's socket may be.
struct SocketCandidate {
    directory: OwnedFd,
    path: PathBuf,
    walk: Walk,
}

/// What was found at a place.
enum Found {
    Nothing,
    Socket {
        handle: OwnedFd,
        /// Device and inode.
        object: (u64, u64),
    },
    /// Something that must not be there: in words.
    Untrusted(&'static str),
}

/// Who answers at a socket.
enum Verdict {
    /// The pod's own daemon.
    Own(UnixStream, Process),
    /// Nobody, or one who has ended: in words.
    Nobody(&'static str),
    /// Somebody else: in words.
    Untrusted(&'static str),
}

impl Search<'_> {
    /// Connects to the first daemon that is the pod's own.
    ///
    /// # Errors
    /// [`Error::Untrusted`] if there is none and something pretends to be one; [`Error::Absent`] if there is none.
    pub fn connect(&self, processes: &[Process], deadline: Deadline) -> Result<Daemon, Error> {
        let mut tried = Vec::new();
        let mut untrusted = None;
        // One socket often has several names: /run and /var/run, a volume and where it is mounted.
        let mut seen = BTreeSet::new();
        let (names, places): (Vec<_>, Vec<_>) = self.places(processes).into_iter().unzip();
        for (name, looked) in names.into_iter().zip(deadline.bound(places.into_iter().map(look))) {
            let verdict = match looked {
                Ok(Found::Nothing) => continue,
                Ok(Found::Socket { object, .. }) if !seen.insert(object) => continue,
                Ok(Found::Socket { handle, .. }) => self.ask(handle, processes, deadline)?,
                Ok(Found::Untrusted(what)) => Verdict::Untrusted(what),
                Err(TimedOut) => Verdict::Nobody("looking there took too long"),
            };
            match verdict {
                Verdict::Own(stream, process) => return Ok(Daemon { stream, process, socket: name }),
                Verdict::Nobody(why) => tried.push(format!("{name}: {why}")),
                Verdict::Untrusted(what) => {
                    untrusted.get_or_insert(Error::Untrusted { socket: name, what: what.to_owned() });
                }
            }
        }
        if processes.len() >= process::most() {
            tried.push(format!("the pod has more processes than were looked at, which are {}", processes.len()));
        }
        Err(untrusted.unwrap_or(Error::Absent { tried }))
    }

    /// Where a socket may be, with a name for messages: KubeVirt's volume first, then each container's root.
    fn places(&self, processes: &[Process]) -> Vec<(String, SocketCandidate)> {
        let mut places = Vec::new();
        if let Ok(Some(runtime)) = Volume::open(self.kubelet_dir, self.uid.as_str(), RUNTIME_VOLUME) {
            let volume = volume::directory(self.kubelet_dir, self.uid.as_str()).join(RUNTIME_VOLUME);
            for socket in RUNTIME_SOCKETS {
                if let Ok(directory) = runtime.fd().try_clone_to_owned() {
                    let name = volume.join(socket).display().to_string();
                    places.push((name, SocketCandidate { directory, path: socket.into(), walk: Walk::Strict }));
                }
            }
        }
        for process in process::of_each_container(processes) {
            // One whose root is gone has no daemon to offer.
            let Ok(root) = process.root() else { continue };
            for path in self.sockets {
                let Ok(directory) = root.try_clone() else { continue };
                let name = format!("{} in the container of process {}", path.display(), process.pid());
                places.push((name, SocketCandidate { directory, path: path.clone(), walk: Walk::Rooted }));
            }
        }
        places
    }

    /// Connects to a socket, and tells who listens there.
    fn ask(&self, handle: OwnedFd, processes: &[Process], deadline: Deadline) -> Result<Verdict, sys::Error> {
        let mut dialled = deadline.bound(once_with(move || dial(&handle, deadline)));
        match dialled.next() {
            Some(Ok(Ok(stream))) => self.judge(stream, processes),
            Some(Ok(Err(errno))) => Ok(Verdict::Nobody(errno.desc())),
            Some(Err(TimedOut)) | None => Ok(Verdict::Nobody("connecting there took too long")),
        }
    }

    fn judge(&self, stream: UnixStream, processes: &[Process]) -> Result<Verdict, sys::Error> {
        let Some(process) = peer(&stream)? else {
            return Ok(Verdict::Nobody("the process that listened has ended"));
        };
        if !self.sandbox.holds(&process) {
            return Ok(Verdict::Untrusted("who answers there does not live in the pod's network namespace"));
        }
        let is_marked = |process: &Process| identity::of_process(process).as_ref() == Some(self.uid);
        Ok(match identity::of_process(&process) {
            Some(uid) if uid == *self.uid => Verdict::Own(stream, process),
            Some(_) => Verdict::Untrusted("who answers there belongs to another pod"),
            // A runtime that keeps no cgroups marks none of the pod's processes.
            None if processes.iter().any(is_marked) => {
                Verdict::Untrusted("who answers there is in none of the pod's cgroups")
            }
            None => Verdict::Own(stream, process),
        })
    }
}

/// Looks at a place.
fn look(SocketCandidate { directory, path, walk }: SocketCandidate) -> Found {
    let handle = match sys::open_below(directory.as_fd(), &path, walk) {
        Ok(handle) => handle,
        Err(error) if error.is_escape() && walk == Walk::Rooted => {
            return Found::Untrusted("a link that leads out of the container");
        }
        // Not there, or in the middle of being moved about.
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
    // From Linux 6.5 the peer's own pidfd tells whether the pid was still its own when the handle was taken. Before, whoever
    // has the pid by now is judged like any other.
    match getsockopt(stream, PeerPidfd) {
        Ok(pidfd) => {
            let mut watch = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            Ok((poll(&mut watch, PollTimeout::ZERO).map_err(fail)? == 0).then_some(process))
        }
        Err(Errno::ENOPROTOOPT) => Ok(Some(process)),
        // The kernel has no pidfd for a process that is gone.
        Err(Errno::EINVAL | Errno::ESRCH | Errno::ENODATA) => Ok(None),
        Err(errno) => Err(fail(errno)),
    }
}
