//! A JSON-RPC 1.0 connection over a unix socket, as used by OVSDB (RFC 7047, section 4) and OVS's daemons (`unixctl`).
//!
//! The peer isn't trusted. Connecting never blocks, every wait ends at one deadline, and input is bounded: an answer of
//! at most [`MESSAGE_MAX`] bytes, and at most [`SKIPPED_MAX`] other messages before it.

use std::borrow::Cow;
use std::fmt;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, send, socket, sockopt,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::deadline::Deadline;
use crate::{quote, sys};

/// Longest message that is read, in bytes. A port takes some 600 bytes.
pub const MESSAGE_MAX: usize = 2 << 20;
/// Most messages that are answered or skipped before the answer. OVSDB sends an `echo` every 5 seconds.
pub const SKIPPED_MAX: usize = 16;
/// How much is read at once, in bytes.
const CHUNK: usize = 64 << 10;
/// How long to wait before connecting again to a peer whose backlog is full.
const BACKLOG: Duration = Duration::from_millis(10);

/// A call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no such socket")]
    Absent,
    #[error("nothing listens there")]
    Deserted,
    #[error("it did not answer in time")]
    Silent,
    #[error("it closed the connection")]
    Closed,
    #[error("it broke the protocol: {0}")]
    Protocol(String),
    #[error("it refused the request: {}", quote::text(.0))]
    Refused(String),
    #[error(transparent)]
    System(#[from] sys::Error),
}

fn broken(what: impl fmt::Display) -> Error {
    Error::Protocol(what.to_string())
}

/// A message of the peer: an answer or a request.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    inbound: Vec<u8>,
    scan: Scan,
    skipped: usize,
}

impl Connection {
    /// Connects to the socket at this path.
    ///
    /// # Errors [`Error::Absent`] if there is no socket, [`Error::Deserted`] if nothing listens at it,
    /// [`Error::Silent`] if the backlog stays full until the deadline.
    pub fn open(path: &Path, deadline: Deadline) -> Result<Self, Error> {
        let handle = match sys::open_handle(path) {
            Ok(handle) => handle,
            Err(error) if error.is_absent() || error.errno() == Errno::ENOTDIR => return Err(Error::Absent),
            Err(error) => return Err(Error::System(error)),
        };
        dial(&handle, deadline).map(Self::new).map_err(|errno| match errno {
            Errno::ECONNREFUSED => Error::Deserted,
            Errno::EAGAIN => Error::Silent,
            errno => Error::System(sys::Error::of("connect", path, &errno.into())),
        })
    }

    /// Takes over a connected socket, which must be non-blocking.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, inbound: Vec::new(), scan: Scan::default(), skipped: 0 }
    }

    /// Returns the pid of the process that listens, if this process can see it.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        getsockopt(&self.stream, sockopt::PeerCredentials).ok().map(|peer| peer.pid()).filter(|pid| *pid > 0)
    }

    /// Calls a method and returns the JSON text of its result.
    ///
    /// # Errors
    /// Any [`Error`]; the connection is unusable after one.
    pub fn call(&mut self, method: &str, params: &serde_json::Value, deadline: Deadline) -> Result<String, Error> {
        let request = serde_json::json!({"method": method, "params": params, "id": 0});
        self.send(request.to_string().as_bytes(), deadline)?;
        loop {
            let text = self.receive(deadline)?;
            let message: Message<'_> = serde_json::from_slice(&text).map_err(broken)?;
            if let Some(method) = &message.method {
                self.skipped += 1;
                if self.skipped > SKIPPED_MAX {
                    return Err(broken("it sends requests and no answer"));
                }
                if let ("echo", Some(id)) = (&**method, message.id) {
                    let params = message.params.map_or("[]", RawValue::get);
                    let answer = format!("{{\"id\":{},\"result\":{params},\"error\":null}}", id.get());
                    self.send(answer.as_bytes(), deadline)?;
                }
                continue;
            }
            if message.id.is_none_or(|id| id.get() != "0") {
                return Err(broken("an answer to nothing that was asked"));
            }
            if let Some(error) = message.error.filter(|error| error.get() != "null") {
                return Err(Error::Refused(error.get().to_owned()));
            }
            let result = message.result.ok_or_else(|| broken("an answer with no result"))?;
            return Ok(result.get().to_owned());
        }
    }

    fn send(&mut self, mut bytes: &[u8], deadline: Deadline) -> Result<(), Error> {
        while !bytes.is_empty() {
            match send(self.stream.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, deadline)?,
                Err(Errno::EINTR) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(Error::Closed),
                Err(errno) => return Err(failed("send", errno)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Deadline) -> Result<Vec<u8>, Error> {
        let mut chunk = vec![0; CHUNK];
        loop {
            if let Some(end) = self.scan.end(&self.inbound).map_err(broken)? {
                let rest = self.inbound.split_off(end);
                return Ok(std::mem::replace(&mut self.inbound, rest));
            }
            if self.inbound.len() > MESSAGE_MAX {
                return Err(broken(format_args!("a message of more than {MESSAGE_MAX} bytes")));
            }
            if deadline.passed() {
                return Err(Error::Silent);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Error::Closed),
                Ok(count) => self.inbound.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::POLLIN, deadline)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(Error::Closed),
                Err(error) => {
                    return Err(Error::System(sys::Error::of("read", Path::new("OVS's socket"), &error)));
                }
            }
        }
    }

    fn wait(&self, flags: PollFlags, deadline: Deadline) -> Result<(), Error> {
        match poll(&mut [PollFd::new(self.stream.as_fd(), flags)], deadline.poll_timeout()) {
            Ok(0) if deadline.passed() => Err(Error::Silent),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(failed("poll", errno)),
        }
    }
}

fn failed(call: &'static str, errno: Errno) -> Error {
    Error::System(sys::Error::of(call, Path::new("OVS's socket"), &errno.into()))
}

/// Connects through a handle, so that the path may be longer than `sun_path`.
fn dial(handle: &OwnedFd, deadline: Deadline) -> Result<UnixStream, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(&sys::link(handle.as_fd()))?;
    loop {
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            // The backlog is full (unix(7)), and poll(2) doesn't report when it no longer is.
            Err(Errno::EAGAIN) if !deadline.passed() => std::thread::sleep(deadline.remaining().min(BACKLOG)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Finds the end of a JSON object in bytes that arrive piece by piece. Messages have no length and no separator.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// Returns where the first object ends, if it is complete; the next call then begins with the next object.
    fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'{' | b'[' if self.depth > 0 || *byte == b'{' => self.depth += 1,
                b'}' | b']' if self.depth > 0 => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        let end = self.at;
                        *self = Self::default();
                        return Ok(Some(end));
                    }
                }
                b'"' if self.depth > 0 => self.in_string = true,
                byte if self.depth > 0 || byte.is_ascii_whitespace() => {}
                _ => return Err("a message that is no JSON object"),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;

    use serde_json::json;

    use super::*;

    fn ends(bytes: &[u8]) -> Vec<usize> {
        let (mut scan, mut rest, mut ends) = (Scan::default(), bytes, Vec::new());
        while let Ok(Some(end)) = scan.end(rest) {
            ends.push(end);
            rest = &rest[end..];
        }
        ends
    }

    #[test]
    fn objects_end_where_their_braces_close() {
        assert_eq!(ends(br#"{"a":"}\"{"}{"b":[{}]} {"#), [12, 10]);
        assert_eq!(ends(b" \n{}"), [4]);
        assert_eq!(ends(b"[{}]"), [] as [usize; 0]);
        assert!(Scan::default().end(b"x{}").is_err());
    }

    #[test]
    fn a_message_may_arrive_byte_by_byte() {
        let whole = br#"{"a":"\\"}"#;
        let mut scan = Scan::default();
        for length in 0..whole.len() {
            assert_eq!(scan.end(&whole[..length]), Ok(None), "{length}");
        }
        assert_eq!(scan.end(whole), Ok(Some(whole.len())));
    }

    /// Returns the result of a call if the peer answers with these bytes, and what the peer read.
    fn answered(bytes: &[u8]) -> (Result<String, Error>, String) {
        let (here, mut there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let bytes = bytes.to_vec();
        let peer = thread::spawn(move || {
            // A peer that sends too much is cut off.
            let _ = there.write_all(&bytes);
            there.shutdown(std::net::Shutdown::Write).unwrap();
            let mut read = String::new();
            let _ = there.read_to_string(&mut read);
            read
        });
        let outcome = Connection::new(here).call("transact", &json!([]), Deadline::after(Duration::from_secs(60)));
        (outcome, peer.join().unwrap())
    }

    #[test]
    fn an_echo_is_answered_before_the_answer_comes() {
        let (result, read) =
            answered(br#"{"id":"echo","method":"echo","params":[1]}{"id":0,"result":[2],"error":null}"#);
        assert_eq!(result.unwrap(), "[2]");
        assert!(read.ends_with(r#"{"id":"echo","result":[1],"error":null}"#), "{read}");
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let requests = br#"{"id":1,"method":"x","params":[]}"#.repeat(SKIPPED_MAX + 1);
        let long = [br#"{"id":0,"result":""#.to_vec(), vec![b'x'; MESSAGE_MAX + CHUNK]].concat();
        let deep = vec![b'{'; 1000];
        let deep = [deep.clone(), vec![b'}'; 1000]].concat();
        for bytes in [&b"garbage"[..], b"{garbage}", b"{}", br#"{"id":7,"result":1}"#, &requests, &long, &deep] {
            assert!(matches!(answered(bytes).0, Err(Error::Protocol(_))), "{:.80}", bytes.escape_ascii());
        }
        assert_eq!(answered(b"").0, Err(Error::Closed));
        assert_eq!(answered(br#"{"id":0,"#).0, Err(Error::Closed));
        let refused = answered(br#"{"id":0,"result":null,"error":"unknown database"}"#).0;
        assert_eq!(refused, Err(Error::Refused("\"unknown database\"".to_owned())));
    }

    #[test]
    fn a_socket_that_nothing_listens_at_is_told_from_none() {
        let path = std::env::temp_dir().join(format!("vhu-ovs-rpc-{}", std::process::id()));
        let open = || Connection::open(&path, Deadline::after(Duration::from_secs(60))).map(drop);
        assert_eq!(open(), Err(Error::Absent));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(open(), Err(Error::Deserted));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_silent_peer_ends_with_the_deadline() {
        let (here, _there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let outcome = Connection::new(here).call("transact", &json!([]), Deadline::after(Duration::from_millis(20)));
        assert_eq!(outcome, Err(Error::Silent));
    }
}
