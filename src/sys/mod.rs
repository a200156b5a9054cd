//! System calls that need more than `std`. Each error names the call and its object.
//!
//! Everything goes through `nix` (or `rustix`, for what it lacks), so there is no `unsafe` here or anywhere else in the
//! crate.

#![allow(missing_docs, reason = "a field that its name explains needs no comment")]

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmodat, fstat, mkdirat, umask};
use nix::unistd::{UnlinkatFlags, unlinkat};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

mod binding;
mod handed;
mod object_at;

use crate::deadline::Deadline;
use crate::quote;
pub use binding::{RESTRICTIONS, bind, restrict, try_restrictions, unmount};
pub use handed::{eventfd, sealed_memory};
pub use object_at::object_at;

/// How much of a file is read at once, in bytes. The kernel returns at most a page of a table.
const READ_AT_ONCE: usize = 16 << 10;

/// Longest line of a table that is read, in bytes. A line of a mount table with two escaped paths is shorter.
const LINE_LIMIT: u64 = 64 << 10;

/// How long reading a table may take. A pod decides how long its tables are, and can make the kernel slow.
const TABLE_PATIENCE: Duration = Duration::from_secs(5);

/// A system call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}({}): {}{}", quote::value(.on), .errno.desc(), self.advice())]
pub struct Error {
    call: &'static str,
    on: String,
    #[source]
    errno: Errno,
}

impl Error {
    fn new(call: &'static str, on: impl fmt::Display, errno: Errno) -> Self {
        Self { call, on: on.to_string(), errno }
    }

    /// Creates the error of a call on a path, from an I/O error.
    #[must_use]
    pub fn of(call: &'static str, on: &Path, error: &std::io::Error) -> Self {
        Self::new(call, on.display(), Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))
    }

    /// Returns the error number.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// Returns true if the object does not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.errno, Errno::ENOENT | Errno::ESRCH)
    }

    /// Returns true if the path would have left its directory or passed a symbolic link. In a pod's directory somebody
    /// put that there.
    #[must_use]
    pub fn is_escape(&self) -> bool {
        matches!(self.errno, Errno::ELOOP | Errno::EXDEV)
    }

    /// Returns true if openat2(2) is not available: the kernel is too old, or a seccomp filter blocks it (older filters
    /// mostly return `EPERM`). With the flags used here no path causes these errors.
    #[must_use]
    pub fn is_without_openat2(&self) -> bool {
        self.call == "openat2" && matches!(self.errno, Errno::ENOSYS | Errno::EPERM)
    }

    fn advice(&self) -> &'static str {
        if self.is_without_openat2() {
            "; the plugin resolves no path of a pod without this call: it needs Linux 5.6, and no seccomp filter that \
             forbids it"
        } else {
            ""
        }
    }
}

/// How a path below a directory is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Only downwards, and through no symbolic link (`RESOLVE_BENEATH | NO_SYMLINKS | NO_MAGICLINKS`).
    Strict,
    /// The directory is the root, even for absolute links (`RESOLVE_IN_ROOT | NO_MAGICLINKS`): a container's own view.
    Rooted,
}

/// Opens `path` below `directory` as a handle (`O_PATH`).
///
/// openat2(2), Linux 5.6.
///
/// # Errors
/// The call's, among them `ELOOP` and `EXDEV` where the path would have left `directory` ([`Error::is_escape`]).
pub fn open_below(directory: BorrowedFd<'_>, path: &Path, walk: Walk) -> Result<OwnedFd, Error> {
    let resolve = match walk {
        Walk::Strict => {
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS
        }
        Walk::Rooted => ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    };
    open_resolved(directory, path, resolve)
}

/// Opens a path of the host as a handle. Follows symbolic links, but not the magic links of `/proc` to a process' files
/// (`RESOLVE_NO_MAGICLINKS`).
///
/// # Errors
/// openat2(2)'s, among them `ELOOP` where there is such a link.
pub fn open_no_magiclinks(path: &Path) -> Result<OwnedFd, Error> {
    open_resolved(AT_FDCWD, path, ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

fn open_resolved(directory: BorrowedFd<'_>, path: &Path, resolve: ResolveFlag) -> Result<OwnedFd, Error> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    // The kernel returns EAGAIN if a rename or mount raced with it. Limit the tries: a tenant may do that on purpose.
    for _ in 0..64 {
        match openat2(directory, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other.map_err(|errno| Error::new("openat2", path.display(), errno)),
        }
    }
    Err(Error::new("openat2", path.display(), Errno::EAGAIN))
}

/// Opens a trusted path as a handle (`O_PATH`), symbolic links included: kubelet's directory may be one.
///
/// # Errors
/// open(2)'s.
pub fn open_handle(path: &Path) -> Result<OwnedFd, Error> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| Error::new("open", path.display(), errno))
}

/// Opens a file of the kernel or of the host for reading.
///
/// # Errors
/// open(2)'s.
pub fn open_file(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|error| Error::of("open", path, &error))
}

/// Reads a file of at most `limit` bytes. A longer file is an error.
///
/// # Errors
/// open(2)'s and read(2)'s; `EFBIG` past `limit`.
pub fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    // The kernel reports no length for its tables, so std would start with 32 bytes.
    let mut bytes = Vec::with_capacity(READ_AT_ONCE);
    let read = open_file(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    let read = read.map_err(|error| Error::of("read", path, &error))?;
    if u64::try_from(read).unwrap_or(u64::MAX) > limit {
        return Err(Error::new("read", path.display(), Errno::EFBIG));
    }
    Ok(bytes)
}

/// As [`read_bytes`], as text, with U+FFFD for invalid UTF-8: a pod's name in a kernel table must not hide the other
/// lines.
///
/// # Errors
/// Those of [`read_bytes`].
pub fn read_text(path: &Path, limit: u64) -> Result<String, Error> {
    let text = String::from_utf8(read_bytes(path, limit)?);
    Ok(text.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Calls `look` for each line of a kernel table, and returns its first result. The table is not stored; of a line, the
/// first 64 KiB are used. Lines need not be text.
///
/// # Errors
/// open(2)'s and read(2)'s; `ETIMEDOUT` if the end of the table was not reached within 5 s.
pub fn find_line<T>(path: &Path, mut look: impl FnMut(&[u8]) -> Option<T>) -> Result<Option<T>, Error> {
    let deadline = Deadline::after(TABLE_PATIENCE);
    let mut table = BufReader::with_capacity(READ_AT_ONCE, open_file(path)?);
    let mut line = Vec::new();
    while next_line(&mut table, &mut line).map_err(|error| Error::of("read", path, &error))? {
        if let Some(found) = look(&line) {
            return Ok(Some(found));
        }
        if deadline.passed() {
            return Err(Error::new("read", path.display(), Errno::ETIMEDOUT));
        }
    }
    Ok(None)
}

/// Reads the next line, without its line break and cut at [`LINE_LIMIT`]. Returns false at the end.
fn next_line(table: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    if table.by_ref().take(LINE_LIMIT).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else {
        table.skip_until(b'\n')?;
    }
    Ok(true)
}

/// fstat(2) of a handle.
///
/// # Errors
/// The call's.
pub fn stat(fd: BorrowedFd<'_>) -> Result<FileStat, Error> {
    fstat(fd).map_err(|errno| Error::new("fstat", link(fd).display(), errno))
}

/// Returns device and inode, which identify the object.
///
/// # Errors
/// fstat(2)'s.
pub fn object(fd: BorrowedFd<'_>) -> Result<(u64, u64), Error> {
    let stat = stat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The name under which a file's access control list is kept.
const ACL: &str = "system.posix_acl_access";

/// Longest access control list that is read, in bytes: one of 8 bytes for each entry.
const ACL_LIMIT: usize = 4096;

/// Returns a file's access control list, in the kernel's format. Empty if it has none, or the file system doesn't
/// support lists.
///
/// # Errors
/// getxattr(2)'s; `ERANGE` if the list is too long.
pub fn acl(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Error> {
    let mut list = vec![0; ACL_LIMIT];
    match rustix::fs::getxattr(link(fd), ACL, &mut list[..]) {
        Ok(length) => list.truncate(length),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => list.clear(),
        Err(errno) => return Err(Error::new("getxattr", ACL, Errno::from_raw(errno.raw_os_error()))),
    }
    Ok(list)
}

/// Sets a file's access control list, in the kernel's format.
///
/// # Errors
/// setxattr(2)'s; `EOPNOTSUPP` if the file system doesn't support lists.
pub fn set_acl(fd: BorrowedFd<'_>, list: &[u8]) -> Result<(), Error> {
    rustix::fs::setxattr(link(fd), ACL, list, rustix::fs::XattrFlags::empty())
        .map_err(|errno| Error::new("setxattr", ACL, Errno::from_raw(errno.raw_os_error())))
}

/// Returns the path of an open descriptor's object, whatever is at its old name now.
#[must_use]
pub fn link(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Returns the id of the mount of a handle, from `/proc/self/fdinfo` (proc(5), Linux 3.15).
///
/// # Errors
/// Those of reading that file; `ENODATA` if the kernel does not report it.
pub fn mount_id(fd: BorrowedFd<'_>) -> Result<u64, Error> {
    let path = PathBuf::from(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()));
    let text = read_text(&path, 4096)?;
    text.lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))
        .and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| Error::new("read", path.display(), Errno::ENODATA))
}

/// Enters the host's mount namespace, if this process was started in another one (thick Multus runs plugins in its own,
/// where a mount has no effect on the host). Root and working directory become the host's. Returns true if it moved.
///
/// # Errors
/// Those of looking at `/proc/1/ns/mnt` and of setns(2).
pub fn enter_host_mounts() -> Result<bool, Error> {
    enter_host("mnt", CloneFlags::CLONE_NEWNS)
}

/// Enters the host's cgroup namespace, if this process was started in another one: from there it can't move to a cgroup
/// above. If this fails, moving fails later with its own error.
pub fn enter_host_cgroups() {
    let _ = enter_host("cgroup", CloneFlags::CLONE_NEWCGROUP);
}

fn enter_host(kind: &str, flag: CloneFlags) -> Result<bool, Error> {
    let own = PathBuf::from(format!("/proc/self/ns/{kind}"));
    let host = PathBuf::from(format!("/proc/1/ns/{kind}"));
    let target = open_file(&host)?;
    if object(open_file(&own)?.as_fd())? == object(target.as_fd())? {
        return Ok(false);
    }
    setns(target, flag).map_err(|errno| Error::new("setns", host.display(), errno))?;
    Ok(true)
}

/// Opens an existing file of the kernel for writing.
///
/// # Errors
/// open(2)'s.
pub fn open_to_write(path: &Path) -> Result<File, Error> {
    File::options().write(true).open(path).map_err(|error| Error::of("open", path, &error))
}

/// Writes a value to a file of the kernel.
///
/// # Errors
/// open(2)'s and write(2)'s.
pub fn write_to(path: &Path, value: &str) -> Result<(), Error> {
    open_to_write(path)?.write_all(value.as_bytes()).map_err(|error| Error::of("write", path, &error))
}

/// Makes a directory and its missing parents with mode 0755, whatever the umask is.
///
/// # Errors
/// mkdir(2)'s, open(2)'s and chmod(2)'s.
pub fn make_directories(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    let Some((parent, name)) = path.parent().zip(path.file_name()) else { return Ok(()) };
    make_directories(parent)?;
    make_directory(open_handle(parent)?.as_fd(), Path::new(name))
}

/// Runs `act` without a umask. The umask belongs to the whole process: one thread at a time does this, and no other may
/// make files meanwhile.
pub fn without_umask<T>(act: impl FnOnce() -> T) -> T {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = umask(Mode::empty());
    let outcome = act();
    umask(before);
    outcome
}

/// Makes the directory `name`, a single path component, in another, with mode 0755 whatever the umask is. An existing
/// directory keeps its mode.
///
/// # Errors
/// mkdirat(2)'s, openat2(2)'s and chmod(2)'s.
pub fn make_directory(parent: BorrowedFd<'_>, name: &Path) -> Result<(), Error> {
    let mode = Mode::from_bits_truncate(0o755);
    match mkdirat(parent, name, mode) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return Ok(()),
        Err(errno) => return Err(Error::new("mkdirat", name.display(), errno)),
    }
    let made = open_below(parent, name, Walk::Strict)?;
    fchmodat(AT_FDCWD, &link(made.as_fd()), mode, FchmodatFlags::FollowSymlink)
        .map_err(|errno| Error::new("chmod", name.display(), errno))
}

/// Removes the empty directory `name`, a single path component, from another.
///
/// # Errors
/// unlinkat(2)'s.
pub fn remove_directory(parent: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
    unlinkat(parent, name, UnlinkatFlags::RemoveDir).map_err(|errno| Error::new("unlinkat", name, errno))
}

/// Runs `work` in another network namespace, on a new thread, so this thread stays in its namespace.
///
/// # Errors
/// setns(2)'s (`EINVAL` if `netns` is not a network namespace); `EAGAIN` if no thread can be started.
pub fn in_netns<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    on_own_thread(|| {
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::new("setns", "CNI_NETNS", errno))?;
        Ok(work())
    })
}

/// Runs `work` on a new thread, which may change its namespaces.
fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work);
        thread
            .map_err(|error| Error::of("clone", Path::new("thread"), &error))?
            .join()
            .unwrap_or_else(|_| Err(Error::new("join", "thread", Errno::EFAULT)))
    })
}

/// Duplicates another process' descriptor (pidfd_getfd(2), Linux 5.6). The number may have been reused, so the caller
/// must check the result. `is_it` returns true if the intended process still lives; it is called while the pid is held
/// by a pidfd.
///
/// # Errors
/// pidfd_open(2)'s and pidfd_getfd(2)'s, such as `EPERM` without the permission to trace the process; `ESRCH` if
/// `is_it` returns false.
pub fn duplicate(pid: i32, is_it: impl FnOnce() -> bool, descriptor: i32) -> Result<OwnedFd, Error> {
    let failed = |call, errno: rustix::io::Errno| Error::new(call, pid, Errno::from_raw(errno.raw_os_error()));
    let gone = || Error::new("pidfd_open", pid, Errno::ESRCH);
    let process = Pid::from_raw(pid).ok_or_else(gone)?;
    let process = pidfd_open(process, PidfdFlags::empty()).map_err(|errno| failed("pidfd_open", errno))?;
    if !is_it() {
        return Err(gone());
    }
    pidfd_getfd(&process, descriptor, PidfdGetfdFlags::empty()).map_err(|errno| failed("pidfd_getfd", errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_walk_follows_no_link_and_a_rooted_one_stays_inside() {
        let root = std::env::temp_dir().join(format!("vhu-sys-{}", std::process::id()));
        std::fs::create_dir_all(root.join("inside")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
        std::os::unix::fs::symlink("/inside", root.join("in")).unwrap();
        let handle = open_handle(&root).unwrap();
        let fd = handle.as_fd();

        assert!(open_below(fd, Path::new("inside"), Walk::Strict).is_ok());
        for path in ["out", "in", "out/passwd"] {
            assert!(open_below(fd, Path::new(path), Walk::Strict).unwrap_err().is_escape(), "{path}");
        }
        assert!(open_below(fd, Path::new("../x"), Walk::Strict).unwrap_err().is_escape());
        assert!(open_below(fd, Path::new("/etc"), Walk::Strict).unwrap_err().is_escape());
        let through_link = open_below(fd, Path::new("/in"), Walk::Rooted).unwrap();
        let direct = open_below(fd, Path::new("inside"), Walk::Strict).unwrap();
        assert_eq!(object(through_link.as_fd()).unwrap(), object(direct.as_fd()).unwrap());
        assert!(open_below(fd, Path::new("/out/passwd"), Walk::Rooted).unwrap_err().is_absent());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn reading_stops_at_the_limit_with_an_error() {
        assert_eq!(read_text(Path::new("/proc/self/status"), 16).unwrap_err().errno(), Errno::EFBIG);
        assert!(read_text(Path::new("/proc/self/status"), 65536).unwrap().contains("Pid:"));
    }

    #[test]
    fn a_name_that_is_no_text_hides_no_other() {
        let path = std::env::temp_dir().join(format!("vhu-sys-text-{}", std::process::id()));
        std::fs::write(&path, b"a\xff\nb\n").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "a\u{fffd}\nb\n");
        assert_eq!(read_text(&path, 4).unwrap_err().errno(), Errno::EFBIG);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_table_is_looked_at_line_by_line_and_a_long_line_is_cut() {
        let path = std::env::temp_dir().join(format!("vhu-sys-lines-{}", std::process::id()));
        let limit = usize::try_from(LINE_LIMIT).unwrap();
        let long = vec![b'x'; 3 * limit];
        std::fs::write(&path, [b"a\xff\n\n".as_slice(), &long, b"\nlast"].concat()).unwrap();
        let mut seen = Vec::new();
        let end: Option<()> = find_line(&path, |line| {
            seen.push(line.to_owned());
            None
        })
        .unwrap();
        assert_eq!(end, None);
        assert_eq!(seen, [b"a\xff".as_slice(), b"", long.get(..limit).unwrap(), b"last"]);
        assert_eq!(find_line(&path, |line| line.first().copied()).unwrap(), Some(b'a'));
        assert!(find_line(Path::new("/no/such"), |_| Some(())).unwrap_err().is_absent());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_handle_knows_its_mount() {
        let root = open_handle(Path::new("/")).unwrap();
        let proc = open_handle(Path::new("/proc")).unwrap();
        assert_ne!(mount_id(root.as_fd()).unwrap(), mount_id(proc.as_fd()).unwrap());
    }
}
