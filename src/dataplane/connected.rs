//! Whether a vhost-user socket is listened on and connected to, from the kernel's list of unix sockets (proc(5),
//! `/proc/<pid>/net/unix`): no data plane has to be asked, whichever it is.
//!
//! Each network namespace has a list of its own. A listening socket stands in that of the process that made it: the
//! pod's. The end that it accepts stands in that of the process that connected (net/unix/af_unix.c,
//! `unix_stream_connect`, makes it there): the data plane's, which is the host's. Pods of one node use the same paths, so
//! there a path alone does not tell whose end it is; the descriptors of the pod's processes do.
//!
//! What stands in a list is a claim: a name is printed as it is, and one with a line break in it passes for two lines
//! (`unix_seq_show`). Of its own sockets a pod could have said the same in truth; of another's it cannot, so that each end
//! is asked itself ([`super::guard::End::is_bound_to`]).

use std::collections::BTreeSet;

/// `SS_CONNECTED` and `SS_UNCONNECTED` of include/uapi/linux/net.h, as net/unix/af_unix.c prints them.
const CONNECTED: &str = "03";
const UNCONNECTED: &str = "01";
/// `__SO_ACCEPTCON`: the socket listens.
const ACCEPTING: &str = "00010000";

/// Whether somebody listens on a path. It is the one that was bound, as QEMU spells it.
#[must_use]
pub fn is_listening(list: &str, is_path: impl Fn(&str) -> bool) -> bool {
    listening(list).any(is_path)
}

/// The sockets that listen on a path, by their inodes.
#[must_use]
pub fn listeners(list: &str, is_path: impl Fn(&str) -> bool) -> BTreeSet<u64> {
    lines_of_listeners(list).filter(|(_, other)| is_path(other)).filter_map(|(fields, _)| inode(fields)).collect()
}

/// The paths that somebody listens on.
pub fn listening(list: &str) -> impl Iterator<Item = &str> {
    lines_of_listeners(list).map(|(_, path)| path)
}

/// The path of the listening socket with this inode.
#[must_use]
pub fn path_of_listener(list: &str, inode: u64) -> Option<&str> {
    lines_of_listeners(list).find(|(fields, _)| self::inode(*fields) == Some(inode)).map(|(_, path)| path)
}

fn lines_of_listeners(list: &str) -> impl Iterator<Item = ([&str; 7], &str)> {
    let listens = |[_, _, _, flags, _, state, _]: &[&str; 7]| *flags == ACCEPTING && *state == UNCONNECTED;
    list.lines().filter_map(parse).filter(move |(fields, _)| listens(fields))
}

fn inode([_, _, _, _, _, _, inode]: [&str; 7]) -> Option<u64> {
    inode.parse().ok()
}

/// The connections that were accepted on a path, by the inodes of the ends that were. One that waits to be is listed
/// in another state (`SS_CONNECTING`). An inode's number comes again only after four thousand million others.
#[must_use]
pub fn accepted(list: &str, is_path: impl Fn(&str) -> bool) -> BTreeSet<u64> {
    let connected = list.lines().filter_map(parse).filter(|([_, _, _, _, _, state, _], _)| *state == CONNECTED);
    connected.filter(|(_, other)| is_path(other)).filter_map(|(fields, _)| inode(fields)).collect()
}

/// A line: "Num RefCount Protocol Flags Type St Inode", then a space, and all the rest is the path.
fn parse(line: &str) -> Option<([&str; 7], &str)> {
    let mut rest = line;
    let mut fields = [""; 7];
    for field in &mut fields {
        (*field, rest) = rest.trim_start_matches(' ').split_once(' ')?;
    }
    Some((fields, rest))
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

    #[test]
    fn a_socket_is_listened_on_connected_to_or_neither() {
        for (path, inodes) in [("/run/vm/pod1", &[1122][..]), ("/run/vm/pod2", &[]), ("/run/vm/a b", &[])] {
            let is = |other: &str| other == path;
            assert!(is_listening(LIST, is) && listeners(LIST, is).len() == 1);
            assert_eq!(accepted(LIST, is), inodes.iter().copied().collect());
        }
        for other in ["/run/vm/pod", "pod1", "b", "/run/vm/pod3", "12345 /run/vm/a b"] {
            let is = |name: &str| name == other;
            assert!(
                !is_listening(LIST, is) && listeners(LIST, is).is_empty() && accepted(LIST, is).is_empty(),
                "{other}"
            );
        }
    }

    #[test]
    fn a_name_that_is_no_text_hides_no_other() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let base = std::env::temp_dir().join(format!("vhu-connected-odd-{}", std::process::id()));
        let odd = base.with_extension(OsStr::from_bytes(b"\xff\xfe"));
        let _both = (UnixListener::bind(&odd).unwrap(), UnixListener::bind(&base).unwrap());
        let list = crate::pod::process::own_unix_sockets().unwrap();
        assert!(is_listening(&list, |name| name == base.to_str().unwrap()));
        std::fs::remove_file(odd).unwrap();
        std::fs::remove_file(base).unwrap();
    }

    #[test]
    fn the_kernel_lists_a_live_pair_that_way() {
        let path = std::env::temp_dir().join(format!("vhu-connected-{}", std::process::id()));
        let name = path.to_str().unwrap();
        let read = || crate::pod::process::own_unix_sockets().unwrap();
        let look = || (is_listening(&read(), |other| other == name), accepted(&read(), |other| other == name));
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
