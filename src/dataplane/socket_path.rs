//! The socket's name in the pod's volume: what is there, listening on it, connecting to it. Everything goes through a
//! handle on the volume.
//!
//! The pod may put anything at the name at any time. Nothing here follows a link: bind(2) creates the name or fails,
//! connecting uses a handle on a file that is a socket, and no file mode is changed ([`super::access`] adds an entry to
//! a socket's access control list, through a handle). Files are removed by their name in the volume: a tenant that
//! swaps them just before only loses its own file.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::sys::{self, Walk};

/// Length of the listen queue. Only one data plane has the port; the rest is for refused connections.
const BACKLOG: i32 = 8;

/// A name in an open directory.
#[derive(Clone, Copy, Debug)]
pub struct SocketPath<'a> {
    directory: BorrowedFd<'a>,
    name: &'a str,
    path: &'a Path,
}

/// A handle on a socket's file. It prevents reuse of the inode number.
#[derive(Debug)]
pub struct SocketFile {
    handle: OwnedFd,
    object: (u64, u64),
}

impl SocketFile {
    /// Returns the handle.
    #[must_use]
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl<'a> SocketPath<'a> {
    /// Creates it from a directory and a name, which is a single path component. `path` is its path on the host, for
    /// messages.
    #[must_use]
    pub fn new(directory: BorrowedFd<'a>, name: &'a str, path: &'a Path) -> Self {
        Self { directory, name, path }
    }

    /// Returns the path on the host, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.path
    }

    /// Returns the socket's file at the name. `None` if there is nothing.
    ///
    /// # Errors
    /// `ENOTSOCK` for anything else, a symbolic link included; else openat2(2)'s.
    pub fn file(&self) -> Result<Option<SocketFile>, sys::Error> {
        let handle = match sys::open_below(self.directory, Path::new(self.name), Walk::Strict) {
            Ok(handle) => handle,
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) if error.is_escape() => return Err(self.failed("openat2", Errno::ENOTSOCK)),
            Err(error) => return Err(error),
        };
        let stat = sys::stat(handle.as_fd())?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
            return Err(self.failed("openat2", Errno::ENOTSOCK));
        }
        Ok(Some(SocketFile { object: (stat.st_dev, stat.st_ino), handle }))
    }

    /// Listens at the name, which must be free. Every user may connect, because a data plane need not run as root.
    ///
    /// # Errors
    /// bind(2)'s (`EADDRINUSE` if something is at the name) and listen(2)'s.
    pub fn listen(&self) -> Result<(UnixListener, SocketFile), sys::Error> {
        let failed = |call| move |errno| self.failed(call, errno);
        let own = unix_socket().map_err(failed("socket"))?;
        // The file gets its socket's mode (net/unix/af_unix.c, unix_bind_bsd), so no other file's mode is changed.
        fchmod(&own, Mode::from_bits_truncate(0o666)).map_err(failed("fchmod"))?;
        let address = UnixAddr::new(&sys::link(self.directory).join(self.name)).map_err(failed("bind"))?;
        sys::without_umask(|| bind(own.as_raw_fd(), &address)).map_err(failed("bind"))?;
        let ready = || {
            let file = self.file()?.ok_or_else(|| self.failed("bind", Errno::ENOENT))?;
            Backlog::new(BACKLOG).and_then(|backlog| listen(&own, backlog)).map_err(failed("listen"))?;
            Ok(file)
        };
        match ready() {
            Ok(file) => Ok((UnixListener::from(own), file)),
            Err(error) => {
                let _ = unlinkat(self.directory, self.name, UnlinkatFlags::NoRemoveDir);
                Err(error)
            }
        }
    }

    /// Connects to the socket at the name without waiting. Returns `None` if nobody listens, or the queue is full.
    ///
    /// # Errors
    /// As [`SocketPath::file`], and connect(2)'s.
    pub fn connect(&self) -> Result<Option<UnixStream>, sys::Error> {
        let Some(file) = self.file()? else { return Ok(None) };
        let failed = |errno| self.failed("connect", errno);
        let own = unix_socket().map_err(failed)?;
        let address = UnixAddr::new(&sys::link(file.handle.as_fd())).map_err(failed)?;
        match connect(own.as_raw_fd(), &address) {
            Ok(()) => Ok(Some(UnixStream::from(own))),
            Err(Errno::ECONNREFUSED | Errno::EAGAIN | Errno::ENOENT | Errno::EINTR) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Removes the name if it still names this file.
    ///
    /// # Errors
    /// Those of looking, and unlinkat(2)'s.
    pub fn remove(&self, file: &SocketFile) -> Result<bool, sys::Error> {
        // It is no longer a socket, so it is not ours.
        let there = match self.file() {
            Err(error) if error.errno() == Errno::ENOTSOCK => return Ok(false),
            there => there?,
        };
        if there.is_none_or(|there| there.object != file.object) {
            return Ok(false);
        }
        match unlinkat(self.directory, self.name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(self.failed("unlinkat", errno)),
        }
    }

    /// Makes a directory at the name if nothing is there, so that nobody can listen at it: QEMU unlinks the name before
    /// it binds, and fails if it can't (`unix_listen_saddr`, util/qemu-sockets.c). Returns true if it was made.
    ///
    /// # Errors
    /// mkdirat(2)'s.
    pub fn block(&self) -> Result<bool, sys::Error> {
        match sys::without_umask(|| mkdirat(self.directory, self.name, Mode::from_bits_truncate(0o700))) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(self.failed("mkdirat", errno)),
        }
    }

    /// Returns true if a directory as made by [`SocketPath::block`] is at the name.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        let stat = fstatat(self.directory, self.name, AtFlags::AT_SYMLINK_NOFOLLOW);
        // It may have inherited the volume's set-group-ID bit.
        stat.is_ok_and(|stat| {
            let is_directory = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
            is_directory && stat.st_mode & 0o777 == 0o700 && stat.st_uid == 0
        })
    }

    /// Removes the directory that [`SocketPath::block`] made. Anything else stays, even a directory with contents.
    /// Returns true if it was there.
    ///
    /// # Errors
    /// unlinkat(2)'s.
    pub fn unblock(&self) -> Result<bool, sys::Error> {
        if !self.is_blocked() {
            return Ok(false);
        }
        match unlinkat(self.directory, self.name, UnlinkatFlags::RemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENOTEMPTY) => Ok(false),
            Err(errno) => Err(self.failed("unlinkat", errno)),
        }
    }

    fn failed(&self, call: &'static str, errno: Errno) -> sys::Error {
        sys::Error::of(call, self.path, &errno.into())
    }
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)
}

/// A test's directory, removed when dropped.
#[cfg(test)]
pub(super) mod scratch {
    use std::path::PathBuf;

    use super::*;

    pub struct Scratch {
        pub path: PathBuf,
        handle: OwnedFd,
    }

    impl Scratch {
        pub fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("vhu-{}-{test}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self { handle: sys::open_handle(&path).unwrap(), path: path.join("nic") }
        }

        pub fn socket_path(&self) -> SocketPath<'_> {
            SocketPath::new(self.handle.as_fd(), "nic", &self.path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.path.parent().unwrap());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::scratch::Scratch;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_connects_only_while_one_listens() {
        let scratch = Scratch::new("socket-connect");
        let socket_path = scratch.socket_path();
        assert!(socket_path.connect().unwrap().is_none());
        let (listener, file) = socket_path.listen().unwrap();
        assert_eq!(std::fs::metadata(&scratch.path).unwrap().permissions().mode() & 0o777, 0o666);
        assert!(socket_path.connect().unwrap().is_some());
        drop(listener);
        assert!(socket_path.connect().unwrap().is_none());
        assert!(socket_path.remove(&file).unwrap() && !scratch.path.exists());
        assert!(!socket_path.remove(&file).unwrap());
    }

    #[test]
    fn sockets_made_at_once_are_as_open_as_one() {
        std::thread::scope(|scope| {
            for number in 0..8 {
                scope.spawn(move || {
                    let scratch = Scratch::new(&format!("socket-at-once-{number}"));
                    for _ in 0..200 {
                        let (_listener, file) = scratch.socket_path().listen().unwrap();
                        assert_eq!(std::fs::metadata(&scratch.path).unwrap().permissions().mode() & 0o777, 0o666);
                        scratch.socket_path().remove(&file).unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn a_full_queue_is_not_waited_for() {
        let scratch = Scratch::new("socket-full");
        let (_listener, _file) = scratch.socket_path().listen().unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| scratch.socket_path().connect().unwrap()).take(64).collect();
        assert!(waiting.len() < 64, "{}", waiting.len());
    }

    #[test]
    fn what_is_at_the_name_already_stays() {
        let scratch = Scratch::new("socket-taken");
        let socket_path = scratch.socket_path();
        let target = scratch.path.with_file_name("target");
        std::os::unix::fs::symlink(&target, &scratch.path).unwrap();
        assert_eq!(socket_path.listen().unwrap_err().errno(), Errno::EADDRINUSE);
        assert_eq!(socket_path.connect().unwrap_err().errno(), Errno::ENOTSOCK);
        assert!(!target.exists() && scratch.path.is_symlink());
    }

    #[test]
    fn a_name_is_blocked_and_freed_if_nothing_is_in_it() {
        let scratch = Scratch::new("socket-blocked");
        let socket_path = scratch.socket_path();
        assert!(socket_path.block().unwrap() && scratch.path.is_dir() && !socket_path.block().unwrap());
        assert_eq!(socket_path.listen().unwrap_err().errno(), Errno::EADDRINUSE);
        std::fs::write(scratch.path.join("file"), "").unwrap();
        assert!(!socket_path.unblock().unwrap() && scratch.path.is_dir());
        std::fs::remove_file(scratch.path.join("file")).unwrap();
        assert!(socket_path.unblock().unwrap() && !socket_path.unblock().unwrap());
        let (_listener, _) = socket_path.listen().unwrap();
        assert!(!socket_path.block().unwrap() && !socket_path.unblock().unwrap() && scratch.path.exists());
    }

    #[test]
    fn a_socket_that_took_the_place_of_ours_stays() {
        let scratch = Scratch::new("socket-swapped");
        let socket_path = scratch.socket_path();
        let (_listener, file) = socket_path.listen().unwrap();
        std::fs::remove_file(&scratch.path).unwrap();
        let _other = UnixListener::bind(&scratch.path).unwrap();
        assert!(!socket_path.remove(&file).unwrap() && scratch.path.exists());
        std::fs::remove_file(&scratch.path).unwrap();
        std::fs::write(&scratch.path, "").unwrap();
        assert!(!socket_path.remove(&file).unwrap() && scratch.path.exists());
    }
}
