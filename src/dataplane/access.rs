//! The data plane's permission to connect to QEMU's socket: it must be able to write to the file (unix(7)).
//!
//! QEMU makes the socket with mode 0755, so an OVS that isn't root and has no `CAP_DAC_OVERRIDE` can't connect. The
//! plugin adds an entry for that user to the file's access control list, through a handle on the socket. It changes
//! nothing for other users.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use super::socket_path::SocketPath;
use crate::pod::process::Process;
use crate::sys;

/// Longest `status` of a process that is read, in bytes; a process may have 65536 groups.
const STATUS_LIMIT: u64 = 1 << 20;
/// The bit of `CAP_DAC_OVERRIDE` in `CapEff`.
const DAC_OVERRIDE: u64 = 1 << 1;
/// The write bit of a class of users.
const WRITE: u16 = 0o2;

/// The credentials of a process for file access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    overrides: bool,
}

impl Credentials {
    /// Reads the credentials of a process.
    ///
    /// # Errors
    /// Those of reading its `status`; `ENODATA` if a field is missing.
    pub fn of(process: &Process) -> Result<Self, sys::Error> {
        let path = process.path("status");
        let text = sys::read_text(&path, STATUS_LIMIT)?;
        // In another user namespace a capability does not apply to the host's files.
        let is_hosts = process.is_in_hosts_user_namespace();
        Self::parse(&text, is_hosts).ok_or_else(|| sys::Error::of("read", &path, &Errno::ENODATA.into()))
    }

    fn parse(status: &str, is_hosts: bool) -> Option<Self> {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        // Real, effective, saved and file system id.
        let of_files = |name: &str| field(name)?.split_whitespace().nth(3)?.parse().ok();
        let capabilities = u64::from_str_radix(field("CapEff")?.trim(), 16).ok()?;
        Some(Self {
            uid: of_files("Uid")?,
            gid: of_files("Gid")?,
            groups: field("Groups")?.split_whitespace().filter_map(|group| group.parse().ok()).collect(),
            overrides: is_hosts && capabilities & DAC_OVERRIDE != 0,
        })
    }

    /// Returns whether it may write to a file with these owners and this mode, access control lists apart.
    #[must_use]
    pub fn may_write(&self, file: &FileStat) -> bool {
        let class = if self.uid == file.st_uid {
            file.st_mode >> 6
        } else if self.gid == file.st_gid || self.groups.contains(&file.st_gid) {
            file.st_mode >> 3
        } else {
            file.st_mode
        };
        self.overrides || class & u32::from(WRITE) != 0
    }
}

/// The data plane's permission to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteAccess {
    /// It had the permission.
    There,
    /// The plugin granted the permission.
    Given { uid: u32 },
    /// The permission is missing and could not be granted.
    Lacking { uid: u32, file: (u32, u32, u32), error: sys::Error },
}

impl fmt::Display for WriteAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::There => f.write_str("the data plane may write to QEMU's socket"),
            Self::Given { uid } => write!(f, "uid {uid} may write to QEMU's socket"),
            Self::Lacking { uid, file: (owner, group, mode), error } => write!(
                f,
                "the data plane runs as uid {uid}, which may not write to QEMU's socket (owner {owner}:{group}, mode {mode:04o}), and \
                 could not be given that right ({error}; run OVS as root or with CAP_DAC_OVERRIDE)"
            ),
        }
    }
}

/// Makes sure that a process may connect to the socket. Returns `None` if there is no socket, or the process has ended.
///
/// # Errors
/// Those of looking at the socket and at the process.
pub fn ensure(socket_path: SocketPath<'_>, process: &Process) -> Result<Option<WriteAccess>, sys::Error> {
    let Some(socket) = socket_path.file()? else { return Ok(None) };
    let credentials = match Credentials::of(process) {
        Err(error) if error.is_absent() => return Ok(None),
        credentials => credentials?,
    };
    let stat = sys::stat(socket.handle())?;
    let list = Acl::of(socket.handle(), &stat)?;
    if credentials.may_write(&stat) || list.lets_write(credentials.uid) {
        return Ok(Some(WriteAccess::There));
    }
    let uid = credentials.uid;
    Ok(Some(match sys::set_acl(socket.handle(), &list.with(uid).bytes()) {
        Ok(()) => WriteAccess::Given { uid },
        Err(error) => WriteAccess::Lacking { uid, file: (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777), error },
    }))
}

/// Returns why a process may not connect to the socket at a path on the host, if it may not.
#[must_use]
pub fn forbidden(pid: i32, path: &Path) -> Option<String> {
    let credentials = Process::open(pid).and_then(|process| Credentials::of(&process)).ok()?;
    let handle = sys::open_handle(path).ok()?;
    let stat = sys::stat(handle.as_fd()).ok()?;
    let list = Acl::of(handle.as_fd(), &stat).ok()?;
    let is_forbidden = !credentials.may_write(&stat) && !list.lets_write(credentials.uid);
    is_forbidden.then(|| {
        format!(
            "process {pid} runs as uid {} and may not write to QEMU's socket (owner {}:{}, mode {:04o}); a repeated ADD gives \
             it that right",
            credentials.uid,
            stat.st_uid,
            stat.st_gid,
            stat.st_mode & 0o7777
        )
    })
}

/// A file's access control list (acl(5); include/uapi/linux/posix_acl_xattr.h): who, by tag and id, has which rights.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Acl(BTreeMap<(u16, u32), u16>);

impl Acl {
    const VERSION: u32 = 2;
    const OWNER: u16 = 0x01;
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x04;
    const MASK: u16 = 0x10;
    const OTHERS: u16 = 0x20;
    /// The id in entries that have none.
    const NOBODY: u32 = u32::MAX;

    /// Reads the list of a file. Without one, builds the list from its mode.
    fn of(fd: BorrowedFd<'_>, stat: &FileStat) -> Result<Self, sys::Error> {
        let list = sys::acl(fd)?;
        Ok(Self::parse(&list).unwrap_or_else(|| {
            let rights = |shift: u32| u16::try_from((stat.st_mode >> shift) & 7).unwrap_or_default();
            let of_mode = [(Self::OWNER, rights(6)), (Self::GROUP, rights(3)), (Self::OTHERS, rights(0))];
            Self(of_mode.into_iter().map(|(tag, rights)| ((tag, Self::NOBODY), rights)).collect())
        }))
    }

    fn parse(list: &[u8]) -> Option<Self> {
        let (version, entries) = list.split_first_chunk::<4>()?;
        let (entries, []) = entries.as_chunks::<8>() else { return None };
        let entry = |[a, b, c, d, id @ ..]: &[u8; 8]| {
            ((u16::from_le_bytes([*a, *b]), u32::from_le_bytes(*id)), u16::from_le_bytes([*c, *d]))
        };
        (u32::from_le_bytes(*version) == Self::VERSION).then(|| Self(entries.iter().map(entry).collect()))
    }

    /// Returns true if the entry of a user lets it write; the mask bounds what that gives.
    fn lets_write(&self, uid: u32) -> bool {
        let rights = |tag, id| self.0.get(&(tag, id)).copied().unwrap_or_default();
        rights(Self::USER, uid) & rights(Self::MASK, Self::NOBODY) & WRITE != 0
    }

    /// Returns the list with an added entry that lets this user read and write.
    fn with(mut self, uid: u32) -> Self {
        self.0.insert((Self::USER, uid), WRITE | 4);
        let named = self.0.iter().filter(|((tag, _), _)| ![Self::OWNER, Self::MASK, Self::OTHERS].contains(tag));
        let mask = named.fold(0, |mask, (_, rights)| mask | rights);
        self.0.insert((Self::MASK, Self::NOBODY), mask);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let entries = self.0.iter().flat_map(|((tag, id), rights)| {
            [tag.to_le_bytes(), rights.to_le_bytes()].concat().into_iter().chain(id.to_le_bytes())
        });
        Self::VERSION.to_le_bytes().into_iter().chain(entries).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::socket_path::scratch::Scratch;
    use super::*;

    const STATUS: &str =
        "Name:\tovs-vswitchd\nUid:\t1\t2\t3\t65534\nGid:\t1\t2\t3\t107\nGroups:\t5 36 \nCapEff:\t00000000a80425fb\n";

    fn file(uid: u32, gid: u32, mode: u32) -> FileStat {
        let mut stat = sys::stat(sys::open_handle("/".as_ref()).unwrap().as_fd()).unwrap();
        (stat.st_uid, stat.st_gid, stat.st_mode) = (uid, gid, mode);
        stat
    }

    #[test]
    fn rights_follow_owner_group_and_mode() {
        let with = Credentials::parse(STATUS, true).unwrap();
        let without = Credentials::parse(STATUS, false).unwrap();
        assert!(with.may_write(&file(107, 107, 0o755)), "it may override modes");
        let expected = [
            (file(107, 107, 0o755), false),
            (file(107, 107, 0o775), true),
            (file(107, 36, 0o775), true),
            (file(107, 99, 0o775), false),
            (file(107, 99, 0o757), true),
            (file(65534, 99, 0o700), true),
            (file(65534, 99, 0o577), false),
        ];
        for (file, may) in expected {
            assert_eq!(without.may_write(&file), may, "{}:{} {:o}", file.st_uid, file.st_gid, file.st_mode);
        }
        assert_eq!(Credentials::parse(&STATUS.replace("CapEff", "Cap"), true), None);
    }

    #[test]
    fn each_user_is_given_the_right_and_nobody_else() {
        assert!(nix::unistd::geteuid().is_root(), "only root may set a list that gives a right to others");
        let scratch = Scratch::new("access");
        let (_listener, socket) = scratch.socket_path().listen().unwrap();
        std::fs::set_permissions(&scratch.path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let list = || Acl::of(socket.handle(), &sys::stat(socket.handle()).unwrap()).unwrap();
        // The user of OVS may change while QEMU's socket stays.
        for (uid, other) in [(65534, 107), (107, 99)] {
            assert!(!list().lets_write(uid));
            sys::set_acl(socket.handle(), &list().with(uid).bytes()).unwrap();
            assert!(list().lets_write(uid) && !list().lets_write(other));
        }
        assert!(list().lets_write(65534), "the first one keeps it");
        // The mode's group bits now show the mask. The group's own entry is unchanged.
        assert_eq!(sys::stat(socket.handle()).unwrap().st_mode & 0o777, 0o775);
        assert_eq!(list().0.get(&(Acl::GROUP, Acl::NOBODY)), Some(&5));
    }
}
