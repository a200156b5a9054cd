//! Whether a vhost-user socket is listened on and connected to, from the kernel's lists of unix sockets (proc(5),
//! `/proc/<pid>/net/unix`): no data plane has to be asked, whichever it is.
//!
//! A listener is listed in the network namespace of its process, the pod's. But the socket that it accepts is made by
//! connect() and listed in the namespace of whoever connected (net/unix/af_unix.c, unix_stream_connect()), under the path
//! that the listener was bound to; for a data plane on the host that is the host's, where the same path may stand for
//! several pods. Its inode is 0 until it has been accepted, and then it is one of QEMU's descriptors: that tells whose
//! it is.

/// `SS_CONNECTED` and `SS_UNCONNECTED` of include/uapi/linux/net.h, as net/unix/af_unix.c prints them.
const CONNECTED: &str = "03";
const UNCONNECTED: &str = "01";
/// `__SO_ACCEPTCON`: the socket listens.
const ACCEPTING: &str = "00010000";

/// What the sockets of one list that bear one path are at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// One listens.
    pub listening: bool,
    /// The inodes of those that were accepted. Whose they are, the descriptors of the processes tell.
    pub accepted: Vec<u64>,
}

/// Looks a path up in a list. The path is the one that was bound, as QEMU spells it.
#[must_use]
pub fn look_up(list: &str, path: &str) -> Sockets {
    let mut found = Sockets::default();
    for line in list.lines() {
        // "Num RefCount Protocol Flags Type St Inode Path": seven fields, a space, and all the rest is the path.
        let Some(head) = line.strip_suffix(path).and_then(|head| head.strip_suffix(' ')) else { continue };
        let fields: Vec<&str> = head.split_ascii_whitespace().collect();
        let [_, _, _, flags, _, state, inode] = fields.as_slice() else { continue };
        found.listening |= *flags == ACCEPTING && *state == UNCONNECTED;
        if *state == CONNECTED {
            found.accepted.extend(inode.parse::<u64>().ok().filter(|inode| *inode != 0));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 1122863 /run/vm/pod1
0000000000000000: 00000003 00000000 00000000 0001 03  1122 /run/vm/pod1
0000000000000000: 00000003 00000000 00000000 0001 03     0 /run/vm/pod1
0000000000000000: 00000002 00000000 00010000 0001 01 99999 /run/vm/pod2
0000000000000000: 00000003 00000000 00000000 0001 03 44444
0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/vm/a b
";

    fn listening(accepted: &[u64]) -> Sockets {
        Sockets { listening: true, accepted: accepted.to_vec() }
    }

    #[test]
    fn a_socket_is_listened_on_connected_to_or_neither() {
        assert_eq!(look_up(LIST, "/run/vm/pod1"), listening(&[1122]));
        assert_eq!(look_up(LIST, "/run/vm/pod2"), listening(&[]));
        assert_eq!(look_up(LIST, "/run/vm/a b"), listening(&[]));
        for other in ["/run/vm/pod", "pod1", "b", "/run/vm/pod3", "12345 /run/vm/a b"] {
            assert_eq!(look_up(LIST, other), Sockets::default(), "{other}");
        }
    }

    #[test]
    fn the_kernel_lists_a_live_pair_that_way() {
        let path = std::env::temp_dir().join(format!("vhu-connected-{}", std::process::id()));
        let name = path.to_str().unwrap();
        let look = || look_up(&std::fs::read_to_string("/proc/self/net/unix").unwrap(), name);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(look(), listening(&[]));
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(look(), listening(&[]), "not accepted yet");
        let accepted = listener.accept().unwrap();
        assert_eq!(look().accepted.len(), 1);
        drop((client, accepted, listener));
        assert_eq!(look(), Sockets::default());
        std::fs::remove_file(path).unwrap();
    }
}
