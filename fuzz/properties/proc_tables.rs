//! What the kernel tells of a pod's processes in text, much of which the pod chose: mounts, cgroups, unix sockets, names.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use vhostuser_hotplug::pod::cgroup;
use vhostuser_hotplug::pod::identity::PodUid;
use vhostuser_hotplug::pod::mounts::{self, Mount};
use vhostuser_hotplug::pod::process;
use vhostuser_hotplug::pod::socket_end;
use vhostuser_hotplug::pod::unix_sockets::{OfPath, Socket};

pub fn holds(bytes: &[u8]) {
    mounts_are_read(bytes);
    sockets_are_read(bytes);
    // What no pod can name is read as text.
    let text = &String::from_utf8_lossy(bytes);
    cgroups_are_read(text);
    let stopped = socket_end::says_stopped(text);
    assert!(!stopped || text.contains(") T") || text.contains(") t"), "{text}");
    if let Some(argument) = socket_end::first_argument(text) {
        assert!(text.to_ascii_lowercase().contains(&format!("{argument:x}")), "{text}");
    }
    if let Some(inode) = process::socket_inode(text) {
        assert!(text.contains(&inode.to_string()), "{text}");
    }
}

fn mounts_are_read(table: &[u8]) {
    let mut count = 0;
    for mount in mounts::mounts(table) {
        count += 1;
        // Written as the kernel writes it, it is the same mount.
        assert_eq!(mounts::mounts(&line(&mount)).collect::<Vec<_>>(), [mount]);
    }
    assert!(count <= table.split(|byte| *byte == b'\n').count());
}

/// A mount as the kernel writes it.
pub fn line(mount: &Mount) -> Vec<u8> {
    let mut line = format!("{} 1 {} ", mount.id, mount.device).into_bytes();
    line.extend(mangled(&mount.root));
    line.push(b' ');
    line.extend(mangled(&mount.point));
    line.extend_from_slice(b" rw,noatime");
    for (tag, has) in [(" shared:1", mount.is_shared), (" master:2", mount.is_slave)] {
        line.extend_from_slice(if has { tag.as_bytes() } else { b"" });
    }
    line.extend_from_slice(b" - ext4 /dev/vda rw");
    line
}

/// fs/proc_namespace.c, `mangle()`.
fn mangled(path: &Path) -> Vec<u8> {
    let spelled = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
        plain => vec![*plain],
    };
    path.as_os_str().as_bytes().iter().flat_map(spelled).collect()
}

fn cgroups_are_read(text: &str) {
    for uid in
        [PodUid::parse(text), cgroup::pod_of(text, text.lines().next().unwrap_or_default())].into_iter().flatten()
    {
        let digits = |text: &str| text.replace(['-', '_'], "");
        assert!(digits(text).contains(&digits(uid.as_str())), "{uid}");
        // One harmless component of a path.
        assert!(uid.as_str().bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'), "{uid}");
        assert_eq!(PodUid::parse(uid.as_str()), Some(uid));
    }
}

fn sockets_are_read(list: &[u8]) {
    for line in list.split(|byte| *byte == b'\n') {
        let Some(socket) = Socket::parse(line) else { continue };
        let Socket { inode, path, listens, is_connected } = socket;
        assert!(line.ends_with(path) && !(listens && is_connected));
        // Written as the kernel writes it, it is the same socket.
        let (flags, state) =
            if listens { ("00010000", "01") } else { ("00000000", if is_connected { "03" } else { "02" }) };
        let mut written = format!("0000000000000000: 00000002 00000000 {flags} 0001 {state} {inode:5} ").into_bytes();
        written.extend_from_slice(path);
        assert_eq!(Socket::parse(&written), Some(socket));
        let name = String::from_utf8_lossy(path);
        let mut found = OfPath::default();
        assert_eq!(found.add(|other| other == name.as_bytes(), &socket), None);
        let is_text = name.as_bytes() == path;
        assert_eq!(
            (found.listeners.len(), found.accepted.len()),
            (usize::from(is_text && listens), usize::from(is_text && is_connected))
        );
    }
}
