//! Unplugging the NIC, until the guest has let go of it.

use std::time::Duration;

use log::debug;

use super::attach::describe;
use super::error::Error;
use crate::deadline::Deadline;
use crate::libvirt::events::Change;
use crate::libvirt::{self, Client, Domain, Event, EventKind, Scope};

/// The guest is asked again after so long. Sooner, some QEMUs take it for a change of mind: with native PCIe hot-plug
/// Linux lets the slot's indicator blink for 5 s first, and a second press within them cancels (QEMU before 6.2).
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The XML is read again after so long even if no event came.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The NIC as it is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its MAC address, if that is known.
    pub mac: Option<&'a str>,
    /// Its socket, as QEMU knows it.
    pub path: &'a str,
    /// The alias that it should have.
    pub alias: &'a str,
}

/// Makes the guest let go of the NIC. Returns whether it had it; success means that the domain's XML no longer shows it.
///
/// # Errors
/// [`Error::NotReleased`] at the deadline; libvirt's.
pub fn detach(client: &mut Client, domain: &Domain, target: Target<'_>, deadline: Deadline) -> Result<bool, Error> {
    let Some(alias) = alias_in(client, domain, target, deadline)? else { return Ok(false) };
    // Before anything is asked, for past events are not repeated.
    for kind in [EventKind::DeviceRemoved, EventKind::DeviceRemovalFailed, EventKind::Lifecycle] {
        match client.subscribe(kind, domain, deadline) {
            Err(error) if error.is_unsupported() => {} // the XML is looked at anyway
            other => other?,
        }
    }
    let mut last = None;
    while !deadline.passed() {
        match client.detach_alias(domain, &alias, Scope::Live, deadline) {
            Ok(()) => last = None,
            Err(error) if error.is_no_domain() || error.is_wrong_state() => return Ok(true),
            // What the XML says counts, whatever the answer was; a refusal may come with a removal under way.
            Err(error @ libvirt::Error::Refused(_))
                if error.is_device_missing() || error.is_unplug_pending() || error.is_busy() =>
            {
                debug!("detach of {alias}: {error}");
                last = Some(error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
        let patience = deadline.at_most(ASK_AGAIN);
        loop {
            wait(client, &alias, patience.at_most(LOOK_AGAIN))?;
            match alias_in(client, domain, target, deadline) {
                Ok(None) => return Ok(true),
                Ok(Some(_)) => {}
                // Too late to know better: what was seen last was that the guest had it.
                Err(Error::Libvirt(libvirt::Error::TimedOut { .. })) if deadline.passed() => break,
                Err(error) => return Err(error),
            }
            if patience.passed() {
                break;
            }
        }
    }
    Err(Error::NotReleased { alias, last })
}

/// Waits for an event that may mean the end; whether it does, the XML tells.
fn wait(client: &mut Client, alias: &str, deadline: Deadline) -> Result<(), libvirt::Error> {
    loop {
        match client.next_event(deadline)? {
            None => return Ok(()),
            Some(Event::DeviceRemoved { alias: removed, .. }) if removed == alias => return Ok(()),
            Some(Event::Lifecycle { change: Change::Stopped, .. }) => return Ok(()),
            Some(other) => debug!("while {alias} is being detached: {other:?}"),
        }
    }
}

/// The alias that the NIC really has in the domain; `None` if it is not there, or the domain is not.
fn alias_in(
    client: &mut Client,
    domain: &Domain,
    target: Target<'_>,
    deadline: Deadline,
) -> Result<Option<String>, Error> {
    match describe(client, domain, deadline) {
        Ok(description) => {
            let nic = description.find(target.mac, target.path, target.alias);
            Ok(nic.map(|nic| nic.alias.clone().unwrap_or_else(|| target.alias.to_owned())))
        }
        Err(Error::Libvirt(error)) if error.is_no_domain() => Ok(None),
        Err(error) => Err(error),
    }
}
