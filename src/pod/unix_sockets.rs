//! Finds listeners and connections of a vhost-user socket in the kernel's list of unix sockets (proc(5),
//! `/proc/<pid>/net/unix`). So no data plane has to be asked.
//!
//! Each network namespace has its own list. A listening socket is in the list of the process that made it: the pod's.
//! An accepted end is in the list of the process that connected (net/unix/af_unix.c, `unix_stream_connect`, makes it
//! there): the data plane's, which is the host's. Pods of one node use the same paths, so a path there does not
//! identify the pod; the descriptors of the pod's processes do.
//!
//! A list is not trusted: the kernel prints names unescaped, so a name with a line break looks like two lines
//! (`unix_seq_show`). To prevent claims about another pod's sockets, each end is checked itself
//! ([`super::socket_end::SocketEnd::is_bound_to`]).

use std::collections::BTreeSet;
use std::path::Path;

use crate::sys;

/// `SS_CONNECTED` and `SS_UNCONNECTED` of include/uapi/linux/net.h, as net/unix/af_unix.c prints them.
const CONNECTED: &[u8] = b"03";
const UNCONNECTED: &[u8] = b"01";
/// `__SO_ACCEPTCON`: the socket listens.
const ACCEPTING: &[u8] = b"00010000";

/// Most sockets of one path that are collected. A NIC has at most three; a pod may make many more.
const KEPT_MAX: usize = 4096;

/// A socket of the list. Its path is as QEMU bound it, and need not be text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket<'a> {
    /// Its inode. The number is reused only after 4 billion others.
    pub inode: u64,
    /// Its path; empty if it was not bound.
    pub path: &'a [u8],
    pub listens: bool,
    /// Whether it is an accepted end, if the path is a listener's. One that waits to be accepted has another state
    /// (`SS_CONNECTING`).
    pub is_connected: bool,
}

impl<'a> Socket<'a> {
    /// Parses a line: "Num RefCount Protocol Flags Type St Inode", a space, and the path.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut rest = line;
        let mut field = || {
            let begin = rest.iter().position(|byte| *byte != b' ')?;
            let end = rest.iter().skip(begin).position(|byte| *byte == b' ')?.checked_add(begin)?;
            let field = rest.get(begin..end)?;
            rest = rest.get(end.checked_add(1)?..)?;
            Some(field)
        };
        let [_, _, _, flags, _, state, inode] = [field()?, field()?, field()?, field()?, field()?, field()?, field()?];
        let inode = std::str::from_utf8(inode).ok()?.parse().ok()?;
        let listens = flags == ACCEPTING && state == UNCONNECTED;
        Some(Self { inode, path: rest, listens, is_connected: state == CONNECTED })
    }
}

/// Calls `look` for each socket of a list (the file's path), and returns its first result. The list is not stored.
///
/// # Errors
/// Those of [`sys::find_line`].
pub fn find<T>(list: &Path, mut look: impl FnMut(Socket<'_>) -> Option<T>) -> Result<Option<T>, sys::Error> {
    sys::find_line(list, |line| Socket::parse(line).and_then(&mut look))
}

/// The sockets of one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfPath {
    /// Those that listen, by their inodes.
    pub listeners: BTreeSet<u64>,
    /// The ends that were accepted, by their inodes.
    pub accepted: BTreeSet<u64>,
}

impl OfPath {
    /// Adds a socket if its path matches. Returns `Some` at the limit.
    pub fn add(&mut self, is_path: impl FnOnce(&[u8]) -> bool, socket: &Socket<'_>) -> Option<()> {
        if (socket.listens || socket.is_connected) && is_path(socket.path) {
            if socket.listens {
                self.listeners.insert(socket.inode);
            }
            if socket.is_connected {
                self.accepted.insert(socket.inode);
            }
        }
        (self.listeners.len().max(self.accepted.len()) >= KEPT_MAX).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    const LIST: &str = "Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 1122863 /run/vm/pod1
0000000000000000: 00000003 00000000 00000000 0001 03  1122 /run/vm/pod1
0000000000000000: 00000002 00000000 00000000 0001 02     0 /run/vm/pod1
0000000000000000: 00000002 00000000 00010000 0001 01 99999 /run/vm/pod2
0000000000000000: 00000003 00000000 00000000 0001 03 44444
0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/vm/a b
";

    fn of_path(list: &str, path: &str) -> OfPath {
        let mut found = OfPath::default();
        for socket in list.lines().filter_map(|line| Socket::parse(line.as_bytes())) {
            assert_eq!(found.add(|other| other == path.as_bytes(), &socket), None);
        }
        found
    }

    fn of_own(path: &str) -> OfPath {
        let mut found = OfPath::default();
        find(Path::new("/proc/self/net/unix"), |socket| found.add(|other| other == path.as_bytes(), &socket)).unwrap();
        found
    }

    #[test]
    fn a_socket_is_listened_on_connected_to_or_neither() {
        for (path, inodes) in [("/run/vm/pod1", &[1122][..]), ("/run/vm/pod2", &[]), ("/run/vm/a b", &[])] {
            let found = of_path(LIST, path);
            assert_eq!(found.listeners.len(), 1, "{path}");
            assert_eq!(found.accepted, inodes.iter().copied().collect());
        }
        for other in ["/run/vm/pod", "pod1", "b", "/run/vm/pod3", "12345 /run/vm/a b"] {
            assert_eq!(of_path(LIST, other), OfPath::default(), "{other}");
        }
    }

    #[test]
    fn a_name_that_is_no_text_hides_no_other() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let base = std::env::temp_dir().join(format!("vhu-connected-odd-{}", std::process::id()));
        let odd = base.with_extension(OsStr::from_bytes(b"\xff\xfe"));
        let _both = (UnixListener::bind(&odd).unwrap(), UnixListener::bind(&base).unwrap());
        assert_eq!(of_own(base.to_str().unwrap()).listeners.len(), 1);
        std::fs::remove_file(odd).unwrap();
        std::fs::remove_file(base).unwrap();
    }

    #[test]
    fn no_more_sockets_of_a_path_are_kept_than_are_of_use() {
        let mut found = OfPath::default();
        let socket = |inode| Socket { inode, path: b"/x", listens: false, is_connected: true };
        let ended = (0..).find(|inode| found.add(|other| other == b"/x", &socket(*inode)).is_some()).unwrap();
        assert_eq!((usize::try_from(ended).unwrap(), found.accepted.len()), (KEPT_MAX - 1, KEPT_MAX));
    }

    #[test]
    fn the_kernel_lists_a_live_pair_that_way() {
        let path = std::env::temp_dir().join(format!("vhu-connected-{}", std::process::id()));
        let name = path.to_str().unwrap();
        let look = || (!of_own(name).listeners.is_empty(), of_own(name).accepted);
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        assert_eq!(look(), (true, BTreeSet::new()), "not accepted yet");
        let (taken, _) = listener.accept().unwrap();
        let inode = std::fs::metadata(format!("/proc/self/fd/{}", taken.as_raw_fd())).unwrap().ino();
        assert_eq!(look(), (true, BTreeSet::from([inode])));
        drop(client);
        assert_eq!(look(), (true, BTreeSet::from([inode])), "hung up on, but not closed yet");
        drop((taken, listener));
        assert_eq!(look(), (false, BTreeSet::new()));
        std::fs::remove_file(path).unwrap();
    }
}
