//! Vhost-user messages on a stream (QEMU's docs/interop/vhost-user.rst, "Message Specification"): a header of three
//! 32-bit words (request, flags, size of the payload) and the payload, in the machine's byte order.
//!
//! A peer's descriptors (memory, eventfds) are never received: without a buffer for control messages the kernel drops
//! them (unix(7), net/unix/af_unix.c `unix_stream_read_generic`, `scm_recv`). All reads and writes end at a deadline.

use std::io::{ErrorKind, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};

use crate::deadline::Deadline;

/// The requests that are sent or answered here; "Front-end message types" of the specification.
pub mod request {
    /// Virtio features.
    pub const GET_FEATURES: u32 = 1;
    /// Virtio features that the guest took.
    pub const SET_FEATURES: u32 = 2;
    /// The front end begins.
    pub const SET_OWNER: u32 = 3;
    /// The memory that rings and packets are in.
    pub const SET_MEM_TABLE: u32 = 5;
    /// The memory in which dirty pages are logged.
    pub const SET_LOG_BASE: u32 = 6;
    /// How many descriptors a ring has.
    pub const SET_VRING_NUM: u32 = 8;
    /// Where a ring is in the memory.
    pub const SET_VRING_ADDR: u32 = 9;
    /// Where a ring continues.
    pub const SET_VRING_BASE: u32 = 10;
    /// Where a ring was stopped.
    pub const GET_VRING_BASE: u32 = 11;
    /// The eventfd by which the front end signals new descriptors in a ring.
    pub const SET_VRING_KICK: u32 = 12;
    /// The eventfd by which the back end signals used ones.
    pub const SET_VRING_CALL: u32 = 13;
    /// Protocol features.
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    /// Protocol features that the front end took.
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    /// Queue pairs.
    pub const GET_QUEUE_NUM: u32 = 17;
    /// Whether a ring is used.
    pub const SET_VRING_ENABLE: u32 = 18;
    /// Memory regions that can be added one by one.
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    /// Adds one memory region.
    pub const ADD_MEM_REG: u32 = 37;
    /// The device status, to the back end.
    pub const SET_STATUS: u32 = 39;
    /// The device status, from the back end.
    pub const GET_STATUS: u32 = 40;
}

/// Highest request that the specification numbers today (`GET_SHMEM_CONFIG`).
pub const LAST_REQUEST: u32 = 44;

/// Largest accepted payload, in bytes. QEMU's largest here is a memory table of some 300.
pub const PAYLOAD_LIMIT: usize = 4096;

const HEADER: usize = 12;
const VERSION_MASK: u32 = 0x3;
const VERSION: u32 = 0x1;
const REPLY: u32 = 0x4;
const NEED_REPLY: u32 = 0x8;

/// An error of the peer or of its connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it closed the connection")]
    Closed,
    #[error("it did not answer in time")]
    Silent,
    #[error("it does not speak vhost-user: {0}")]
    Protocol(String),
    #[error("it refused request {0}")]
    Refused(u32),
    #[error("it began its handshake anew, as QEMU does after a back end that it refused")]
    HandshakeRepeated,
    #[error("it offered features={0:#x}, and now offers {1:#x}")]
    Changed(u64, u64),
    #[error("the connection failed: {0}")]
    Io(String),
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error.to_string()),
        }
    }
}

impl From<nix::Error> for Error {
    fn from(errno: nix::Error) -> Self {
        std::io::Error::from(errno).into()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub request: u32,
    pub is_reply: bool,
    /// Whether its sender waits for an acknowledgement (REPLY_ACK).
    pub needs_reply: bool,
    pub payload: Vec<u8>,
}

impl Message {
    /// Creates a request.
    #[must_use]
    pub fn ask(request: u32, payload: &[u8]) -> Self {
        Self { request, is_reply: false, needs_reply: false, payload: payload.to_vec() }
    }

    /// Creates the answer to a message.
    #[must_use]
    pub fn reply(&self, payload: &[u8]) -> Self {
        Self { request: self.request, is_reply: true, needs_reply: false, payload: payload.to_vec() }
    }

    /// Returns the payload as one 64-bit word, if it has that length.
    #[must_use]
    pub fn word(&self) -> Option<u64> {
        self.payload.as_slice().try_into().ok().map(u64::from_ne_bytes)
    }

    /// Returns the payload as a ring's index and a number, if it has that length ("A vring state description").
    #[must_use]
    pub fn ring(&self) -> Option<(u32, u32)> {
        let (index, number) = self.payload.split_first_chunk()?;
        Some((u32::from_ne_bytes(*index), u32::from_ne_bytes(number.try_into().ok()?)))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut flags = VERSION;
        flags |= if self.is_reply { REPLY } else { 0 };
        flags |= if self.needs_reply { NEED_REPLY } else { 0 };
        // This crate only makes payloads of a few words.
        let size = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER.saturating_add(self.payload.len()));
        for word in [self.request, flags, size] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// Returns a message without its payload, and the payload's length.
    fn head(header: [u8; HEADER]) -> Result<(Self, usize), Error> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = header;
        let [request, flags, size] = [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes);
        if flags & VERSION_MASK != VERSION {
            return Err(Error::Protocol(format!("a message of version {}", flags & VERSION_MASK)));
        }
        let size = usize::try_from(size).ok().filter(|size| *size <= PAYLOAD_LIMIT).ok_or_else(|| {
            Error::Protocol(format!("a message of {size} bytes, of which {PAYLOAD_LIMIT} would be taken"))
        })?;
        let (is_reply, needs_reply) = (flags & REPLY != 0, flags & NEED_REPLY != 0);
        Ok((Self { request, is_reply, needs_reply, payload: Vec::new() }, size))
    }
}

/// A connection for messages.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// Takes over a connected stream.
    ///
    /// # Errors
    /// fcntl(2)'s.
    pub fn new(stream: UnixStream) -> Result<Self, Error> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream })
    }

    /// Returns the next message.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Silent`] if the message is incomplete at the deadline.
    pub fn receive(&mut self, deadline: Deadline) -> Result<Message, Error> {
        let mut header = [0; HEADER];
        self.fill(&mut header, deadline)?;
        let (mut message, size) = Message::head(header)?;
        message.payload.resize(size, 0);
        self.fill(&mut message.payload, deadline)?;
        Ok(message)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Silent`] if the peer has not taken it all by the deadline.
    pub fn send(&mut self, message: &Message, deadline: Deadline) -> Result<(), Error> {
        self.send_with(message, &[], deadline)
    }

    /// Sends a message, with duplicates of these descriptors at its first byte (unix(7), `SCM_RIGHTS`).
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_with(
        &mut self,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), Error> {
        let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let mut control = if raw.is_empty() { &[][..] } else { &rights };
        let bytes = message.bytes();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let sent =
                sendmsg::<()>(self.stream.as_raw_fd(), &[IoSlice::new(rest)], control, MsgFlags::MSG_NOSIGNAL, None);
            match sent {
                Ok(sent) => (rest, control) = (rest.get(sent..).unwrap_or_default(), &[]),
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, deadline)?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn ask(&mut self, request: u32, deadline: Deadline) -> Result<u64, Error> {
        self.send(&Message::ask(request, &[]), deadline)?;
        self.answer_to(request, deadline)
    }

    /// Waits for the answer to a request. Any other message is an error.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn answer_to(&mut self, request: u32, deadline: Deadline) -> Result<u64, Error> {
        let answer = self.receive(deadline)?;
        if answer.request != request || !answer.is_reply {
            return Err(Error::Protocol(format!(
                "request {request} was answered by {} {}",
                if answer.is_reply { "a reply to" } else { "the request" },
                answer.request
            )));
        }
        answer.word().ok_or_else(|| {
            Error::Protocol(format!("request {request} was answered by {} bytes, not by 8", answer.payload.len()))
        })
    }

    /// Waits until the deadline. Nothing may arrive until then.
    ///
    /// # Errors
    /// [`Error::Closed`] if the peer closes the connection, [`Error::Protocol`] if it sends something.
    pub fn stays_quiet(&self, deadline: Deadline) -> Result<(), Error> {
        match self.wait(PollFlags::POLLIN, deadline) {
            Err(Error::Silent) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => match recv(self.stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK) {
                Ok(0) => Err(Error::Closed),
                Err(Errno::EAGAIN) => Ok(()),
                Ok(_) => Err(Error::Protocol("a message that answers nothing".to_owned())),
                Err(errno) => Err(errno.into()),
            },
        }
    }

    fn fill(&mut self, mut buffer: &mut [u8], deadline: Deadline) -> Result<(), Error> {
        while !buffer.is_empty() {
            match self.stream.read(buffer) {
                Ok(0) => return Err(Error::Closed),
                Ok(read) => buffer = buffer.get_mut(read..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::POLLIN, deadline)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            // This stops a peer that sends byte by byte without a pause.
            if !buffer.is_empty() && deadline.passed() {
                return Err(Error::Silent);
            }
        }
        Ok(())
    }

    fn wait(&self, flags: PollFlags, deadline: Deadline) -> Result<(), Error> {
        match poll(&mut [PollFd::new(self.stream.as_fd(), flags)], deadline.poll_timeout()) {
            Ok(0) => Err(Error::Silent),
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests;
