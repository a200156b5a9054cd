//! A guest's release of a NIC, with QEMU kept from waiting for a data plane that hangs.

use std::thread;
use std::time::Duration;

use crate::cni::Error;
use crate::dataplane::guard;
use crate::deadline::Deadline;
use crate::libvirt::{Client, Domain};
use crate::quote;
use crate::vm::detach;
use crate::vm::interface::Target;

use super::journal::Journal;
use super::{errors, sandbox};
use crate::pod::running::RunningPod;

/// How long QEMU may take to remove its socket once the NIC is gone; it does so before libvirt hears of it.
const SOCKET_PATIENCE: Duration = Duration::from_secs(2);

/// How often that is looked for.
const SOCKET_PAUSE: Duration = Duration::from_millis(2);

/// Waits until no process of the pod listens at this path. Returns whether that is so.
///
/// # Errors
/// That of listing the pod's sockets.
pub fn is_unused(running: &RunningPod, path: &str, deadline: Deadline) -> Result<bool, Error> {
    let patience = deadline.at_most(SOCKET_PATIENCE);
    loop {
        if !sandbox::listens(running, path)? {
            return Ok(true);
        }
        if patience.passed() {
            return Ok(false);
        }
        thread::sleep(SOCKET_PAUSE);
    }
}

/// Asks the guest to release the NIC with this alias, and waits until it has.
///
/// # Errors
/// That it has not by the deadline. The caller must record the request first, because QEMU keeps it. Otherwise libvirt's error.
pub fn release(
    running: &RunningPod,
    client: &mut Client,
    domain: &Domain,
    (target, alias): (Target<'_>, &str),
    deadline: Deadline,
    journal: &mut Journal,
) -> Result<(), Error> {
    // A guest that releases the NIC makes QEMU stop its rings, and wait for the data plane to say where.
    let ends = || running.accepted(target.path, None, deadline);
    let released = guard::during(ends, || detach::release(client, domain, target, alias, deadline));
    let (released, cut) = released.map_err(|error| errors::system("starting the guard", &error))?;
    if cut > 0 {
        journal.warn(format_args!("the data plane hung, and was cut off to let the VM run on ({cut} times)"));
    }
    released.map_err(|error| errors::held(&error))?;
    journal.changed(format_args!("detach {}", quote::value(alias)));
    Ok(())
}
