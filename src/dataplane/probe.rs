//! The probe: before the VM is touched, the data plane is met at the socket's own path, and asked what it offers.
//!
//! QEMU will be the server there, and the data plane the client that tries again and again. So listening at the path for
//! a moment shows that a data plane runs, has the port, and sees the path, whichever data plane it is.
//!
//! To the data plane the probe is a guest that comes up and leaves ([`super::frontend`]). What a port offers may change when
//! a connection ends: OVS with userspace TSO does that after a guest that failed (lib/netdev-dpdk.c, `destroy_connection`).
//! So an offer counts when the next connection brings it again. A data plane that does not start the probe's device is only
//! asked.
//!
//! Who else might come: the socket is in the pod's volume, where the pod's processes may connect to it too, or put
//! something else at the name. Connections of the pod's own are refused, so that a tenant does not play the data plane by
//! accident or for fun. One that gets past that (by handing its connection on) gains nothing but wrong figures for its
//! own NIC, and one that takes the name away keeps the probe from being reached: both only harm themselves.
//!
//! A call that is killed here leaves a socket file that nobody listens on; the next one removes it.

use std::fmt;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{getsockopt, sockopt};

use super::figures::Figures;
use super::frontend;
use super::message::{Fault, Line, request};
use super::seat::{Seat, SocketFile};
use crate::deadline::Deadline;
use crate::{quote, sys};

/// How long one data plane may take to say what it offers and to start a device. OVS needs 10 to 70 ms.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a data plane is asked to start a device before it is only asked what it offers. Once may be an accident: the
/// port was registered anew just then.
const TRIES: usize = 2;

/// How soon a data plane comes back that connects again at once, and not at its next round: OVS within 30 ms.
const AT_ONCE: Duration = Duration::from_millis(300);

/// How long a connection must last before a device is started on it, once another has ended badly. OVS sets the port up
/// anew then, and closes the connections that came before. A device must not end while it does: OVS 3.5's main loop and
/// DPDK's thread then wait for each other for good (`rte_vhost_driver_unregister`, `destroy_device`).
const QUIET: Duration = Duration::from_millis(50);

/// Why the data plane was not met.
#[derive(Clone, Debug)]
pub enum Error {
    /// Nobody connected, but for `refused` connections of the pod's own.
    Nobody {
        /// The socket's path on the host.
        path: PathBuf,
        /// How many were refused.
        refused: u32,
    },
    /// Somebody did, and did not answer as a data plane does.
    Fault {
        /// The socket's path on the host.
        path: PathBuf,
        /// What was wrong with the last one.
        fault: Fault,
    },
    /// One connected and answered, and has not come back since.
    Gone {
        /// The socket's path on the host.
        path: PathBuf,
    },
    /// Something else than a socket is at the socket's name, or it cannot be listened on.
    System(sys::Error),
}

impl Error {
    /// Whether something is at the socket's name that must not be there.
    #[must_use]
    pub fn is_foul(&self) -> bool {
        matches!(self, Self::System(error) if matches!(error.errno(), Errno::ENOTSOCK | Errno::EADDRINUSE))
    }
}

impl From<sys::Error> for Error {
    fn from(error: sys::Error) -> Self {
        Self::System(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody { path, refused } => {
                write!(f, "no data plane connected to {}", shown(path))?;
                if *refused > 0 {
                    write!(f, " ({refused} connections of the pod's own processes were refused)")?;
                }
                Ok(())
            }
            Self::Fault { path, fault } => {
                write!(f, "what connected to {} did not answer as a data plane does: {fault}", shown(path))
            }
            Self::Gone { path } => {
                write!(f, "a data plane connected to {} and answered, and has not come back since", shown(path))
            }
            Self::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

fn shown(path: &Path) -> String {
    quote::value(&path.to_string_lossy())
}

/// A data plane that was met. As long as this value lives, it takes itself for connected, and does not come to QEMU's
/// socket: OVS-DPDK tries again at once when its connection closes (DPDK, lib/vhost/socket.c, `vhost_user_read_cb`), so
/// that dropping this at the right moment saves the wait for its next round, up to a second.
#[derive(Debug)]
pub struct Met {
    /// What it offers.
    pub figures: Figures,
    /// The process that connected.
    pub pid: i32,
    /// Why it was only asked, if it did not take the probe's device: it may take this connection's end amiss.
    pub only_asked: Option<Fault>,
    line: Line,
}

impl Met {
    /// Asks it again, to know whether it still answers and still offers the same features.
    ///
    /// # Errors
    /// [`Fault::Closed`] if it is gone, [`Fault::Silent`] if it hangs, [`Fault::Changed`] if it offers others.
    pub fn ask_again(&mut self, deadline: Deadline) -> Result<(), Fault> {
        let now = self.line.ask(request::GET_FEATURES, deadline)?;
        if now == self.figures.features { Ok(()) } else { Err(Fault::Changed(self.figures.features, now)) }
    }
}

/// Listens at the seat until a data plane has connected, answered, and come back with the same answers. `is_foreign` tells whether a process, by its pid,
/// is none of the pod's. A socket that is at the name already must be one that nobody holds: it is removed.
///
/// # Errors
/// Any [`Error`]; nothing is left at the name then.
pub fn probe(seat: Seat<'_>, is_foreign: impl Fn(i32) -> bool, deadline: Deadline) -> Result<Met, Error> {
    if let Some(left_over) = seat.file()? {
        seat.remove(&left_over)?;
    }
    let (listener, file) = seat.listen()?;
    let met = meet(&listener, seat, is_foreign, deadline);
    // Whoever still waits to be taken is turned away before the name is free for QEMU.
    drop(listener);
    let removed = remove(seat, &file);
    let met = met?;
    removed?;
    Ok(met)
}

/// Removes our socket's file. What somebody put in its place stays, and is told of: QEMU could not listen there.
fn remove(seat: Seat<'_>, file: &SocketFile) -> Result<(), Error> {
    if !seat.remove(file)? && seat.file()?.is_some() {
        return Err(sys::Error::of("unlinkat", seat.path(), &Errno::EADDRINUSE.into()).into());
    }
    Ok(())
}

fn meet(
    listener: &UnixListener,
    seat: Seat<'_>,
    is_foreign: impl Fn(i32) -> bool,
    deadline: Deadline,
) -> Result<Met, Error> {
    let mut refused = 0_u32;
    let mut talks = Talks::default();
    while let Some(stream) = next(listener, deadline).map_err(|errno| failed(seat, "accept", errno))? {
        let peer = getsockopt(&stream, sockopt::PeerCredentials).map_err(|errno| failed(seat, "getsockopt", errno))?;
        if !is_foreign(peer.pid()) {
            refused = refused.saturating_add(1);
            continue;
        }
        if let Some((figures, line)) = talks.next(stream, deadline) {
            let only_asked = talks.declined.into_iter().nth(TRIES - 1);
            return Ok(Met { figures, pid: peer.pid(), only_asked, line });
        }
    }
    let path = seat.path().to_owned();
    Err(match talks {
        Talks { fault: Some(fault), .. } => Error::Fault { path, fault },
        Talks { offer: Some(_), .. } => Error::Gone { path },
        _ => Error::Nobody { path, refused },
    })
}

/// The talks with data planes that have connected, one after the other.
#[derive(Default)]
struct Talks {
    /// What the last one that started a device offered, and when it was left.
    offer: Option<(Figures, Instant)>,
    /// Why devices were not started.
    declined: Vec<Fault>,
    /// What was wrong with the last one.
    fault: Option<Fault>,
}

impl Talks {
    /// Talks with the next one: what it offers, if that can be relied on. Else the reason is kept.
    fn next(&mut self, stream: UnixStream, deadline: Deadline) -> Option<(Figures, Line)> {
        let soon = deadline.at_most(PATIENCE);
        let learnt = Line::new(stream).and_then(|mut line| Ok((Figures::learn(&mut line, soon)?, line)));
        let follows_a_fault = self.fault.is_some();
        let (figures, mut line) = self.unless_fault(learnt, deadline)?;
        let came_at_once = |(offer, left): (Figures, Instant)| offer == figures && left.elapsed() < AT_ONCE;
        if self.offer.is_some_and(came_at_once) || self.declined.len() >= TRIES {
            return Some((figures, line));
        }
        let lasts = || if follows_a_fault { line.stays_quiet(soon.at_most(QUIET)) } else { Ok(()) };
        match lasts().and_then(|()| frontend::start_device(&mut line, &figures, soon)) {
            Err(fault @ (Fault::Refused(_) | Fault::Closed | Fault::Broken(_))) => {
                self.declined.push(fault.clone());
                self.unless_fault(Err(fault), deadline)
            }
            started => {
                self.unless_fault(started, deadline)?;
                match self.offer.replace((figures, Instant::now())) {
                    Some((earlier, _)) if earlier == figures => Some((figures, line)),
                    Some((earlier, _)) => {
                        self.unless_fault(Err(Fault::Changed(earlier.features, figures.features)), deadline)
                    }
                    None => None,
                }
            }
        }
    }

    fn unless_fault<T>(&mut self, result: Result<T, Fault>, deadline: Deadline) -> Option<T> {
        match result {
            Ok(value) => {
                self.fault = None;
                return Some(value);
            }
            // One that the deadline cut short tells less than the one before it.
            Err(Fault::Silent) if deadline.passed() && self.fault.is_some() => {}
            Err(fault) => self.fault = Some(fault),
        }
        None
    }
}

/// The next connection; `None` at the deadline.
fn next(listener: &UnixListener, deadline: Deadline) -> Result<Option<UnixStream>, Errno> {
    loop {
        if deadline.passed() {
            return Ok(None);
        }
        match poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], deadline.poll_timeout()) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno),
        }
        match listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            // Gone again before it was taken.
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))),
        }
    }
}

fn failed(seat: Seat<'_>, call: &'static str, errno: Errno) -> Error {
    sys::Error::of(call, seat.path(), &errno.into()).into()
}

#[cfg(test)]
mod tests {
    use super::super::backend::BackEnd;
    use super::super::seat::scratch::Scratch;
    use super::*;
    use std::io::{Read, Write};
    use std::thread::{self, JoinHandle};

    const OVS: Figures =
        Figures { features: 0xd7c6_6a7ca, protocol_features: 0x1001f, queues: 128, memory_slots: None };

    fn within(millis: u64) -> Deadline {
        Deadline::after(Duration::from_millis(millis))
    }

    /// Connects to the path as soon as somebody listens there, and does with the connection what it is told.
    fn client(path: &Path, act: impl FnOnce(UnixStream) + Send + 'static) -> JoinHandle<()> {
        let path = path.to_owned();
        thread::spawn(move || act(connect(&path)))
    }

    fn connect(path: &Path) -> UnixStream {
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return stream,
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// A data plane that connects once for each of these offers, and answers until it is hung up on.
    fn data_plane(path: &Path, offers: &[Figures]) -> JoinHandle<()> {
        let (path, offers) = (path.to_owned(), offers.to_vec());
        thread::spawn(move || offers.into_iter().for_each(|figures| answers(connect(&path), figures)))
    }

    fn answers(stream: UnixStream, figures: Figures) {
        let (mut line, mut back_end) = (Line::new(stream).unwrap(), BackEnd::new(figures));
        while let Ok(message) = line.receive(within(60_000)) {
            if let Some(answer) = back_end.answer(&message).unwrap() {
                line.send(&answer, within(60_000)).unwrap();
            }
        }
    }

    #[test]
    fn a_data_plane_is_met_and_nothing_is_left_at_the_name() {
        let scratch = Scratch::new("probe-met");
        let data_plane = data_plane(&scratch.path, &[OVS, OVS]);
        let mut met = probe(scratch.seat(), |_| true, within(60_000)).unwrap();
        assert_eq!((met.figures, &met.only_asked), (OVS, &None));
        assert!(!scratch.path.exists());
        met.ask_again(within(60_000)).unwrap();
        drop(met);
        data_plane.join().unwrap();
    }

    #[test]
    fn nobody_is_waited_for_until_the_deadline() {
        let scratch = Scratch::new("probe-nobody");
        let begun = Instant::now();
        let error = probe(scratch.seat(), |_| true, within(60)).unwrap_err();
        assert!(matches!(error, Error::Nobody { refused: 0, .. }), "{error}");
        assert!(error.to_string().contains(scratch.path.to_str().unwrap()));
        assert!((60..30_000).contains(&begun.elapsed().as_millis()) && !scratch.path.exists());
    }

    #[test]
    fn the_pods_own_processes_are_refused() {
        let scratch = Scratch::new("probe-refused");
        let own = i32::try_from(std::process::id()).unwrap();
        let tenant = client(&scratch.path, |stream| answers(stream, OVS));
        let error = probe(scratch.seat(), |pid| pid != own, within(2000)).unwrap_err();
        assert!(matches!(error, Error::Nobody { refused: 1, .. }), "{error}");
        tenant.join().unwrap();
    }

    #[test]
    fn after_one_that_hangs_up_another_is_taken() {
        let scratch = Scratch::new("probe-second");
        let path = scratch.path.clone();
        let both = client(&path.clone(), move |stream| {
            drop(stream);
            data_plane(&path, &[OVS, OVS]).join().unwrap();
        });
        assert_eq!(probe(scratch.seat(), |_| true, within(60_000)).unwrap().figures, OVS);
        both.join().unwrap();
    }

    #[test]
    fn an_offer_counts_when_it_comes_again() {
        let other = Figures { features: OVS.features ^ 1 << 13, ..OVS };
        let scratch = Scratch::new("probe-changes");
        let flips = data_plane(&scratch.path, &[other, OVS, OVS]);
        assert_eq!(probe(scratch.seat(), |_| true, within(60_000)).unwrap().figures, OVS);
        flips.join().unwrap();
        let one = data_plane(&scratch.path, &[OVS]);
        let error = probe(scratch.seat(), |_| true, within(3000)).unwrap_err();
        assert!(matches!(error, Error::Gone { .. }), "{error}");
        one.join().unwrap();
        let never_the_same = data_plane(&scratch.path, &[OVS, other]);
        let error = probe(scratch.seat(), |_| true, within(3000)).unwrap_err();
        let told = Fault::Changed(OVS.features, other.features);
        assert!(matches!(&error, Error::Fault { fault, .. } if *fault == told), "{error}");
        never_the_same.join().unwrap();
    }

    #[test]
    fn a_data_plane_that_starts_no_device_is_only_asked() {
        let scratch = Scratch::new("probe-declined");
        let path = scratch.path.clone();
        let refuses = thread::spawn(move || {
            for _ in 0..3 {
                let (mut line, mut back_end) = (Line::new(connect(&path)).unwrap(), BackEnd::new(OVS));
                while let Ok(message) = line.receive(within(60_000)) {
                    let answer = match message.request {
                        request::SET_MEM_TABLE => Some(message.reply(&1_u64.to_ne_bytes())),
                        _ => back_end.answer(&message).unwrap(),
                    };
                    answer.map_or(Ok(()), |answer| line.send(&answer, within(60_000))).unwrap();
                }
            }
        });
        let met = probe(scratch.seat(), |_| true, within(60_000)).unwrap();
        assert_eq!((met.figures, &met.only_asked), (OVS, &Some(Fault::Refused(request::SET_MEM_TABLE))));
        drop(met);
        refuses.join().unwrap();
    }

    #[test]
    fn silence_slow_bytes_and_nonsense_are_faults() {
        let slow = |mut stream: UnixStream| {
            while stream.write_all(&[1]).is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        };
        let liar = |mut stream: UnixStream| {
            let words = [17_u32, 5, 8, 0, 0].map(u32::to_ne_bytes).concat();
            let _ = stream.write_all(&words);
            thread::sleep(Duration::from_millis(50));
        };
        // Until it is hung up on.
        let silent = |mut stream: UnixStream| drop(stream.read_to_end(&mut Vec::new()));
        let mut faults = Vec::new();
        let acts: [Box<dyn FnOnce(UnixStream) + Send>; 3] = [Box::new(slow), Box::new(liar), Box::new(silent)];
        for act in acts {
            let scratch = Scratch::new("probe-fault");
            let data_plane = client(&scratch.path, act);
            match probe(scratch.seat(), |_| true, within(2000)) {
                Err(Error::Fault { fault, .. }) => faults.push(fault),
                other => panic!("{other:?}"),
            }
            assert!(!scratch.path.exists());
            data_plane.join().unwrap();
        }
        assert!(matches!(faults.as_slice(), [_, Fault::Nonsense(_), Fault::Silent]), "{faults:?}");
    }

    #[test]
    fn a_left_over_socket_is_removed_and_anything_else_is_foul() {
        let scratch = Scratch::new("probe-left-over");
        drop(UnixListener::bind(&scratch.path).unwrap());
        let error = probe(scratch.seat(), |_| true, within(20)).unwrap_err();
        assert!(matches!(error, Error::Nobody { .. }) && !scratch.path.exists(), "{error}");
        std::fs::write(&scratch.path, "").unwrap();
        assert!(probe(scratch.seat(), |_| true, within(20)).unwrap_err().is_foul());
        std::fs::remove_file(&scratch.path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &scratch.path).unwrap();
        assert!(probe(scratch.seat(), |_| true, within(20)).unwrap_err().is_foul());
    }
}
