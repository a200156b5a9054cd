//! A connection: one socket, one call at a time, one deadline per call.
//!
//! The peer is not trusted. Memory grows with the bytes that arrive, not with the lengths that they claim. Each wait
//! ends at the call's deadline, however much traffic there is. After a protocol error or a call that failed half-way
//! the connection is unusable, and every later call returns that error.
//!
//! It holds at most one frame of 4.1 MiB (half as much again while it grows), its text, and events of 1 MiB on the
//! wire.
//!
//! File descriptors are never accepted: read(2) takes no ancillary data, so the kernel drops descriptors that a peer
//! attaches.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{MsgFlags, send};

use super::error::{Error, Refusal};
use super::events::{Arrival, EventKind};
use super::message::{
    FRAME_MIN, Frame, Header, KEEPALIVE_PING, KEEPALIVE_PROGRAM, Kind, LENGTH_SIZE, PROGRAM_VERSION, REMOTE_PROGRAM,
    Status, frame, frame_length, pong,
};
use super::procedures::Call;
use super::xdr::{self, Reader, Writer};
use crate::deadline::Deadline;

/// Most queued events.
pub const EVENTS_MAX: usize = 1024;
/// Most bytes of queued events, counted as on the wire.
pub const EVENT_BYTES_MAX: usize = 1_048_576;
/// Most messages of a connection that no caller asked for: pings, and events without a subscription. A daemon that is
/// not asked to ping sends none.
pub const SKIPPED_MAX: usize = 10_000;
/// How much is read at once.
const CHUNK: usize = 65_536;

/// A connection to a daemon.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// The incomplete frame.
    inbound: Vec<u8>,
    serial: u32,
    events: VecDeque<(Arrival, usize)>,
    event_bytes: usize,
    skipped: usize,
    /// The error that made the connection unusable.
    spoiled: Option<String>,
}

/// An error that doesn't know yet what the caller was doing.
enum Failure {
    TimedOut,
    Closed,
    Io(io::Error),
    Protocol(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<xdr::Error> for Failure {
    fn from(error: xdr::Error) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl Failure {
    fn into_error(self, doing: &'static str) -> Error {
        match self {
            Self::TimedOut => Error::TimedOut { doing },
            Self::Closed => Error::Disconnected { doing },
            Self::Io(source) => Error::Io { doing, source },
            Self::Protocol(what) => Error::Protocol { doing, what },
        }
    }
}

impl Connection {
    /// Takes over a connected socket and makes it non-blocking.
    ///
    /// # Errors
    /// [`Error::Io`] if fcntl(2) fails.
    pub fn new(stream: UnixStream) -> Result<Self, Error> {
        let doing = "setting up the socket";
        stream.set_nonblocking(true).map_err(|source| Error::Io { doing, source })?;
        Ok(Self {
            stream,
            inbound: Vec::new(),
            serial: 0,
            events: VecDeque::new(),
            event_bytes: 0,
            skipped: 0,
            spoiled: None,
        })
    }

    /// Makes one call and waits for its reply.
    ///
    /// # Errors
    /// [`Error::Refused`] and [`Error::Argument`] leave the connection usable, and so does an [`Error::TimedOut`] if
    /// the deadline had passed before anything was sent. After any other error it is unusable.
    pub fn call<C: Call>(&mut self, call: &C, deadline: Deadline) -> Result<C::Reply, Error> {
        let doing = C::DOING;
        self.usable(doing)?;
        self.serial = self.serial.wrapping_add(1);
        let header = Header {
            program: REMOTE_PROGRAM,
            version: PROGRAM_VERSION,
            procedure: C::PROCEDURE,
            kind: Kind::Call,
            serial: self.serial,
            status: Status::Ok,
        };
        let mut arguments = Writer::new();
        let bytes = call
            .encode(&mut arguments)
            .and_then(|()| frame(&header, &arguments.into_bytes()))
            .map_err(|error| Error::Argument { doing, what: error.to_string() })?;
        if deadline.passed() {
            return Err(Error::TimedOut { doing });
        }
        match self.exchange::<C>(&header, &bytes, deadline) {
            Ok(reply) => reply.map_err(|refusal| Error::Refused(Box::new(refusal))),
            Err(failure) => Err(self.spoil(failure.into_error(doing))),
        }
    }

    /// Returns the next event, queued or new; `None` at the deadline. If the deadline has passed already, one frame
    /// that has arrived is still read.
    ///
    /// # Errors
    /// As for [`Connection::call`]; the connection is unusable after any of them.
    pub fn next_event(&mut self, deadline: Deadline) -> Result<Option<Arrival>, Error> {
        let doing = "waiting for an event";
        self.usable(doing)?;
        loop {
            if let Some((arrival, bytes)) = self.events.pop_front() {
                self.event_bytes = self.event_bytes.saturating_sub(bytes);
                return Ok(Some(arrival));
            }
            let frame = match self.receive(deadline) {
                Ok(frame) => frame,
                Err(Failure::TimedOut) => return Ok(None),
                Err(failure) => return Err(self.spoil(failure.into_error(doing))),
            };
            let taken = match frame.header.kind {
                Kind::Message => self.message(&frame, deadline),
                kind => Err(Failure::Protocol(format!("a {kind:?} that nothing asked for"))),
            };
            // Here even a timeout makes the connection unusable: half of a pong may have been sent.
            taken.map_err(|failure| self.spoil(failure.into_error(doing)))?;
            if self.events.is_empty() && deadline.passed() {
                return Ok(None);
            }
        }
    }

    /// Counts a message that the caller ignores.
    ///
    /// # Errors
    /// [`Error::Protocol`] over the limit.
    pub fn skip(&mut self, doing: &'static str) -> Result<(), Error> {
        self.count_skipped().map_err(|failure| self.spoil(failure.into_error(doing)))
    }

    fn usable(&self, doing: &'static str) -> Result<(), Error> {
        match &self.spoiled {
            Some(because) => Err(Error::Unusable { doing, because: because.clone() }),
            None => Ok(()),
        }
    }

    fn spoil(&mut self, error: Error) -> Error {
        self.spoiled = Some(error.to_string());
        self.inbound = Vec::new();
        self.events = VecDeque::new();
        error
    }

    fn exchange<C: Call>(
        &mut self,
        call: &Header,
        bytes: &[u8],
        deadline: Deadline,
    ) -> Result<Result<C::Reply, Refusal>, Failure> {
        self.send(bytes, deadline)?;
        loop {
            let frame = self.receive(deadline)?;
            match frame.header.kind {
                Kind::Reply => return answer::<C>(call, &frame),
                Kind::Message => self.message(&frame, deadline)?,
                kind => return Err(Failure::Protocol(format!("a {kind:?} where a Reply belongs"))),
            }
            // Without a pause in the traffic nothing waits, so the deadline is checked here too.
            if deadline.passed() {
                return Err(Failure::TimedOut);
            }
        }
    }

    /// Handles an event or a ping.
    fn message(&mut self, frame: &Frame, deadline: Deadline) -> Result<(), Failure> {
        let header = &frame.header;
        if header.version != PROGRAM_VERSION || header.status != Status::Ok {
            return Err(Failure::Protocol(format!(
                "a Message of version {} with status {:?}",
                header.version, header.status
            )));
        }
        match (header.program, header.procedure, EventKind::of_procedure(header.procedure)) {
            (REMOTE_PROGRAM, _, Some(kind)) => self.queue(Arrival::decode(kind, frame.payload())?, frame),
            (KEEPALIVE_PROGRAM, KEEPALIVE_PING, _) => {
                self.count_skipped()?;
                let bytes = pong()?;
                self.send(&bytes, deadline)
            }
            _ => self.count_skipped(),
        }
    }

    fn queue(&mut self, arrival: Arrival, frame: &Frame) -> Result<(), Failure> {
        let bytes = frame.payload().len();
        self.event_bytes = self.event_bytes.saturating_add(bytes);
        if self.events.len() >= EVENTS_MAX || self.event_bytes > EVENT_BYTES_MAX {
            return Err(Failure::Protocol("more events than anybody could wait for".to_owned()));
        }
        self.events.push_back((arrival, bytes));
        Ok(())
    }

    fn count_skipped(&mut self) -> Result<(), Failure> {
        self.skipped = self.skipped.saturating_add(1);
        if self.skipped > SKIPPED_MAX {
            return Err(Failure::Protocol(format!("over {SKIPPED_MAX} messages that nothing asked for")));
        }
        Ok(())
    }

    /// Sends all of `bytes`.
    fn send(&mut self, mut bytes: &[u8], deadline: Deadline) -> Result<(), Failure> {
        while !bytes.is_empty() {
            // MSG_NOSIGNAL: a daemon that disconnects must not end this process by SIGPIPE.
            match send(self.stream.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, deadline)?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Returns the next complete frame. A frame that is incomplete at the deadline is kept for the next wait.
    fn receive(&mut self, deadline: Deadline) -> Result<Frame, Failure> {
        let mut chunk = [0; CHUNK];
        loop {
            let length = match self.inbound.first_chunk::<LENGTH_SIZE>() {
                Some(word) => frame_length(*word)?,
                None => LENGTH_SIZE,
            };
            let missing = length.saturating_sub(self.inbound.len());
            if missing == 0 && length >= FRAME_MIN {
                return Ok(Frame::parse(std::mem::take(&mut self.inbound))?);
            }
            let buffer = chunk.get_mut(..missing.min(CHUNK)).unwrap_or_default();
            match self.stream.read(buffer) {
                Ok(0) => return Err(Failure::Closed),
                Ok(count) => {
                    let arrived = buffer.get(..count).unwrap_or_default();
                    // Doubles, as a vector does, but never grows beyond the frame.
                    if self.inbound.capacity().saturating_sub(self.inbound.len()) < count {
                        self.inbound.reserve_exact(self.inbound.len().max(count).min(missing));
                    }
                    self.inbound.extend_from_slice(arrived);
                    // Bytes that arrive as fast as they are read cause no wait, so the deadline is checked here too.
                    if arrived.len() < missing.min(CHUNK) && deadline.passed() {
                        return Err(Failure::TimedOut);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::POLLIN, deadline)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, what: PollFlags, deadline: Deadline) -> Result<(), Failure> {
        if deadline.passed() {
            return Err(Failure::TimedOut);
        }
        match poll(&mut [PollFd::new(self.stream.as_fd(), what)], deadline.poll_timeout()) {
            // The caller finds out if data came, the time is up or a signal arrived.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Returns the reply in `frame`, if it answers `call`.
fn answer<C: Call>(call: &Header, frame: &Frame) -> Result<Result<C::Reply, Refusal>, Failure> {
    let header = &frame.header;
    let expected = Header { kind: Kind::Reply, status: header.status, ..*call };
    if *header != expected {
        return Err(Failure::Protocol(format!("an answer that is not to this call: {header:?}")));
    }
    let mut reader = Reader::new(frame.payload());
    let reply = match header.status {
        Status::Ok => Ok(C::decode(&mut reader)?),
        Status::Error => Err(Refusal::decode(C::DOING, &mut reader)?),
        Status::Continue => return Err(Failure::Protocol("an answer that says it goes on".to_owned())),
    };
    reader.finish()?;
    Ok(reply)
}

#[cfg(test)]
mod tests;
