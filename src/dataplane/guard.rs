//! The guard frees a VM that waits for a connected data plane that hangs.
//!
//! QEMU waits for its back end's answers without a timeout and with its global lock held: in the handshake, when the
//! guest's driver starts or stops the NIC, and when the NIC is unplugged. If the data plane is killed, its connection
//! closes and the wait ends. If it is stopped (SIGSTOP, a debugger) or stuck, the wait does not end, and no command to
//! QEMU or libvirt helps. Only closing the connection does: QEMU then sets the link down, and the data plane reconnects
//! when it is back.
//!
//! So while the plugin makes QEMU talk to the data plane, a guard watches whether a QEMU thread waits in a call on its
//! end of the connection (`/proc/<pid>/task/<tid>/syscall`, proc(5)). If the data plane's process is stopped then, or
//! the wait takes longer than any handshake, the guard takes a duplicate of QEMU's end (pidfd_getfd(2), Linux 5.6) and
//! shuts it down. Both need the permissions of ptrace(2), which root on the host has (unless `kernel.yama.ptrace_scope`
//! is 3). Without them the guard does nothing, and everything else works.
//!
//! QEMU's descriptors are not trusted. A duplicate is used only if it is the socket that was accepted at the NIC's
//! path, so a tenant can only get its own connection closed.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use crate::deadline::Deadline;
use crate::pod::socket_end::{SocketEnd, is_stopped};
use crate::sys;

/// How often QEMU's threads are checked. The VM may hang for that long.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long a running data plane may take to answer. Mapping a large VM's memory takes some time.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many checks use one list of connections; fewer if the list is empty.
const LOOKS: u32 = 40;
const LOOKS_FOR_NEW: u32 = 4;

/// Does some work under guard. Returns how many connections were shut down. `ends` returns QEMU's ends of all
/// connections at the NIC's socket.
///
/// # Errors
/// If no thread can be started; the work is not done then.
pub fn during<T>(ends: impl Fn() -> Vec<SocketEnd> + Send, work: impl FnOnce() -> T) -> Result<(T, u32), sys::Error> {
    during_with(PATIENCE, ends, work)
}

fn during_with<T>(
    patience: Duration,
    ends: impl Fn() -> Vec<SocketEnd> + Send,
    work: impl FnOnce() -> T,
) -> Result<(T, u32), sys::Error> {
    let failed = |error: &std::io::Error| sys::Error::of("clone", Path::new("guard"), error);
    let (here, there) = UnixStream::pair().map_err(|error| failed(&error))?;
    thread::scope(|scope| {
        let guard = thread::Builder::new().spawn_scoped(scope, move || guard(patience, &ends, &there));
        let guard = guard.map_err(|error| failed(&error))?;
        let outcome = work();
        drop(here);
        Ok((outcome, guard.join().unwrap_or_default()))
    })
}

fn guard(patience: Duration, ends: &impl Fn() -> Vec<SocketEnd>, leave: &UnixStream) -> u32 {
    let mut cut = 0_u32;
    // The ends, each with the time since when a thread has waited on it.
    let mut seen: Vec<(SocketEnd, Option<Instant>)> = Vec::new();
    let mut looks = 0_u32;
    loop {
        if looks == 0 {
            let before = std::mem::take(&mut seen);
            let since = |end: &SocketEnd| before.iter().find(|(other, _)| other == end).and_then(|(_, since)| *since);
            seen = ends().into_iter().map(|end| (end.clone(), since(&end))).collect();
            looks = if seen.is_empty() { LOOKS_FOR_NEW } else { LOOKS };
        }
        looks = looks.saturating_sub(1);
        for (end, since) in &mut seen {
            // A pod may have many threads; the guard must not delay the end of the work.
            if is_over(leave, Duration::ZERO) {
                return cut;
            }
            if !end.is_waited_on() {
                *since = None;
                continue;
            }
            let begun = *since.get_or_insert_with(Instant::now);
            if end.cut_if(|data_plane| begun.elapsed() >= patience || is_stopped(data_plane)) {
                cut = cut.saturating_add(1);
                (*since, looks) = (None, 0);
            }
        }
        if is_over(leave, LOOK_AGAIN) {
            return cut;
        }
    }
}

/// Returns true if the work ends within this time: then its end of the connection is closed.
pub(super) fn is_over(leave: &UnixStream, within: Duration) -> bool {
    let mut leaving = [PollFd::new(leave.as_fd(), PollFlags::POLLIN)];
    poll(&mut leaving, Deadline::after(within).poll_timeout()) != Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use rustix::process::{Pid, Signal, kill_process};

    /// This process' end of a connection, as that of a QEMU.
    fn end(stream: &UnixStream) -> SocketEnd {
        let inode = sys::object(stream.as_fd()).unwrap().1;
        let pid = i32::try_from(std::process::id()).unwrap();
        SocketEnd { pid, proc: PathBuf::from(format!("/proc/{pid}")), descriptor: stream.as_raw_fd(), inode }
    }

    fn read(stream: &UnixStream) -> usize {
        let mut stream = stream.try_clone().unwrap();
        stream.read(&mut [0]).unwrap()
    }

    #[test]
    fn a_wait_that_lasts_too_long_is_ended() {
        let (qemu, _data_plane) = UnixStream::pair().unwrap();
        let ends = || vec![end(&qemu)];
        // Reads from the same descriptor, as QEMU does.
        let (read, cut) = during_with(Duration::from_millis(100), ends, || (&qemu).read(&mut [0]).unwrap()).unwrap();
        assert_eq!((read, cut), (0, 1));
    }

    #[test]
    fn a_wait_that_is_answered_in_time_is_not_ended() {
        let (qemu, data_plane) = UnixStream::pair().unwrap();
        let ends = || vec![end(&qemu)];
        let answer = move || {
            thread::sleep(Duration::from_millis(80));
            std::io::Write::write_all(&mut &data_plane, &[1]).unwrap();
            data_plane
        };
        let work = || {
            let answering = thread::spawn(answer);
            let read = (&qemu).read(&mut [0]).unwrap();
            (read, answering.join().unwrap())
        };
        let ((read, _data_plane), cut) = during_with(Duration::from_secs(60), ends, work).unwrap();
        assert_eq!((read, cut), (1, 0));
    }

    #[test]
    fn a_connection_that_nobody_waits_on_is_left_alone() {
        let (qemu, data_plane) = UnixStream::pair().unwrap();
        let ends = || vec![end(&qemu)];
        let ((), cut) =
            during_with(Duration::from_millis(1), ends, || thread::sleep(Duration::from_millis(60))).unwrap();
        assert_eq!(cut, 0);
        std::io::Write::write_all(&mut &data_plane, &[1]).unwrap();
        assert_eq!(read(&qemu), 1);
    }

    #[test]
    fn another_socket_that_took_the_descriptors_number_is_left_alone() {
        let (qemu, data_plane) = UnixStream::pair().unwrap();
        let ends = || vec![SocketEnd { inode: 1, ..end(&qemu) }];
        let answer = move || {
            thread::sleep(Duration::from_millis(80));
            std::io::Write::write_all(&mut &data_plane, &[1]).unwrap();
        };
        let work = || {
            let answering = thread::spawn(answer);
            let read = (&qemu).read(&mut [0]).unwrap();
            answering.join().unwrap();
            read
        };
        assert_eq!(during_with(Duration::ZERO, ends, work).unwrap(), (1, 0));
    }

    #[test]
    fn a_process_that_is_gone_is_not_looked_for_by_its_pid() {
        let (qemu, _data_plane) = UnixStream::pair().unwrap();
        assert!(!SocketEnd { proc: PathBuf::from("/proc/self/gone"), ..end(&qemu) }.cut_if(|_| true));
        assert!(end(&qemu).cut_if(|_| true));
    }

    #[test]
    fn a_stopped_process_is_told_from_a_sleeping_one() {
        let mut child: Child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let (number, pid) = (i32::try_from(child.id()).unwrap(), Pid::from_child(&child));
        assert!(!is_stopped(number));
        kill_process(pid, Signal::Stop).unwrap();
        let soon = Deadline::after(Duration::from_secs(60));
        while !is_stopped(number) && !soon.passed() {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(is_stopped(number));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_stopped(number));
    }
}
