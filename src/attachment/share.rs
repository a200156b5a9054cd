//! The share: the bind mount of a pod's emptyDir for the data plane, at a path short enough for a unix socket.
//!
//! `<socket_base_dir>/<uid>/<volume>`, as kube-ovn names and makes it (pkg/daemon/handler_linux.go). It is mounted if
//! device and inode of both sides are equal. An existing directory proves nothing: kube-ovn's daemon leaves empty
//! directories behind.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::pod::identity::PodUid;
use crate::pod::volume::Volume;
use crate::sys::{self, Walk};

/// Most stacked mounts that are removed. More than a few are no accident.
const STACK_LIMIT: usize = 64;

/// Longest path of a unix socket, in bytes (`sun_path`, unix(7), without the final NUL).
pub const SUN_PATH: usize = 107;

/// Returns a path below the base as the data plane gets it: kube-ovn gives OVS `/var/run` for `/run`
/// (pkg/daemon/ovs_linux.go).
#[must_use]
pub fn data_plane_path(path: &Path) -> PathBuf {
    path.strip_prefix("/run").map_or_else(|_| path.to_owned(), |below| Path::new("/var/run").join(below))
}

/// An error of a share.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The target could not be made, mounted on or removed.
    #[error("{doing} {}: {error}", .target.display())]
    System {
        /// What was being done.
        doing: &'static str,
        /// The share's directory on the host.
        target: PathBuf,
        /// The call that failed.
        #[source]
        error: sys::Error,
    },
    /// Mounts on the target could not be removed.
    #[error("{}: something keeps mounting on it; see `findmnt -R` there", .target.display())]
    StackedMounts {
        /// The share's directory on the host.
        target: PathBuf,
    },
}

impl Error {
    /// Returns true if something else is at the share's directories, or was put there meanwhile: kube-ovn leaves them
    /// writable for everyone on the node.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        let Self::System { error, .. } = self else { return false };
        error.is_escape() || matches!(error.errno(), Errno::ENOTDIR | Errno::ESTALE)
    }
}

/// The share of one volume of one pod. It works in the host's mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    base: PathBuf,
    uid: String,
    volume: String,
}

/// What is at the target.
enum TargetState {
    Absent,
    /// A plain directory.
    Bare(OwnedFd),
    /// The volume itself.
    Mounted(OwnedFd),
    /// The root of another mount, mostly of a deleted volume.
    Stale(OwnedFd),
}

impl Share {
    /// Creates the share of `volume` (a single path component) of the pod `uid` below `base`.
    #[must_use]
    pub fn new(base: &Path, uid: &PodUid, volume: &str) -> Self {
        Self { base: base.to_owned(), uid: uid.to_string(), volume: volume.to_owned() }
    }

    /// Returns the directory that the data plane uses.
    #[must_use]
    pub fn target(&self) -> PathBuf {
        self.base.join(&self.uid).join(&self.volume)
    }

    /// Returns true if anything of the pod is there, even an empty directory.
    #[must_use]
    pub fn has_left_something(&self) -> bool {
        self.base.join(&self.uid).symlink_metadata().is_ok()
    }

    /// Returns the pods that have a directory below `base`, whoever made it.
    #[must_use]
    pub fn pods(base: &Path) -> Vec<PodUid> {
        let Ok(listing) = std::fs::read_dir(base) else { return Vec::new() };
        listing.flatten().filter_map(|entry| PodUid::parse(entry.file_name().to_str()?)).collect()
    }

    /// Mounts the volume at the target, whatever was mounted there before. Returns true if it changed anything.
    ///
    /// On success the target's path leads to the volume. Where others may write to the base directory, they may rename
    /// the pod's directory meanwhile: a mount that is then at another path is removed again.
    ///
    /// # Errors
    /// Those of making and mounting; nothing is left mounted then.
    pub fn ensure(&self, volume: &Volume) -> Result<bool, Error> {
        let mut made: Option<OwnedFd> = None;
        for _ in 0..STACK_LIMIT {
            let there = self.look(Some(volume));
            if let Some(mount) = made.take() {
                let is_it = |root: &OwnedFd| Ok(sys::mount_id(root.as_fd())? == sys::mount_id(mount.as_fd())?);
                if matches!(&there, Ok(TargetState::Mounted(root)) if is_it(root).map_err(self.fail("looking at"))?) {
                    return Ok(true);
                }
                sys::unmount(mount.as_fd()).map_err(self.fail("unmounting a mount that was moved away from"))?;
            }
            match there? {
                // Mounted by somebody else, or by a call that was killed before it set the restrictions.
                TargetState::Mounted(root) => {
                    return sys::restrict(root.as_fd()).map(|()| false).map_err(self.fail("restricting the mount on"));
                }
                TargetState::Stale(root) => {
                    sys::unmount(root.as_fd()).map_err(self.fail("unmounting a stale mount on"))?
                }
                TargetState::Absent => self.make()?,
                TargetState::Bare(target) => {
                    let mount = sys::bind(volume.fd(), target.as_fd(), || volume.open_again());
                    made = Some(mount.map_err(self.fail("mounting the pod's volume on"))?);
                }
            }
        }
        if let Some(mount) = made {
            sys::unmount(mount.as_fd()).map_err(self.fail("unmounting a mount that was moved away from"))?;
        }
        Err(Error::StackedMounts { target: self.target() })
    }

    /// Returns true if the volume is mounted at the target.
    ///
    /// # Errors
    /// Those of looking.
    pub fn is_mounted(&self, volume: &Volume) -> Result<bool, Error> {
        Ok(matches!(self.look(Some(volume))?, TargetState::Mounted(_)))
    }

    /// Returns true if nothing is at the target, not even a directory.
    ///
    /// # Errors
    /// Those of looking.
    pub fn is_absent(&self) -> Result<bool, Error> {
        Ok(matches!(self.look(None)?, TargetState::Absent))
    }

    /// Removes the mount, if any, and the directories. Returns true if it changed anything.
    ///
    /// # Errors
    /// Those of unmounting. Directories with contents stay, without an error: they are not ours.
    pub fn remove(&self) -> Result<bool, Error> {
        let mut changed = false;
        for _ in 0..STACK_LIMIT {
            let there = match self.look(None) {
                // A link or a file in the way is not ours. Without openat2(2) nothing was ever mounted. Neither may
                // fail a DEL, or the pod could not be deleted.
                Err(error @ Error::System { .. }) if error.is_untrusted() => return Ok(changed),
                Err(Error::System { error, .. }) if error.is_without_openat2() => return Ok(changed),
                there => there?,
            };
            match there {
                TargetState::Stale(root) => sys::unmount(root.as_fd()).map_err(self.fail("unmounting"))?,
                TargetState::Absent => {
                    // A call that was killed may have left the pod's directory.
                    let _ = self.remove_pods_directory();
                    return Ok(changed);
                }
                TargetState::Bare(_) | TargetState::Mounted(_) => {
                    return Ok(self.remove_directories().is_ok() || changed);
                }
            }
            changed = true;
        }
        Err(Error::StackedMounts { target: self.target() })
    }

    fn look(&self, volume: Option<&Volume>) -> Result<TargetState, Error> {
        // Uses one handle on the pod's directory, so both looks see the same one.
        let both = || {
            let parent = self.open_parent()?;
            Ok((self.open_in(parent.as_fd())?, parent))
        };
        let (target, parent) = match both() {
            Ok(both) => both,
            Err(error) if sys::Error::is_absent(&error) => return Ok(TargetState::Absent),
            Err(error) => return Err(self.fail("opening")(error)),
        };
        let fail = self.fail("looking at");
        if let Some(volume) = volume
            && sys::object(volume.fd()).map_err(&fail)? == sys::object(target.as_fd()).map_err(&fail)?
        {
            return Ok(TargetState::Mounted(target));
        }
        let same_mount =
            sys::mount_id(parent.as_fd()).map_err(&fail)? == sys::mount_id(target.as_fd()).map_err(&fail)?;
        Ok(if same_mount { TargetState::Bare(target) } else { TargetState::Stale(target) })
    }

    /// Opens the pod's directory, through no symbolic link below the base: kube-ovn leaves these writable for everyone.
    fn open_parent(&self) -> Result<OwnedFd, sys::Error> {
        let base = sys::open_handle(&self.base)?;
        sys::open_below(base.as_fd(), Path::new(&self.uid), Walk::Strict)
    }

    fn open_in(&self, parent: BorrowedFd<'_>) -> Result<OwnedFd, sys::Error> {
        sys::open_below(parent, Path::new(&self.volume), Walk::Strict)
    }

    /// Makes the missing directories with mode 0755. kube-ovn uses 0777, but nobody needs to write there: QEMU makes
    /// its socket through the pod's own mount of the volume.
    fn make(&self) -> Result<(), Error> {
        let make = || {
            sys::make_directories(&self.base)?;
            sys::make_directory(sys::open_handle(&self.base)?.as_fd(), Path::new(&self.uid))?;
            sys::make_directory(self.open_parent()?.as_fd(), Path::new(&self.volume))
        };
        make().map_err(self.fail("making"))
    }

    /// Removes the directories if they are empty: other contents are not ours.
    fn remove_directories(&self) -> Result<(), sys::Error> {
        sys::remove_directory(self.open_parent()?.as_fd(), &self.volume)?;
        // The pod may have another share.
        let _ = self.remove_pods_directory();
        Ok(())
    }

    fn remove_pods_directory(&self) -> Result<(), sys::Error> {
        sys::remove_directory(sys::open_handle(&self.base)?.as_fd(), &self.uid)
    }

    fn fail(&self, doing: &'static str) -> impl Fn(sys::Error) -> Error + use<> {
        let target = self.target();
        move |error| Error::System { doing, target: target.clone(), error }
    }
}
