//! Detects a QEMU that waits in an attach for a back end.
//!
//! `net_vhost_user_init` (net/vhost-user.c) waits on QEMU's main thread with QEMU's global lock held, so the VM hangs.
//! The wait is a main loop of GLib's over the listening socket alone (`qio_net_listener_wait_client`,
//! io/net-listener.c), so the thread is in poll(2), without a timeout, with two descriptors: the socket and GLib's
//! wake-up. QEMU's own main loop polls its monitor, its timers and more. The kernel shows the call and its arguments
//! (`/proc/<pid>/task/<tid>/syscall`) and the descriptors that it was given (`/proc/<pid>/mem`), so a QEMU that can't
//! answer need not be asked. Both need the permissions of ptrace(2).
//!
//! A process may fake this. One that pretends to wait gets a back end that moves no packets.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::socket_end::SYSCALL_LIMIT;
use crate::sys;

/// The descriptors of such a poll: the socket, and GLib's wake-up.
const DESCRIPTORS: usize = 2;

/// The size of a `struct pollfd` (poll(2)), in bytes. It begins with the descriptor.
const POLLFD: usize = 8;

/// Returns the descriptors that a thread polls, if it polls two without a timeout; else none. `proc` is the process'
/// directory below `/proc`; the main thread's number is the pid.
///
/// # Errors
/// Those of reading `/proc`: `EACCES` or `EPERM` without the right to trace the process, `ESRCH` once it has ended.
pub fn descriptors(proc: &Path, thread: i32) -> Result<Vec<i32>, sys::Error> {
    let text = sys::read_text(&proc.join(format!("task/{thread}/syscall")), SYSCALL_LIMIT)?;
    let Some(address) = poll_without_timeout(&text) else { return Ok(Vec::new()) };
    let path = proc.join("mem");
    let mut memory = sys::open_file(&path)?;
    let mut polled = [0; DESCRIPTORS * POLLFD];
    let read = memory.seek(SeekFrom::Start(address)).and_then(|_| memory.read_exact(&mut polled));
    read.map_err(|error| sys::Error::of("read", &path, &error))?;
    let descriptor = |entry: &[u8]| entry.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    Ok(polled.chunks(POLLFD).filter_map(descriptor).collect())
}

/// Returns the address of the array of two of a poll(2) or ppoll(2) without a timeout, from a thread's `syscall`
/// (proc(5)): the call's number and arguments. Both calls have the same first two arguments, and no other blocking call
/// has an address and such a small number there.
fn poll_without_timeout(syscall: &str) -> Option<u64> {
    let argument = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let mut arguments = syscall.split_ascii_whitespace().skip(1).map_while(argument);
    let (address, count, timeout) = (arguments.next()?, arguments.next()?, arguments.next()?);
    // -1, as an int or a long, to poll; no timespec to ppoll.
    let is_endless = timeout == u64::from(u32::MAX) || timeout == u64::MAX || timeout == 0;
    let is_address = address > u64::from(u16::MAX);
    let is_two = usize::try_from(count) == Ok(DESCRIPTORS);
    (is_endless && is_address && is_two).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_that_waits_for_a_back_end_is_told_from_one_that_runs() {
        // QEMU 10.0 on x86-64, in netdev_add and in its own main loop.
        let waits =
            "7 0x5654578eaa60 0x2 0xffffffff 0x455fa2e632a04c6d 0x0 0x56545848ee10 0x7fffe6beb940 0x7f499aa9326f\n";
        let runs = "271 0x565458485830 0x5 0x7fffe6bebde0 0x0 0x8 0x0 0x7fffe6bebdc0 0x7f499aa93366\n";
        assert_eq!(poll_without_timeout(waits), Some(0x5654_578e_aa60));
        assert_eq!(poll_without_timeout(runs), None);
        // ppoll without a timespec, as poll is made on arm64.
        assert_eq!(poll_without_timeout("73 0xffff12340000 0x2 0x0 0x0 0x0 0x0 0x0 0x0"), Some(0xffff_1234_0000));
        for other in [
            "running\n",
            "",
            "-1 0x7f 0x1",
            "7 0x5654578eaa60 0x2 0x3e8 0x0",
            "202 0x1 0x2 0xffffffff",
            "7 0x99999 0x0 0x0",
        ] {
            assert_eq!(poll_without_timeout(other), None, "{other}");
        }
    }

    #[test]
    fn the_descriptors_of_a_waiting_thread_are_read() {
        use std::os::fd::{AsFd, AsRawFd};
        use std::os::unix::net::UnixStream;
        use std::path::PathBuf;

        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

        let (own, peer) = UnixStream::pair().unwrap();
        let (other, _peer) = UnixStream::pair().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let both = [other.as_raw_fd(), own.as_raw_fd()];
        let waits = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            let polled = [&other, &own].map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN));
            poll(&mut polled.clone(), PollTimeout::NONE).unwrap();
        });
        let (thread, proc) = (told.recv().unwrap(), PathBuf::from("/proc/self"));
        let deadline = crate::deadline::Deadline::after(std::time::Duration::from_secs(60));
        let mut polled = Vec::new();
        while polled.is_empty() && !deadline.passed() {
            polled = descriptors(&proc, thread).unwrap();
        }
        drop(peer);
        waits.join().unwrap();
        assert_eq!(polled, both);
    }
}
