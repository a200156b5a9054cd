//! The share: the bind mount that shows a pod's emptyDir to the data plane at a path short enough for a unix socket.
//!
//! `<socket_base_dir>/<uid>/<volume>`, as kube-ovn names and makes it (pkg/daemon/handler_linux.go). Whether it is
//! mounted is told by device and inode of both sides, never by the directory's being there: kube-ovn's daemon leaves
//! directories behind that nothing is mounted on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::pod::identity::PodUid;
use crate::pod::volume::Volume;
use crate::sys::{self, Walk};

/// Most mounts that are taken off one another; more than a few were never made by anybody's mistake.
const STACK_LIMIT: usize = 64;

/// Longest path of a unix socket, in bytes (`sun_path`, unix(7), without the final NUL).
pub const SUN_PATH: usize = 107;

/// A path below the base as the data plane is told it: OVS is told `/run` by the way of `/var` (kube-ovn,
/// pkg/daemon/ovs_linux.go).
#[must_use]
pub fn data_plane_path(path: &Path) -> PathBuf {
    path.strip_prefix("/run").map_or_else(|_| path.to_owned(), |below| Path::new("/var/run").join(below))
}

/// What went wrong with a share.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The target could not be made, mounted on or freed.
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
    /// Mounts lie on the target that cannot be got rid of.
    #[error("{}: something keeps mounting on it; see `findmnt -R` there", .target.display())]
    StackedMounts {
        /// The share's directory on the host.
        target: PathBuf,
    },
}

impl Error {
    /// Whether something is where the share's directories must be that is none, or was put there meanwhile: kube-ovn leaves
    /// them writable for everyone on the node.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        let Self::System { error, .. } = self else { return false };
        error.is_escape() || matches!(error.errno(), Errno::ENOTDIR | Errno::ESTALE)
    }
}

/// The share of one volume of one pod. All its work is done in the host's mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    base: PathBuf,
    uid: String,
    volume: String,
}

/// What a handle on the target turned out to be.
enum Target {
    Absent,
    /// A plain directory.
    Bare(OwnedFd),
    /// The volume itself.
    Mounted(OwnedFd),
    /// The root of some other mount: of a volume that was deleted, mostly.
    Stale(OwnedFd),
}

impl Share {
    /// The share of `volume` (a single path component) of the pod `uid` below `base`.
    #[must_use]
    pub fn new(base: &Path, uid: &PodUid, volume: &str) -> Self {
        Self { base: base.to_owned(), uid: uid.to_string(), volume: volume.to_owned() }
    }

    /// The directory that the data plane knows.
    #[must_use]
    pub fn target(&self) -> PathBuf {
        self.base.join(&self.uid).join(&self.volume)
    }

    /// Whether anything of the pod's is there, even a directory that nothing is mounted on.
    #[must_use]
    pub fn has_left_something(&self) -> bool {
        self.base.join(&self.uid).symlink_metadata().is_ok()
    }

    /// The pods that have a directory below `base`, whoever made it.
    #[must_use]
    pub fn pods(base: &Path) -> Vec<PodUid> {
        let Ok(listing) = std::fs::read_dir(base) else { return Vec::new() };
        listing.flatten().filter_map(|entry| PodUid::parse(entry.file_name().to_str()?)).collect()
    }

    /// Makes the target show the volume, whatever it showed before. Returns whether anything had to be done.
    ///
    /// Success means that the target's path leads to the volume: where others may write to the base directory, they may
    /// have renamed the pod's directory since it was opened. A mount that has come to another name is taken away again.
    ///
    /// # Errors
    /// Those of making and mounting; nothing is left mounted then.
    pub fn ensure(&self, volume: &Volume) -> Result<bool, Error> {
        let mut made: Option<OwnedFd> = None;
        for _ in 0..STACK_LIMIT {
            let there = self.look(Some(volume));
            if let Some(mount) = made.take() {
                let is_it = |root: &OwnedFd| Ok(sys::mount_id(root.as_fd())? == sys::mount_id(mount.as_fd())?);
                if matches!(&there, Ok(Target::Mounted(root)) if is_it(root).map_err(self.fail("looking at"))?) {
                    return Ok(true);
                }
                sys::unmount(mount.as_fd()).map_err(self.fail("unmounting a mount that was moved away from"))?;
            }
            match there? {
                // By somebody else, or by a call that was killed before it had restricted it.
                Target::Mounted(root) => {
                    return sys::restrict(root.as_fd()).map(|()| false).map_err(self.fail("restricting the mount on"));
                }
                Target::Stale(root) => sys::unmount(root.as_fd()).map_err(self.fail("unmounting a stale mount on"))?,
                Target::Absent => self.make()?,
                Target::Bare(target) => {
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

    /// Whether the target shows the volume.
    ///
    /// # Errors
    /// Those of looking.
    pub fn is_mounted(&self, volume: &Volume) -> Result<bool, Error> {
        Ok(matches!(self.look(Some(volume))?, Target::Mounted(_)))
    }

    /// Whether nothing is at the target, not even a directory.
    ///
    /// # Errors
    /// Those of looking.
    pub fn is_absent(&self) -> Result<bool, Error> {
        Ok(matches!(self.look(None)?, Target::Absent))
    }

    /// Takes the mount, or what is left of it, and the directories away. What is gone already is no error. Returns whether
    /// anything had to be done.
    ///
    /// # Errors
    /// Those of unmounting. Directories that hold something stay, without an error: it is not ours.
    pub fn remove(&self) -> Result<bool, Error> {
        let mut changed = false;
        for _ in 0..STACK_LIMIT {
            let there = match self.look(None) {
                // A link or a file in the way: where it leads nothing is ours. And where there is no openat2(2), nothing was
                // ever mounted: a DEL must not fail for that, or the pod could not go.
                Err(error @ Error::System { .. }) if error.is_untrusted() => return Ok(changed),
                Err(Error::System { error, .. }) if error.is_without_openat2() => return Ok(changed),
                there => there?,
            };
            match there {
                Target::Stale(root) => sys::unmount(root.as_fd()).map_err(self.fail("unmounting"))?,
                Target::Absent => {
                    // Whoever was interrupted here has left the pod's directory.
                    let _ = self.remove_pods_directory();
                    return Ok(changed);
                }
                Target::Bare(_) | Target::Mounted(_) => return Ok(self.remove_directories().is_ok() || changed),
            }
            changed = true;
        }
        Err(Error::StackedMounts { target: self.target() })
    }

    fn look(&self, volume: Option<&Volume>) -> Result<Target, Error> {
        // Through one handle on the pod's directory, so that all that is seen is seen of the same one.
        let both = || {
            let parent = self.open_parent()?;
            Ok((self.open_in(parent.as_fd())?, parent))
        };
        let (target, parent) = match both() {
            Ok(both) => both,
            Err(error) if sys::Error::is_absent(&error) => return Ok(Target::Absent),
            Err(error) => return Err(self.fail("opening")(error)),
        };
        let fail = self.fail("looking at");
        if let Some(volume) = volume
            && sys::object(volume.fd()).map_err(&fail)? == sys::object(target.as_fd()).map_err(&fail)?
        {
            return Ok(Target::Mounted(target));
        }
        let same_mount =
            sys::mount_id(parent.as_fd()).map_err(&fail)? == sys::mount_id(target.as_fd()).map_err(&fail)?;
        Ok(if same_mount { Target::Bare(target) } else { Target::Stale(target) })
    }

    /// The pod's directory, through no symbolic link below the base: kube-ovn leaves these writable for everyone.
    fn open_parent(&self) -> Result<OwnedFd, sys::Error> {
        let base = sys::open_handle(&self.base)?;
        sys::open_below(base.as_fd(), Path::new(&self.uid), Walk::Strict)
    }

    fn open_in(&self, parent: BorrowedFd<'_>) -> Result<OwnedFd, sys::Error> {
        sys::open_below(parent, Path::new(&self.volume), Walk::Strict)
    }

    /// Makes the directories, each that is missing root's with mode 0755. kube-ovn makes them with 0777, but nobody
    /// needs to write there: QEMU makes its socket in the volume, by the pod's own mount of it.
    fn make(&self) -> Result<(), Error> {
        let make = || {
            sys::make_directories(&self.base)?;
            sys::make_directory(sys::open_handle(&self.base)?.as_fd(), Path::new(&self.uid))?;
            sys::make_directory(self.open_parent()?.as_fd(), Path::new(&self.volume))
        };
        make().map_err(self.fail("making"))
    }

    /// Only empty directories go: what is in others is not ours.
    fn remove_directories(&self) -> Result<(), sys::Error> {
        sys::remove_directory(self.open_parent()?.as_fd(), &self.volume)?;
        // Another volume of the pod may be shared beside.
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
