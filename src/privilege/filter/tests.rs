use std::collections::BTreeSet;
use std::ffi::CString;
use std::process::Command;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::kill;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::{Pid, execve};

use super::*;

const ALLOWED: u32 = 0x7fff_0000;
const MISSING: u32 = 0x0005_0000 | 38;
const KILLED: u32 = 0x8000_0000;

/// AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64 (linux/audit.h).
const MACHINE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };

/// Runs a filter on a call as the kernel does (Documentation/networking/filter.rst); its verdict.
fn verdict(program: &BpfProgram, machine: u32, number: i64, arguments: [u64; 6]) -> u32 {
    let mut data = vec![u32::try_from(number).unwrap(), machine, 0, 0];
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap();
    data.extend(arguments.iter().flat_map(|argument| [half(*argument), half(argument >> 32)]));
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    loop {
        let step = program[at].clone();
        let branch = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        at += 1;
        match step.code {
            0x20 => accumulator = data[step.k as usize / 4],
            0x54 => accumulator &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += branch(accumulator == step.k),
            0x25 => at += branch(accumulator > step.k),
            0x35 => at += branch(accumulator >= step.k),
            0x06 => return step.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn filter_of(task: Task) -> BpfProgram {
    program(lists(task)).unwrap()
}

#[test]
fn each_call_is_allowed_in_the_ways_that_are_used_and_no_other() {
    let constant = |value: libc::c_int| bits(value);
    let thread = constant(libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_SIGHAND | libc::CLONE_THREAD);
    let restrict = libc::MS_REMOUNT | libc::MS_BIND | sys::RESTRICTIONS.bits();
    let read_write = constant(libc::PROT_READ | libc::PROT_WRITE);
    // Whether Talk has it, and whether Mount does.
    for (number, arguments, talk, mount) in [
        (libc::SYS_read, [0; 6], true, true),
        (libc::SYS_openat2, [u64::MAX; 6], true, true),
        (libc::SYS_execve, [0; 6], false, false),
        (libc::SYS_execveat, [0; 6], false, false),
        (libc::SYS_ptrace, [0; 6], false, false),
        (libc::SYS_process_vm_writev, [0; 6], false, false),
        (libc::SYS_bpf, [0; 6], false, false),
        (libc::SYS_init_module, [0; 6], false, false),
        (libc::SYS_finit_module, [0; 6], false, false),
        (libc::SYS_keyctl, [0; 6], false, false),
        (libc::SYS_unshare, [constant(libc::CLONE_NEWNS), 0, 0, 0, 0, 0], false, true),
        (libc::SYS_unshare, [constant(libc::CLONE_NEWUSER), 0, 0, 0, 0, 0], false, false),
        (libc::SYS_setns, [0; 6], false, false),
        (libc::SYS_open_tree, [0; 6], false, true),
        (libc::SYS_move_mount, [0; 6], false, true),
        (libc::SYS_fsmount, [0; 6], false, false),
        (libc::SYS_chroot, [0; 6], false, false),
        (libc::SYS_mknodat, [0; 6], false, false),
        (libc::SYS_kill, [0; 6], false, false),
        (libc::SYS_io_uring_setup, [0; 6], false, false),
        (libc::SYS_socket, [constant(libc::AF_UNIX), 0, 0, 0, 0, 0], true, true),
        (libc::SYS_socket, [constant(libc::AF_INET), 0, 0, 0, 0, 0], false, false),
        (libc::SYS_socket, [constant(libc::AF_NETLINK), 0, 0, 0, 0, 0], false, false),
        (libc::SYS_socket, [constant(libc::AF_PACKET), 0, 0, 0, 0, 0], false, false),
        (libc::SYS_clone, [thread, 0, 0, 0, 0, 0], true, true),
        (libc::SYS_clone, [thread | constant(libc::CLONE_NEWNS), 0, 0, 0, 0, 0], false, false),
        (libc::SYS_clone, [constant(libc::CLONE_VM | libc::CLONE_VFORK), 0, 0, 0, 0, 0], false, false),
        (libc::SYS_clone3, [0; 6], false, false),
        (libc::SYS_mmap, [0, 4096, read_write, 0, 0, 0], true, true),
        (libc::SYS_mmap, [0, 4096, read_write | constant(libc::PROT_EXEC), 0, 0, 0], false, false),
        (libc::SYS_mprotect, [0, 4096, constant(libc::PROT_EXEC), 0, 0, 0], false, false),
        (libc::SYS_ioctl, [0, libc::FIONBIO, 0, 0, 0, 0], true, true),
        (libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0, 0, 0], false, false),
        (libc::SYS_mount, [0, 0, 0, libc::MS_BIND, 0, 0], false, true),
        (libc::SYS_mount, [0, 0, 0, restrict, 0, 0], false, true),
        (libc::SYS_mount, [0, 0, 0, restrict & !libc::MS_NOSUID, 0, 0], false, false),
        (libc::SYS_mount, [0, 0, 0, libc::MS_BIND | libc::MS_REC, 0, 0], false, false),
        (libc::SYS_mount, [0, 0, 0, libc::MS_BIND | 1 << 32, 0, 0], false, false),
        (libc::SYS_mount, [0; 6], false, false),
        (libc::SYS_umount2, [0, constant(libc::MNT_DETACH), 0, 0, 0, 0], false, true),
        (libc::SYS_umount2, [0, constant(libc::MNT_FORCE), 0, 0, 0, 0], false, false),
        (libc::SYS_prctl, [constant(libc::PR_SET_NO_NEW_PRIVS), 1, 0, 0, 0, 0], false, true),
        (libc::SYS_prctl, [constant(libc::PR_SET_MM), 1, 0, 0, 0, 0], false, false),
        (libc::SYS_capset, [0; 6], false, true),
        (libc::SYS_seccomp, [0; 6], false, true),
    ] {
        for (task, allowed) in [(Task::Talk, talk), (Task::Mount, mount)] {
            let expected = if allowed { ALLOWED } else { MISSING };
            let seen = verdict(&filter_of(task), MACHINE, number, arguments);
            assert_eq!(seen, expected, "{task:?}: call {number} with {arguments:x?}");
        }
    }
    // The tables of numbers of other machines that this one can be: i386's, x32's.
    assert_eq!(verdict(&filter_of(Task::Talk), 0x4000_0003, libc::SYS_read, [0; 6]), KILLED);
    assert_eq!(verdict(&filter_of(Task::Talk), MACHINE, libc::SYS_read | 1 << 30, [0; 6]), MISSING);
}

#[test]
fn no_call_is_listed_twice_but_for_other_ways_to_make_it() {
    let mut unconditional = BTreeSet::new();
    for call in lists(Task::Mount).into_iter().flatten() {
        if call.condition.is_none() {
            assert!(unconditional.insert(call.number), "{}", call.name);
        }
    }
    let conditional = lists(Task::Mount).into_iter().flatten().filter(|call| call.condition.is_some());
    for call in conditional {
        assert!(!unconditional.contains(&call.number), "{}: once with a condition, once without", call.name);
    }
}

#[test]
fn the_kernel_refuses_what_is_not_on_the_list_and_all_later_threads_too() {
    // The filter stays with the thread, and goes with it.
    let confined =
        |task: Task, work: fn()| thread::spawn(move || install(task).map(|()| work())).join().unwrap().unwrap();
    confined(Task::Talk, || {
        let refused = || {
            let program = CString::new("/bin/false").unwrap();
            assert_eq!(execve::<CString, CString>(&program, &[], &[]), Err(Errno::ENOSYS));
            assert!(Command::new("/bin/true").status().is_err());
            assert_eq!(kill(Pid::this(), None), Err(Errno::ENOSYS));
            assert_eq!(unshare(CloneFlags::CLONE_NEWNS), Err(Errno::ENOSYS));
            let namespace = std::fs::File::open("/proc/self/ns/net").unwrap();
            assert_eq!(setns(namespace, CloneFlags::CLONE_NEWNET), Err(Errno::ENOSYS));
            let of = |family| socket(family, SockType::Stream, SockFlag::empty(), None);
            assert_eq!(of(AddressFamily::Inet).unwrap_err(), Errno::ENOSYS);
            assert!(of(AddressFamily::Unix).is_ok());
            let bind = mount(Some("/no/such"), "/no/such", None::<&str>, MsFlags::MS_BIND, None::<&str>);
            assert_eq!(bind, Err(Errno::ENOSYS));
        };
        refused();
        thread::spawn(refused).join().unwrap();
    });
    confined(Task::Mount, || {
        let try_to = |flags| mount(Some("/no/such"), "/no/such", None::<&str>, flags, None::<&str>);
        assert_ne!(try_to(MsFlags::MS_BIND), Err(Errno::ENOSYS));
        assert_eq!(try_to(MsFlags::MS_BIND | MsFlags::MS_REC), Err(Errno::ENOSYS));
        assert_eq!(umount2("/no/such", MntFlags::MNT_FORCE), Err(Errno::ENOSYS));
        install(Task::Talk).unwrap();
        assert_eq!(try_to(MsFlags::MS_BIND), Err(Errno::ENOSYS));
    });
}
