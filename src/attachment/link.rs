//! The NIC's link to the data plane, as ADD makes it: meet the data plane, plug the NIC with a stand-in in its place, and
//! hand QEMU over to it.
//!
//! In this order nothing that may hang is ever waited for by QEMU, unless the data plane stops in the few milliseconds
//! in which QEMU speaks with it: it has just answered when QEMU is handed over.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::cni::Error;
use crate::dataplane::access::{self, WriteAccess};
use crate::dataplane::capabilities::Capabilities;
use crate::dataplane::guard;
use crate::dataplane::message;
use crate::dataplane::probe::{self, ProbedDataPlane};
use crate::dataplane::socket_path::SocketPath;
use crate::dataplane::standin;
use crate::deadline::Deadline;
use crate::libvirt::{Client, Domain};
use crate::pod::process::Process;
use crate::pod::socket_end::SocketEnd;
use crate::quote;
use crate::vm::attach;
use crate::vm::detach;
use crate::vm::error::Error as VmError;
use crate::vm::interface::Interface;

use super::errors::Failure;
use super::journal::Journal;
use super::ledger::Ledger;
use super::nic_state::{Heard, NicState, Recorded, judge};
use super::ports::Port;
use super::release::release;
use super::unfinished;
use super::{errors, sandbox};
use crate::pod::running::RunningPod;

/// How long to wait between two looks for the data plane's connection, at least; as long as a look takes, where that is more.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How long is looked for a QEMU that waits.
const LOOK_FOR_WAITING: Duration = Duration::from_millis(500);

/// How long the data plane's connection must last: QEMU closes one that it cannot use, some milliseconds after it came.
const SETTLED: Duration = Duration::from_millis(50);

/// Why QEMU may have refused a data plane that is there.
const LACKS: &str = "If OVS was updated or set up in another way, it may lack features that the guest uses (QEMU's log says \
                     \"vhost lacks feature mask\"): then unplug the NIC and plug it again.";

/// A link that is to be made.
pub struct Link<'a> {
    /// What lives of the pod.
    pub running: &'a RunningPod,
    /// The NIC's socket in the pod's volume.
    pub socket_path: SocketPath<'a>,
    /// Its path as QEMU knows it.
    pub guest_path: &'a str,
    /// Its path as the data plane knows it.
    pub host_path: &'a str,
    /// Makes sure that the path outside leads to the pod's volume.
    pub share: &'a (dyn Fn() -> Result<(), Error> + Sync),
    /// OVS's port for it.
    pub port: Port<'a>,
    /// When to give up.
    pub deadline: Deadline,
}

impl Link<'_> {
    /// Makes sure that nobody in the pod has the NIC's socket, which the VM `on` which it is to be plugged does not show.
    ///
    /// # Errors
    /// That somebody listens there, or that it cannot be known.
    pub fn ensure_unused(&self, (client, domain): (&mut Client, &Domain), alias: &str) -> Result<(), Error> {
        if !sandbox::listens(self.running, self.guest_path)? {
            return Ok(());
        }
        if let Some(pid) = self.running.wait_at(self.guest_path, self.deadline).first() {
            return Err(waits_for_another(*pid, self.guest_path, self.host_path));
        }
        // Another client's attach may be under way, or another VM of the pod have the NIC.
        let path = self.running.path(self.guest_path);
        let running = client.running_domains(self.deadline).map_err(|error| errors::libvirt(&error))?;
        for one in &running {
            let settled = attach::settle(client, one, self.deadline);
            let described = settled.and_then(|()| attach::describe(client, one, self.deadline));
            match described {
                Ok(vm) if vm.at(&path).is_none() => {}
                Ok(_) => return Err(taken(&one.name, self.guest_path)),
                Err(VmError::Libvirt(error)) if error.is_no_domain() => {}
                Err(error) => return Err(errors::held(&error)),
            }
        }
        match judge(Recorded::default(), Heard::Nothing, || sandbox::listens(self.running, self.guest_path)) {
            NicState::Unknown(error) => Err(error),
            NicState::LeftOver => {
                let what = unfinished::left_over(self.running, self.guest_path, alias, &domain.uuid_digits());
                Err(Error::try_again(errors::sentence(&what)))
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that a data plane is connected to a NIC that was there before: it may have gone since, or have yet to come
    /// after a call that was killed. The connection is only looked at; an OVS that isn't root is given the right to make it.
    ///
    /// # Errors
    /// That none is, and none comes within half of the time that is left.
    pub fn ensure_linked(&self, journal: &mut Journal) -> Result<(), Error> {
        let deadline = self.deadline.half();
        let linked = || {
            let awake = self
                .running
                .accepted(self.guest_path, None, self.deadline)
                .into_iter()
                .filter(|end| !end.is_of_stopped());
            awake.map(|end| end.inode).collect::<BTreeSet<u64>>()
        };
        let vswitchd = if linked().is_empty() { self.port.vswitchd(deadline) } else { None };
        if let Some(lacking) = vswitchd.and_then(|pid| self.open_to(pid, journal)) {
            return Err(Error::try_again(format!("The NIC is plugged already, but {lacking}.")));
        }
        while let Some(others) = next_connection(&BTreeSet::new(), linked, deadline) {
            std::thread::sleep(SETTLED.min(self.deadline.remaining()));
            if !others.is_disjoint(&linked()) {
                return Ok(());
            }
        }
        if let Some(why) = self.port.why_not_connected(self.deadline) {
            return Err(Error::try_again(format!(
                "The NIC is plugged already, and no data plane is connected to its socket {}. {why} {LACKS}",
                quote::value(self.host_path)
            )));
        }
        Err(Error::try_again(format!(
            "The NIC is plugged already, and no data plane is connected to its socket. Does OVS run, with a port that has \
             vhost-server-path {}? {LACKS}",
            quote::value(self.host_path)
        )))
    }

    /// Meets the data plane, before the VM is touched.
    ///
    /// # Errors
    /// That no data plane came, or that it does not answer.
    pub fn meet(&self, journal: &mut Journal) -> Result<ProbedDataPlane, Error> {
        let met = self.probe()?;
        if let Some(fault) = &met.only_asked {
            journal.warn(format_args!("the data plane did not start the probe's device, and was only asked: {fault}"));
        }
        journal.checked(format_args!("data plane met: {}", met.capabilities));
        Ok(met)
    }

    fn probe(&self) -> Result<ProbedDataPlane, Error> {
        let sandbox = &self.running.sandbox;
        let is_foreign = |pid| Process::open(pid).is_ok_and(|process| sandbox.is_foreign(&process));
        // No data plane finds the socket while another call has taken the share.
        let taken = OnceCell::new();
        let goes_on = || (self.share)().map_err(|error| drop(taken.set(error))).is_ok();
        // What is left of the time is for plugging: an attach that is begun should not be given up on.
        let met = probe::probe(self.socket_path, is_foreign, goes_on, self.deadline.half());
        met.map_err(|error| {
            let unmet = || errors::data_plane(&error, self.host_path, || self.port.why_not_connected(self.deadline));
            taken.into_inner().unwrap_or_else(unmet)
        })
    }

    /// Plugs the NIC, and waits until the data plane that was met has it.
    ///
    /// # Errors
    /// Those of attaching; or that the data plane did not connect, and then the NIC is unplugged again.
    pub fn plug(
        &self,
        client: &mut Client,
        domain: &Domain,
        asked: &Interface,
        mut met: ProbedDataPlane,
        ledger: &mut Ledger<'_>,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let capabilities = met.capabilities;
        // Gone, it has no connection either; where this process lives too, its list is looked at anyway.
        let data_plane = Process::open(met.pid).ok().filter(|process| !process.is_beside_us());
        let ends = || self.running.accepted(self.guest_path, data_plane.as_ref(), self.deadline);
        let accepted = || ends().into_iter().map(|end| end.inode).collect();
        let plugged = standin::during(self.socket_path, capabilities, self.deadline, accepted, || {
            attach::attach(client, domain, asked, self.deadline).map_err(|error| self.not_attached(&error, journal))?;
            journal.changed(format_args!("attach {} {} queues={}", asked.alias, asked.mac, asked.queues));
            if let Err(error) = (self.share)() {
                let (then, open) = self.take_back((&mut *client, domain), asked, ledger, journal);
                let msg = format!("{} The NIC was plugged, {then}.", error.msg);
                return Err(Failure { error: Error { msg, ..error }, open });
            }
            self.let_in((&mut *client, domain), asked, met.pid, ledger, journal)?;
            self.ensure_same((&mut *client, domain), asked, &mut met, ledger, journal)
        });
        let (outcome, served) = plugged.map_err(|error| errors::system("starting the stand-in", &error))?;
        if let Some(fault) = &served.error {
            journal.warn(format_args!("the stand-in's connection to QEMU ended early: {fault}"));
        }
        outcome?;
        journal.checked(format_args!("stand-in: {} messages", served.requests));
        if served.widened {
            return Err(self.refused((client, domain), asked, capabilities, ledger, journal));
        }
        // From here on QEMU waits for the data plane's answers.
        let linked = guard::during(ends, || {
            // Some time has passed: the guest's driver was waited for.
            self.ensure_same((&mut *client, domain), asked, &mut met, ledger, journal)?;
            let pid = met.pid;
            drop(met);
            let deadline = self.deadline.half();
            while let Some(others) = next_connection(&served.accepted, accepted, deadline) {
                let settled = Deadline::after(SETTLED);
                // Whether it stays, and meanwhile whether libvirt did what it said.
                self.verify((&mut *client, domain), asked, ledger, journal)?;
                std::thread::sleep(settled.remaining());
                let (ends, own) = (ends(), i32::try_from(std::process::id()).ok());
                // Not the stand-in's, where QEMU has not taken leave of it.
                let of_others =
                    |end: &&SocketEnd| others.contains(&end.inode) && (end.peer().is_none() || end.peer() != own);
                let there: Vec<&SocketEnd> = ends.iter().filter(of_others).collect();
                if !Self::is_linked(&there, journal) {
                    continue;
                }
                if there.iter().any(|end| end.peer().is_some_and(|peer| peer != pid)) {
                    let why = "another process than the data plane that was asked has connected to its socket";
                    return Err(self.of_no_use((&mut *client, domain), asked, why, ledger, journal));
                }
                journal.checked("data plane connected");
                return Ok(());
            }
            let why = "the data plane did not connect to its socket";
            Err(self.of_no_use((&mut *client, domain), asked, why, ledger, journal))
        });
        let (outcome, cut) = linked.map_err(|error| errors::system("starting the guard", &error))?;
        if cut > 0 {
            journal.warn(format_args!("the data plane hung, and was cut off to let the VM run on ({cut} times)"));
        }
        outcome
    }

    /// Makes sure that the data plane may connect to QEMU's socket. If not, the NIC is unplugged again.
    fn let_in(
        &self,
        on: (&mut Client, &Domain),
        asked: &Interface,
        pid: i32,
        ledger: &mut Ledger<'_>,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let Some(lacking) = self.open_to(pid, journal) else { return Ok(()) };
        let (then, open) = self.take_back(on, asked, ledger, journal);
        Err(Failure { error: Error::try_again(format!("The NIC was plugged, but {lacking}, {then}.")), open })
    }

    /// Gives a data plane that isn't root the right to connect to QEMU's socket; why it can't be, if it can't.
    fn open_to(&self, pid: i32, journal: &mut Journal) -> Option<String> {
        match Process::open(pid).and_then(|process| access::ensure(self.socket_path, &process)) {
            Ok(Some(given @ WriteAccess::Given { .. })) => journal.changed(given),
            Ok(Some(lacking @ WriteAccess::Lacking { .. })) => return Some(lacking.to_string()),
            Ok(_) => {}
            // It may still have it.
            Err(error) => journal.warn(format_args!("the data plane's right to connect is not known: {error}")),
        }
        None
    }

    /// Makes sure that QEMU is handed over to what was asked, and not to what comes in its place: the guest has been shown its
    /// features. If not, the NIC is unplugged again.
    fn ensure_same(
        &self,
        on: (&mut Client, &Domain),
        asked: &Interface,
        met: &mut ProbedDataPlane,
        ledger: &mut Ledger<'_>,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let why = match met.ask_again(self.deadline.half()) {
            Ok(()) => return Ok(()),
            Err(message::Error::Silent) => "the data plane stopped answering".to_owned(),
            Err(fault) => format!("the data plane was restarted, or its port set up anew, meanwhile ({fault})"),
        };
        Err(self.of_no_use(on, asked, &why, ledger, journal))
    }

    /// Whether one of these connections is still there, with a data plane that is not stopped: one that is would hold up
    /// the VM as soon as the guest's driver starts the NIC, when this call and its guard may be over.
    fn is_linked(there: &[&SocketEnd], journal: &mut Journal) -> bool {
        let (stopped, linked): (Vec<&SocketEnd>, Vec<&SocketEnd>) = there.iter().partition(|end| end.cut_if_stopped());
        if !stopped.is_empty() {
            journal.warn("the data plane is stopped, and was cut off before the VM waits for it");
        }
        !linked.is_empty()
    }

    /// Makes sure that libvirt did what it said.
    fn verify(
        &self,
        (client, domain): (&mut Client, &Domain),
        asked: &Interface,
        ledger: &mut Ledger<'_>,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        match attach::mismatch(client, domain, asked, self.deadline) {
            Ok(None) => Ok(()),
            Ok(Some(what)) => {
                let (then, open) = self.take_back((client, domain), asked, ledger, journal);
                let error = Error::libvirt(format!("libvirt said that it plugged the NIC, but {what}, {then}."));
                Err(Failure { error, open })
            }
            // It was plugged, as far as is known.
            Err(error) => Err(Failure { error: errors::held(&error), open: true }),
        }
    }

    /// Unplugs a NIC that is of no use without a data plane.
    fn of_no_use(
        &self,
        on: (&mut Client, &Domain),
        asked: &Interface,
        why: &str,
        ledger: &mut Ledger<'_>,
        journal: &mut Journal,
    ) -> Failure {
        let (then, open) = self.take_back(on, asked, ledger, journal);
        let hint = self.port.why_not_connected(self.deadline).unwrap_or_else(|| {
            format!("Does OVS still run, with a port that has vhost-server-path {}?", quote::value(self.host_path))
        });
        let error = Error::try_again(format!("The NIC was plugged, but {why}, {then}. {hint}"));
        Failure { error, open }
    }

    /// Unplugs a NIC that QEMU took only with more than its data plane has.
    fn refused(
        &self,
        on: (&mut Client, &Domain),
        asked: &Interface,
        capabilities: Capabilities,
        ledger: &mut Ledger<'_>,
        journal: &mut Journal,
    ) -> Failure {
        let (then, open) = self.take_back(on, asked, ledger, journal);
        let error = Error::libvirt(format!(
            "QEMU refuses this data plane for the VM, {then}. The data plane offers {capabilities}; QEMU's log in the pod \
             (/var/log/libvirt/qemu) says what it misses, such as memory slots for the VM's memory regions."
        ));
        Failure { error, open }
    }

    /// Deals with an attach that failed. One that libvirt may still carry out finds nobody that stands in for the data plane, so
    /// QEMU would wait: a name that can't be bound makes it fail.
    fn not_attached(&self, error: &VmError, journal: &mut Journal) -> Failure {
        let (told, open) = (errors::vm(error), error.is_open());
        if !open {
            return Failure { error: told, open };
        }
        let blocked = self.socket_path.block().unwrap_or_else(|error| {
            journal.warn(format_args!("the NIC's socket could not be blocked: {error}"));
            false
        });
        let then = if blocked {
            "If libvirt carries it out later, it fails: a directory is at the NIC's socket until the next ADD or DEL"
        } else if !self.running.wait_at(self.guest_path, Deadline::after(LOOK_FOR_WAITING)).is_empty() {
            "QEMU waits for the data plane, and the VM stands still: check that OVS runs, with a port that has this \
             vhost-server-path. The next ADD or DEL, or vhostuser-hotplug rescue, frees the VM"
        } else {
            "The next ADD or DEL goes on from there"
        };
        let msg = format!("{} {then} ({}).", told.msg, quote::value(self.host_path));
        Failure { error: Error { msg, ..told }, open }
    }

    /// Unplugs the NIC again. Returns what became of that, for a message, and whether the NIC may still be there.
    fn take_back(
        &self,
        (client, domain): (&mut Client, &Domain),
        asked: &Interface,
        ledger: &mut Ledger<'_>,
        journal: &mut Journal,
    ) -> (&'static str, bool) {
        let target = asked.target();
        let mut taken = || {
            let found = detach::find(client, domain, target, self.deadline).map_err(|error| errors::held(&error))?;
            let Some(alias) = found else { return Ok(()) };
            ledger.leaving(&asked.path)?;
            release(self.running, client, domain, (target, &alias), self.deadline, journal)
        };
        match taken() {
            Ok(()) => ("so it was unplugged again", false),
            Err(error) => {
                journal.warn(format_args!("the NIC could not be unplugged again: {error}"));
                ("and it could not be unplugged again: DEL will do it", true)
            }
        }
    }
}

/// Another client's attach waits at the socket.
fn waits_for_another(pid: i32, guest_path: &str, host_path: &str) -> Error {
    Error::try_again(format!(
        "QEMU (process {pid}) waits at the NIC's socket {} in another client's attach, and the VM stands still until a data plane \
         connects to {}: does OVS run, with a port that has this vhost-server-path? vhostuser-hotplug rescue frees the VM.",
        quote::value(guest_path),
        quote::value(host_path)
    ))
}

/// A VM of the pod has a NIC at the socket.
fn taken(vm: &str, guest_path: &str) -> Error {
    Error::conflict(format!(
        "The VM {} has a NIC at the socket {}, which another client plugged: unplug that one first (virsh detach-device).",
        quote::value(vm),
        quote::value(guest_path)
    ))
}

/// Waits until the deadline for connections that QEMU has accepted beside these; which they are.
fn next_connection(
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
        // The kernel's list may be long, and QEMU wants the CPU too.
        std::thread::sleep(begun.elapsed().max(LOOK_AGAIN).min(deadline.remaining()));
    }
}
