//! What earlier calls left of a NIC that an ADD plugs: attaches whose end nobody has seen, removals that the guest has not
//! finished, and the NIC in another VM of the pod.

use std::sync::atomic::Ordering;

use crate::attachment::record::Nic;
use crate::cni::Error;
use crate::dataplane::socket_path::SocketPath;
use crate::libvirt::{Client, Domain};
use crate::pod::running::RunningPod;
use crate::pod::volume::Volume;
use crate::quote;
use crate::vm::domain::Description;
use crate::vm::interface::{Interface, Target};
use crate::vm::{attach, detach};

use super::context::Context;
use super::errors;
use super::ledger::{self, Ledger};
use super::nic_state::Recorded;
use super::release::{is_unused, release};
use super::unfinished::{self, SocketName};

/// Waits for the end of attaches that earlier ADDs sent for this socket, each to the VM that its record names. A NIC that
/// came about only with a stand-in is unplugged.
pub fn end_attaches(volume: &Volume, socket: &str, running: &RunningPod, ledger: &mut Ledger<'_>) -> Result<(), Error> {
    let nics = ledger.context.records().into_iter().filter_map(|record| record.nic);
    for nic in nics.filter(|nic| nic.socket == socket && Recorded::from(nic).opening) {
        end_attach(&nic, volume, running, ledger)?;
    }
    let socket_path = SocketPath::new(volume.fd(), socket, volume.path());
    if socket_path.is_blocked() {
        // Its record may be lost. The ADD settles the VM that it chooses before it plugs anything.
        socket_path.unblock().map_err(|error| errors::system("freeing the NIC's socket", &error))?;
    }
    Ok(())
}

fn end_attach(nic: &Nic, volume: &Volume, running: &RunningPod, ledger: &mut Ledger<'_>) -> Result<(), Error> {
    let context = &Context { deadline: ledger.context.deadline.half(), ..ledger.context };
    let deadline = context.deadline;
    let socket = SocketName { volume, name: &nic.socket, path: &nic.path };
    let mark = || ledger::record_removal(context, &nic.path);
    let path = running.path(&nic.path);
    let target = Target { mac: Some(&nic.mac), path: &path, alias: &nic.alias };
    unfinished::end(context, &socket, running, mark, |freed| {
        let client = &mut context.libvirt(running)?.client;
        let domains = client.running_domains(deadline).map_err(|error| errors::libvirt(&error))?;
        // If its VM has ended, so has the attach.
        let Some(domain) = domains.iter().find(|one| one.uuid_digits() == nic.domain) else { return Ok(()) };
        attach::settle(client, domain, deadline).map_err(|error| errors::held(&error))?;
        context.journal.checked("attach ended");
        if !freed.load(Ordering::Acquire) {
            return Ok(());
        }
        let alias = detach::find(client, domain, target, deadline).map_err(|error| errors::held(&error))?;
        let Some(alias) = alias else { return Ok(()) };
        ledger.leaving(&nic.path)?;
        release(context, running, (client, domain), (target, &alias))?;
        is_unused(context, running, &nic.path).map(drop)
    })
}

/// Makes sure that no other VM of the pod has this NIC: the second one would take the socket's name from the first.
pub fn ensure_not_elsewhere(
    context: &Context<'_>,
    asked: &Interface,
    (client, domain): (&mut Client, &Domain),
) -> Result<(), Error> {
    let nics = context.records().into_iter().filter_map(|record| record.nic);
    let elsewhere = |nic: &Nic| asked.path.is(&nic.path) && nic.domain != domain.uuid_digits();
    let others: Vec<String> = nics.filter(elsewhere).map(|nic| nic.domain).collect();
    if others.is_empty() {
        return Ok(());
    }
    let running = client.running_domains(context.deadline).map_err(|error| errors::libvirt(&error))?;
    for other in running.iter().filter(|one| others.contains(&one.uuid_digits())) {
        let there = detach::find(client, other, asked.target(), context.deadline);
        if there.map_err(|error| errors::held(&error))?.is_some() {
            return Err(Error::conflict(format!(
                "The VM {} of the pod has this NIC already: unplug it there first (DEL).",
                quote::value(&other.name)
            )));
        }
    }
    Ok(())
}

/// Ends a removal that a DEL began. An ADD can't adopt a NIC that the guest may release at any time. Returns whether the VM
/// had the NIC.
pub fn end_removal(
    context: &Context<'_>,
    asked: &Interface,
    description: &Description,
    running: &RunningPod,
    on: (&mut Client, &Domain),
) -> Result<bool, Error> {
    let target = asked.target();
    let Some(nic) = description.find(target) else { return Ok(false) };
    let alias = nic.alias.clone().unwrap_or_else(|| asked.alias.clone());
    let context = &Context { deadline: context.deadline.half(), ..*context };
    release(context, running, on, (target, &alias)).map_err(|error| {
        let msg = format!(
            "This NIC is leaving: the guest was asked to release it, and must do so before the NIC is plugged anew. {}",
            error.msg
        );
        Error { msg, ..error }
    })?;
    is_unused(context, running, target.path)?;
    Ok(true)
}
