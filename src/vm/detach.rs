//! Unplugs the NIC and waits until the guest has released it.

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

/// How long to wait before asking the guest again. With native PCIe hot-plug, Linux first blinks the slot's indicator
/// for 5 s; a second request in that time cancels the first (QEMU before 6.2) or is refused.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// How long a slot's indicator blinks. The guest is not asked again if less time is left, so the first request of the
/// next DEL does not come while it blinks.
const INDICATOR: Duration = Duration::from_secs(5);

/// How often the XML is read if no event comes.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The result of a request to the guest.
enum Asked {
    /// It was forwarded. The guest may answer late or never.
    Yes,
    /// libvirt or QEMU refused to forward it, with this message. A removal may be under way anyway.
    No(String),
    /// The domain no longer runs.
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

/// As [`find`], but waits until libvirt can start a request at once: a request that waits there would run later, when
/// nobody expects it. Meanwhile the VM may migrate away, and with it the NIC.
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

/// Asks the guest to release the NIC with this alias (from [`find`]), and waits until the domain's XML no longer shows
/// it.
///
/// It detaches by alias because that call does not wait. (Detaching by XML waits 5 s and then reports success whatever
/// the guest did.) Events only trigger a look: the XML decides.
///
/// # Errors
/// [`Error::NotReleased`] at the deadline. QEMU keeps the request, so the guest may still release the NIC at any time.
/// Else libvirt's.
pub fn release(
    client: &mut Client,
    domain: &Domain,
    target: Target<'_>,
    alias: &str,
    deadline: Deadline,
) -> Result<(), Error> {
    // Subscribe first: past events are not repeated.
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
        // Subscribes while the guest works. If the domain has ended already, the XML shows it below.
        if std::mem::take(&mut is_first) {
            subscribe(client, domain, EventKind::Lifecycle, deadline)?;
        }
        // A refusal may mean that the NIC is gone already.
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
                // The deadline has passed; the last look showed that the guest still has it.
                Err(Error::Libvirt(libvirt::Error::TimedOut { .. })) if deadline.passed() => break,
                Err(error) => return Err(error),
            }
        }
    }
    Err(Error::NotReleased { alias: alias.to_owned(), last, paused })
}

fn subscribe(client: &mut Client, domain: &Domain, kind: EventKind, deadline: Deadline) -> Result<(), Error> {
    match client.subscribe(kind, domain, deadline) {
        // The XML is read anyway.
        Err(error) if error.is_unsupported() || error.is_no_domain() => Ok(()),
        other => Ok(other?),
    }
}

/// Asks the guest, through libvirt and QEMU, to release the device.
fn ask(client: &mut Client, domain: &Domain, alias: &str, deadline: Deadline) -> Result<Asked, Error> {
    match client.detach_alias(domain, alias, Scope::Live, deadline) {
        Ok(()) => Ok(Asked::Yes),
        Err(error) if error.is_no_domain() || error.is_wrong_state() => Ok(Asked::Gone),
        // The device may be gone, or the guest may not have answered an earlier request yet. The XML shows which.
        Err(error) if error.is_internal() || error.is_device_missing() || error.is_busy() => {
            debug!("detach of {}: {error}", quote::value(alias));
            Ok(Asked::No(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits for an event that may mean the removal; the XML then decides. Returns true if the guest refused.
fn wait(client: &mut Client, alias: &str, deadline: Deadline) -> Result<bool, libvirt::Error> {
    loop {
        match client.next_event(deadline)? {
            None => return Ok(false),
            Some(Event::DeviceRemoved { alias: removed, .. }) if removed == alias => return Ok(false),
            Some(Event::DeviceRemovalFailed { alias: kept, .. }) if kept == alias => return Ok(true),
            Some(Event::Lifecycle { change: Change::Stopped, .. }) => return Ok(false),
            Some(_) => {}
        }
        // Another event of this domain: it is ignored, and counts against the limit.
        client.skip("waiting for the guest to release the NIC")?;
        if deadline.passed() {
            return Ok(false);
        }
    }
}

/// Removes the NIC from the persistent definition, if somebody put it there: the VM's next start would wait for the
/// data plane. This needs no guest. Returns true if it was there.
///
/// # Errors
/// [`Error::StillStored`] if libvirt reports success but the NIC is still there; libvirt's.
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
        // libvirt stores only aliases that users chose.
        None => client.detach_xml(domain, &by_mac(&nic.mac), Scope::Config, deadline),
    };
    if removed.as_ref().is_err_and(|error| error.refusal().is_none()) {
        return Ok(removed.map(|()| false)?);
    }
    // Check the XML, not the reply.
    if stored(client, domain, target, deadline)?.is_some() {
        removed?;
        return Err(Error::StillStored { alias: target.alias.to_owned() });
    }
    info!("the NIC {} was removed from the persistent definition", quote::value(target.alias));
    Ok(true)
}

/// Returns the NIC in the domain's persistent definition.
fn stored(client: &mut Client, domain: &Domain, target: Target<'_>, deadline: Deadline) -> Result<Option<Nic>, Error> {
    let document = match client.xml(domain, Xml::Persistent, deadline) {
        Ok(document) => document,
        Err(error) if error.is_no_domain() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let description = Description::parse(&document)?;
    Ok(description.find(target).cloned())
}

/// Returns the XML by which libvirt finds a NIC without an alias (virDomainNetFindIdx).
fn by_mac(mac: &str) -> String {
    format!("<interface type='vhostuser'><mac address='{}'/></interface>", quick_xml::escape::escape(mac))
}
