//! Plugs the NIC with a stand-in in the data plane's place, and hands QEMU over to the data plane.
//!
//! In this order QEMU never waits for anything that may hang, unless the data plane stops in the few milliseconds in which
//! QEMU speaks with it: it has just answered when QEMU is handed over.

use std::collections::BTreeSet;

use crate::cni::Error;
use crate::dataplane::guard;
use crate::dataplane::message;
use crate::dataplane::probe::ProbedDataPlane;
use crate::dataplane::standin;
use crate::deadline::Deadline;
use crate::pod::process::Process;
use crate::pod::socket_end::SocketEnd;

use super::attempt::Attempt;
use super::context::Context;
use super::errors;
use super::failure::Failure;
use super::journal::Journal;
use super::link::{SETTLED, next_connection};

/// Plugs the NIC, and waits until the data plane that was probed is connected to it.
///
/// # Errors
/// Those of attaching; or the data plane did not connect, and the NIC is unplugged again.
pub fn plug(attempt: &mut Attempt<'_, '_>, mut data_plane: ProbedDataPlane) -> Result<(), Failure> {
    let link = attempt.link;
    let Context { journal, deadline, .. } = link.context;
    let capabilities = data_plane.capabilities;
    // A data plane that has exited has no connection. If it shares this process' namespace, that one's list is read anyway.
    let process = Process::open(data_plane.pid).ok().filter(|process| !process.is_beside_us());
    let ends = || link.running.accepted(link.guest_path, process.as_ref(), deadline);
    let accepted = || ends().into_iter().map(|end| end.inode).collect();
    let plugged = standin::during(link.socket_path, capabilities, deadline, accepted, || {
        attempt.attach()?;
        link.shared.ensure().map_err(|error| {
            attempt.give_up(|then| Error { msg: format!("{} The NIC was plugged, {then}.", error.msg), ..error })
        })?;
        if let Some(lacking) = link.grant_access(data_plane.pid) {
            let msg = |then: &str| format!("The NIC was plugged, but {lacking}, {then}.");
            return Err(attempt.give_up(|then| Error::try_again(msg(then))));
        }
        ensure_same(attempt, &mut data_plane)
    });
    let (outcome, served) = plugged.map_err(|error| errors::system("starting the stand-in", &error))?;
    if let Some(fault) = &served.error {
        journal.warn(format_args!("the stand-in's connection to QEMU ended early: {fault}"));
    }
    outcome?;
    journal.checked(format_args!("stand-in: {} messages", served.requests));
    if served.widened {
        return Err(attempt.give_up(|then| {
            Error::libvirt(format!(
                "QEMU refuses this data plane for the VM, {then}. The data plane offers {capabilities}; QEMU's log in the pod \
                 (/var/log/libvirt/qemu) says what it misses, such as memory slots for the VM's memory regions."
            ))
        }));
    }
    // From here on QEMU waits for the data plane's answers.
    let linked = guard::during(ends, || connect(attempt, data_plane, &served.accepted, ends));
    let (outcome, cut) = linked.map_err(|error| errors::system("starting the guard", &error))?;
    if cut > 0 {
        journal.warn(format_args!("the data plane hung, and was cut off to let the VM run on ({cut} times)"));
    }
    outcome
}

/// Lets the data plane connect to QEMU, and waits until it has. `own` are the stand-in's connections.
fn connect(
    attempt: &mut Attempt<'_, '_>,
    mut data_plane: ProbedDataPlane,
    own: &BTreeSet<u64>,
    ends: impl Fn() -> Vec<SocketEnd>,
) -> Result<(), Failure> {
    let Context { journal, deadline, .. } = attempt.link.context;
    // Ask once more: the stand-in has waited for the guest's driver meanwhile.
    ensure_same(attempt, &mut data_plane)?;
    let (pid, this) = (data_plane.pid, i32::try_from(std::process::id()).ok());
    // It connects to QEMU as soon as its connection to the probe closes.
    drop(data_plane);
    let deadline = deadline.half();
    let accepted = || ends().into_iter().map(|end| end.inode).collect();
    while let Some(others) = next_connection(own, accepted, deadline) {
        let settled = Deadline::after(SETTLED);
        // While it has yet to show that it stays, check that libvirt did what it said.
        attempt.verify()?;
        std::thread::sleep(settled.remaining());
        let ends = ends();
        // QEMU may not have closed the stand-in's connection yet.
        let of_others = |end: &&SocketEnd| others.contains(&end.inode) && (end.peer().is_none() || end.peer() != this);
        let there: Vec<&SocketEnd> = ends.iter().filter(of_others).collect();
        if !is_linked(&there, journal) {
            continue;
        }
        if there.iter().any(|end| end.peer().is_some_and(|peer| peer != pid)) {
            let why = "another process than the data plane that was asked has connected to its socket";
            return Err(attempt.without_data_plane(why));
        }
        journal.checked("data plane connected");
        return Ok(());
    }
    Err(attempt.without_data_plane("the data plane did not connect to its socket"))
}

/// Makes sure that QEMU is handed over to the data plane that was probed, and not to one that came in its place: the guest
/// has seen its features. If not, the NIC is unplugged again.
fn ensure_same(attempt: &mut Attempt<'_, '_>, data_plane: &mut ProbedDataPlane) -> Result<(), Failure> {
    let why = match data_plane.ask_again(attempt.link.context.deadline.half()) {
        Ok(()) => return Ok(()),
        Err(message::Error::Silent) => "the data plane stopped answering".to_owned(),
        Err(fault) => format!("the data plane was restarted, or its port set up anew, meanwhile ({fault})"),
    };
    Err(attempt.without_data_plane(&why))
}

/// Returns true if one of these connections is still there, with a data plane that is not stopped. One that is stopped would
/// hold up the VM as soon as the guest's driver starts the NIC, when this call and its guard may be over.
fn is_linked(there: &[&SocketEnd], journal: &Journal) -> bool {
    let (stopped, linked): (Vec<&SocketEnd>, Vec<&SocketEnd>) = there.iter().partition(|end| end.cut_if_stopped());
    if !stopped.is_empty() {
        journal.warn("the data plane is stopped, and was cut off before the VM waits for it");
    }
    !linked.is_empty()
}
