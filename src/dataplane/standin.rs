//! The stand-in: while libvirt plugs the NIC, it is QEMU's back end, so that QEMU's main loop, and with it the VM, waits
//! for microseconds and not for the data plane's next round.
//!
//! It offers exactly the figures that the data plane gave ([`super::probe`]), and goes when the NIC is plugged. QEMU takes
//! that as a link that went down, and the data plane's connection as one that came up, with the same features as before.
//!
//! QEMU is the tenant's: what it sends is bounded in size, in time and in number, its descriptors are never received
//! ([`super::message`]), and what it must not ask ends the connection. Should the data plane come to QEMU first, the
//! stand-in's connection waits in QEMU's queue, unserved, until it goes.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::backend::BackEnd;
use super::figures::Figures;
use super::message::{Fault, Line};
use super::seat::Seat;
use crate::deadline::Deadline;
use crate::sys;

/// How often QEMU's socket is looked for: a part of the time that the VM stands still.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How long QEMU may take over one message, and over taking an answer.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(1);

/// How long QEMU must have been quiet when the stand-in goes: between two messages of one handshake it is not. Those are
/// less than a millisecond apart, on a busy machine and without KVM too; and the guest's driver starts the NIC 4 ms after it
/// has reset it.
const QUIET: Duration = Duration::from_millis(5);

/// How long that quiet is waited for.
const QUIET_PATIENCE: Duration = Duration::from_millis(500);

/// Most messages that are answered. A NIC with 16 queue pairs takes QEMU some 300, and again each time that the guest's
/// driver starts it.
const MESSAGE_LIMIT: u32 = 20_000;

/// Most connections that are made, one after the other: QEMU closes one that it cannot use, and waits for the next.
const CONNECTION_LIMIT: u32 = 16;

/// What a stand-in did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// How many messages QEMU sent; none if it never came to speak with the stand-in.
    pub requests: u32,
    /// QEMU's ends of the stand-in's connections, so that they are not taken for the data plane's.
    pub accepted: BTreeSet<u64>,
    /// Why the last connection ended before its time, if it did.
    pub fault: Option<Fault>,
}

/// Does some work with a stand-in at the seat, and lets the stand-in go afterwards. `accepted` tells which connections
/// the one who listens at the seat has taken, by their inodes; it is asked when the stand-in's own is one of them. Once
/// the work is done, QEMU is waited for until the deadline and not for long.
///
/// # Errors
/// That no thread could be made; the work is not begun then.
pub fn during<T>(
    seat: Seat<'_>,
    figures: Figures,
    deadline: Deadline,
    accepted: impl Fn() -> BTreeSet<u64> + Send,
    work: impl FnOnce() -> T,
) -> Result<(T, Served), sys::Error> {
    let failed = |error: &std::io::Error| sys::Error::of("clone", seat.path(), error);
    // Its other end closing is what ends every wait of the stand-in.
    let (here, there) = UnixStream::pair().map_err(|error| failed(&error))?;
    thread::scope(|scope| {
        let stand_in = StandIn { seat, figures, deadline, accepted, leave: there, served: Served::default() };
        let stand_in = thread::Builder::new().spawn_scoped(scope, || stand_in.run()).map_err(|error| failed(&error))?;
        let outcome = work();
        drop(here);
        let served = stand_in.join().unwrap_or_default();
        Ok((outcome, served))
    })
}

struct StandIn<'a, F> {
    seat: Seat<'a>,
    figures: Figures,
    deadline: Deadline,
    accepted: F,
    leave: UnixStream,
    served: Served,
}

impl<F: Fn() -> BTreeSet<u64>> StandIn<'_, F> {
    fn run(mut self) -> Served {
        for _ in 0..CONNECTION_LIMIT {
            let Some(stream) = self.connect() else { break };
            match self.serve(stream) {
                Ok(()) => {
                    self.served.fault = None;
                    break;
                }
                Err(fault) => self.served.fault = Some(fault),
            }
            if self.served.requests >= MESSAGE_LIMIT || self.is_to_leave(LOOK_AGAIN) {
                break;
            }
        }
        self.served
    }

    /// Connects as soon as QEMU listens. `None` if the work was done first.
    fn connect(&mut self) -> Option<UnixStream> {
        loop {
            match self.seat.connect() {
                Ok(Some(stream)) => return Some(stream),
                Ok(None) => {}
                // Something else than QEMU's socket, for now.
                Err(error) => self.served.fault = Some(Fault::Broken(error.to_string())),
            }
            if self.is_to_leave(LOOK_AGAIN) {
                return None;
            }
        }
    }

    /// Answers until the work is done and QEMU is quiet.
    fn serve(&mut self, stream: UnixStream) -> Result<(), Fault> {
        let mut line = Line::new(stream)?;
        let mut back_end = BackEnd::new(self.figures);
        let mut first = true;
        let mut leaving: Option<Deadline> = None;
        // The quiet before the work's end counts: libvirt has much to do between QEMU's last message and its own answer.
        let mut quiet = Deadline::after(QUIET);
        loop {
            if leaving.is_none() && self.is_to_leave(Duration::ZERO) {
                leaving = Some(self.deadline.at_most(QUIET_PATIENCE));
            }
            if !self.has_more(&line, leaving, quiet)? {
                return Ok(());
            }
            if line_is_idle(&line)? {
                // It was the work's end that was heard.
                continue;
            }
            let message = line.receive(self.deadline.at_most(MESSAGE_PATIENCE))?;
            if std::mem::take(&mut first) {
                // QEMU has one connection at a time, and waits for this answer: what is accepted now is this one.
                self.served.accepted.extend((self.accepted)());
            }
            self.served.requests = self.served.requests.saturating_add(1);
            if self.served.requests > MESSAGE_LIMIT {
                return Err(Fault::Nonsense(format!("more than {MESSAGE_LIMIT} messages")));
            }
            if let Some(answer) = back_end.answer(&message)? {
                line.send(&answer, self.deadline.at_most(MESSAGE_PATIENCE))?;
            }
            quiet = Deadline::after(QUIET);
        }
    }

    /// Waits for the next message or the end of the work; once that has come, for the message alone and until QEMU has been
    /// quiet for long enough.
    fn has_more(&self, line: &Line, leaving: Option<Deadline>, quiet: Deadline) -> Result<bool, Fault> {
        let both = [PollFd::new(line.as_fd(), PollFlags::POLLIN), PollFd::new(self.leave.as_fd(), PollFlags::POLLIN)];
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

    fn is_to_leave(&self, wait: Duration) -> bool {
        let mut leave = [PollFd::new(self.leave.as_fd(), PollFlags::POLLIN)];
        // An error would mean that the descriptor is bad: nothing to wait for then.
        poll(&mut leave, Deadline::after(wait).poll_timeout()) != Ok(0)
    }
}

/// Whether there is nothing to read.
fn line_is_idle(line: &Line) -> Result<bool, Fault> {
    match poll(&mut [PollFd::new(line.as_fd(), PollFlags::POLLIN)], nix::poll::PollTimeout::ZERO) {
        Ok(ready) => Ok(ready == 0),
        Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Message, request};
    use super::super::seat::scratch::Scratch;
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    const OVS: Figures =
        Figures { features: 0xd7c6_6a7ca, protocol_features: 0x10cbf, queues: 128, memory_slots: None };

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    /// Runs a stand-in beside this QEMU.
    fn with<T>(scratch: &Scratch, qemu: impl FnOnce() -> T) -> (T, Served) {
        with_deadline(scratch, Deadline::after(Duration::from_secs(60)), qemu)
    }

    fn with_deadline<T>(scratch: &Scratch, deadline: Deadline, qemu: impl FnOnce() -> T) -> (T, Served) {
        during(scratch.seat(), OVS, deadline, || BTreeSet::from([7]), qemu).unwrap()
    }

    #[test]
    fn qemus_handshake_is_answered_as_it_comes() {
        let scratch = Scratch::new("standin-handshake");
        let (outcome, served) = with(&scratch, || {
            let listener = UnixListener::bind(&scratch.path).unwrap();
            let mut line = Line::new(listener.accept().unwrap().0).unwrap();
            let mut seen = Vec::new();
            for asked in [request::GET_FEATURES, request::GET_PROTOCOL_FEATURES] {
                seen.push(line.ask(asked, soon()).unwrap());
            }
            line.send(&Message::ask(request::SET_PROTOCOL_FEATURES, &0x1001f_u64.to_ne_bytes()), soon()).unwrap();
            seen.push(line.ask(request::GET_QUEUE_NUM, soon()).unwrap());
            // SET_OWNER, rings and their eventfds, memory: nothing to wait for.
            for (asked, size) in [(3, 0), (13, 8), (14, 8), (18, 8), (2, 8), (5, 264), (8, 8), (10, 8), (9, 40)] {
                line.send(&Message::ask(asked, &vec![0; size]), soon()).unwrap();
            }
            let mut enable = Message::ask(18, &[0; 8]);
            enable.needs_reply = true;
            line.send(&enable, soon()).unwrap();
            seen.push(line.receive(soon()).unwrap().word().unwrap());
            seen.push(line.ask(request::GET_STATUS, soon()).unwrap());
            (seen, line)
        });
        assert_eq!(outcome.0, [0xd7c6_6a7ca, 0x1001f, 128, 0, 0]);
        assert_eq!(served, Served { requests: 15, accepted: BTreeSet::from([7]), fault: None });
    }

    #[test]
    fn it_stays_until_the_work_is_done_and_goes_then() {
        let scratch = Scratch::new("standin-goes");
        let (mut stream, served) = with(&scratch, || {
            let listener = UnixListener::bind(&scratch.path).unwrap();
            let stream = listener.accept().unwrap().0;
            let mut line = Line::new(stream.try_clone().unwrap()).unwrap();
            line.ask(request::GET_FEATURES, soon()).unwrap();
            thread::sleep(Duration::from_millis(100));
            line.ask(request::GET_FEATURES, soon()).unwrap();
            stream
        });
        assert_eq!((served.requests, served.fault), (2, None));
        stream.set_nonblocking(false).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }

    /// How often something that hangs on a few milliseconds is tried: on a busy machine not every time will do.
    const TRIES: u32 = 10;

    #[test]
    fn a_handshake_that_the_works_end_meets_is_answered_to_its_end() {
        let is_whole = |_| {
            let scratch = Scratch::new("standin-amid");
            let (qemu, served) = with(&scratch, || {
                let listener = UnixListener::bind(&scratch.path).unwrap();
                let mut line = Line::new(listener.accept().unwrap().0).unwrap();
                line.ask(request::GET_FEATURES, soon()).unwrap();
                thread::spawn(move || (0..200).take_while(|_| line.ask(request::GET_STATUS, soon()).is_ok()).count())
            });
            (qemu.join().unwrap(), served.requests) == (200, 201)
        };
        assert!((0..TRIES).any(is_whole));
    }

    #[test]
    fn quiet_before_the_works_end_need_not_be_waited_for_again() {
        let goes_at_once = |_| {
            let scratch = Scratch::new("standin-quiet");
            let ((_line, done), served) = with(&scratch, || {
                let listener = UnixListener::bind(&scratch.path).unwrap();
                let mut line = Line::new(listener.accept().unwrap().0).unwrap();
                line.ask(request::GET_FEATURES, soon()).unwrap();
                thread::sleep(QUIET * 2);
                (line, Instant::now())
            });
            served.fault.is_none() && done.elapsed() < QUIET
        };
        assert!((0..TRIES).any(goes_at_once));
    }

    #[test]
    fn it_ends_if_qemu_never_listens_or_never_takes_the_connection() {
        let scratch = Scratch::new("standin-unserved");
        let (_, served) = with(&scratch, || thread::sleep(Duration::from_millis(20)));
        assert_eq!(served, Served::default());
        let (_listener, served) = with(&scratch, || {
            let listener = UnixListener::bind(&scratch.path).unwrap();
            thread::sleep(Duration::from_millis(20));
            listener
        });
        assert_eq!(served, Served::default());
    }

    #[test]
    fn a_connection_that_qemu_gave_up_is_made_again() {
        let scratch = Scratch::new("standin-again");
        let ((features, _line), served) = with(&scratch, || {
            let listener = UnixListener::bind(&scratch.path).unwrap();
            drop(listener.accept().unwrap());
            let mut line = Line::new(listener.accept().unwrap().0).unwrap();
            (line.ask(request::GET_FEATURES, soon()).unwrap(), line)
        });
        assert_eq!((features, served.requests, served.fault), (0xd7c6_6a7ca, 1, None));
    }

    #[test]
    fn a_hostile_qemu_ends_its_connections_and_nothing_else() {
        let nonsense: [&[u32]; 5] =
            [&[1, 1, u32::MAX], &[1, 0, 0], &[0, 1, 0], &[u32::MAX, 9, 0], &[24, 1, 12, 0, 0, 0]];
        for words in nonsense {
            let scratch = Scratch::new("standin-hostile");
            let (closed, served) = with(&scratch, || {
                // It listens no more: a second connection's end would be told instead.
                let (mut stream, _) = UnixListener::bind(&scratch.path).unwrap().accept().unwrap();
                stream.write_all(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>()).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                stream.read(&mut [0])
            });
            // ECONNRESET where bytes of ours were not read.
            assert!(closed.is_err() || closed.is_ok_and(|read| read == 0));
            assert!(matches!(served.fault, Some(Fault::Nonsense(_))), "{words:?}: {served:?}");
        }
    }

    #[test]
    fn half_a_message_holds_it_no_longer_than_a_message_may_take() {
        let scratch = Scratch::new("standin-half");
        let begun = Instant::now();
        let (stream, served) = with(&scratch, || {
            let listener = UnixListener::bind(&scratch.path).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&[1, 0, 0]).unwrap();
            stream
        });
        assert_eq!(served.fault, Some(Fault::Silent));
        assert!(begun.elapsed() < Duration::from_secs(30));
        drop(stream);
    }

    #[test]
    fn half_a_message_does_not_outlast_the_deadline() {
        let scratch = Scratch::new("standin-deadline");
        // A busy machine is not always as quick.
        let is_quick = |_| {
            let begun = Instant::now();
            let (stream, served) = with_deadline(&scratch, Deadline::after(Duration::from_millis(100)), || {
                let listener = UnixListener::bind(&scratch.path).unwrap();
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(&[1, 0, 0]).unwrap();
                stream
            });
            let took = begun.elapsed();
            assert_eq!(served.fault, Some(Fault::Silent));
            drop(stream);
            std::fs::remove_file(&scratch.path).unwrap();
            took < MESSAGE_PATIENCE
        };
        assert!((0..10).any(is_quick));
    }

    #[test]
    fn a_flood_is_bounded() {
        let scratch = Scratch::new("standin-flood");
        let ((), served) = with(&scratch, || {
            let listener = UnixListener::bind(&scratch.path).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let many: Vec<u8> = [3_u32, 1, 0].map(u32::to_ne_bytes).concat().repeat(1000);
            while stream.write_all(&many).is_ok() {}
        });
        assert_eq!(served.requests, MESSAGE_LIMIT + 1);
        assert!(matches!(served.fault, Some(Fault::Nonsense(_))));
    }

    #[test]
    fn a_link_at_the_name_is_not_followed() {
        let scratch = Scratch::new("standin-link");
        let other = scratch.path.with_file_name("other");
        let listener = UnixListener::bind(&other).unwrap();
        listener.set_nonblocking(true).unwrap();
        std::os::unix::fs::symlink(&other, &scratch.path).unwrap();
        let ((), served) = with(&scratch, || thread::sleep(Duration::from_secs(1)));
        assert!(listener.accept().is_err());
        assert!(matches!(served.fault, Some(Fault::Broken(_))));
    }
}
