//! The interface's socket: QEMU's side of vhost-user.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind_unix, listen, socket};

use crate::handshake::{self, Memory};
use crate::qemu::tell;
use crate::script::{Attach, DataPlane, Qemu};

/// How long a QEMU has for its lies before it is done with its command.
const LIE: Duration = Duration::from_millis(300);

/// A socket that listens until it is dropped.
pub struct Socket {
    path: String,
    listener: UnixListener,
    attach: Attach,
    queues: u64,
    memory: Memory,
    /// Who is connected: the back end; several only where anybody will do.
    peers: Vec<UnixStream>,
    /// Whether a lie was told, and that counts as a back end.
    lied: bool,
    /// The double's own data plane.
    own: Option<UnixStream>,
}

impl Socket {
    /// Listens at `path` as QEMU does (`unix_listen_saddr` in util/qemu-sockets.c): whatever is there is unlinked first, and
    /// what cannot be unlinked, a directory for one, is an error; then come bind(2) and listen(2), with a queue of one.
    pub fn listen(path: &str, attach: &Attach) -> Result<Self, String> {
        let failed = |what: &str, error: &std::io::Error| {
            let error = error.to_string();
            Err(format!("{what} {path}: {}", error.split(" (os error").next().unwrap_or_default()))
        };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return failed("Failed to unlink socket", &error),
            _ => {}
        }
        let bound = || -> std::io::Result<OwnedFd> {
            let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
            bind_unix(&fd, &SocketAddrUnix::new(path)?)?;
            listen(&fd, 1)?;
            Ok(fd)
        };
        let listener = match bound() {
            Ok(fd) => UnixListener::from(fd),
            Err(error) => return failed("Failed to bind socket to", &error),
        };
        let ready = || {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o775))?;
            (attach.data_plane == DataPlane::Own).then(|| UnixStream::connect(path)).transpose()
        };
        match ready() {
            Ok(own) => Ok(Self {
                path: path.to_owned(),
                listener,
                attach: attach.clone(),
                queues: 1,
                memory: Memory::default(),
                peers: Vec::new(),
                lied: false,
                own,
            }),
            Err(error) => failed("Failed to bind socket to", &error),
        }
    }

    /// Waits, without end, until a back end is accepted (`net_vhost_user_init`: the loop ends with `s->started`).
    pub fn wait_connected(&mut self, queues: u64, in_the_midst: impl Fn(), dropped: impl Fn(&str)) {
        self.queues = queues;
        while self.peers.is_empty() && !self.lied && self.attach.data_plane != DataPlane::None {
            self.listener.set_nonblocking(false).unwrap();
            self.wait_as_glib_does();
            let (peer, _) = self.listener.accept().expect("a connection can be accepted");
            let lie = std::mem::take(&mut self.attach.qemu);
            if lie != Qemu::Honest {
                std::thread::spawn(move || tell(lie, &peer));
                std::thread::sleep(LIE);
                // The next who comes is taken as he is.
                (self.lied, self.attach.data_plane) = (true, DataPlane::Wait);
            } else {
                self.greet(peer, &in_the_midst, &dropped);
            }
        }
        self.listener.set_nonblocking(true).unwrap();
    }

    /// In a poll(2) without a timeout, of the socket and one descriptor more, by which GLib's main loop is woken
    /// (`qio_net_listener_wait_client` in io/net-listener.c): that is how a QEMU that waits is told from one that runs.
    fn wait_as_glib_does(&self) {
        let (wake, _waker) = UnixStream::pair().expect("a pair of sockets");
        let polled = [&wake as &dyn AsFd, &self.listener].map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
        while poll(&mut polled.clone(), PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
    }

    /// Speaks with who has connected; hangs up on it if it is of no use.
    fn greet(&mut self, peer: UnixStream, in_the_midst: &impl Fn(), dropped: &impl Fn(&str)) {
        peer.set_nonblocking(false).unwrap();
        if self.attach.data_plane == DataPlane::Handshake {
            let begun = handshake::begin(&peer, self.queues, &self.attach.wants, &mut self.memory, in_the_midst);
            if let Err(why) = begun {
                return dropped(&why);
            }
        }
        peer.set_nonblocking(true).unwrap();
        self.peers.push(peer);
    }

    /// Whether somebody waits to be taken. QEMU has one back end at a time: with one there, it accepts nobody
    /// (`tcp_chr_new_client` takes the listener's callback away), and who connects waits.
    pub fn is_called(&mut self) -> bool {
        self.peers.retain_mut(|peer| match peer.read(&mut [0; 4096]) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        if self.attach.data_plane == DataPlane::Handshake && !self.peers.is_empty() {
            return false;
        }
        poll(&mut [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
    }

    /// Takes the next who has connected.
    pub fn take_next(&mut self, dropped: impl Fn(&str)) {
        if let Ok((peer, _)) = self.listener.accept() {
            self.greet(peer, &|| {}, &dropped);
        }
    }

    /// Says to the back end that the device is in use.
    pub fn enable(&self) {
        if let Some(peer) = self.peers.first().filter(|_| self.attach.data_plane == DataPlane::Handshake) {
            handshake::enable(peer, &self.memory);
        }
    }

    /// Leaves the file behind, as a QEMU that is killed does.
    pub fn leave(mut self) {
        self.path.clear();
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // socket_listen_cleanup.
        if !self.path.is_empty() {
            let _ = std::fs::remove_file(&self.path);
        }
        drop(self.own.take());
    }
}
