//! The interface's socket: QEMU's side of vhost-user, as far as the file system and /proc/net/unix can see it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::qemu::tell;
use crate::script::Qemu;

const PAUSE: Duration = Duration::from_millis(5);

/// A socket that listens until it is dropped.
pub struct Socket {
    path: String,
    stop: Arc<AtomicBool>,
    peers: Arc<AtomicUsize>,
    /// The double's own data plane.
    _own: Option<UnixStream>,
    /// Whether the file stays when QEMU goes.
    pub leave: bool,
}

impl Socket {
    /// Replaces whatever is at `path`, as QEMU does. With `dial` the double is its own peer; with `greet`, a number of
    /// queues, a peer counts once it has answered QEMU's first questions and offers that many. A QEMU that lies does so to
    /// the first, and greets nobody.
    pub fn listen(path: &str, dial: bool, greet: Option<u64>, qemu: Qemu) -> std::io::Result<Self> {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o775))?;
        let own = if dial { Some(UnixStream::connect(path)?) } else { None };
        let (stop, peers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = (Arc::clone(&stop), Arc::clone(&peers));
        std::thread::spawn(move || hold(&listener, greet, qemu, &thread.0, &thread.1));
        Ok(Self { path: path.to_owned(), stop, peers, _own: own, leave: false })
    }

    /// How many peers are connected.
    pub fn peers(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.peers)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if !self.leave {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Accepts peers and keeps them for as long as they stay.
fn hold(listener: &UnixListener, greet: Option<u64>, mut qemu: Qemu, stop: &AtomicBool, count: &AtomicUsize) {
    listener.set_nonblocking(true).unwrap();
    let greet = greet.filter(|_| qemu == Qemu::Honest);
    let (mut peers, mut lied_to): (Vec<UnixStream>, usize) = (Vec::new(), 0);
    while !stop.load(Ordering::SeqCst) {
        if let Ok((peer, _)) = listener.accept()
            && greet.is_none_or(|queues| greeted(&peer, queues).is_some())
        {
            match std::mem::take(&mut qemu) {
                Qemu::Honest => {
                    peer.set_nonblocking(true).unwrap();
                    peers.push(peer);
                }
                lie => {
                    lied_to += 1;
                    std::thread::spawn(move || tell(lie, &peer));
                }
            }
        }
        peers.retain_mut(|peer| match peer.read(&mut [0; 4096]) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        count.store(peers.len() + lied_to, Ordering::SeqCst);
        std::thread::sleep(PAUSE);
    }
}

/// vhost-user: VHOST_USER_GET_FEATURES, VHOST_USER_GET_PROTOCOL_FEATURES, VHOST_USER_GET_QUEUE_NUM.
const GET_FEATURES: u32 = 1;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_QUEUE_NUM: u32 = 17;
/// VHOST_USER_F_PROTOCOL_FEATURES.
const F_PROTOCOL_FEATURES: u64 = 1 << 30;
/// VHOST_USER_PROTOCOL_F_MQ.
const F_MQ: u64 = 1;

/// The first questions of QEMU to a vhost-user back end. A peer that hangs up, says something else or offers fewer
/// queues is dropped, and QEMU waits for the next.
fn greeted(peer: &UnixStream, queues: u64) -> Option<()> {
    peer.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let has_protocol = ask(peer, GET_FEATURES)? & F_PROTOCOL_FEATURES != 0;
    let has_queues = has_protocol && ask(peer, GET_PROTOCOL_FEATURES)? & F_MQ != 0;
    let offered = if has_queues { ask(peer, GET_QUEUE_NUM)? } else { 1 };
    (offered >= queues).then_some(())
}

/// One question of vhost-user without a payload, whose answer is a number. Its words are the machine's own.
fn ask(mut peer: &UnixStream, request: u32) -> Option<u64> {
    let words = |flags: u32, size: u32| [request, flags, size].map(u32::to_ne_bytes).concat();
    peer.write_all(&words(1, 0)).ok()?;
    let mut reply = [0; 20];
    peer.read_exact(&mut reply).ok()?;
    let (head, number) = reply.split_first_chunk::<12>()?;
    (head[..] == words(1 | 4, 8)).then(|| u64::from_ne_bytes(number.try_into().unwrap()))
}
