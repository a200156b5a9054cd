//! The system calls that are left: a seccomp filter (seccomp(2)) that allows what the plugin does from then on.
//!
//! The lists are those of every call in every test, the lab's included; tests/node/privilege.rs holds them against new
//! traces. They fit glibc, which the plugin is linked with statically: 2.36, 2.41 and 2.43 were tried.
//!
//! A call that is on no list fails with `ENOSYS`, as on a kernel that does not have it:
//!
//! - The C library and `std` have another way where a call is missing, and no test can try every kernel. If the plugin
//!   were killed instead, a runtime would get no answer, and a NIC could stay half plugged; and who runs code of their own
//!   in it gains no more by the error than by the end.
//! - clone3(2) has its flags in memory, where no filter can see them. glibc goes on with clone(2), which is held to
//!   threads.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

use super::Task;
use crate::sys;

/// One way in which a system call may be made.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The call's name.
    pub name: &'static str,
    number: i64,
    condition: Option<Condition>,
}

/// What one of its arguments must be: as `value` in the bits of `mask`.
#[derive(Clone, Copy, Debug)]
struct Condition {
    index: u8,
    /// Whether the kernel takes it for a `long`, and not for an `int`.
    long: bool,
    mask: u64,
    value: u64,
}

const fn int(index: u8, value: u64) -> Option<Condition> {
    Some(Condition { index, long: false, mask: u64::MAX, value })
}

const fn long(index: u8, mask: u64, value: u64) -> Option<Condition> {
    Some(Condition { index, long: true, mask, value })
}

const fn bits(value: libc::c_int) -> u64 {
    value.cast_unsigned() as u64
}

/// A list of calls: `number` or `number: condition`.
macro_rules! calls {
    ($($number:ident $(: $condition:expr)?,)*) => {
        &[$(Call {
            name: stringify!($number).split_at("SYS_".len()).1,
            number: libc::$number,
            condition: calls!(@ $($condition)?),
        }),*]
    };
    (@) => { None };
    (@ $condition:expr) => { $condition };
}

/// What [`Task::Mount`] takes beside the others.
pub const MOUNT: &[Call] = calls![
    // A mount namespace of its own, in which a mount is restricted before anybody sees it.
    SYS_unshare: int(0, bits(libc::CLONE_NEWNS)),
    SYS_mount: long(3, u64::MAX, libc::MS_REC | libc::MS_SLAVE),
    SYS_mount: long(3, u64::MAX, libc::MS_PRIVATE),
    SYS_mount: long(3, u64::MAX, libc::MS_BIND),
    SYS_mount: long(3, u64::MAX, libc::MS_REMOUNT | libc::MS_BIND | sys::RESTRICTIONS.bits()),
    SYS_open_tree,
    SYS_move_mount,
    SYS_umount2: int(1, bits(libc::MNT_DETACH)),
    // To drop more.
    SYS_capget,
    SYS_capset,
    SYS_prctl: int(0, bits(libc::PR_SET_NO_NEW_PRIVS)),
    SYS_seccomp,
];

/// What [`Task::Talk`] takes.
pub const TALK: &[Call] = calls![
    // Files and directories.
    SYS_close,
    SYS_fchmod,
    SYS_fcntl,
    SYS_flock,
    SYS_fstatfs,
    SYS_fsync,
    SYS_getdents64,
    SYS_linkat,
    SYS_lseek,
    SYS_mkdirat,
    SYS_newfstatat,
    SYS_openat,
    SYS_openat2,
    SYS_read,
    SYS_statx,
    SYS_umask,
    SYS_unlinkat,
    SYS_write,
    // Sockets, of one address family.
    SYS_accept4,
    SYS_bind,
    SYS_connect,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_ioctl: int(1, libc::FIONBIO),
    SYS_listen,
    SYS_pidfd_getfd,
    SYS_pidfd_open,
    SYS_recvfrom,
    SYS_sendmsg,
    SYS_sendto,
    SYS_setsockopt,
    SYS_socket: int(0, bits(libc::AF_UNIX)),
    SYS_socketpair: int(0, bits(libc::AF_UNIX)),
    // What the probe hands to the data plane.
    SYS_eventfd2,
    SYS_ftruncate,
    SYS_memfd_create,
    // Memory that is written or run, not both.
    SYS_madvise,
    SYS_mmap: long(2, bits(libc::PROT_EXEC), 0),
    SYS_mprotect: long(2, bits(libc::PROT_EXEC), 0),
    SYS_munmap,
    // Threads.
    SYS_clone: long(0, NO_THREAD, bits(libc::CLONE_THREAD)),
    SYS_exit,
    SYS_futex,
    SYS_gettid,
    SYS_rseq,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_sched_getaffinity,
    SYS_set_robust_list,
    SYS_sigaltstack,
    // Waiting, the time, chance, the end.
    SYS_clock_nanosleep,
    SYS_exit_group,
    SYS_getrandom,
];

/// CLONE_THREAD, and what a thread has no use for.
const NO_THREAD: u64 = bits(
    libc::CLONE_THREAD
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_PTRACE,
);

/// What glibc calls by these names on x86_64, where they are; elsewhere it calls their younger kin.
#[cfg(target_arch = "x86_64")]
pub const OF_THIS_MACHINE: &[Call] = calls![SYS_mkdir, SYS_poll, SYS_readlink, SYS_rename, SYS_rmdir, SYS_unlink,];
/// What glibc calls by these names on x86_64, where they are; elsewhere it calls their younger kin.
#[cfg(not(target_arch = "x86_64"))]
// The number of the kernel's generic table (include/uapi/asm-generic/unistd.h), which the crate libc leaves out.
pub const OF_THIS_MACHINE: &[Call] = &[Call { name: "renameat", number: 38, condition: None }];

/// What the traces of tests/node do not show, each with its reason.
pub const UNSEEN: &[Call] = calls![
    // The data plane's right to connect to QEMU's socket, where it isn't root.
    SYS_getxattr,
    SYS_setxattr,
    // The guard, which cuts a hanging data plane off: in the lab.
    SYS_shutdown,
    // A record in the system's log bears the process' id.
    SYS_getpid,
    // malloc(3) and realloc(3), of as much as a call takes.
    SYS_brk,
    SYS_mremap,
    // The kin of OF_THIS_MACHINE and of newfstatat: glibc's choice changes with its version and with the machine.
    SYS_fchmodat,
    SYS_fstat,
    SYS_ppoll,
    SYS_readlinkat,
    SYS_renameat2,
    // What the vDSO falls back on where the machine's clock cannot be read without the kernel.
    SYS_clock_gettime,
    // A wait goes on by this after SIGSTOP and SIGCONT.
    SYS_restart_syscall,
    // The return from std's handler of a stack overflow, and abort(3), which can go without the signal.
    SYS_rt_sigreturn,
];

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lists are not those of this kind of machine or of the C library.
    #[error("this build's C library or processor has no list of them")]
    Unknown,
    /// The filter could not be made.
    #[error(transparent)]
    Made(#[from] BackendError),
    /// The kernel did not take it.
    #[error(transparent)]
    Refused(seccompiler::Error),
}

/// From here on this thread, and each that it starts, may make the calls of the task alone, and of an earlier filter.
///
/// # Errors
/// Any [`Error`]; all calls are allowed then that were before.
pub fn install(task: Task) -> Result<(), Error> {
    if !cfg!(all(target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64"))) {
        return Err(Error::Unknown);
    }
    apply_filter(&program(lists(task))?).map_err(Error::Refused)
}

fn lists(task: Task) -> [&'static [Call]; 4] {
    let more: &[Call] = match task {
        Task::Mount => MOUNT,
        Task::Talk => &[],
    };
    [TALK, OF_THIS_MACHINE, UNSEEN, more]
}

fn program(lists: [&[Call]; 4]) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in lists.into_iter().flatten() {
        let rules = rules.entry(call.number).or_default();
        if let Some(condition) = &call.condition {
            rules.push(SeccompRule::new(vec![condition.compile()?])?);
        }
    }
    let missing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let machine = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, missing, SeccompAction::Allow, machine)?.try_into()
}

impl Condition {
    fn compile(&self) -> Result<SeccompCondition, BackendError> {
        let length = if self.long { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
        SeccompCondition::new(self.index, length, SeccompCmpOp::MaskedEq(self.mask), self.value)
    }
}

#[cfg(test)]
mod tests;
