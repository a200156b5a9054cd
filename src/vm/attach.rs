//! Plugs the NIC into the running VM.

use super::domain::{Description, Match};
use super::error::Error;
use super::interface::{Interface, Nic};
use crate::deadline::Deadline;
use crate::libvirt::{self, Client, Domain, Operation, Scope, Xml};

/// Finds the VM that the daemon runs: by name, or the only one.
///
/// # Errors
/// [`Error::NoDomain`], [`Error::SeveralDomains`], or libvirt's.
pub fn choose(client: &mut Client, name: Option<&str>, deadline: Deadline) -> Result<Domain, Error> {
    let mut running = client.running_domains(deadline)?;
    if let Some(name) = name {
        let found = running.iter().position(|domain| domain.name == name).map(|at| running.swap_remove(at));
        return found.ok_or_else(|| Error::NoDomain { asked: Some(name.to_owned()), running: names(&running) });
    }
    match (running.pop(), running.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(Error::NoDomain { asked: None, running: Vec::new() }),
        (Some(last), false) => {
            running.push(last);
            Err(Error::SeveralDomains(names(&running)))
        }
    }
}

fn names(domains: &[Domain]) -> Vec<String> {
    domains.iter().map(|domain| domain.name.clone()).collect()
}

/// Reads and parses the domain's live XML.
///
/// # Errors
/// libvirt's, or [`Error::Description`].
pub fn describe(client: &mut Client, domain: &Domain, deadline: Deadline) -> Result<Description, Error> {
    let document = client.xml(domain, Xml::Live, deadline)?;
    Ok(Description::parse(&document)?)
}

/// Returns the NIC if the VM has it as requested; `None` if the VM doesn't have it and could take it.
///
/// # Errors
/// [`Error::Conflict`] or [`Error::Domain`]: known before the VM is touched.
pub fn examine(description: &Description, asked: &Interface, queues_matter: bool) -> Result<Option<Nic>, Error> {
    match description.compare(asked, queues_matter) {
        Match::Same(nic) => Ok(Some(nic)),
        Match::Conflict(text) => Err(Error::Conflict(text)),
        Match::Absent => Ok(description.check(asked).map(|()| None)?),
    }
}

/// Makes sure that libvirt starts an attach at once. An attach that has to wait may run after the caller has given up
/// and the data plane has exited: then the VM would hang for good.
///
/// # Errors
/// [`Error::Busy`]; libvirt's. A timeout means that another call holds the domain.
pub fn ensure_free(client: &mut Client, domain: &Domain, deadline: Deadline) -> Result<(), Error> {
    match operation(client, domain, deadline)? {
        None | Some(Operation::Backup) => Ok(()),
        Some(operation) => Err(Error::Busy(operation)),
    }
}

/// Makes sure that the domain is not still migrating in. Since libvirt 12 its XML can be read then, but its NICs
/// disappear if the migration fails.
///
/// # Errors
/// [`Error::Busy`]; libvirt's.
pub fn ensure_arrived(client: &mut Client, domain: &Domain, deadline: Deadline) -> Result<(), Error> {
    match operation(client, domain, deadline)? {
        Some(Operation::MigrationIn) => Err(Error::Busy(Operation::MigrationIn)),
        _ => Ok(()),
    }
}

/// Waits until libvirt is idle, so an attach that was sent earlier has succeeded or failed. A domain that has ended is
/// idle.
///
/// Reading the XML is not enough: up to libvirt 10 it takes no job. Asking for job statistics takes one in every
/// version (`qemuDomainGetJobStatsInternal`, src/qemu/qemu_driver.c). libvirt wakes waiting calls in no order
/// (src/conf/virdomainjob.c), so this asks twice: a call that waited together with the first question runs before the
/// second.
///
/// # Errors
/// [`Error::Busy`] with a long job, behind which an attach may still wait; libvirt's.
pub fn settle(client: &mut Client, domain: &Domain, deadline: Deadline) -> Result<(), Error> {
    for _ in 0..2 {
        match operation(client, domain, deadline) {
            Ok(None | Some(Operation::Backup)) => {}
            Ok(Some(operation)) => return Err(Error::Busy(operation)),
            Err(Error::Libvirt(error)) if error.is_no_domain() || error.is_wrong_state() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns libvirt's long job. libvirt refuses that for a domain that is migrating in ("migration statistics are
/// available only on the source host"; src/qemu/qemu_driver.c, `qemuDomainGetJobStats`).
fn operation(client: &mut Client, domain: &Domain, deadline: Deadline) -> Result<Option<Operation>, Error> {
    match client.operation(domain, deadline) {
        Err(error) if error.is_not_for_now() => Ok(Some(Operation::MigrationIn)),
        told => Ok(told?),
    }
}

/// Checks a NIC that libvirt reported as plugged against the live XML. Returns what differs.
///
/// # Errors
/// Those of [`describe`].
pub fn mismatch(
    client: &mut Client,
    domain: &Domain,
    asked: &Interface,
    deadline: Deadline,
) -> Result<Option<String>, Error> {
    Ok(describe(client, domain, deadline)?.mismatch(asked))
}

/// Plugs the NIC into the running domain, not into the persistent definition: the VM's next start would wait for the
/// data plane.
///
/// # Errors
/// [`Error::AttachOpen`] if libvirt does not answer: the attach continues, and nothing can stop it. Else libvirt's
/// refusal; nothing of the NIC is left then.
pub fn attach(client: &mut Client, domain: &Domain, asked: &Interface, deadline: Deadline) -> Result<(), Error> {
    let document = asked.to_xml().map_err(|error| Error::Conflict(format!("the NIC cannot be described: {error}")))?;
    client.attach(domain, &document, Scope::Live, deadline).map_err(|error| match error.refusal() {
        Some(_) => explain(client, domain, asked, error, deadline),
        None => Error::AttachOpen(error),
    })
}

/// Explains a refused attach from the VM's XML, which is read again: another client may have plugged something
/// meanwhile.
fn explain(
    client: &mut Client,
    domain: &Domain,
    asked: &Interface,
    refusal: libvirt::Error,
    deadline: Deadline,
) -> Error {
    let seen = match refusal.is_no_domain() || refusal.is_wrong_state() || refusal.is_busy() {
        true => Ok(None),
        false => describe(client, domain, deadline).and_then(|description| examine(&description, asked, true)),
    };
    match seen {
        Err(why @ (Error::Conflict(_) | Error::Domain(_))) => Error::Explained { why: Box::new(why), refusal },
        _ => Error::Libvirt(refusal),
    }
}
