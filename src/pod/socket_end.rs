//! A process' end of a connection over a unix socket.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, UnixAddr, getsockname, getsockopt, shutdown, sockopt};

use crate::sys;

/// Most threads of a QEMU that are examined.
const THREAD_LIMIT: usize = 1024;

/// Longest `syscall` of a thread that is read, in bytes: nine numbers.
pub(super) const SYSCALL_LIMIT: u64 = 1024;

/// Longest `stat` of a process that is read, in bytes: a name of at most 64 bytes and some fifty numbers.
const STAT_LIMIT: u64 = 4096;

/// A process' end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketEnd {
    pub pid: i32,
    /// The process' directory below `/proc`, by a path that remains valid for this process only.
    pub proc: PathBuf,
    pub descriptor: i32,
    pub inode: u64,
}

impl SocketEnd {
    /// Returns true if the socket is bound to such a path, by getsockname(2). The kernel's list of sockets is not
    /// enough: it prints names unescaped, so a name with a line break can fake a line about another socket.
    ///
    /// If the permission or the system call is missing, the list is trusted.
    #[must_use]
    pub fn is_bound_to(&self, is_path: impl FnOnce(&[u8]) -> bool) -> bool {
        match self.duplicate() {
            Ok(own) => {
                let name = getsockname::<UnixAddr>(own.as_raw_fd());
                let is_path = |name: &UnixAddr| name.path().is_some_and(|path| is_path(path.as_os_str().as_bytes()));
                self.is_this(&own) && name.is_ok_and(|name| is_path(&name))
            }
            Err(error) => matches!(error.errno(), Errno::EPERM | Errno::ENOSYS),
        }
    }

    fn duplicate(&self) -> Result<OwnedFd, sys::Error> {
        sys::duplicate(self.pid, || std::fs::metadata(self.proc.join("fd")).is_ok(), self.descriptor)
    }

    /// Returns true if a thread waits in a system call on this descriptor.
    pub fn is_waited_on(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(self.proc.join("task")) else { return false };
        threads.take(THREAD_LIMIT).flatten().any(|thread| {
            let text = sys::read_text(&thread.path().join("syscall"), SYSCALL_LIMIT).unwrap_or_default();
            first_argument(&text).is_some_and(|argument| Ok(argument) == u64::try_from(self.descriptor))
        })
    }

    /// Returns true if the process at the other end is stopped by a signal or a debugger. The VM hangs once QEMU sends
    /// a request on such a connection. False if unknown.
    #[must_use]
    pub fn is_of_stopped(&self) -> bool {
        self.with_peer(is_stopped).is_some_and(|(_, stopped)| stopped)
    }

    /// Returns the pid of the process that connected (`SO_PEERCRED`); `None` if unknown.
    #[must_use]
    pub fn peer(&self) -> Option<i32> {
        self.with_peer(|pid| pid).map(|(_, pid)| pid)
    }

    /// Shuts the connection down if the process at its other end is stopped. Returns true if it did.
    #[must_use]
    pub fn cut_if_stopped(&self) -> bool {
        self.cut_if(is_stopped)
    }

    /// Shuts the connection down if `is_right` returns true for the pid at its other end.
    pub fn cut_if(&self, is_right: impl FnOnce(i32) -> bool) -> bool {
        let found = self.with_peer(is_right);
        found.is_some_and(|(own, right)| right && shutdown(own.as_raw_fd(), Shutdown::Both).is_ok())
    }

    /// Returns a duplicate of the socket, and the result of `say` for the pid that connected.
    fn with_peer<T>(&self, say: impl FnOnce(i32) -> T) -> Option<(OwnedFd, T)> {
        let own = self.duplicate().ok().filter(|own| self.is_this(own))?;
        let peer = getsockopt(&own, sockopt::PeerCredentials).ok()?;
        Some((own, say(peer.pid())))
    }

    fn is_this(&self, own: &OwnedFd) -> bool {
        sys::object(own.as_fd()).is_ok_and(|(_, inode)| inode == self.inode)
    }
}

/// Returns the first argument of a thread's system call, from its `syscall` (proc(5)): "47 0x1d 0x7ffd… …", the call's
/// number and arguments. `None` for "running".
#[must_use]
pub fn first_argument(syscall: &str) -> Option<u64> {
    let digits = syscall.split_ascii_whitespace().nth(1)?.strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok()
}

/// Returns true if a process is stopped by a signal or a debugger.
pub fn is_stopped(pid: i32) -> bool {
    sys::read_text(Path::new(&format!("/proc/{pid}/stat")), STAT_LIMIT).is_ok_and(|stat| says_stopped(&stat))
}

/// Returns true if a process is stopped by a signal or a debugger, from its `stat`: the states T and t of proc(5).
#[must_use]
pub fn says_stopped(stat: &str) -> bool {
    // The command's name, in parentheses, may contain anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, Some('T' | 't'))
}
