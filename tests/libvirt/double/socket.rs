//! The interface's socket: QEMU's side of vhost-user, as far as the file system and /proc/net/unix can see it.

use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

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
    /// Replaces whatever is at `path`, as QEMU does.
    pub fn listen(path: &str, dial: bool) -> std::io::Result<Self> {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o775))?;
        let own = if dial { Some(UnixStream::connect(path)?) } else { None };
        let (stop, peers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = (Arc::clone(&stop), Arc::clone(&peers));
        std::thread::spawn(move || hold(&listener, &thread.0, &thread.1));
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
fn hold(listener: &UnixListener, stop: &AtomicBool, count: &AtomicUsize) {
    listener.set_nonblocking(true).unwrap();
    let mut peers: Vec<UnixStream> = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        if let Ok((peer, _)) = listener.accept() {
            peer.set_nonblocking(true).unwrap();
            peers.push(peer);
        }
        peers.retain_mut(|peer| match peer.read(&mut [0; 4096]) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        count.store(peers.len(), Ordering::SeqCst);
        std::thread::sleep(PAUSE);
    }
}
