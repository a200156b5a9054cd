//! Rescue: frees the VMs of a pod that stand still in an attach, by whichever client, and unplugs their NICs.
//!
//! A QEMU that waits for a back end takes the first one that it can use. So a stand-in that any QEMU takes ends the attach
//! within milliseconds, and the VM runs on. No data plane can serve the NIC that comes of it, so libvirt unplugs it.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::once_with;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::attachment::record::Record;
use crate::cni::Error;
use crate::dataplane::socket_path::SocketPath;
use crate::dataplane::standin;
use crate::deadline::Deadline;
use crate::libvirt::{Client, Domain};
use crate::pod::process::Process;
use crate::pod::running::RunningPod;
use crate::pod::waiting::Waiting;
use crate::quote;
use crate::sys::{self, Walk};
use crate::vm::attach;
use crate::vm::interface::Target;

use super::context::{Context, PodLock};
use super::release::release;
use super::{errors, ledger};

/// How long a QEMU must be seen to wait before it is freed. A data plane that tries once a second ends most waits itself.
const PATIENCE: Duration = Duration::from_millis(1200);

/// The pause between two looks at it. If QEMU refuses a back end again and again, it waits only for moments.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How many looks without a wait show that it has ended.
const LOOKS: u32 = 40;

/// How many of these looks must find it waiting.
const SIGHTINGS: u32 = 4;

/// How long a stand-in may take to get QEMU out of its wait.
const FREED: Duration = Duration::from_secs(2);

/// How many times to search for more that wait, once some were freed.
const ROUNDS: u32 = 8;

/// How long to wait for the pod's lock. A call that holds it for longer does not free the QEMU that waits.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// A pod whose VMs may wait.
pub struct Rescue<'a> {
    pub context: Context<'a>,
    pub running: &'a RunningPod,
}

/// A QEMU that waited.
#[derive(Debug)]
pub struct Found {
    pub pid: i32,
    /// The path at which it waited, as it knows it.
    pub path: String,
    pub outcome: Outcome,
}

/// What became of a QEMU that waited.
#[derive(Debug)]
pub enum Outcome {
    /// It runs again, and the NIC with this alias was unplugged.
    Unplugged(String),
    /// It runs again, and the attach failed: there is no NIC.
    Failed,
    /// It runs again, since a data plane has connected meanwhile.
    Connected,
    /// It runs again, and its NIC is to be unplugged.
    Freed,
    /// It ran again, and has ended: a libvirt that was started anew while QEMU waited ends it.
    Ended,
    /// It runs again, and its NIC could not be unplugged: why.
    Plugged(Error),
    /// It still waits: why.
    Waits(Error),
}

impl Outcome {
    /// Returns what is still wrong with it, if anything is.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Unplugged(_) | Self::Failed | Self::Connected | Self::Freed | Self::Ended => None,
            Self::Plugged(error) | Self::Waits(error) => Some(error),
        }
    }
}

impl Rescue<'_> {
    /// Frees every VM of the pod that waits at one of these sockets, or at any socket for `None`. Returns what it found.
    pub fn run(&self, wanted: Option<&BTreeSet<String>>) -> Result<Vec<Found>, Error> {
        let Context { store, uid, journal, deadline, .. } = self.context;
        let lock = PodLock::take(store, uid, deadline.at_most(LOCK_PATIENCE));
        if let Err(error) = &lock {
            journal.warn(format_args!("going on without the pod's lock: {error}"));
        }
        let is_wanted = |path: &str| {
            let name = Path::new(path).file_name().and_then(|name| name.to_str());
            let is_it = |one: &String| self.running.path(one).is(path) || name == Some(one);
            wanted.is_none_or(|wanted| wanted.iter().any(is_it))
        };
        // Free all of them before any NIC is unplugged: a guest may take its time to release one, and the next VM stands still
        // meanwhile. Then search again, because attaches that waited for one another come one by one.
        let mut found: Vec<Found> = Vec::new();
        for round in 0..ROUNDS {
            let mut stuck = self.stuck(wanted.is_some(), round > 0)?;
            stuck.retain(|waiting| is_wanted(&waiting.path));
            let new = |waiting: &Waiting<'_>| {
                let is_it = |one: &Found| one.pid == waiting.process.pid() && one.path == waiting.path;
                !found.iter().any(|one| is_it(one) && matches!(one.outcome, Outcome::Waits(_)))
            };
            stuck.retain(new);
            if stuck.is_empty() {
                break;
            }
            let count = u32::try_from(stuck.len()).unwrap_or(u32::MAX);
            for (waiting, left) in stuck.iter().zip((1..=count).rev()) {
                let deadline = deadline.at_most(deadline.remaining() / left.saturating_add(1));
                let outcome = self.free(waiting, deadline, lock.is_ok());
                found.push(Found { pid: waiting.process.pid(), path: waiting.path.clone(), outcome });
            }
        }
        for one in found.iter_mut().filter(|one| matches!(one.outcome, Outcome::Freed)) {
            one.outcome = match self.unplug(&one.path, lock.is_ok()) {
                Ok(Some(alias)) => Outcome::Unplugged(alias),
                Ok(None) if Process::open(one.pid).is_err() => Outcome::Ended,
                Ok(None) => Outcome::Failed,
                Err(error) => Outcome::Plugged(error),
            };
        }
        Ok(found)
    }

    /// Returns the QEMUs that have waited for long: processes named so, or any process if a socket is `named`. `again` says
    /// that others were freed just now; it halves the wait.
    fn stuck(&self, named: bool, again: bool) -> Result<Vec<Waiting<'_>>, Error> {
        let patience = if again { PATIENCE / 2 } else { PATIENCE };
        let is_qemu = |process: &&Process| named || process.name().is_ok_and(|name| name.starts_with("qemu"));
        let candidates: Vec<&Process> = self.running.everyone().filter(is_qemu).collect();
        let (begun, mut seen) = (Instant::now(), BTreeMap::new());
        loop {
            let since = begun.elapsed();
            let waiting = self.running.waiting(candidates.iter().copied(), self.context.deadline);
            for waiting in waiting.map_err(|error| unseen(&error))? {
                let key = (waiting.process.pid(), waiting.path.clone());
                let (_, last, count, _) = seen.entry(key).or_insert((since, since, 0_u32, waiting));
                (*last, *count) = (since, count.saturating_add(1));
            }
            if since > patience || (seen.is_empty() && since > patience / 2) {
                break;
            }
            thread::sleep(LOOK_AGAIN);
        }
        let is_long = |(first, last, count, _): &(Duration, Duration, u32, _)| {
            *last - *first > patience / 2 && *count >= SIGHTINGS
        };
        Ok(seen.into_values().filter(is_long).map(|(.., waiting)| waiting).collect())
    }

    fn free(&self, waiting: &Waiting<'_>, deadline: Deadline, is_locked: bool) -> Outcome {
        let Waiting { process, path, .. } = waiting;
        let (directory, name) = match locate(process, path, deadline) {
            Ok(located) => located,
            Err(error) => return Outcome::Waits(error),
        };
        let socket_path = SocketPath::new(directory.as_fd(), &name, Path::new(path));
        let freed = AtomicBool::new(false);
        let waits = || Vec::from_iter(waiting.is_now().then(|| process.pid()));
        let worked = standin::free(socket_path, waits, &freed, deadline, || {
            let patience = deadline.at_most(FREED);
            while !freed.load(Ordering::Acquire) && !patience.passed() {
                thread::sleep(LOOK_AGAIN);
            }
            // Look several times: it may be refusing a back end.
            let is_stuck = (0..LOOKS).any(|_| {
                thread::sleep(LOOK_AGAIN);
                waiting.is_now()
            });
            match (freed.load(Ordering::Acquire), is_stuck) {
                (_, true) => Outcome::Waits(Error::try_again(format!(
                    "Process {} does not go on with a vhost-user back end that connects to {}: it is no QEMU in an attach, or \
                     something else is at the socket's name.",
                    process.pid(),
                    quote::value(path)
                ))),
                (false, false) => Outcome::Connected,
                (true, false) => {
                    self.context.journal.changed(format_args!("free QEMU {} at {}", process.pid(), quote::value(path)));
                    // So that no ADD takes the NIC for plugged.
                    let path = self.as_recorded(path);
                    let marked = if is_locked { ledger::record_removal(&self.context, &path) } else { Ok(()) };
                    marked.map_or_else(Outcome::Plugged, |()| Outcome::Freed)
                }
            }
        });
        match worked {
            Ok((outcome, _)) => outcome,
            Err(error) => Outcome::Waits(errors::system("starting the stand-in", &error)),
        }
    }

    /// Returns the path of a socket as the pod's records spell it, if they have it.
    fn as_recorded(&self, path: &str) -> String {
        let bound = self.running.path(path);
        let recorded = self.context.records().into_iter().filter_map(|record| Some(record.nic?.path));
        recorded.into_iter().find(|one| bound.is(one)).unwrap_or_else(|| path.to_owned())
    }

    /// Unplugs the NIC that came of an attach. Returns its alias, if there is one.
    fn unplug(&self, path: &str, is_locked: bool) -> Result<Option<String>, Error> {
        let recorded = self.as_recorded(path);
        let is_recorded = |record: &Record| record.nic.as_ref().is_some_and(|nic| nic.path == recorded);
        if !is_locked && self.context.records().iter().any(is_recorded) {
            return Err(Error::try_again("The NIC is left to the call that holds the pod's lock."));
        }
        let client = &mut self.context.libvirt(self.running)?.client;
        let running = client.running_domains(self.context.deadline).map_err(|error| errors::libvirt(&error))?;
        let mut failed = None;
        for domain in &running {
            match self.unplug_from(client, domain, path) {
                Ok(Some(alias)) => return Ok(Some(alias)),
                Ok(None) => {}
                // Another one may have it.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    fn unplug_from(&self, client: &mut Client, domain: &Domain, path: &str) -> Result<Option<String>, Error> {
        let deadline = self.context.deadline;
        let settled = attach::settle(client, domain, deadline);
        let described = settled.and_then(|()| attach::describe(client, domain, deadline));
        let description = described.map_err(|error| errors::held(&error))?;
        let path = self.running.path(path);
        let Some(nic) = description.at(&path) else { return Ok(None) };
        let alias = nic.alias.as_deref().ok_or_else(|| {
            Error::libvirt("libvirt shows the NIC without an alias: unplug it with virsh detach-device.")
        })?;
        let target = Target { mac: Some(&nic.mac), path: &path, alias };
        release(&self.context, self.running, (client, domain), (target, alias))?;
        Ok(Some(alias.to_owned()))
    }
}

/// Returns the error for a QEMU that can't be seen to wait or not.
fn unseen(error: &sys::Error) -> Error {
    match error.errno() {
        Errno::EPERM | Errno::EACCES => Error::io(
            "Cannot tell whether a QEMU of the pod waits for a back end: that takes the right to trace its process \
             (kernel.yama.ptrace_scope below 3, and CAP_SYS_PTRACE).",
        )
        .with_details(error),
        Errno::ETIMEDOUT => {
            Error::try_again("The time was up before it was known whether a QEMU of the pod waits: raise --timeout.")
        }
        _ => errors::system("looking for a QEMU that waits", error),
    }
}

/// Opens the directory that holds a socket, as its process sees it. Returns it with the socket's name in it.
fn locate(process: &Process, path: &str, deadline: Deadline) -> Result<(OwnedFd, String), Error> {
    let unreachable = |why: String| {
        Error::try_again(format!(
            "Cannot reach the socket {1} at which QEMU {0} waits: {why}. To end the wait, destroy the VM (virsh destroy).",
            process.pid(),
            quote::value(path)
        ))
    };
    let whole = Path::new(path);
    let (parent, name) = (whole.parent(), whole.file_name().and_then(|name| name.to_str()));
    let (Some(parent), Some(name), true) = (parent.map(Path::to_owned), name, whole.is_absolute()) else {
        return Err(unreachable("its path is not absolute".to_owned()));
    };
    let root = process.root().map_err(|error| unreachable(error.to_string()))?;
    // A file system of the pod's need not answer.
    let opened = deadline.bound(once_with(move || sys::open_below(root.as_fd(), &parent, Walk::Rooted))).next();
    match opened {
        Some(Ok(Ok(directory))) => Ok((directory, name.to_owned())),
        Some(Ok(Err(error))) => Err(unreachable(error.to_string())),
        Some(Err(_)) | None => Err(unreachable("looking there took too long".to_owned())),
    }
}
