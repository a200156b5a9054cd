//! Compares the paths of sockets, however they are spelled.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use crate::sys;

/// A socket's path that can be compared with others.
#[derive(Clone, Debug)]
pub struct SocketPath {
    plain: PathBuf,
    directory: Option<(u64, u64)>,
}

impl SocketPath {
    /// Reads device and inode of the path's directory on the host.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let plain = plain(path);
        let directory = path.parent().and_then(object);
        Self { plain, directory }
    }

    /// Returns whether `other` names the same socket: it has the same name in the same directory. Directories are the
    /// same if device and inode are; where one is missing, if the paths are, apart from `//`, `.` and `/var/run`.
    #[must_use]
    pub fn is_at(&self, other: &Path) -> bool {
        let other_plain = plain(other);
        if self.plain == other_plain {
            return true;
        }
        let same_name = file_name(&self.plain).is_some_and(|name| file_name(&other_plain) == Some(name));
        same_name && self.directory.is_some() && other.parent().and_then(object) == self.directory
    }

    /// Returns whether `other` is in the same directory.
    #[must_use]
    pub fn is_beside(&self, other: &Path) -> bool {
        self.plain.parent() == plain(other).parent()
            || self.directory.is_some() && other.parent().and_then(object) == self.directory
    }
}

fn file_name(path: &Path) -> Option<&OsStr> {
    path.file_name()
}

/// Returns device and inode of a directory, through symbolic links.
fn object(directory: &Path) -> Option<(u64, u64)> {
    let handle = sys::open_no_magiclinks(directory).ok()?;
    sys::object(handle.as_fd()).ok()
}

/// Returns the path without `//`, `.` and `/var` before `/run`.
fn plain(path: &Path) -> PathBuf {
    let parts: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    parts.strip_prefix("/var/run").map_or_else(|_| parts.clone(), |below| Path::new("/run").join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_by_what_it_names() {
        let base = std::env::temp_dir().join(format!("vhu-ovs-path-{}", std::process::id()));
        std::fs::create_dir_all(base.join("real/deep")).unwrap();
        std::os::unix::fs::symlink(base.join("real"), base.join("link")).unwrap();
        let socket = SocketPath::new(&base.join("real/net1"));
        for same in ["real/net1", "real//net1", "real/./net1", "link/net1", "real/deep/../net1", "link//deep/../net1"] {
            assert!(socket.is_at(&base.join(same)), "{same}");
            assert!(socket.is_beside(&base.join(same)), "{same}");
        }
        for other in ["real/net2", "real/deep/net1", "net1", "gone/net1"] {
            assert!(!socket.is_at(&base.join(other)), "{other}");
        }
        assert!(socket.is_beside(&base.join("link/net2")) && !socket.is_beside(&base.join("real/deep/net1")));
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_path_whose_directory_is_gone_is_compared_by_its_spelling() {
        let socket = SocketPath::new(Path::new("/var/run/no-such-directory/u/net1"));
        assert!(socket.is_at(Path::new("/run/no-such-directory//u/./net1")));
        assert!(!socket.is_at(Path::new("/run/no-such-directory/v/net1")));
        assert!(!socket.is_at(Path::new("")) && !socket.is_at(Path::new("net1")));
    }
}
