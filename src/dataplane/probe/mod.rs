//! The probe: before the VM is touched, the data plane is met at the socket's own path, and asked what it offers.
//!
//! QEMU will be the server there, and the data plane the client that tries again and again. So listening at the path for
//! a moment shows that a data plane runs, has the port, and sees the path, whichever data plane it is.
//!
//! To the data plane the probe is a guest that comes up and leaves ([`super::frontend`]). What a port offers may change when
//! a connection ends: OVS with userspace TSO does that after a guest that failed (lib/netdev-dpdk.c, `destroy_connection`).
//! So an offer counts when the next connection brings it again. A data plane that does not start the probe's device is only
//! asked.
//!
//! Who else might come: the socket is in the pod's volume, where the pod's processes may connect to it too, or put
//! something else at the name. Connections of the pod's own are refused, so that a tenant does not play the data plane by
//! accident or for fun. One that gets past that (by handing its connection on) gains nothing but wrong figures for its
//! own NIC, and one that takes the name away keeps the probe from being reached: both only harm themselves.
//!
//! A call that is killed here leaves a socket file that nobody listens on; the next one removes it.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{getsockopt, sockopt};

use super::capabilities::Capabilities;
use super::frontend;
use super::message::{self, Connection, request};
use super::socket_path::{SocketFile, SocketPath};
use crate::deadline::Deadline;
use crate::{quote, sys};

/// How long one data plane may take to say what it offers and to start a device. OVS needs 10 to 70 ms.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a data plane is asked to start a device before it is only asked what it offers. Once may be an accident: the
/// port was registered anew just then.
const TRIES: usize = 2;

/// How soon a data plane comes back that connects again at once, and not at its next round: OVS within 30 ms.
const AT_ONCE: Duration = Duration::from_millis(300);

/// How long a connection must last before it is relied on, unless it is the first. OVS may be about to set the port up anew,
/// and closes the connections that came before. A device must not end while it does: OVS 3.5's main loop and DPDK's thread
/// then wait for each other for good (`rte_vhost_driver_unregister`, `destroy_device`).
const QUIET: Duration = Duration::from_millis(50);

/// How long nobody has come before it is asked whether somebody still may. OVS tries once a second.
const ROUND: Duration = Duration::from_millis(500);

/// Why the data plane was not met.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Nobody connected, but for `refused` connections of the pod's own.
    #[error("no data plane connected to {}{}", shown(.path), refusals(*.refused))]
    Nobody {
        /// The socket's path on the host.
        path: PathBuf,
        /// How many were refused.
        refused: u32,
    },
    /// Somebody did, and did not answer as a data plane does.
    #[error("what connected to {} did not answer as a data plane does: {error}", shown(.path))]
    Answer {
        /// The socket's path on the host.
        path: PathBuf,
        /// What was wrong with the last one.
        #[source]
        error: message::Error,
    },
    /// One connected and answered, and has not come back since.
    #[error("a data plane connected to {} and answered, and has not come back since", shown(.path))]
    Gone {
        /// The socket's path on the host.
        path: PathBuf,
    },
    /// Something else than a socket is at the socket's name, or it cannot be listened on.
    #[error(transparent)]
    System(#[from] sys::Error),
}

impl Error {
    /// Whether something is at the socket's name that must not be there.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        matches!(self, Self::System(error) if matches!(error.errno(), Errno::ENOTSOCK | Errno::EADDRINUSE))
    }
}

fn refusals(count: u32) -> String {
    match count {
        0 => String::new(),
        _ => format!(" ({count} connections of the pod's own processes were refused)"),
    }
}

fn shown(path: &Path) -> String {
    quote::value(&path.to_string_lossy())
}

/// A data plane that was met. As long as this value lives, it takes itself for connected, and does not come to QEMU's
/// socket: OVS-DPDK tries again at once when its connection closes (DPDK, lib/vhost/socket.c, `vhost_user_read_cb`), so
/// that dropping this at the right moment saves the wait for its next round, up to a second.
#[derive(Debug)]
pub struct ProbedDataPlane {
    /// What it offers.
    pub capabilities: Capabilities,
    /// The process that connected.
    pub pid: i32,
    /// Why it was only asked, if it did not take the probe's device: it may take this connection's end amiss.
    pub only_asked: Option<message::Error>,
    line: Connection,
}

impl ProbedDataPlane {
    /// Asks it again, to know whether it still answers and still offers the same features.
    ///
    /// # Errors
    /// [`message::Error::Closed`] if it is gone, [`message::Error::Silent`] if it hangs, [`message::Error::Changed`] if it offers others.
    pub fn ask_again(&mut self, deadline: Deadline) -> Result<(), message::Error> {
        let now = self.line.ask(request::GET_FEATURES, deadline)?;
        if now == self.capabilities.features {
            Ok(())
        } else {
            Err(message::Error::Changed(self.capabilities.features, now))
        }
    }
}

/// Listens at the seat until a data plane has connected, answered, and come back with the same answers. `is_foreign` tells whether a process, by its pid,
/// is none of the pod's. `goes_on` is asked now and then while nobody comes: whether somebody still may. A socket that is at the name already must
/// be one that nobody holds: it is removed.
///
/// # Errors
/// Any [`Error`]; nothing is left at the name then.
pub fn probe(
    socket_path: SocketPath<'_>,
    is_foreign: impl Fn(i32) -> bool,
    goes_on: impl Fn() -> bool,
    deadline: Deadline,
) -> Result<ProbedDataPlane, Error> {
    if let Some(left_over) = socket_path.file()? {
        socket_path.remove(&left_over)?;
    }
    let (listener, file) = socket_path.listen()?;
    let met = meet(&listener, socket_path, (is_foreign, goes_on), deadline);
    // Whoever still waits to be taken is turned away before the name is free for QEMU.
    drop(listener);
    let removed = remove(socket_path, &file);
    let met = met?;
    removed?;
    Ok(met)
}

/// Removes our socket's file. What somebody put in its place stays, and is told of: QEMU could not listen there.
fn remove(socket_path: SocketPath<'_>, file: &SocketFile) -> Result<(), Error> {
    if !socket_path.remove(file)? && socket_path.file()?.is_some() {
        return Err(sys::Error::of("unlinkat", socket_path.path(), &Errno::EADDRINUSE.into()).into());
    }
    Ok(())
}

fn meet(
    listener: &UnixListener,
    socket_path: SocketPath<'_>,
    (is_foreign, goes_on): (impl Fn(i32) -> bool, impl Fn() -> bool),
    deadline: Deadline,
) -> Result<ProbedDataPlane, Error> {
    let mut refused = 0_u32;
    let mut talks = Talks::default();
    while let Some(stream) = next(listener, &goes_on, deadline).map_err(|errno| failed(socket_path, "accept", errno))? {
        let peer =
            getsockopt(&stream, sockopt::PeerCredentials).map_err(|errno| failed(socket_path, "getsockopt", errno))?;
        if !is_foreign(peer.pid()) {
            refused = refused.saturating_add(1);
            continue;
        }
        if let Some((capabilities, line)) = talks.next(stream, deadline) {
            let only_asked = talks.declined.into_iter().nth(TRIES - 1);
            return Ok(ProbedDataPlane { capabilities, pid: peer.pid(), only_asked, line });
        }
    }
    let path = socket_path.path().to_owned();
    Err(match talks {
        Talks { error: Some(error), .. } => Error::Answer { path, error },
        Talks { offer: Some(_), .. } => Error::Gone { path },
        _ => Error::Nobody { path, refused },
    })
}

/// The talks with data planes that have connected, one after the other.
#[derive(Default)]
struct Talks {
    /// What the last one that started a device offered.
    offer: Option<Capabilities>,
    /// When it was left, if no other connection has ended since.
    left: Option<Instant>,
    /// Why devices were not started.
    declined: Vec<message::Error>,
    /// What was wrong with the last one.
    error: Option<message::Error>,
}

impl Talks {
    /// Talks with the next one: what it offers, if that can be relied on. Else the reason is kept.
    fn next(&mut self, stream: UnixStream, deadline: Deadline) -> Option<(Capabilities, Connection)> {
        let soon = deadline.at_most(PATIENCE);
        let is_first = self.offer.is_none() && self.error.is_none();
        let came_at_once = self.left.take().is_some_and(|left| left.elapsed() < AT_ONCE);
        let learnt = Connection::new(stream).and_then(|mut line| Ok((Capabilities::learn(&mut line, soon)?, line)));
        let (capabilities, mut line) = self.unless_failed(learnt, deadline)?;
        if !is_first {
            let lasts = line.stays_quiet(soon.at_most(QUIET));
            self.unless_failed(lasts, deadline)?;
        }
        if came_at_once && self.offer == Some(capabilities) || self.declined.len() >= TRIES {
            return Some((capabilities, line));
        }
        let started = frontend::start_device(&mut line, &capabilities, soon);
        if let Err(error @ (message::Error::Refused(_) | message::Error::Closed | message::Error::Io(_))) = &started {
            self.declined.push(error.clone());
        }
        self.unless_failed(started, deadline)?;
        self.left = Some(Instant::now());
        let settled = match self.offer.replace(capabilities) {
            Some(earlier) if earlier == capabilities => Ok(()),
            Some(earlier) => Err(message::Error::Changed(earlier.features, capabilities.features)),
            None => return None,
        };
        self.unless_failed(settled, deadline).map(|()| (capabilities, line))
    }

    fn unless_failed<T>(&mut self, result: Result<T, message::Error>, deadline: Deadline) -> Option<T> {
        match result {
            Ok(value) => {
                self.error = None;
                return Some(value);
            }
            // One that the deadline cut short tells less than the one before it.
            Err(message::Error::Silent) if deadline.passed() && self.error.is_some() => {}
            Err(error) => self.error = Some(error),
        }
        None
    }
}

/// The next connection; `None` at the deadline, or once it does not go on.
fn next(listener: &UnixListener, goes_on: impl Fn() -> bool, deadline: Deadline) -> Result<Option<UnixStream>, Errno> {
    loop {
        if deadline.passed() {
            return Ok(None);
        }
        match poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], deadline.at_most(ROUND).poll_timeout()) {
            Ok(0) if !goes_on() => return Ok(None),
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno),
        }
        match listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            // Gone again before it was taken.
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))),
        }
    }
}

fn failed(socket_path: SocketPath<'_>, call: &'static str, errno: Errno) -> Error {
    sys::Error::of(call, socket_path.path(), &errno.into()).into()
}

#[cfg(test)]
mod tests;
