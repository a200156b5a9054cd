//! Plugging the NIC into the running VM.

use super::domain::{Description, Match};
use super::error::Error;
use super::interface::{Interface, Nic};
use crate::deadline::Deadline;
use crate::libvirt::{self, Client, Domain, Operation, Scope, Xml};

/// The VM that the daemon runs: the one of this name, or the only one.
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

/// What the running domain has.
///
/// # Errors
/// libvirt's, or that its XML cannot be read.
pub fn describe(client: &mut Client, domain: &Domain, deadline: Deadline) -> Result<Description, Error> {
    let document = client.xml(domain, Xml::Live, deadline)?;
    Ok(Description::parse(&document)?)
}

/// Whether the NIC is there as asked; `None` if it is not and nothing is in its way.
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

/// Makes sure that libvirt will take up an attach at once. One that has to wait there comes about later, when its caller may
/// have given up and its data plane be gone: then the VM would stand still for good.
///
/// # Errors
/// [`Error::Busy`]; libvirt's, of which a timeout means that another call holds the domain.
pub fn ensure_free(client: &mut Client, domain: &Domain, deadline: Deadline) -> Result<(), Error> {
    match operation(client, domain, deadline)? {
        None | Some(Operation::Backup) => Ok(()),
        Some(operation) => Err(Error::Busy(operation)),
    }
}

/// Makes sure that the domain is not still on its way from another host. Since libvirt 12 its XML can be read then, with NICs
/// in it that go again if the migration fails.
///
/// # Errors
/// [`Error::Busy`]; libvirt's.
pub fn ensure_arrived(client: &mut Client, domain: &Domain, deadline: Deadline) -> Result<(), Error> {
    match operation(client, domain, deadline)? {
        Some(Operation::MigrationIn) => Err(Error::Busy(Operation::MigrationIn)),
        _ => Ok(()),
    }
}

/// Waits until libvirt has ended what it was doing to the domain, so that an attach that was sent before has come about or has
/// failed. A domain that has ended has nothing under way.
///
/// To read the XML does not tell: up to libvirt 10 that takes no job. The question that is asked here takes one in all of them
/// (`qemuDomainGetJobStatsInternal`, src/qemu/qemu_driver.c). It is asked twice, since libvirt wakes those who wait for
/// the job in no order (src/conf/virdomainjob.c): what waited beside the first question is ahead of the second.
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

/// What libvirt is busy with. Of a domain that arrives it refuses to tell ("migration statistics are available only on the
/// source host"; src/qemu/qemu_driver.c, `qemuDomainGetJobStats`).
fn operation(client: &mut Client, domain: &Domain, deadline: Deadline) -> Result<Option<Operation>, Error> {
    match client.operation(domain, deadline) {
        Err(error) if error.is_not_for_now() => Ok(Some(Operation::MigrationIn)),
        told => Ok(told?),
    }
}

/// What the running domain shows that is not the NIC as it was asked for, in words, though libvirt says that it was plugged:
/// the VM is believed, not the answer.
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

/// Plugs the NIC into the running domain, and only that: a persistent one would keep the VM's next start waiting for
/// the data plane.
///
/// # Errors
/// [`Error::AttachOpen`] when libvirt does not answer: the attach goes on whether we wait or not (virsh cannot stop it
/// either). Else libvirt's refusal, after which nothing is left of the NIC.
pub fn attach(client: &mut Client, domain: &Domain, asked: &Interface, deadline: Deadline) -> Result<(), Error> {
    let document = asked.to_xml().map_err(|error| Error::Conflict(format!("the NIC cannot be described: {error}")))?;
    client.attach(domain, &document, Scope::Live, deadline).map_err(|error| match error.refusal() {
        Some(_) => explain(client, domain, asked, error, deadline),
        None => Error::AttachOpen(error),
    })
}

/// Adds to a refused attach what the VM's description shows to be in its way by now. Another client may have plugged something
/// since it was read before.
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
