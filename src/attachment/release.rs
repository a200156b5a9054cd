//! A guest's release of a NIC. Meanwhile QEMU must not wait for a data plane that hangs.

use std::thread;
use std::time::Duration;

use crate::cni::Error;
use crate::dataplane::guard;
use crate::libvirt::{Client, Domain};
use crate::pod::running::RunningPod;
use crate::quote;
use crate::vm::detach;
use crate::vm::interface::Target;

use super::context::Context;
use super::errors;
use super::nic_state::listens;

/// How long QEMU may take to remove its socket once the NIC is gone. It does so before libvirt hears of it.
const SOCKET_PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two looks at the socket.
const SOCKET_PAUSE: Duration = Duration::from_millis(2);

/// Waits until no process of the pod listens at this path. Returns whether that is so.
pub fn is_unused(context: &Context<'_>, running: &RunningPod, path: &str) -> Result<bool, Error> {
    let patience = context.deadline.at_most(SOCKET_PATIENCE);
    loop {
        if !listens(running, path)? {
            return Ok(true);
        }
        if patience.passed() {
            return Ok(false);
        }
        thread::sleep(SOCKET_PAUSE);
    }
}

/// Asks the guest to release the NIC with this alias, and waits until it has. The caller must record the request first,
/// because QEMU keeps it.
pub fn release(
    context: &Context<'_>,
    running: &RunningPod,
    (client, domain): (&mut Client, &Domain),
    (target, alias): (Target<'_>, &str),
) -> Result<(), Error> {
    let Context { journal, deadline, .. } = *context;
    // When the guest releases the NIC, QEMU stops its rings, and waits until the data plane says how far it has come.
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
