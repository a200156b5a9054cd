//! The probe: before the VM is touched, the plugin listens at the NIC's socket and asks the data plane what it offers.
//!
//! QEMU will be the server there, and the data plane the client that keeps trying to connect. So listening at the path
//! shows that a data plane runs, has the port, and sees the path.
//!
//! The data plane sees the probe as a guest that starts and stops ([`super::frontend`]). A port's offer may change when
//! a connection ends: OVS with userspace TSO does that after a guest that failed (lib/netdev-dpdk.c,
//! `destroy_connection`). So an offer counts only if the next connection repeats it. If a data plane does not start the
//! probe's device, the probe only asks it.
//!
//! The socket is in the pod's volume, so the pod's processes may connect to it too, or replace it. Connections from the
//! pod are refused. A tenant that gets around that (by passing its connection on) only gets wrong capabilities for its
//! own NIC, and a tenant that removes the socket only blocks its own ADD.
//!
//! A call that is killed here leaves a socket file without a listener; the next call removes it.

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

/// How often a data plane may fail to start the device before the probe only asks it. One failure may be a coincidence:
/// the port was being registered anew.
const TRIES: usize = 2;

/// How soon a data plane reconnects if it does so at once, not at its next round. OVS needs 30 ms.
const AT_ONCE: Duration = Duration::from_millis(300);

/// How long a connection must last before it counts, unless it is the first. OVS may be about to reconfigure the port,
/// and then closes earlier connections. A device must not end while it does: OVS 3.5's main loop and DPDK's thread then
/// deadlock (`rte_vhost_driver_unregister`, `destroy_device`).
const QUIET: Duration = Duration::from_millis(50);

/// How often `goes_on` is asked while nobody connects. OVS tries once a second.
const ROUND: Duration = Duration::from_millis(500);

/// The probe failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("no data plane connected to {}{}", shown(.path), refusals(*.refused))]
    Nobody {
        /// The socket's path on the host.
        path: PathBuf,
        refused: u32,
    },
    #[error("what connected to {} did not answer as a data plane does: {error}", shown(.path))]
    Answer {
        /// The socket's path on the host.
        path: PathBuf,
        #[source]
        error: message::Error,
    },
    #[error("a data plane connected to {} and answered, and has not come back since", shown(.path))]
    Gone {
        /// The socket's path on the host.
        path: PathBuf,
    },
    #[error(transparent)]
    System(#[from] sys::Error),
}

impl Error {
    /// Returns true if something else is at the socket's name.
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

/// A probed data plane. While this value lives, the data plane is connected to the probe and does not connect to QEMU.
/// OVS-DPDK reconnects at once when its connection closes (DPDK, lib/vhost/socket.c, `vhost_user_read_cb`), so dropping
/// this at the right moment saves up to a second.
#[derive(Debug)]
pub struct ProbedDataPlane {
    pub capabilities: Capabilities,
    pub pid: i32,
    /// Why the probe only asked it, if it did not start the probe's device. The end of this connection may then disturb
    /// it.
    pub only_asked: Option<message::Error>,
    connection: Connection,
}

impl ProbedDataPlane {
    /// Checks that it still answers and offers the same features.
    ///
    /// # Errors
    /// [`message::Error::Closed`] if it is gone, [`message::Error::Silent`] if it hangs, [`message::Error::Changed`] if
    /// it offers others.
    pub fn ask_again(&mut self, deadline: Deadline) -> Result<(), message::Error> {
        let now = self.connection.ask(request::GET_FEATURES, deadline)?;
        if now == self.capabilities.features {
            Ok(())
        } else {
            Err(message::Error::Changed(self.capabilities.features, now))
        }
    }
}

/// Listens at the socket's path until a data plane has connected, answered, and reconnected with the same answers.
/// `is_foreign` returns true for the pid of a process outside the pod. `goes_on` is asked while nobody connects: false
/// ends the probe. An existing socket must be unused: it is removed.
///
/// # Errors
/// Any [`Error`]; the probe's socket is removed then.
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
    let probed = accept_until_settled(&listener, socket_path, (is_foreign, goes_on), deadline);
    // Closes waiting connections before the name is free for QEMU.
    drop(listener);
    let removed = remove(socket_path, &file);
    let probed = probed?;
    removed?;
    Ok(probed)
}

/// Removes the probe's socket. If somebody replaced it, that is an error: QEMU could not listen there.
fn remove(socket_path: SocketPath<'_>, file: &SocketFile) -> Result<(), Error> {
    if !socket_path.remove(file)? && socket_path.file()?.is_some() {
        return Err(sys::Error::of("unlinkat", socket_path.path(), &Errno::EADDRINUSE.into()).into());
    }
    Ok(())
}

fn accept_until_settled(
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
        if let Some((capabilities, connection)) = talks.next(stream, deadline) {
            let only_asked = talks.declined.into_iter().nth(TRIES - 1);
            return Ok(ProbedDataPlane { capabilities, pid: peer.pid(), only_asked, connection });
        }
    }
    let path = socket_path.path().to_owned();
    Err(match talks {
        Talks { error: Some(error), .. } => Error::Answer { path, error },
        Talks { offer: Some(_), .. } => Error::Gone { path },
        _ => Error::Nobody { path, refused },
    })
}

/// The exchanges with data planes that connect, one after the other.
#[derive(Default)]
struct Talks {
    /// The offer of the last one that started a device.
    offer: Option<Capabilities>,
    /// When that connection was closed, if no other has ended since.
    left: Option<Instant>,
    declined: Vec<message::Error>,
    error: Option<message::Error>,
}

impl Talks {
    /// Talks to the next one. Returns its offer if that is final; else notes the error.
    fn next(&mut self, stream: UnixStream, deadline: Deadline) -> Option<(Capabilities, Connection)> {
        let soon = deadline.at_most(PATIENCE);
        let is_first = self.offer.is_none() && self.error.is_none();
        let came_at_once = self.left.take().is_some_and(|left| left.elapsed() < AT_ONCE);
        let learnt = Connection::new(stream)
            .and_then(|mut connection| Ok((Capabilities::learn(&mut connection, soon)?, connection)));
        let (capabilities, mut connection) = self.unless_failed(learnt, deadline)?;
        if !is_first {
            let lasts = connection.stays_quiet(soon.at_most(QUIET));
            self.unless_failed(lasts, deadline)?;
        }
        if came_at_once && self.offer == Some(capabilities) || self.declined.len() >= TRIES {
            return Some((capabilities, connection));
        }
        let started = frontend::start_device(&mut connection, &capabilities, soon);
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
        self.unless_failed(settled, deadline).map(|()| (capabilities, connection))
    }

    fn unless_failed<T>(&mut self, result: Result<T, message::Error>, deadline: Deadline) -> Option<T> {
        match result {
            Ok(value) => {
                self.error = None;
                return Some(value);
            }
            // A timeout at the deadline says less than the error before it.
            Err(message::Error::Silent) if deadline.passed() && self.error.is_some() => {}
            Err(error) => self.error = Some(error),
        }
        None
    }
}

/// Returns the next connection; `None` at the deadline, or if `goes_on` returns false.
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
            // Closed before it was accepted.
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
