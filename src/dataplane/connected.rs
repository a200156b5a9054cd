//! Whether a vhost-user socket is listened on and connected to, from the kernel's list of unix sockets (proc(5),
//! `/proc/<pid>/net/unix`): no data plane has to be asked, whichever it is.

use std::collections::BTreeSet;

/// `SS_CONNECTED` and `SS_UNCONNECTED` of include/uapi/linux/net.h, as net/unix/af_unix.c prints them.
const CONNECTED: &str = "03";
const UNCONNECTED: &str = "01";
/// `__SO_ACCEPTCON`: the socket listens.
const ACCEPTING: &str = "00010000";

/// What the sockets bound to one path are at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// QEMU listens.
    pub listening: bool,
    /// A client has been accepted: the data plane is connected. One that waits to be is listed with another state
    /// (`SS_CONNECTING`), since it has no socket of QEMU's yet.
    pub connected: bool,
}

impl Use {
    /// Whether any process still has the path.
    #[must_use]
    pub fn any(self) -> bool {
        self.listening || self.connected
    }
}

/// Looks a path up in the list. The path is the one that was bound, as QEMU spells it.
#[must_use]
pub fn look_up(list: &str, path: &str) -> Use {
    let mut found = Use::default();
    for [_, _, _, flags, _, state, _] in lines(list, path) {
        found.listening |= flags == ACCEPTING && state == UNCONNECTED;
        found.connected |= state == CONNECTED;
    }
    found
}

/// The connections that QEMU has accepted on a path, by the inodes of its ends. An inode's number comes again only after
/// four thousand million other sockets, pipes and the like.
#[must_use]
pub fn accepted(list: &str, path: &str) -> BTreeSet<u64> {
    let connected = lines(list, path).filter(|[_, _, _, _, _, state, _]| *state == CONNECTED);
    connected.filter_map(|[_, _, _, _, _, _, inode]| inode.parse().ok()).collect()
}

/// The lines of a path: "Num RefCount Protocol Flags Type St Inode", then a space, and all the rest is the path.
fn lines<'a>(list: &'a str, path: &'a str) -> impl Iterator<Item = [&'a str; 7]> {
    let heads = list.lines().filter_map(move |line| line.strip_suffix(path)?.strip_suffix(' '));
    heads.filter_map(|head| head.split_ascii_whitespace().collect::<Vec<_>>().try_into().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 1122863 /run/vm/pod1
0000000000000000: 00000003 00000000 00000000 0001 03  1122 /run/vm/pod1
0000000000000000: 00000002 00000000 00010000 0001 01 99999 /run/vm/pod2
0000000000000000: 00000003 00000000 00000000 0001 03 44444
0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/vm/a b
";

    #[test]
    fn a_socket_is_listened_on_connected_to_or_neither() {
        assert_eq!(look_up(LIST, "/run/vm/pod1"), Use { listening: true, connected: true });
        assert_eq!(look_up(LIST, "/run/vm/pod2"), Use { listening: true, connected: false });
        assert_eq!(look_up(LIST, "/run/vm/a b"), Use { listening: true, connected: false });
        for other in ["/run/vm/pod", "pod1", "b", "/run/vm/pod3", "12345 /run/vm/a b"] {
            assert_eq!(look_up(LIST, other), Use::default(), "{other}");
        }
    }

    #[test]
    fn the_kernel_lists_a_live_pair_that_way() {
        let path = std::env::temp_dir().join(format!("vhu-connected-{}", std::process::id()));
        let name = path.to_str().unwrap();
        let read = || std::fs::read_to_string("/proc/self/net/unix").unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(look_up(&read(), name), Use { listening: true, connected: false });
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(look_up(&read(), name), Use { listening: true, connected: false });
        let taken = listener.accept().unwrap();
        assert_eq!(look_up(&read(), name), Use { listening: true, connected: true });
        let inode = std::os::unix::fs::MetadataExt::ino(
            &std::fs::metadata(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&taken.0))).unwrap(),
        );
        assert_eq!(accepted(&read(), name), BTreeSet::from([inode]));
        // Hung up on, it stays accepted until it is closed.
        drop(client);
        assert_eq!(accepted(&read(), name), BTreeSet::from([inode]));
        drop((taken, listener));
        assert_eq!(look_up(&read(), name), Use::default());
        std::fs::remove_file(path).unwrap();
    }
}
