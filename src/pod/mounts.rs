//! Mount tables: `/proc/<pid>/mountinfo` (proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::sys;

/// One line of a mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id, unique in the running kernel.
    pub id: u64,
    /// Device of the file system, `major:minor`.
    pub device: String,
    /// The mounted part of the file system: a path inside it.
    pub root: PathBuf,
    /// The mount point, in the table's namespace.
    pub point: PathBuf,
    /// Whether mounts below it propagate to its peers, and so to containers that receive the host's mounts
    /// (mount_namespaces(7)).
    pub is_shared: bool,
    /// Whether mounts below its master propagate here.
    pub is_slave: bool,
}

/// The location of an object, independent of namespaces: a file system and a path inside it. Two mounts of one location
/// show the same directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Device of the file system, `major:minor`.
    pub device: String,
    pub path: PathBuf,
}

impl Mount {
    /// Returns the location that this mount shows at its mount point.
    #[must_use]
    pub fn location(&self) -> Location {
        Location { device: self.device.clone(), path: self.root.clone() }
    }
}

/// Returns the mount with this id in a mount table, `<proc>/mountinfo` of a process' directory below `/proc`; `None` if
/// it is not there. Reading stops there: the host's table has a line for each volume of each pod, and the file systems
/// of most volumes come first.
///
/// # Errors
/// Those of [`sys::find_line`].
pub fn by_id(proc: &Path, id: u64) -> Result<Option<Mount>, sys::Error> {
    let begins = format!("{id} ");
    let is_it = |line: &[u8]| line.starts_with(begins.as_bytes()).then(|| parse(line)).flatten();
    sys::find_line(&proc.join("mountinfo"), is_it)
}

/// Calls `look` for each mount of such a table, and returns its first result.
///
/// # Errors
/// Those of [`sys::find_line`].
pub fn find<T>(proc: &Path, mut look: impl FnMut(Mount) -> Option<T>) -> Result<Option<T>, sys::Error> {
    sys::find_line(&proc.join("mountinfo"), |line| parse(line).and_then(&mut look))
}

/// Returns the mounts of a table. Paths need not be text: the host's own table has directories of pods' volumes too
/// (kubelet mounts a subPath from there).
pub fn mounts(table: &[u8]) -> impl Iterator<Item = Mount> {
    table.split(|byte| *byte == b'\n').filter_map(parse)
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/sda1 rw`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = std::str::from_utf8(fields.nth(1)?).ok()?.to_owned();
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    // The mount's options follow the mount point. Without them the line was cut, maybe in the middle of it.
    fields.next()?;
    // Optional fields, up to a hyphen.
    let tags: Vec<&[u8]> = fields.take_while(|tag| *tag != b"-").collect();
    let has = |prefix: &[u8]| tags.iter().any(|tag| tag.starts_with(prefix));
    Some(Mount { id, device, root, point, is_shared: has(b"shared:"), is_slave: has(b"master:") })
}

/// Decodes space, tab, newline and backslash: a backslash and three octal digits (fs/proc_namespace.c, mangle()).
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        match (first, after) {
            (b'\\', [a @ b'0'..=b'1', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                path.push((a & 1) << 6 | (b & 7) << 3 | (c & 7));
                rest = tail;
            }
            _ => {
                path.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_line_gives_device_root_and_point() {
        let line = r"36 35 98:0 /mnt\0401 /mnt2\134x rw,noatime master:1 - ext3 /dev/root rw";
        let mount = parse(line.as_bytes()).unwrap();
        assert_eq!((mount.id, mount.device.as_str()), (36, "98:0"));
        assert!(mount.is_slave && !mount.is_shared);
        assert!(parse(b"1 0 0:1 / /x rw shared:7 master:3 - tmpfs shared:1 rw").unwrap().is_shared);
        assert!(!parse(b"1 0 0:1 / /x rw - tmpfs shared:1 rw").unwrap().is_shared);
        assert_eq!((mount.root, mount.point), (PathBuf::from("/mnt 1"), PathBuf::from(r"/mnt2\x")));
    }

    #[test]
    fn a_mount_is_found_by_its_whole_id() {
        let root = crate::sys::mount_id(std::fs::File::open("/proc").unwrap().as_fd()).unwrap();
        let found = by_id(Path::new("/proc/self"), root).unwrap().unwrap();
        assert_eq!((found.id, found.point), (root, PathBuf::from("/proc")));
        assert_eq!(by_id(Path::new("/proc/self"), u64::MAX).unwrap(), None);
    }

    #[test]
    fn a_broken_line_is_left_out() {
        for line in ["", "x", "1 2", "1 2 3:4 /", "1 2 3:4 / /cut", "-1 2 3:4 / / rw"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn a_broken_escape_stays_as_it_is() {
        for text in [r"\", r"\0", r"\04", r"\999", r"a\9é9", r"\200"] {
            assert_eq!(unescape(text.as_bytes()), PathBuf::from(text));
        }
    }

    #[test]
    fn a_path_that_is_no_text_is_kept_and_hides_no_other() {
        let table = b"1 0 8:1 /kubelet/\xff\xfe /a rw - ext4 /dev/sda rw\n2 1 8:1 / /b rw - ext4 /dev/sda rw\n";
        let read: Vec<Mount> = mounts(table).collect();
        assert_eq!(read.iter().map(|mount| mount.id).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(read[0].root.as_os_str().as_encoded_bytes(), b"/kubelet/\xff\xfe");
    }
}
