//! Makes and removes bind mounts through handles.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{StatVfsMountFlags, fstatvfs};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::{Error, link, object, on_own_thread, open_handle};

/// The mount flags of a share: no set-uid, devices, programs or symbolic links. A link could lead the data plane, as
/// root, to any socket of the host. The last flag needs Linux 5.10; older kernels ignore it.
pub const RESTRICTIONS: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::from_bits_retain(MS_NOSYMFOLLOW));

/// include/uapi/linux/mount.h; statfs(2) has another bit for it, `ST_NOSYMFOLLOW` of include/linux/statfs.h.
const MS_NOSYMFOLLOW: u64 = 0x100;
const ST_NOSYMFOLLOW: u64 = 0x2000;

/// Bind-mounts one directory over another through handles, with [`RESTRICTIONS`]. `reopen` opens the source again by
/// its name. Returns the root of the mount.
///
/// The flags of a mount can be changed only where it is mounted, and such a change does not propagate. So the mount is
/// made and restricted in a temporary mount namespace and then moved to the target: the host and every receiver (a data
/// plane in a container) only see it restricted. It is not a peer of the source's mount: mounts in the volume do not
/// appear at the target.
///
/// # Errors
/// Those of the calls; `ESTALE` if the source's name now names something else. Nothing is left mounted.
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

/// Makes a restricted, detached mount of the directory that `find` opens. The calling thread moves to a new mount
/// namespace.
fn restricted_copy(find: impl Fn() -> Result<OwnedFd, Error>) -> Result<OwnedFd, Error> {
    let nothing: Option<&Path> = None;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| Error::new("unshare", "CLONE_NEWNS", errno))?;
    // Unmounts on the host propagate here, so this copy keeps no file system busy. Nothing propagates to the host.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)
        .map_err(|errno| Error::new("mount", "MS_REC|MS_SLAVE", errno))?;
    let plain = find()?;
    let plain = link(plain.as_fd());
    mount(Some(&plain), &plain, nothing, MsFlags::MS_BIND, nothing)
        .map_err(|errno| Error::new("mount", "MS_BIND", errno))?;
    let root = find()?;
    // Else it would be a slave of the source's mount, and show later mounts in the volume.
    mount(nothing, &link(root.as_fd()), nothing, MsFlags::MS_PRIVATE, nothing)
        .map_err(|errno| Error::new("mount", "MS_PRIVATE", errno))?;
    restrict(root.as_fd())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(root.as_fd(), "", flags)
        .map_err(|errno| Error::new("open_tree", "OPEN_TREE_CLONE", Errno::from_raw(errno.raw_os_error())))
}

/// Makes a restricted mount of a directory, as [`bind`] does, and drops it; nobody else sees it. Returns true if
/// symbolic links are blocked in it.
///
/// # Errors
/// Those of the calls.
pub fn try_restrictions(directory: &Path) -> Result<bool, Error> {
    let copy = on_own_thread(|| restricted_copy(|| open_handle(directory)))?;
    let flags = fstatvfs(copy.as_fd())
        .map_err(|errno| Error::new("fstatvfs", directory.display(), Errno::from_raw(errno.raw_os_error())))?;
    Ok(flags.f_flag.contains(StatVfsMountFlags::from_bits_retain(ST_NOSYMFOLLOW)))
}

/// Sets [`RESTRICTIONS`] on the mount whose root the handle is, unless they are set already.
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

/// Unmounts the mount whose root the handle is. Lazily, because the handle keeps it busy.
///
/// # Errors
/// umount2(2)'s.
pub fn unmount(root: BorrowedFd<'_>) -> Result<(), Error> {
    umount2(&link(root), MntFlags::MNT_DETACH).map_err(|errno| Error::new("umount2", "MNT_DETACH", errno))
}
