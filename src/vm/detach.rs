//! Unplugging the NIC, until the guest has let go of it.

use std::thread;
use std::time::Duration;

use log::{debug, info};

use super::attach::{describe, ensure_free};
use super::domain::Description;
use super::error::Error;
use super::interface::{Nic, Target};
use crate::deadline::Deadline;
use crate::libvirt::events::Change;
use crate::libvirt::{self, Client, Domain, DomainState, Event, EventKind, Scope, Xml};
use crate::quote;

/// The guest is asked again after so long. Sooner, some QEMUs take it for a change of mind: with native PCIe hot-plug
/// Linux lets the slot's indicator blink for 5 s first, and a second press within them cancels (QEMU before 6.2) or is
/// refused.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// How long a slot's indicator blinks. The guest is not asked any more when less than this is left, lest the first
/// request of the next DEL comes while it does.
const INDICATOR: Duration = Duration::from_secs(5);

/// The XML is read again after so long even if no event came.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How a request to the guest went.
enum Asked {
    /// It was passed on; the guest may take its time, or never answer.
    Yes,
    /// libvirt or QEMU would not pass it on (now): in words. A removal may be under way all the same.
    No(String),
    /// There is nobody left to ask.
    Gone,
}

/// Returns the alias of the NIC in the running domain; `None` if the domain does not have it, or does not run.
///
/// # Errors
/// libvirt's, or that the XML cannot be read.
pub fn find(
    client: &mut Client,
    domain: &Domain,
    target: Target<'_>,
    deadline: Deadline,
) -> Result<Option<String>, Error> {
    match describe(client, domain, deadline) {
        Ok(description) => {
            let nic = description.find(target);
            Ok(nic.map(|nic| nic.alias.clone().unwrap_or_else(|| target.alias.to_owned())))
        }
        Err(Error::Libvirt(error)) if error.is_no_domain() => Ok(None),
        Err(error) => Err(error),
    }
}

/// As [`find`], once libvirt can take up a request at once: one that has to wait there comes about later, when nobody expects it.
/// While it waits the VM may move to another host, and has the NIC no more.
///
/// # Errors
/// [`Error::Busy`] at the deadline; those of [`find`].
pub fn find_when_free(
    client: &mut Client,
    domain: &Domain,
    target: Target<'_>,
    deadline: Deadline,
) -> Result<Option<String>, Error> {
    loop {
        let found = find(client, domain, target, deadline)?;
        if found.is_none() {
            return Ok(None);
        }
        match ensure_free(client, domain, deadline) {
            Ok(()) => return Ok(found),
            Err(Error::Busy(_)) if !deadline.passed() => thread::sleep(LOOK_AGAIN.min(deadline.remaining())),
            Err(Error::Libvirt(error)) if error.is_no_domain() || error.is_wrong_state() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Asks the guest to release the NIC with this alias, which [`find`] gave, and waits until the domain's XML no longer shows it.
///
/// The guest is asked by alias, since that call does not wait. (The one by XML waits 5 s, and then reports success whatever the
/// guest did.) The events, and always the XML, tell the end.
///
/// # Errors
/// [`Error::NotReleased`] at the deadline: QEMU keeps the request, and the guest may follow it at any time. Else libvirt's.
pub fn release(
    client: &mut Client,
    domain: &Domain,
    target: Target<'_>,
    alias: &str,
    deadline: Deadline,
) -> Result<(), Error> {
    // Before anything is asked, for past events are not repeated.
    for kind in [EventKind::DeviceRemoved, EventKind::DeviceRemovalFailed] {
        subscribe(client, domain, kind, deadline)?;
    }
    let (mut last, mut paused, mut is_first) = (None, false, true);
    while !deadline.passed() {
        last = match ask(client, domain, alias, deadline)? {
            Asked::Gone => return Ok(()),
            Asked::Yes => None,
            Asked::No(words) => Some(words),
        };
        // While the guest is at work. Of a domain that ended before, the XML tells below.
        if std::mem::take(&mut is_first) {
            subscribe(client, domain, EventKind::Lifecycle, deadline)?;
        }
        // A refusal may mean that it is gone already.
        if last.is_some() && find(client, domain, target, deadline)?.is_none() {
            return Ok(());
        }
        let next = deadline.at_most(ASK_AGAIN);
        let next = if deadline.remaining() < ASK_AGAIN + INDICATOR { deadline } else { next };
        while !next.passed() {
            if wait(client, alias, next.at_most(LOOK_AGAIN))? {
                last = Some("the guest refused to release it".to_owned());
            }
            match find(client, domain, target, deadline) {
                Ok(None) => return Ok(()),
                Ok(Some(_)) => paused = client.state(domain, deadline).is_ok_and(|state| state == DomainState::Paused),
                // Too late to know better: what was seen last was that the guest had it.
                Err(Error::Libvirt(libvirt::Error::TimedOut { .. })) if deadline.passed() => break,
                Err(error) => return Err(error),
            }
        }
    }
    Err(Error::NotReleased { alias: alias.to_owned(), last, paused })
}

fn subscribe(client: &mut Client, domain: &Domain, kind: EventKind, deadline: Deadline) -> Result<(), Error> {
    match client.subscribe(kind, domain, deadline) {
        // The XML is looked at anyway.
        Err(error) if error.is_unsupported() || error.is_no_domain() => Ok(()),
        other => Ok(other?),
    }
}

/// Asks the guest, through libvirt and QEMU, to let go of the device.
fn ask(client: &mut Client, domain: &Domain, alias: &str, deadline: Deadline) -> Result<Asked, Error> {
    match client.detach_alias(domain, alias, Scope::Live, deadline) {
        Ok(()) => Ok(Asked::Yes),
        Err(error) if error.is_no_domain() || error.is_wrong_state() => Ok(Asked::Gone),
        // The device may be gone, or the guest may have yet to answer an earlier request: the XML tells.
        Err(error) if error.is_internal() || error.is_device_missing() || error.is_busy() => {
            debug!("detach of {}: {error}", quote::value(alias));
            Ok(Asked::No(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits for an event that may mean the end; whether it does, the XML tells. Returns whether the guest said no.
fn wait(client: &mut Client, alias: &str, deadline: Deadline) -> Result<bool, libvirt::Error> {
    loop {
        match client.next_event(deadline)? {
            None => return Ok(false),
            Some(Event::DeviceRemoved { alias: removed, .. }) if removed == alias => return Ok(false),
            Some(Event::DeviceRemovalFailed { alias: kept, .. }) if kept == alias => return Ok(true),
            Some(Event::Lifecycle { change: Change::Stopped, .. }) => return Ok(false),
            Some(_) => {}
        }
        // Of this very domain, but of no meaning here: however many there are, they are neither waited with nor believed.
        client.skip("waiting for the guest to let go")?;
        if deadline.passed() {
            return Ok(false);
        }
    }
}

/// Takes the NIC out of the description that the domain's next start uses, if somebody has made it persistent: with it, that
/// start would wait for the data plane. That needs no guest. Returns whether it was there.
///
/// # Errors
/// [`Error::StillStored`] if libvirt says that it removed the NIC, and did not; libvirt's.
pub fn forget_stored(
    client: &mut Client,
    domain: &Domain,
    target: Target<'_>,
    deadline: Deadline,
) -> Result<bool, Error> {
    match client.is_persistent(domain, deadline) {
        Ok(true) => {}
        Ok(false) => return Ok(false),
        Err(error) if error.is_no_domain() => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let Some(nic) = stored(client, domain, target, deadline)? else { return Ok(false) };
    let removed = match &nic.alias {
        Some(alias) => client.detach_alias(domain, alias, Scope::Config, deadline),
        // libvirt stores no aliases but those that users gave.
        None => client.detach_xml(domain, &by_mac(&nic.mac), Scope::Config, deadline),
    };
    if removed.as_ref().is_err_and(|error| error.refusal().is_none()) {
        return Ok(removed.map(|()| false)?);
    }
    // The XML is what counts, not the answer.
    if stored(client, domain, target, deadline)?.is_some() {
        removed?;
        return Err(Error::StillStored { alias: target.alias.to_owned() });
    }
    info!("the NIC {} was removed from the persistent definition", quote::value(target.alias));
    Ok(true)
}

/// The NIC as it is in the domain's stored description.
fn stored(client: &mut Client, domain: &Domain, target: Target<'_>, deadline: Deadline) -> Result<Option<Nic>, Error> {
    let document = match client.xml(domain, Xml::Persistent, deadline) {
        Ok(document) => document,
        Err(error) if error.is_no_domain() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let description = Description::parse(&document)?;
    Ok(description.find(target).cloned())
}

/// What names a NIC without an alias to libvirt (virDomainNetFindIdx).
fn by_mac(mac: &str) -> String {
    format!("<interface type='vhostuser'><mac address='{}'/></interface>", quick_xml::escape::escape(mac))
}
