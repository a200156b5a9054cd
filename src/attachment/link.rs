//! The NIC's link to the data plane, before the VM is touched: make sure that its socket is free, and probe the data plane.
//! A NIC that the VM has already is only looked at.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::cni::Error;
use crate::dataplane::access::{self, WriteAccess};
use crate::dataplane::probe::{self, ProbedDataPlane};
use crate::dataplane::socket_path::SocketPath;
use crate::deadline::Deadline;
use crate::libvirt::{Client, Domain};
use crate::pod::process::Process;
use crate::pod::running::RunningPod;
use crate::quote;
use crate::vm::attach;
use crate::vm::error::Error as VmError;

use super::context::Context;
use super::nic_state::{Heard, NicState, Recorded, judge, listens};
use super::ports::Port;
use super::shares::SharedVolume;
use super::{errors, unfinished};

/// The shortest pause between two looks for the data plane's connection. A look that takes longer is followed by a pause as
/// long as itself.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How long the data plane's connection must last: QEMU closes one that it can't use some milliseconds after it came.
pub const SETTLED: Duration = Duration::from_millis(50);

/// Why QEMU may have refused a data plane that runs.
const LACKS: &str = "If OVS was updated or reconfigured, it may lack features that the guest uses (QEMU's log says \"vhost \
                     lacks feature mask\"): then unplug the NIC and plug it again.";

/// A NIC and its data plane, which are to be linked.
pub struct Link<'a> {
    pub context: Context<'a>,
    pub running: &'a RunningPod,
    pub shared: SharedVolume<'a>,
    /// The NIC's socket in the pod's volume.
    pub socket_path: SocketPath<'a>,
    /// Its path as QEMU knows it.
    pub guest_path: &'a str,
    /// Its path as the data plane knows it.
    pub host_path: &'a str,
    /// OVS's port for it.
    pub port: Port<'a>,
}

impl Link<'_> {
    /// Makes sure that no process of the pod listens at the NIC's socket. The VM, `domain`, does not show the NIC.
    pub fn ensure_unused(&self, (client, domain): (&mut Client, &Domain), alias: &str) -> Result<(), Error> {
        let (running, deadline) = (self.running, self.context.deadline);
        if !listens(running, self.guest_path)? {
            return Ok(());
        }
        if let Some(pid) = running.wait_at(self.guest_path, deadline).first() {
            return Err(waits_for_another(*pid, self.guest_path, self.host_path));
        }
        // Another client's attach may be under way, or another VM of the pod may have the NIC.
        let path = running.path(self.guest_path);
        for one in &client.running_domains(deadline).map_err(|error| errors::libvirt(&error))? {
            let settled = attach::settle(client, one, deadline);
            match settled.and_then(|()| attach::describe(client, one, deadline)) {
                Ok(vm) if vm.at(&path).is_none() => {}
                Ok(_) => return Err(taken(&one.name, self.guest_path)),
                Err(VmError::Libvirt(error)) if error.is_no_domain() => {}
                Err(error) => return Err(errors::held(&error)),
            }
        }
        match judge(Recorded::default(), Heard::Nothing, || listens(running, self.guest_path)) {
            NicState::Unknown(error) => Err(error),
            NicState::LeftOver => {
                let what = unfinished::left_over(running, self.guest_path, alias, &domain.uuid_digits());
                Err(Error::try_again(errors::sentence(&what)))
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that a data plane is connected to a NIC that the VM has already: it may have gone since, or have yet to
    /// come after a call that was killed. The connection is only looked at. An OVS that isn't root is given the right to
    /// make it.
    ///
    /// # Errors
    /// No data plane is connected, and none comes within half of the time that is left.
    pub fn ensure_linked(&self) -> Result<(), Error> {
        let (whole, running) = (self.context.deadline, self.running);
        let deadline = whole.half();
        let linked = || {
            let ends = running.accepted(self.guest_path, None, whole).into_iter();
            ends.filter(|end| !end.is_of_stopped()).map(|end| end.inode).collect::<BTreeSet<u64>>()
        };
        let vswitchd = if linked().is_empty() { self.port.vswitchd(deadline) } else { None };
        if let Some(lacking) = vswitchd.and_then(|pid| self.grant_access(pid)) {
            return Err(Error::try_again(format!("The NIC is plugged already, but {lacking}.")));
        }
        while let Some(others) = next_connection(&BTreeSet::new(), linked, deadline) {
            std::thread::sleep(SETTLED.min(whole.remaining()));
            if !others.is_disjoint(&linked()) {
                return Ok(());
            }
        }
        let host_path = quote::value(self.host_path);
        Err(Error::try_again(match self.port.why_not_connected(whole) {
            Some(why) => format!(
                "The NIC is plugged already, and no data plane is connected to its socket {host_path}. {why} {LACKS}"
            ),
            None => format!(
                "The NIC is plugged already, and no data plane is connected to its socket. Does OVS run, with a port that has \
                 vhost-server-path {host_path}? {LACKS}"
            ),
        }))
    }

    /// Probes the data plane.
    pub fn probe(&self) -> Result<ProbedDataPlane, Error> {
        let (sandbox, journal) = (&self.running.sandbox, self.context.journal);
        let is_foreign = |pid| Process::open(pid).is_ok_and(|process| sandbox.is_foreign(&process));
        // No data plane finds the socket if another call has removed the share.
        let removed = OnceCell::new();
        let goes_on = || self.shared.ensure().map_err(|error| drop(removed.set(error))).is_ok();
        // The rest of the time is for plugging: an attach that has begun should not be given up.
        let probed = probe::probe(self.socket_path, is_foreign, goes_on, self.context.deadline.half());
        let why = || self.port.why_not_connected(self.context.deadline);
        let data_plane = probed
            .map_err(|error| removed.into_inner().unwrap_or_else(|| errors::data_plane(&error, self.host_path, why)))?;
        if let Some(fault) = &data_plane.only_asked {
            journal.warn(format_args!("the data plane did not start the probe's device, and was only asked: {fault}"));
        }
        journal.checked(format_args!("data plane met: {}", data_plane.capabilities));
        Ok(data_plane)
    }

    /// Gives a data plane that isn't root the right to connect to QEMU's socket. Returns what it lacks if that fails.
    pub fn grant_access(&self, pid: i32) -> Option<String> {
        let journal = self.context.journal;
        match Process::open(pid).and_then(|process| access::ensure(self.socket_path, &process)) {
            Ok(Some(given @ WriteAccess::Given { .. })) => journal.changed(given),
            Ok(Some(lacking @ WriteAccess::Lacking { .. })) => return Some(lacking.to_string()),
            Ok(_) => {}
            // It may still have it.
            Err(error) => journal.warn(format_args!("the data plane's right to connect is not known: {error}")),
        }
        None
    }
}

/// Returns the error for another client's attach that waits at the socket.
fn waits_for_another(pid: i32, guest_path: &str, host_path: &str) -> Error {
    Error::try_again(format!(
        "QEMU (process {pid}) waits at the NIC's socket {} in another client's attach, and the VM stands still until a data plane \
         connects to {}: does OVS run, with a port that has this vhost-server-path? vhostuser-hotplug rescue frees the VM.",
        quote::value(guest_path),
        quote::value(host_path)
    ))
}

/// Returns the error for another NIC of a VM of the pod at the socket.
fn taken(vm: &str, guest_path: &str) -> Error {
    Error::conflict(format!(
        "The VM {} has a NIC at the socket {}, which another client plugged: unplug that one first (virsh detach-device).",
        quote::value(vm),
        quote::value(guest_path)
    ))
}

/// Waits until QEMU has accepted connections other than `own`, or until the deadline. Returns them.
pub fn next_connection(
    own: &BTreeSet<u64>,
    accepted: impl Fn() -> BTreeSet<u64>,
    deadline: Deadline,
) -> Option<BTreeSet<u64>> {
    loop {
        let begun = Instant::now();
        let others: BTreeSet<u64> = accepted().difference(own).copied().collect();
        if !others.is_empty() {
            return Some(others);
        }
        if deadline.passed() {
            return None;
        }
        // The kernel's list may be long, and QEMU needs the CPU too.
        std::thread::sleep(begun.elapsed().max(LOOK_AGAIN).min(deadline.remaining()));
    }
}
