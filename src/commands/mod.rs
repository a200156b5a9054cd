//! The commands, each as the story of one call. Here, and only here, the errors of the rooms below become CNI errors.

mod add;
mod check;
mod del;
mod gc;

use std::time::Duration;

use crate::attachment::errors;
use crate::attachment::journal::Journal;
use crate::cni::{self, Command, Error, Request};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::limits;
use crate::privilege::{self, Task};
use crate::sys;

/// Does what the request asks for, and returns what is to be printed, if anything.
///
/// # Errors
/// What the runtime and the operator are to be told.
pub fn run(request: &Request, config: &Config) -> Result<Option<Vec<u8>>, Error> {
    let mut journal = Journal::new(request);
    let outcome = match request.command {
        Command::Add => add::add(request, config, &mut journal),
        Command::Del => del::del(request, config, &mut journal).map(|()| None),
        Command::Check => check::check(request, config, &mut journal).map(|()| None),
        Command::Gc => gc::gc(request, config, &mut journal).map(|()| None),
        // Ready: nothing can be in the way of passing a result through, and a runtime that hears otherwise turns the whole
        // node NotReady (containerd 2.0 and later).
        Command::Status => Ok(None),
    };
    journal.close(outcome.as_ref().err());
    outcome
}

/// Moves this process out of what its caller put around it: into the host's mount namespace, and out of the caller's limits,
/// which would hold up the VM. For calls that deal with a pod, before there is any other thread: one that has been joined
/// may still have its share in this process' root directory, and setns(2) refuses to move a root that is shared.
fn enter_host(journal: &mut Journal) -> Result<(), Error> {
    sys::enter_host_mounts().map_err(|error| errors::system("entering the host's mount namespace", &error))?;
    for limit in limits::leave() {
        match limit.kept {
            None => journal.changed(limit),
            Some(_) => journal.warn(limit),
        }
    }
    Ok(())
}

/// How long after its deadline a call may still be at work: it has things to put back, and the machine may be busy.
const GRACE: Duration = Duration::from_secs(5);

/// Makes sure that the call ends soon after the deadline, even where a system call does not: what lies in a pod's
/// containers may lie on a file system of the tenant's, which need not answer. Begun when this process is in the host's
/// mount namespace, which only a process of one thread can enter, and confined to `task`.
fn start_watchdog(deadline: Deadline, task: Task) {
    let error = Error::try_again(
        "The call was given up after its deadline: something that has no deadline of its own holds it up, such as a file \
         system in a container of the pod that does not answer. What was begun is left to the next call.",
    );
    let watch = move || {
        // What is dropped later is dropped by the thread that does it.
        if task == Task::Mount {
            privilege::narrow(Task::Talk);
        }
        cni::end_at(deadline.and(GRACE), &error);
    };
    // Without it the call is as good as any that nothing holds up.
    drop(std::thread::Builder::new().spawn(watch));
}
