//! The stand-in is QEMU's back end while libvirt plugs the NIC. So QEMU's main loop, and with it the VM, waits for
//! microseconds and not for the data plane's next attempt to connect.
//!
//! It offers exactly the data plane's capabilities ([`super::probe`]), and disconnects when the NIC is plugged and the
//! guest's driver has started it. QEMU then sets the link down, and up again when the data plane connects with the same
//! features.
//!
//! QEMU disconnects a back end that it can't use, and waits for the next one without a timeout (`net_vhost_user_init`).
//! Most reasons are checked before ([`super::capabilities`]), but that list may be incomplete. So if QEMU disconnects
//! the stand-in, it reconnects and offers more than the data plane has ([`Capabilities::widened`]): the attach ends,
//! and the caller unplugs the NIC, which the data plane could not serve. [`free`] does the same for a QEMU that waits
//! already.
//!
//! QEMU is not trusted: its messages are bounded in size, time and number, its descriptors are never received
//! ([`super::message`]), and an invalid request ends the connection. If the data plane connects to QEMU first, the
//! stand-in's connection stays in QEMU's listen queue.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::backend::BackEnd;
use super::capabilities::Capabilities;
use super::guard::is_over;
use super::message::{self, Connection};
use super::socket_path::SocketPath;
use crate::deadline::Deadline;
use crate::sys;

/// How often QEMU's socket is looked for. The VM may hang for that long.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How long the stand-in waits for QEMU and the guest's driver.
#[derive(Clone, Copy)]
struct Patience {
    /// How long QEMU may take to send one message or to read an answer.
    message: Duration,
    /// How long QEMU must have been quiet before the stand-in disconnects.
    quiet: Duration,
    /// How long to wait for that quiet.
    until_quiet: Duration,
    /// How long to wait for the guest's driver to start a plugged NIC.
    driver: Duration,
}

const PATIENCE: Patience = Patience {
    message: Duration::from_secs(1),
    // The messages of one handshake are less than a millisecond apart, on a busy machine and without KVM too. The
    // guest's driver starts the NIC 4 ms after it has reset it, and sets its queues some milliseconds later.
    quiet: Duration::from_millis(10),
    until_quiet: Duration::from_millis(500),
    // A driver takes a dozen milliseconds, and some hundred if it must be loaded first. A guest that boots, or has no
    // driver, never starts the NIC.
    driver: Duration::from_millis(300),
};

/// Most messages that are answered. QEMU sends some 300 for a NIC with 16 queue pairs, and again each time that the
/// guest's driver starts it.
const MESSAGE_LIMIT: u32 = 20_000;

/// How often to check if a QEMU waits. Each check reads some files in `/proc`.
const LOOK_FOR_WAITING: Duration = Duration::from_millis(5);

/// What a stand-in did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// How many messages QEMU sent.
    pub requests: u32,
    /// QEMU's ends of the stand-in's connections, by inode, to tell them from the data plane's.
    pub accepted: BTreeSet<u64>,
    /// Why the last connection ended early, if it did.
    pub error: Option<message::Error>,
    /// Whether QEMU was offered more than the data plane has.
    pub widened: bool,
}

/// Plugs a NIC with `plug` while a stand-in serves QEMU at the socket. `accepted` returns the connections that QEMU has
/// accepted at the socket, by inode; it is called when the stand-in's own is one of them.
///
/// The stand-in stays until the guest's driver has started the NIC, so that the link does not go down and up meanwhile:
/// that can hang a guest. If no driver starts it, the stand-in waits a fraction of a second; if plugging failed, until
/// QEMU is quiet.
///
/// # Errors
/// If no thread can be started; `plug` is not called then.
pub fn during<T, E>(
    socket_path: SocketPath<'_>,
    capabilities: Capabilities,
    deadline: Deadline,
    accepted: impl Fn() -> BTreeSet<u64> + Send,
    plug: impl FnOnce() -> Result<T, E>,
) -> Result<(Result<T, E>, Served), sys::Error> {
    during_with(socket_path, capabilities, (deadline, PATIENCE), accepted, plug)
}

fn during_with<T, E>(
    socket_path: SocketPath<'_>,
    capabilities: Capabilities,
    (deadline, patience): (Deadline, Patience),
    accepted: impl Fn() -> BTreeSet<u64> + Send,
    plug: impl FnOnce() -> Result<T, E>,
) -> Result<(Result<T, E>, Served), sys::Error> {
    let plugged = AtomicBool::new(false);
    let stand_in = StandIn {
        socket_path,
        capabilities,
        deadline,
        patience,
        accepted,
        peer: || Some(Peer::Any),
        look_again: LOOK_AGAIN,
        plugged: &plugged,
        served: Served::default(),
    };
    stand_in.serve_during(|| {
        let outcome = plug();
        plugged.store(outcome.is_ok(), Ordering::Release);
        outcome
    })
}

/// Does some work while a QEMU waits in an attach for a back end, or may do so. The stand-in ends that wait: it offers
/// what any QEMU accepts. A NIC of that attach is unusable and must be unplugged. The stand-in stays until the work has
/// ended and the guest's driver has started the NIC. `waits` returns the processes that wait at the socket; the
/// stand-in connects only to these. `freed` is set when QEMU has talked to it.
///
/// # Errors
/// If no thread can be started; the work is not done then.
pub fn free<T>(
    socket_path: SocketPath<'_>,
    waits: impl Fn() -> Vec<i32> + Send,
    freed: &AtomicBool,
    deadline: Deadline,
    work: impl FnOnce() -> T,
) -> Result<(T, Served), sys::Error> {
    let stand_in = StandIn {
        socket_path,
        capabilities: Capabilities::NONE.widened(),
        deadline,
        patience: PATIENCE,
        accepted: || {
            freed.store(true, Ordering::Release);
            BTreeSet::new()
        },
        peer: move || Some(waits()).filter(|waits| !waits.is_empty()).map(Peer::OneOf),
        look_again: LOOK_FOR_WAITING,
        plugged: &AtomicBool::new(true),
        served: Served::default(),
    };
    stand_in.serve_during(work)
}

/// The process that a stand-in connects to.
enum Peer {
    /// Any process that listens at the socket.
    Any,
    OneOf(Vec<i32>),
}

struct StandIn<'a, F, P> {
    socket_path: SocketPath<'a>,
    capabilities: Capabilities,
    deadline: Deadline,
    patience: Patience,
    accepted: F,
    /// Returns `None` while it must not connect.
    peer: P,
    look_again: Duration,
    /// Set before the end of the work is signalled.
    plugged: &'a AtomicBool,
    served: Served,
}

impl<F: Fn() -> BTreeSet<u64> + Send, P: Fn() -> Option<Peer> + Send> StandIn<'_, F, P> {
    /// Serves QEMU on another thread while some work is done, and until QEMU is quiet after that.
    fn serve_during<T>(self, work: impl FnOnce() -> T) -> Result<(T, Served), sys::Error> {
        let socket_path = self.socket_path;
        let failed = |error: &std::io::Error| sys::Error::of("clone", socket_path.path(), error);
        // Closing the other end ends every wait of the stand-in.
        let (here, there) = UnixStream::pair().map_err(|error| failed(&error))?;
        thread::scope(|scope| {
            let stand_in = thread::Builder::new().spawn_scoped(scope, move || self.run(&there));
            let stand_in = stand_in.map_err(|error| failed(&error))?;
            let outcome = work();
            drop(here);
            Ok((outcome, stand_in.join().unwrap_or_default()))
        })
    }

    fn run(mut self, leave: &UnixStream) -> Served {
        let mut is_wide = false;
        while let Some(stream) = self.connect(leave) {
            let before = self.served.requests;
            let error = self.serve(stream, leave).err();
            let was_asked = self.served.requests > before;
            self.served.widened |= is_wide && was_asked;
            // QEMU asked something and then disconnected.
            let is_refused = was_asked && error == Some(message::Error::Closed);
            let is_served = error.is_none();
            self.served.error = error;
            if is_served || self.served.requests >= MESSAGE_LIMIT || is_over(leave, LOOK_AGAIN) {
                break;
            }
            if is_refused {
                (self.capabilities, is_wide) = (self.capabilities.widened(), true);
            }
        }
        self.served
    }

    /// Connects as soon as QEMU listens. `None` if the end of the work came first.
    fn connect(&mut self, leave: &UnixStream) -> Option<UnixStream> {
        loop {
            if let Some(peer) = (self.peer)() {
                match self.socket_path.connect() {
                    Ok(Some(stream)) if peer.is_at(&stream) => return Some(stream),
                    Ok(_) => {}
                    // It is not QEMU's socket yet. An error of a connection takes precedence.
                    Err(error) if self.served.requests == 0 => {
                        self.served.error = Some(message::Error::Io(error.to_string()));
                    }
                    Err(_) => {}
                }
            }
            if is_over(leave, self.look_again) {
                return None;
            }
        }
    }

    /// Answers until the NIC is plugged and QEMU is quiet.
    fn serve(&mut self, stream: UnixStream, leave: &UnixStream) -> Result<(), message::Error> {
        let mut connection = Connection::new(stream)?;
        let mut back_end = BackEnd::new(self.capabilities);
        let mut first = true;
        let mut leaving: Option<Deadline> = None;
        let mut awaits_driver = false;
        // The quiet before libvirt's answer counts too: libvirt takes some time after QEMU's last message.
        let mut quiet = Deadline::after(self.patience.quiet);
        loop {
            if leaving.is_none() && is_over(leave, Duration::ZERO) {
                leaving = Some(self.deadline.at_most(self.patience.until_quiet));
                awaits_driver = self.plugged.load(Ordering::Acquire);
                if awaits_driver && !back_end.is_started() {
                    quiet = self.deadline.at_most(self.patience.driver.min(self.deadline.remaining() / 4));
                }
            }
            if !has_more(&connection, leave, leaving, quiet)? {
                return Ok(());
            }
            if is_idle(&connection)? {
                // The poll reported the end of the work.
                continue;
            }
            let message = connection.receive(self.deadline.at_most(self.patience.message))?;
            if std::mem::take(&mut first) {
                // QEMU has one connection at a time and waits for this answer, so the accepted connection is this one.
                self.served.accepted.extend((self.accepted)());
            }
            self.served.requests = self.served.requests.saturating_add(1);
            if self.served.requests > MESSAGE_LIMIT {
                return Err(message::Error::Protocol(format!("more than {MESSAGE_LIMIT} messages")));
            }
            let was_started = back_end.is_started();
            if let Some(answer) = back_end.answer(&message)? {
                connection.send(&answer, self.deadline.at_most(self.patience.message))?;
            }
            // A driver makes QEMU send SET_VRING_ENABLE before it starts the NIC. Don't disconnect then: that would be
            // the worst moment.
            if leaving.is_none() || back_end.is_started() || !awaits_driver {
                quiet = Deadline::after(self.patience.quiet);
            }
            if leaving.is_some() && back_end.is_started() && !was_started {
                leaving = Some(self.deadline.at_most(self.patience.until_quiet));
            }
        }
    }
}

impl Peer {
    /// Returns true if this process listens at the other end of a connection (`SO_PEERCRED`, unix(7)).
    fn is_at(&self, stream: &UnixStream) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(pids) => getsockopt(stream, PeerCredentials).is_ok_and(|peer| pids.contains(&peer.pid())),
        }
    }
}

/// Waits for the next message or the end of the work. After that end it waits for messages until QEMU has been quiet
/// long enough. Returns false then.
fn has_more(
    connection: &Connection,
    leave: &UnixStream,
    leaving: Option<Deadline>,
    quiet: Deadline,
) -> Result<bool, message::Error> {
    let both = [PollFd::new(connection.as_fd(), PollFlags::POLLIN), PollFd::new(leave.as_fd(), PollFlags::POLLIN)];
    let [message, leave] = both;
    let ready = match leaving {
        None => poll(&mut [message, leave], nix::poll::PollTimeout::NONE),
        Some(deadline) if deadline.passed() => return Ok(false),
        Some(deadline) => poll(&mut [message], quiet.at_most(deadline.remaining()).poll_timeout()),
    };
    match ready {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// Returns true if there is nothing to read.
fn is_idle(connection: &Connection) -> Result<bool, message::Error> {
    match poll(&mut [PollFd::new(connection.as_fd(), PollFlags::POLLIN)], nix::poll::PollTimeout::ZERO) {
        Ok(ready) => Ok(ready == 0),
        Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests;
