//! Bind mounts, made and taken away by handles.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{StatVfsMountFlags, fstatvfs};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::{Error, link, object, on_own_thread, open_handle};

/// What a tenant's files have no business with on the host: set-uid, devices, programs, and links, which would lead the
/// data plane, as root, to any socket of the host's. The last is Linux 5.10's; older kernels pass the bit over.
pub const RESTRICTIONS: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::from_bits_retain(MS_NOSYMFOLLOW));

/// include/uapi/linux/mount.h; statfs(2) says it with another bit, `ST_NOSYMFOLLOW` of include/linux/statfs.h.
const MS_NOSYMFOLLOW: u64 = 0x100;
const ST_NOSYMFOLLOW: u64 = 0x2000;

/// Binds one directory over another, by their handles, without what a tenant's files have no business with on the host.
/// `reopen` opens the source anew by its name. Returns the root of the mount.
///
/// The flags of a mount can be changed only where it is mounted, and no namespace that the mount spreads to hears of it. So
/// it is made and restricted in a mount namespace that nobody else sees and that ends with this call, and comes to its
/// place as it is to be, for the host and for all who receive from it (a data plane in a container). It is no peer of the
/// source's mount either: what is mounted in the volume, by whomever, does not show at the target.
///
/// # Errors
/// Those of the calls; `ESTALE` if the source's name has come to stand for something else. Nothing is left mounted.
pub fn bind(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    reopen: impl Fn() -> Result<OwnedFd, Error> + Sync,
) -> Result<OwnedFd, Error> {
    let wanted = object(source)?;
    let find = || match reopen() {
        Ok(found) if object(found.as_fd())? == wanted => Ok(found),
        Ok(_) => Err(Error::new("openat2", "the source of a bind mount", Errno::ESTALE)),
        Err(error) => Err(error),
    };
    let copy = on_own_thread(|| restricted_copy(find))?;
    let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(copy.as_fd(), "", target, "", whole)
        .map_err(|errno| Error::new("move_mount", "the pod's volume", Errno::from_raw(errno.raw_os_error())))?;
    Ok(copy)
}

/// A restricted mount of what `find` finds, mounted nowhere. Takes the calling thread to a mount namespace of its own.
fn restricted_copy(find: impl Fn() -> Result<OwnedFd, Error>) -> Result<OwnedFd, Error> {
    let nothing: Option<&Path> = None;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| Error::new("unshare", "CLONE_NEWNS", errno))?;
    // What is unmounted on the host goes here too, so that this copy keeps no file system busy. Nothing goes the other
    // way.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)
        .map_err(|errno| Error::new("mount", "MS_REC|MS_SLAVE", errno))?;
    let plain = find()?;
    let plain = link(plain.as_fd());
    mount(Some(&plain), &plain, nothing, MsFlags::MS_BIND, nothing)
        .map_err(|errno| Error::new("mount", "MS_BIND", errno))?;
    let root = find()?;
    // Else it would be a slave of the source's mount, and show what is mounted in the volume later.
    mount(nothing, &link(root.as_fd()), nothing, MsFlags::MS_PRIVATE, nothing)
        .map_err(|errno| Error::new("mount", "MS_PRIVATE", errno))?;
    restrict(root.as_fd())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(root.as_fd(), "", flags)
        .map_err(|errno| Error::new("open_tree", "OPEN_TREE_CLONE", Errno::from_raw(errno.raw_os_error())))
}

/// Makes a restricted mount of a directory, as [`bind`] does, and drops it: nobody else ever sees it. Returns whether
/// links in it lead nowhere.
///
/// # Errors
/// Those of the calls.
pub fn try_restrictions(directory: &Path) -> Result<bool, Error> {
    let copy = on_own_thread(|| restricted_copy(|| open_handle(directory)))?;
    let flags = fstatvfs(copy.as_fd())
        .map_err(|errno| Error::new("fstatvfs", directory.display(), Errno::from_raw(errno.raw_os_error())))?;
    Ok(flags.f_flag.contains(StatVfsMountFlags::from_bits_retain(ST_NOSYMFOLLOW)))
}

/// Takes away from the mount whose root the handle is what a tenant's files have no business with on the host, unless
/// that is done already.
///
/// # Errors
/// fstatvfs(3)'s and mount(2)'s.
pub fn restrict(root: BorrowedFd<'_>) -> Result<(), Error> {
    let all = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC;
    let all = all | StatVfsMountFlags::from_bits_retain(ST_NOSYMFOLLOW);
    let failed =
        |errno: rustix::io::Errno| Error::new("fstatvfs", link(root).display(), Errno::from_raw(errno.raw_os_error()));
    if fstatvfs(root).map_err(failed)?.f_flag.contains(all) {
        return Ok(());
    }
    let nothing: Option<&Path> = None;
    mount(nothing, &link(root), nothing, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | RESTRICTIONS, nothing)
        .map_err(|errno| Error::new("mount", "MS_REMOUNT|MS_BIND|MS_NOSUID|MS_NODEV|MS_NOEXEC|MS_NOSYMFOLLOW", errno))
}

/// Takes away the mount whose root the handle is. Lazily: our own handle keeps it busy.
///
/// # Errors
/// umount2(2)'s.
pub fn unmount(root: BorrowedFd<'_>) -> Result<(), Error> {
    umount2(&link(root), MntFlags::MNT_DETACH).map_err(|errno| Error::new("umount2", "MNT_DETACH", errno))
}
