//! How a call gets to a pod: into the host's mount namespace, out of the caller's limits, with few rights, and for a bounded
//! time.

use std::time::Duration;

use crate::attachment::errors;
use crate::attachment::journal::Journal;
use crate::cni::{self, Error};
use crate::deadline::Deadline;
use crate::limits;
use crate::privilege::{self, Task};
use crate::sys;

/// How long after its deadline a call may still be at work: it has things to put back, and the machine may be busy.
const GRACE: Duration = Duration::from_secs(5);

/// This process, in the host's mount namespace and still with all its rights.
#[must_use = "the rights must be dropped"]
pub struct Host(());

impl Host {
    /// Moves this process out of what its caller put around it: into the host's mount namespace, and out of the caller's
    /// limits, which would hold up the VM. This must come before there is any other thread: one that has been joined may
    /// still share this process' root directory, and setns(2) refuses to move a shared root.
    pub fn enter(journal: &Journal) -> Result<Self, Error> {
        sys::enter_host_mounts().map_err(|error| errors::system("entering the host's mount namespace", &error))?;
        for limit in limits::leave() {
            match limit.kept {
                None => journal.changed(limit),
                Some(_) => journal.warn(limit),
            }
        }
        Ok(Self(()))
    }

    /// Drops all rights that `task` doesn't need, and starts a watchdog. The watchdog ends the call soon after the deadline,
    /// even if a system call hangs: a file system in a pod's container may be the tenant's, which need not answer.
    pub fn confine(self, task: Task, deadline: Deadline) {
        privilege::confine(task);
        let error = Error::try_again(
            "The call was given up after its deadline: something that has no deadline of its own holds it up, such as a file \
             system in a container of the pod that does not answer. What was begun is left to the next call.",
        );
        let watch = move || {
            // A right that is dropped later is dropped only by the thread that does it.
            if task == Task::Mount {
                privilege::narrow(Task::Talk);
            }
            cni::end_at(deadline.and(GRACE), &error);
        };
        // Without a thread the call has no watchdog, and needs one only if something hangs.
        drop(std::thread::Builder::new().spawn(watch));
    }
}
