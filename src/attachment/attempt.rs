//! An attach that libvirt was asked for, and how a failed ADD takes it back.

use std::time::Duration;

use crate::cni::Error;
use crate::deadline::Deadline;
use crate::libvirt::{Client, Domain};
use crate::quote;
use crate::vm::error::Error as VmError;
use crate::vm::interface::Interface;
use crate::vm::{attach, detach};

use super::errors;
use super::failure::Failure;
use super::ledger::Ledger;
use super::link::Link;
use super::release::release;

/// How long to look for a QEMU that waits.
const LOOK_FOR_WAITING: Duration = Duration::from_millis(500);

/// A NIC that libvirt is asked to plug.
pub struct Attempt<'a, 'l> {
    pub link: &'a Link<'a>,
    pub client: &'a mut Client,
    pub domain: &'a Domain,
    pub asked: &'a Interface,
    pub ledger: &'a mut Ledger<'l>,
}

impl Attempt<'_, '_> {
    /// Has libvirt attach the NIC.
    pub fn attach(&mut self) -> Result<(), Failure> {
        let (asked, context) = (self.asked, &self.link.context);
        attach::attach(self.client, self.domain, asked, context.deadline).map_err(|error| self.not_attached(&error))?;
        context.journal.changed(format_args!("attach {} {} queues={}", asked.alias, asked.mac, asked.queues));
        Ok(())
    }

    /// Makes sure that the VM has the NIC as libvirt said.
    pub fn verify(&mut self) -> Result<(), Failure> {
        match attach::mismatch(self.client, self.domain, self.asked, self.link.context.deadline) {
            Ok(None) => Ok(()),
            Ok(Some(what)) => Err(self
                .give_up(|then| Error::libvirt(format!("libvirt said that it plugged the NIC, but {what}, {then}.")))),
            // It was plugged, as far as is known.
            Err(error) => Err(Failure::open(errors::held(&error))),
        }
    }

    /// Unplugs a NIC that has no use without a data plane. Returns the failure.
    pub fn without_data_plane(&mut self, why: &str) -> Failure {
        let link = self.link;
        self.give_up(|then| {
            let hint = link.port.why_not_connected(link.context.deadline).unwrap_or_else(|| {
                format!("Does OVS still run, with a port that has vhost-server-path {}?", quote::value(link.host_path))
            });
            Error::try_again(format!("The NIC was plugged, but {why}, {then}. {hint}"))
        })
    }

    /// Handles an attach that failed. If libvirt may still carry it out, no stand-in is there for QEMU any more, which would
    /// wait: a name that can't be bound makes the attach fail.
    fn not_attached(&self, error: &VmError) -> Failure {
        let (reported, open) = (errors::vm(error), error.is_open());
        if !open {
            return reported.into();
        }
        let link = self.link;
        let blocked = link.socket_path.block().unwrap_or_else(|error| {
            link.context.journal.warn(format_args!("the NIC's socket could not be blocked: {error}"));
            false
        });
        let then = if blocked {
            "If libvirt carries it out later, it fails: a directory is at the NIC's socket until the next ADD or DEL"
        } else if !link.running.wait_at(link.guest_path, Deadline::after(LOOK_FOR_WAITING)).is_empty() {
            "QEMU waits for the data plane, and the VM stands still: check that OVS runs, with a port that has this \
             vhost-server-path. The next ADD or DEL, or vhostuser-hotplug rescue, frees the VM"
        } else {
            "The next ADD or DEL goes on from there"
        };
        let msg = format!("{} {then} ({}).", reported.msg, quote::value(link.host_path));
        Failure { error: Error { msg, ..reported }, open }
    }

    /// Unplugs the NIC again. Returns the failure with this error, which says what became of that.
    pub fn give_up(&mut self, error: impl FnOnce(&str) -> Error) -> Failure {
        let Err(kept) = self.unplug() else { return error("so it was unplugged again").into() };
        self.link.context.journal.warn(format_args!("the NIC could not be unplugged again: {kept}"));
        Failure::open(error("and it could not be unplugged again: DEL will do it"))
    }

    fn unplug(&mut self) -> Result<(), Error> {
        let (context, target) = (&self.link.context, self.asked.target());
        let found = detach::find(self.client, self.domain, target, context.deadline);
        let Some(alias) = found.map_err(|error| errors::held(&error))? else { return Ok(()) };
        self.ledger.leaving(&self.asked.path)?;
        release(context, self.link.running, (&mut *self.client, self.domain), (target, &alias))
    }
}
