//! What the kernel tells of a pod's processes in text, much of which the pod chose: mounts, cgroups, unix sockets, names.

use std::path::Path;

use vhostuser_hotplug::dataplane::{connected, guard};
use vhostuser_hotplug::pod::identity::{self, PodUid};
use vhostuser_hotplug::pod::{mounts, process};

pub fn holds(bytes: &[u8]) {
    // The kernel's text is read as UTF-8 or not at all.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    mounts_are_read(text);
    cgroups_are_read(text);
    sockets_are_read(text);
    let stopped = guard::says_stopped(text);
    assert!(!stopped || text.contains(") T") || text.contains(") t"), "{text}");
    if let Some(argument) = guard::first_argument(text) {
        assert!(text.to_ascii_lowercase().contains(&format!("{argument:x}")), "{text}");
    }
    if let Some(inode) = process::socket_inode(text) {
        assert!(text.contains(&inode.to_string()), "{text}");
    }
}

fn mounts_are_read(text: &str) {
    let mut count = 0;
    for mount in mounts::mounts(text) {
        count += 1;
        // Written as the kernel writes it, it is the same mount.
        let (root, point) = (mangled(&mount.root), mangled(&mount.point));
        let line = format!("{} 1 {} {root} {point} rw - ext4 /dev/vda rw", mount.id, mount.device);
        assert_eq!(mounts::mounts(&line).collect::<Vec<_>>(), [mount], "{line}");
    }
    assert!(count <= text.lines().count());
}

/// fs/proc_namespace.c, `mangle()`.
pub fn mangled(path: &Path) -> String {
    let text = path.to_str().expect("it was read from text");
    text.chars()
        .map(|c| if " \t\n\\#".contains(c) { format!("\\{:03o}", u32::from(c)) } else { c.to_string() })
        .collect()
}

fn cgroups_are_read(text: &str) {
    for uid in [PodUid::parse(text), identity::of_cgroups(text)].into_iter().flatten() {
        let digits = |text: &str| text.replace(['-', '_'], "");
        assert!(digits(text).contains(&digits(uid.as_str())), "{uid}");
        // One harmless component of a path.
        assert!(uid.as_str().bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'), "{uid}");
        assert_eq!(PodUid::parse(uid.as_str()), Some(uid));
    }
}

fn sockets_are_read(text: &str) {
    let path = text.lines().last().and_then(|line| line.rsplit_once(' ')).map_or("/run/vm/net1", |(_, path)| path);
    let lines = text.lines().filter(|line| line.ends_with(path)).count();
    let accepted = connected::accepted(text, path);
    assert!(accepted.len() <= lines && accepted.iter().all(|inode| text.contains(&inode.to_string())));
    assert!(!connected::is_listening(text, path) || text.contains("00010000"));
}
