//! Unplugs the NIC of an attachment that a call ends.

use crate::attachment::record::{Nic, Record};
use crate::cni::Error;
use crate::libvirt::{Client, Domain};
use crate::pod::running::RunningPod;
use crate::pod::volume::Volume;
use crate::quote;
use crate::vm::error::Error as VmError;
use crate::vm::interface::Target;
use crate::vm::{attach, detach};

use super::context::Context;
use super::errors;
use super::ledger;
use super::nic_state::{Heard, NicState, Recorded, judge, listens};
use super::nic_to_detach::{DetachRequest, NicToDetach, Origin};
use super::release::release;
use super::unfinished::{self, SocketName};

/// A NIC that is to be unplugged.
pub struct Unplug<'a> {
    pub request: &'a DetachRequest<'a>,
    pub wanted: &'a NicToDetach,
    pub record: Option<&'a Record>,
    pub volume: Option<&'a Volume>,
    pub running: &'a RunningPod,
}

impl Unplug<'_> {
    /// Makes the guest release the NIC, if there is a guest that has it. Returns whether there was one.
    pub fn run(&self) -> Result<bool, Error> {
        let (context, nic) = (&self.request.context, &self.wanted.nic);
        let Some(volume) = self.volume.filter(|_| Recorded::from(nic).opening) else {
            return self.ask_libvirt();
        };
        let socket = SocketName { volume, name: &nic.socket, path: &nic.path };
        let mark = || ledger::record_removal(context, &nic.path);
        unfinished::end(context, &socket, self.running, mark, |_| self.ask_libvirt())
    }

    fn ask_libvirt(&self) -> Result<bool, Error> {
        let Context { journal, deadline, .. } = self.request.context;
        let (nic, origin, running) = (&self.wanted.nic, self.wanted.origin, self.running);
        let recorded = Recorded::from(nic);
        let mut libvirt = match self.request.context.libvirt(running) {
            Ok(libvirt) => libvirt,
            Err(unreached) => {
                let is_absent = unreached.is_absent();
                return self.without_libvirt(recorded, unreached.into(), is_absent);
            }
        };
        let client = &mut libvirt.client;
        let domains = client.domains(deadline).map_err(|error| errors::libvirt(&error))?;
        journal.checked("libvirt");
        // A domain that does not run may have the NIC stored, if somebody made it persistent. Without a record such a NIC is
        // left to whoever wrote the definition.
        let is_it = |domain: &&Domain| match origin {
            Origin::Recorded => domain.uuid_digits() == nic.domain,
            Origin::Unrecorded | Origin::Migrated => domain.is_active(),
        };
        let mut found = false;
        for domain in domains.iter().filter(is_it) {
            if recorded.opening {
                attach::settle(client, domain, deadline).map_err(|error| errors::held(&error))?;
                journal.checked("attach ended");
            }
            found |= self.unplug_from(client, domain)?;
            // Another client's attach may be under way.
            if !found && !recorded.opening && domain.is_active() && running.may_listen(&nic.path) {
                attach::settle(client, domain, deadline).map_err(|error| errors::held(&error))?;
                found |= self.unplug_from(client, domain)?;
            }
        }
        if !found && origin != Origin::Migrated && running.may_listen(&nic.path) {
            self.ensure_not_anothers(client, &domains)?;
        }
        Ok(found)
    }

    /// Decides whether the NIC is gone if libvirt, for the reason `why`, can't be asked.
    fn without_libvirt(&self, recorded: Recorded, why: Error, is_absent: bool) -> Result<bool, Error> {
        let Context { journal, deadline, .. } = self.request.context;
        let (nic, running) = (&self.wanted.nic, self.running);
        match judge(recorded, Heard::Unreached(why.clone()), || listens(running, &nic.path)) {
            NicState::Absent => {
                if !is_absent {
                    journal.warn(why);
                }
                Ok(false)
            }
            _ if self.volume.is_some_and(|volume| running.has_no_vm(volume, deadline)) => Ok(false),
            _ => Err(unsure(nic, why)),
        }
    }

    /// Makes sure that no VM shows another NIC at the socket, with another alias and MAC. It may be another client's, or come
    /// from an ADD whose record is lost and whose alias this call doesn't have.
    fn ensure_not_anothers(&self, client: &mut Client, domains: &[Domain]) -> Result<(), Error> {
        let nic = &self.wanted.nic;
        let path = self.running.path(&nic.path);
        for domain in domains.iter().filter(|domain| domain.is_active()) {
            match attach::describe(client, domain, self.request.context.deadline) {
                Ok(vm) => {
                    let Some(there) = vm.at(&path) else { continue };
                    let alias = quote::value(there.alias.as_deref().unwrap_or("-"));
                    return Err(Error::try_again(format!(
                        "The VM {} has a NIC at the socket {} (alias {alias}, MAC {}), and neither this call nor a record says \
                         that the plugin plugged it. Nothing was undone. If it is to go, unplug it by its alias (virsh \
                         detach-device-alias); the next DEL cleans up.",
                        quote::value(&domain.name),
                        quote::value(&nic.path),
                        quote::value(&there.mac),
                    )));
                }
                Err(VmError::Libvirt(error)) if error.is_no_domain() => {}
                Err(error) => return Err(errors::held(&error)),
            }
        }
        Ok(())
    }

    fn unplug_from(&self, client: &mut Client, domain: &Domain) -> Result<bool, Error> {
        let context = &self.request.context;
        let (nic, deadline) = (&self.wanted.nic, context.deadline);
        let mac = Some(nic.mac.as_str()).filter(|mac| !mac.is_empty());
        let path = self.running.path(&nic.path);
        let target = Target { mac, path: &path, alias: &nic.alias };
        let stored = detach::forget_stored(client, domain, target, deadline);
        let stored = stored.map_err(|error| errors::held(&error))?;
        let found = detach::find_when_free(client, domain, target, deadline);
        let Some(alias) = found.map_err(|error| errors::held(&error))? else { return Ok(stored) };
        // Recorded first, so that no later ADD takes a NIC for plugged that the guest is about to release.
        self.record_removal(domain)?;
        release(context, self.running, (client, domain), (target, &alias))?;
        Ok(true)
    }

    /// Records that the guest is about to be asked to release the NIC.
    fn record_removal(&self, domain: &Domain) -> Result<(), Error> {
        let DetachRequest { context, id, netns, keys, .. } = self.request;
        let nic = Nic { detaching: true, domain: domain.uuid_digits(), ..self.wanted.nic.clone() };
        if self.record.is_some_and(|record| record.nic.as_ref() == Some(&nic)) {
            return Ok(());
        }
        let unrecorded = || Record { keys: Some(keys.clone()), ..context.new_record(*id, *netns) };
        context.write(&Record { nic: Some(nic), ..self.record.cloned().unwrap_or_else(unrecorded) })
    }
}

/// Returns the error for a NIC that the VM may or may not have.
fn unsure(nic: &Nic, why: Error) -> Error {
    let what = if nic.attached || nic.detaching {
        "whether the VM still has the NIC cannot be known"
    } else {
        "an attach of the NIC was sent, and whether libvirt still carries it out cannot be known"
    };
    Error::try_again(format!(
        "No libvirt daemon of the pod answers, so {what} (socket {}). Nothing was undone; the next DEL begins anew.",
        quote::value(&nic.path)
    ))
    .with_details(why)
}
