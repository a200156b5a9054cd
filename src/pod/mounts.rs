//! Mount tables: `/proc/<pid>/mountinfo` (proc(5)).

use std::path::{Path, PathBuf};

use crate::sys;

/// Longest mount table that is read, in bytes: some 60 000 mounts.
const TABLE_LIMIT: u64 = 16 << 20;

/// One line of a mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id, unique in the running kernel.
    pub id: u64,
    /// Device of the file system, `major:minor`.
    pub device: String,
    /// What of the file system is mounted: a path inside it.
    pub root: PathBuf,
    /// Where, in the namespace whose table this is.
    pub point: PathBuf,
}

/// Where an object lies, told without any namespace: a file system and a path inside it. Two mounts of the same
/// location show the same directory, wherever they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Device of the file system, `major:minor`.
    pub device: String,
    /// Path inside that file system.
    pub path: PathBuf,
}

impl Mount {
    /// The location that this mount shows at its mount point.
    #[must_use]
    pub fn location(&self) -> Location {
        Location { device: self.device.clone(), path: self.root.clone() }
    }
}

/// Reads a mount table, `<proc>/mountinfo` of a process' directory below `/proc`. Lines that cannot be read are left
/// out: the table of a process of a pod is partly the pod's making.
///
/// # Errors
/// Those of reading the file.
pub fn table(proc: &Path) -> Result<Vec<Mount>, sys::Error> {
    Ok(mounts(&sys::read_text(&proc.join("mountinfo"), TABLE_LIMIT)?).collect())
}

/// The mounts of a table's text.
pub fn mounts(text: &str) -> impl Iterator<Item = Mount> {
    text.lines().filter_map(parse)
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/sda1 rw`
fn parse(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let id = fields.next()?.parse().ok()?;
    let device = fields.nth(1)?.to_owned();
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    Some(Mount { id, device, root, point })
}

/// Space, tab, newline and backslash stand as three octal digits behind a backslash (fs/proc_namespace.c, mangle()).
fn unescape(field: &str) -> PathBuf {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (code, after.get(3..)) {
            (Some(code), Some(tail)) if code.is_ascii() => {
                text.push(char::from(code));
                rest = tail;
            }
            _ => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_device_root_and_point() {
        let line = r"36 35 98:0 /mnt\0401 /mnt2\134x rw,noatime master:1 - ext3 /dev/root rw";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.device.as_str()), (36, "98:0"));
        assert_eq!((mount.root, mount.point), (PathBuf::from("/mnt 1"), PathBuf::from(r"/mnt2\x")));
    }

    #[test]
    fn a_broken_line_is_left_out() {
        for line in ["", "x", "1 2", "1 2 3:4 /", "-1 2 3:4 / / rw"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_broken_escape_stays_as_it_is() {
        for text in [r"\", r"\0", r"\04", r"\999", r"a\9é9"] {
            assert_eq!(unescape(text), PathBuf::from(text));
        }
    }

    #[test]
    fn the_own_table_can_be_read() {
        assert!(table(Path::new("/proc/self")).unwrap().iter().any(|mount| mount.point == Path::new("/proc")));
    }
}
