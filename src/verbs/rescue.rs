//! Rescue: frees the VMs of a pod that stand still in an attach, whoever sent it, and has their NICs unplugged.
//!
//! A QEMU that waits for a back end takes the first that it can use. So a stand-in that any QEMU takes ends the attach within
//! milliseconds, and the VM runs on. The NIC that comes of it is of no use to any data plane, so libvirt unplugs it.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::once_with;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::cni::Error;
use crate::config::Config;
use crate::dataplane::seat::Seat;
use crate::dataplane::standin;
use crate::deadline::Deadline;
use crate::libvirt::{Access, Client, Domain};
use crate::pod::identity::PodUid;
use crate::pod::process::Process;
use crate::quote;
use crate::record::Store;
use crate::sys::{self, Walk};
use crate::vm::attach;

use super::hypervisor::Hypervisor;
use super::journal::Journal;
use super::release::release;
use super::sandbox::Living;
use super::waiting::Waiting;
use super::{fault, ledger};

/// How long a QEMU must be seen to wait before it is freed. A data plane that looks once a second ends most waits by itself.
const PATIENCE: Duration = Duration::from_millis(1200);

/// How often it is looked at meanwhile. A back end that QEMU refuses makes it stop waiting for a moment, again and again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a stand-in may take to get QEMU out of its wait.
const FREED: Duration = Duration::from_secs(2);

/// How long the pod's lock is waited for. A call that holds it for longer does not serve a QEMU that waits.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// A pod whose VMs are looked at. This process is in the host's mount namespace.
pub struct Rescue<'a> {
    /// Where things are on this node.
    pub config: &'a Config,
    /// The pod.
    pub uid: &'a PodUid,
    /// What lives of it.
    pub living: &'a Living,
    /// When to give up.
    pub deadline: Deadline,
}

/// A QEMU that waited.
#[derive(Debug)]
pub struct Freed {
    /// Its pid.
    pub pid: i32,
    /// The socket at which it waited, as it knows it.
    pub path: String,
    /// Whether it runs again.
    pub runs: bool,
    /// The alias of the NIC that was unplugged, if any came of the attach; or what went wrong.
    pub outcome: Result<Option<String>, Error>,
}

impl Rescue<'_> {
    /// Frees every VM of the pod that waits at one of these sockets, or at any if it is `None`. Returns what was found.
    ///
    /// # Errors
    /// That it cannot be known which QEMU waits.
    pub fn run(&self, wanted: Option<&BTreeSet<String>>, journal: &mut Journal) -> Result<Vec<Freed>, Error> {
        let store = Store::new(&self.config.state_dir);
        let lock = store.lock(self.uid, self.deadline.at_most(LOCK_PATIENCE));
        if let Err(error) = &lock {
            journal.warn(format_args!("going on without the pod's lock: {error}"));
        }
        let is_wanted = |path: &str| {
            let name = Path::new(path).file_name().and_then(|name| name.to_str());
            wanted.is_none_or(|wanted| wanted.contains(path) || name.is_some_and(|name| wanted.contains(name)))
        };
        let stuck = self.stuck()?.into_iter().filter(|waiting| is_wanted(&waiting.path));
        let freed = stuck.map(|waiting| {
            let freed = AtomicBool::new(false);
            let outcome = self.free(&waiting, &freed, &store, journal);
            Freed { pid: waiting.process.pid(), path: waiting.path, runs: freed.into_inner(), outcome }
        });
        let freed = freed.collect();
        if let Ok(lock) = lock {
            super::undo::let_go(lock, &store, self.uid);
        }
        Ok(freed)
    }

    /// The QEMUs that have waited for long.
    fn stuck(&self) -> Result<Vec<Waiting<'_>>, Error> {
        let look = || {
            self.living.waiting(self.deadline).map_err(|error| {
                Error::io(
                    "It cannot be known whether a QEMU of the pod waits for a back end: that takes the right to trace its \
                     process (kernel.yama.ptrace_scope below 3, and CAP_SYS_PTRACE).",
                )
                .with_details(error)
            })
        };
        let (begun, mut seen) = (Instant::now(), BTreeMap::new());
        loop {
            let since = begun.elapsed();
            for waiting in look()? {
                let key = (waiting.process.pid(), waiting.path.clone());
                seen.entry(key).or_insert((since, since, waiting)).1 = since;
            }
            if seen.is_empty() && since > PATIENCE / 4 || since > PATIENCE {
                break;
            }
            thread::sleep(LOOK_AGAIN);
        }
        let long = |(first, last, _): &(Duration, Duration, _)| *last - *first > PATIENCE / 2;
        Ok(seen.into_values().filter(long).map(|(_, _, waiting)| waiting).collect())
    }

    fn free(
        &self,
        waiting: &Waiting<'_>,
        freed: &AtomicBool,
        store: &Store,
        journal: &mut Journal,
    ) -> Result<Option<String>, Error> {
        let Waiting { process, path } = waiting;
        let (directory, name) = locate(process, path, self.deadline)?;
        let seat = Seat::new(directory.as_fd(), &name, Path::new(path));
        let waits = || self.living.waits_at(path, self.deadline).filter(|pid| *pid == process.pid());
        let worked = standin::free(seat, waits, freed, self.deadline, || {
            let patience = self.deadline.at_most(FREED);
            while !freed.load(Ordering::Acquire) {
                if patience.passed() {
                    return Err(Error::try_again(format!(
                        "The process {} waits at {}, and does not speak with a vhost-user back end that connects there: it is \
                         no QEMU in an attach, or the socket's name leads to another.",
                        process.pid(),
                        quote::value(path)
                    )));
                }
                thread::sleep(LOOK_AGAIN.min(patience.remaining()));
            }
            journal.did(format_args!("free QEMU {} at {}", process.pid(), quote::value(path)));
            self.unplug(path, store, journal)
        });
        worked.map_err(|error| fault::system("starting the stand-in", &error))?.0
    }

    /// Unplugs the NIC that came of an attach. Returns its alias, if there is one.
    fn unplug(&self, path: &str, store: &Store, journal: &mut Journal) -> Result<Option<String>, Error> {
        let reached = Hypervisor::reach(self.config, self.uid, self.living, Access::Full, self.deadline);
        let mut libvirt = reached.map_err(|error| error.told())?;
        let client = &mut libvirt.client;
        let running = client.running_domains(self.deadline).map_err(|error| fault::libvirt(&error))?;
        for domain in &running {
            if let Some(alias) = self.unplug_from(client, domain, path, store, journal)? {
                return Ok(Some(alias));
            }
        }
        Ok(None)
    }

    fn unplug_from(
        &self,
        client: &mut Client,
        domain: &Domain,
        path: &str,
        store: &Store,
        journal: &mut Journal,
    ) -> Result<Option<String>, Error> {
        let settled = attach::settle(client, domain, self.deadline);
        let described = settled.and_then(|()| attach::describe(client, domain, self.deadline));
        let description = described.map_err(|error| fault::held(&error))?;
        let Some(nic) = description.at(path) else { return Ok(None) };
        let Some(target) = nic.target() else { return Ok(None) };
        // So that no ADD takes it for plugged.
        ledger::record_removal(store, self.uid, path)?;
        release(self.living, client, domain, (target, target.alias), self.deadline, journal)?;
        Ok(Some(target.alias.to_owned()))
    }
}

/// The directory that holds a socket, opened as its process sees it, and the socket's name in it.
fn locate(process: &Process, path: &str, deadline: Deadline) -> Result<(OwnedFd, String), Error> {
    let unreachable = |why: String| {
        Error::try_again(format!(
            "QEMU {} waits at {}, which cannot be reached: {why}. Only its end (virsh destroy) ends the wait.",
            process.pid(),
            quote::value(path)
        ))
    };
    let whole = Path::new(path);
    let (parent, name) = (whole.parent(), whole.file_name().and_then(|name| name.to_str()));
    let (Some(parent), Some(name), true) = (parent.map(Path::to_owned), name, whole.is_absolute()) else {
        return Err(unreachable("its name is no absolute path".to_owned()));
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
