//! The pod's emptyDir on the host: a handle on it, and its entries.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::mounts::{self, Location};
use crate::sys::{self, Walk};

/// Most entries of a volume that are read. A tenant may create millions.
const ENTRY_LIMIT: usize = 4096;

/// An error of a volume.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {what}", .path.display())]
    Untrusted {
        /// The path on the host.
        path: PathBuf,
        what: String,
    },
    #[error(transparent)]
    System(#[from] sys::Error),
}

/// A handle on an emptyDir of a pod. All access goes through the handle.
#[derive(Debug)]
pub struct Volume {
    fd: OwnedFd,
    path: PathBuf,
}

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Absent,
    /// A unix socket's file.
    Socket,
    /// Something else: a link, a file, a directory.
    Other,
}

/// Returns the directory that kubelet keeps a pod's emptyDirs in; only kubelet writes there.
#[must_use]
pub fn directory(kubelet_dir: &Path, uid: &str) -> PathBuf {
    kubelet_dir.join("pods").join(uid).join("volumes/kubernetes.io~empty-dir")
}

impl Volume {
    /// Opens the emptyDir `name` of the pod `uid`; `None` if it has none. The caller has checked that both are single
    /// path components.
    ///
    /// # Errors
    /// [`Error::Untrusted`] if the name is a symbolic link or no directory; else openat2(2)'s.
    pub fn open(kubelet_dir: &Path, uid: &str, name: &str) -> Result<Option<Self>, Error> {
        let parent = directory(kubelet_dir, uid);
        let path = parent.join(name);
        let parent = match sys::open_handle(&parent) {
            Ok(parent) => parent,
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let fd = match sys::open_below(parent.as_fd(), Path::new(name), Walk::Strict) {
            Ok(fd) => fd,
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) if error.is_escape() => {
                return Err(Error::Untrusted { path, what: "a symbolic link where a directory must be".to_owned() });
            }
            // A pod without the volume must not fail, even on an old kernel.
            Err(error) if error.is_without_openat2() && is_absent(parent.as_fd(), name) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if kind(sys::stat(fd.as_fd())?.st_mode) != SFlag::S_IFDIR {
            return Err(Error::Untrusted { path, what: "not a directory".to_owned() });
        }
        Ok(Some(Self { fd, path }))
    }

    /// Opens it again by its path, for a caller in another mount namespace.
    ///
    /// # Errors
    /// open(2)'s and openat2(2)'s.
    pub fn open_again(&self) -> Result<OwnedFd, sys::Error> {
        let (parent, name) = (self.path.parent().unwrap_or(&self.path), self.path.file_name().unwrap_or_default());
        sys::open_below(sys::open_handle(parent)?.as_fd(), Path::new(name), Walk::Strict)
    }

    /// Returns the handle.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Returns the path on the host, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the volume's location, independent of mounts.
    ///
    /// # Errors
    /// Those of reading the own mount table; `ENODATA` if the volume's mount is not in it.
    pub fn location(&self) -> Result<Location, sys::Error> {
        let id = sys::mount_id(self.fd())?;
        let here = std::fs::read_link(sys::link(self.fd())).map_err(|e| sys::Error::of("readlink", &self.path, &e))?;
        let missing = || sys::Error::of("mountinfo", &self.path, &Errno::ENODATA.into());
        let mount = mounts::by_id(Path::new("/proc/self"), id)?.ok_or_else(missing)?;
        let below = here.strip_prefix(&mount.point).map_err(|_| missing())?;
        Ok(Location { device: mount.device, path: join(&mount.root, below) })
    }

    /// Returns what `name` is. It must be a single path component.
    ///
    /// # Errors
    /// fstatat(2)'s.
    pub fn entry(&self, name: &str) -> Result<Entry, sys::Error> {
        match fstatat(self.fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(stat.st_mode) == SFlag::S_IFSOCK => Ok(Entry::Socket),
            Ok(_) => Ok(Entry::Other),
            Err(Errno::ENOENT) => Ok(Entry::Absent),
            Err(errno) => Err(sys::Error::of("fstatat", &self.path.join(name), &errno.into())),
        }
    }

    /// Removes a socket's file. Anything else stays. A tenant that swaps the name meanwhile only loses its own file.
    ///
    /// # Errors
    /// fstatat(2)'s and unlinkat(2)'s.
    pub fn remove_socket(&self, name: &str) -> Result<bool, sys::Error> {
        if self.entry(name)? != Entry::Socket {
            return Ok(false);
        }
        match unlinkat(self.fd(), name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(sys::Error::of("unlinkat", &self.path.join(name), &errno.into())),
        }
    }

    /// Returns the names of the sockets in the volume, among its first 4096 entries.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn sockets(&self) -> Result<BTreeSet<String>, sys::Error> {
        let fail = |errno: Errno| sys::Error::of("readdir", &self.path, &errno.into());
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = Dir::openat(self.fd(), ".", flags, Mode::empty()).map_err(fail)?;
        let mut names = BTreeSet::new();
        for entry in listing.iter().take(ENTRY_LIMIT) {
            let entry = entry.map_err(fail)?;
            if let Ok(name) = entry.file_name().to_str()
                && self.entry(name)? == Entry::Socket
            {
                names.insert(name.to_owned());
            }
        }
        Ok(names)
    }
}

fn is_absent(parent: BorrowedFd<'_>, name: &str) -> bool {
    fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) == Err(Errno::ENOENT)
}

fn kind(mode: u32) -> SFlag {
    SFlag::from_bits_truncate(mode) & SFlag::S_IFMT
}

/// `Path::join`, without a trailing slash where there is nothing to join.
fn join(root: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { root.to_owned() } else { root.join(below) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn pod(test: &str) -> (PathBuf, PathBuf) {
        let kubelet = std::env::temp_dir().join(format!("vhu-volume-{}-{test}", std::process::id()));
        let volume = directory(&kubelet, "uid").join("vhostuser-sockets");
        std::fs::create_dir_all(&volume).unwrap();
        (kubelet, volume)
    }

    #[test]
    fn only_a_socket_is_removed() {
        let (kubelet, path) = pod("remove");
        let volume = Volume::open(&kubelet, "uid", "vhostuser-sockets").unwrap().unwrap();
        std::fs::write(path.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("sock", path.join("link")).unwrap();
        drop(UnixListener::bind(path.join("sock")).unwrap());

        assert_eq!(volume.sockets().unwrap(), BTreeSet::from(["sock".to_owned()]));
        for (name, entry) in [("file", Entry::Other), ("link", Entry::Other), ("none", Entry::Absent)] {
            assert_eq!(volume.entry(name).unwrap(), entry);
            assert!(!volume.remove_socket(name).unwrap());
        }
        assert!(volume.remove_socket("sock").unwrap());
        assert!(path.join("file").exists() && !path.join("sock").exists());
        std::fs::remove_dir_all(kubelet).unwrap();
    }

    #[test]
    fn a_volume_that_is_a_link_or_a_file_is_untrusted_and_a_missing_one_is_none() {
        let (kubelet, path) = pod("untrusted");
        assert!(Volume::open(&kubelet, "uid", "none").unwrap().is_none());
        assert!(Volume::open(&kubelet, "gone", "vhostuser-sockets").unwrap().is_none());
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/", &path).unwrap();
        assert!(matches!(Volume::open(&kubelet, "uid", "vhostuser-sockets"), Err(Error::Untrusted { .. })));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(matches!(Volume::open(&kubelet, "uid", "vhostuser-sockets"), Err(Error::Untrusted { .. })));
        std::fs::remove_dir_all(kubelet).unwrap();
    }

    #[test]
    fn the_location_is_a_path_inside_a_file_system() {
        let (kubelet, path) = pod("location");
        let volume = Volume::open(&kubelet, "uid", "vhostuser-sockets").unwrap().unwrap();
        let location = volume.location().unwrap();
        assert!(location.device.contains(':'));
        assert!(path.ends_with(location.path.strip_prefix("/").unwrap()), "{location:?}");
        std::fs::remove_dir_all(kubelet).unwrap();
    }
}
