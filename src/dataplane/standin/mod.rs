//! The stand-in: while libvirt plugs the NIC, it is QEMU's back end, so that QEMU's main loop, and with it the VM, waits
//! for microseconds and not for the data plane's next round.
//!
//! It offers exactly the figures that the data plane gave ([`super::probe`]), and goes when the NIC is plugged and the
//! guest's driver has started it. QEMU takes that as a link that went down, and the data plane's connection as one that
//! came up, with the same features as before.
//!
//! QEMU hangs up on a back end that it can't use, and waits for the next one, without end (`net_vhost_user_init`). Most of its
//! reasons are known before ([`super::capabilities`]), but no list of them is complete. So a stand-in that QEMU hangs up on comes
//! back and offers more than the data plane has ([`Capabilities::widened`]): the attach ends, and the caller unplugs the NIC, which
//! the data plane could not serve. [`free`] does the same for a QEMU that waits already.
//!
//! QEMU is the tenant's: what it sends is bounded in size, in time and in number, its descriptors are never received
//! ([`super::message`]), and what it must not ask ends the connection. Should the data plane come to QEMU first, the
//! stand-in's connection waits in QEMU's queue, unserved, until it goes.

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

/// How often QEMU's socket is looked for: a part of the time that the VM stands still.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How long QEMU and the guest's driver are waited for before the stand-in goes.
#[derive(Clone, Copy)]
struct Patience {
    /// How long QEMU may take over one message, and over taking an answer.
    message: Duration,
    /// How long QEMU must have been quiet when the stand-in goes, where it may be in the midst of something.
    quiet: Duration,
    /// How long that quiet is waited for.
    until_quiet: Duration,
    /// How long the guest's driver is waited for to begin to start a NIC that is plugged.
    driver: Duration,
}

const PATIENCE: Patience = Patience {
    message: Duration::from_secs(1),
    // The messages of one handshake are less than a millisecond apart, on a busy machine and without KVM too. The guest's
    // driver starts the NIC 4 ms after it has reset it, and sets its queues some milliseconds later.
    quiet: Duration::from_millis(10),
    until_quiet: Duration::from_millis(500),
    // A driver takes a dozen milliseconds, and some hundred if it must be loaded first. A guest that boots, or has no driver,
    // never starts the NIC.
    driver: Duration::from_millis(300),
};

/// Most messages that are answered. A NIC with 16 queue pairs takes QEMU some 300, and again each time that the guest's
/// driver starts it.
const MESSAGE_LIMIT: u32 = 20_000;

/// How often a QEMU that may come to wait is looked at; it takes some reads of `/proc` each time.
const LOOK_FOR_WAITING: Duration = Duration::from_millis(5);

/// What a stand-in did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// How many messages QEMU sent; none if it never came to speak with the stand-in.
    pub requests: u32,
    /// QEMU's ends of the stand-in's connections, so that they are not taken for the data plane's.
    pub accepted: BTreeSet<u64>,
    /// Why the last connection ended before its time, if it did.
    pub error: Option<message::Error>,
    /// Whether QEMU was offered more than the data plane has.
    pub widened: bool,
}

/// Has a NIC plugged with a stand-in at the seat, and lets the stand-in go afterwards. `accepted` tells which connections
/// the one who listens at the seat has taken, by their inodes; it is asked when the stand-in's own is one of them.
///
/// It stays until the guest's driver has started the NIC, so that the link does not go down and up while that is under way: a
/// guest has been seen to hang on it. Where no driver starts it, a fraction of a second is waited; where plugging has failed,
/// until QEMU is quiet.
///
/// # Errors
/// That no thread could be made; plugging is not begun then.
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
    stand_in.beside(|| {
        let outcome = plug();
        plugged.store(outcome.is_ok(), Ordering::Release);
        outcome
    })
}

/// Does some work while a QEMU waits in an attach for a back end, or may come to wait. The stand-in gets it out of that: it
/// offers what any QEMU takes. So a NIC that comes of the attach is of no use and has to be unplugged. The stand-in stays until
/// the work has ended, and the guest's driver has started the NIC. `waits` returns the processes that wait at the seat; the stand-in
/// connects to no other. `freed` is set when QEMU has spoken with it.
///
/// # Errors
/// That no thread could be made; the work is not begun then.
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
    stand_in.beside(work)
}

/// Whom a stand-in connects to.
enum Peer {
    /// Whoever listens at the seat.
    Any,
    /// One of these processes.
    OneOf(Vec<i32>),
}

struct StandIn<'a, F, P> {
    socket_path: SocketPath<'a>,
    capabilities: Capabilities,
    deadline: Deadline,
    patience: Patience,
    accepted: F,
    /// `None` while it is not to connect.
    peer: P,
    look_again: Duration,
    /// Set before the end of the work is told.
    plugged: &'a AtomicBool,
    served: Served,
}

impl<F: Fn() -> BTreeSet<u64> + Send, P: Fn() -> Option<Peer> + Send> StandIn<'_, F, P> {
    /// Serves QEMU on a thread of its own while some work is done, and until QEMU is quiet after that.
    fn beside<T>(self, work: impl FnOnce() -> T) -> Result<(T, Served), sys::Error> {
        let socket_path = self.socket_path;
        let failed = |error: &std::io::Error| sys::Error::of("clone", socket_path.path(), error);
        // Its other end closing is what ends every wait of the stand-in.
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
            // It was asked something, and was not good enough.
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
                    // Something else than QEMU's socket, for now. A error of a connection counts for more.
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
        let mut line = Connection::new(stream)?;
        let mut back_end = BackEnd::new(self.capabilities);
        let mut first = true;
        let mut leaving: Option<Deadline> = None;
        let mut awaits_driver = false;
        // The quiet before libvirt's answer counts: it has much to do between QEMU's last message and that.
        let mut quiet = Deadline::after(self.patience.quiet);
        loop {
            if leaving.is_none() && is_over(leave, Duration::ZERO) {
                leaving = Some(self.deadline.at_most(self.patience.until_quiet));
                awaits_driver = self.plugged.load(Ordering::Acquire);
                if awaits_driver && !back_end.is_started() {
                    quiet = self.deadline.at_most(self.patience.driver.min(self.deadline.remaining() / 4));
                }
            }
            if !has_more(&line, leave, leaving, quiet)? {
                return Ok(());
            }
            if line_is_idle(&line)? {
                // It was the end of plugging that was heard.
                continue;
            }
            let message = line.receive(self.deadline.at_most(self.patience.message))?;
            if std::mem::take(&mut first) {
                // QEMU has one connection at a time, and waits for this answer: what is accepted now is this one.
                self.served.accepted.extend((self.accepted)());
            }
            self.served.requests = self.served.requests.saturating_add(1);
            if self.served.requests > MESSAGE_LIMIT {
                return Err(message::Error::Protocol(format!("more than {MESSAGE_LIMIT} messages")));
            }
            let was_started = back_end.is_started();
            if let Some(answer) = back_end.answer(&message)? {
                line.send(&answer, self.deadline.at_most(self.patience.message))?;
            }
            // What a driver has QEMU say before it starts the NIC (SET_VRING_ENABLE, when it has chosen its features) is no end
            // of the wait for that: it would be the worst of moments.
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
    /// Whether this is who listens at the other end of a connection (`SO_PEERCRED`, unix(7)).
    fn is_at(&self, stream: &UnixStream) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(pids) => getsockopt(stream, PeerCredentials).is_ok_and(|peer| pids.contains(&peer.pid())),
        }
    }
}

/// Waits for the next message or the end of the work; once that has come, for the message alone and until QEMU has been
/// quiet for long enough.
fn has_more(
    line: &Connection,
    leave: &UnixStream,
    leaving: Option<Deadline>,
    quiet: Deadline,
) -> Result<bool, message::Error> {
    let both = [PollFd::new(line.as_fd(), PollFlags::POLLIN), PollFd::new(leave.as_fd(), PollFlags::POLLIN)];
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

/// Whether there is nothing to read.
fn line_is_idle(line: &Connection) -> Result<bool, message::Error> {
    match poll(&mut [PollFd::new(line.as_fd(), PollFlags::POLLIN)], nix::poll::PollTimeout::ZERO) {
        Ok(ready) => Ok(ready == 0),
        Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests;
