//! The record of an attachment while its ADD goes on. Each step is recorded before or after it is taken, so that a DEL or
//! the next ADD knows what a killed call left.

use crate::attachment::device_info::DeviceInfo;
use crate::attachment::record::{Nic, Record};
use crate::cni::Error;

use super::context::Context;

/// The record of an attachment, and where it is kept.
pub struct Ledger<'a> {
    pub context: Context<'a>,
    pub record: &'a mut Record,
}

impl Ledger<'_> {
    /// Returns the NIC, once it is recorded.
    pub fn nic(&self) -> Option<&Nic> {
        self.record.nic.as_ref()
    }

    /// Records the NIC: as it was found, or as it is about to be plugged.
    pub fn keep(&mut self, nic: Nic) -> Result<(), Error> {
        // From here on the NIC is known by the alias that it was plugged with. A NIC of the VM's own definition may have
        // the alias that was requested.
        self.record.keys.iter_mut().for_each(|keys| drop(keys.remove("args")));
        self.record.nic = Some(nic);
        self.context.write(self.record)
    }

    /// Records that the NIC is plugged.
    pub fn plugged(&mut self, queues: u16) -> Result<(), Error> {
        self.record.nic.iter_mut().for_each(|nic| (nic.queues, nic.attached) = (Some(queues), true));
        self.context.write(self.record)
    }

    /// Records that containers of the pod have run in this sandbox: in every record of the sandbox, since any of them may
    /// be removed first.
    pub fn start(&mut self) -> Result<(), Error> {
        self.record.started = true;
        for record in self.of_sandbox().filter(|record| !record.started) {
            self.context.write(&Record { started: true, ..record })?;
        }
        Ok(())
    }

    /// Returns the records of all attachments of the sandbox.
    pub fn of_sandbox(&self) -> impl Iterator<Item = Record> {
        of_sandbox(&self.context, &self.record.container_id)
    }

    /// Records that the guest is about to be asked to release the NIC at this path, whichever sandbox of the pod plugged it.
    pub fn leaving(&mut self, path: &str) -> Result<(), Error> {
        record_removal(&self.context, path)?;
        self.record.nic.iter_mut().filter(|nic| nic.path == path).for_each(|nic| nic.detaching = true);
        Ok(())
    }

    /// Records what the device-information file says of the NIC, and where that file is.
    pub fn write_device_info(&mut self, info: Option<DeviceInfo>) -> Result<(), Error> {
        self.record.device_info = info;
        self.context.write(self.record)
    }

    /// Removes the NIC from all other records of the pod. A pod's new sandbox takes it over from the old one, whose late DEL
    /// must not touch it.
    pub fn claim_nic(&self) -> Result<(), Error> {
        let path = self.nic().map(|nic| nic.path.clone());
        for mut other in self.context.records() {
            let is_this = other.is_of(&self.record.container_id, &self.record.ifname);
            if !is_this && other.nic.as_ref().map(|nic| &nic.path) == path.as_ref() {
                other.nic = None;
                self.context.write(&other)?;
            }
        }
        Ok(())
    }
}

/// Returns true if containers of the pod are recorded to have run in this sandbox, by an ADD of any of its interfaces.
/// A recorded NIC says so too: version 0.1.0 recorded nothing else.
pub fn is_started(context: &Context<'_>, container_id: &str) -> bool {
    of_sandbox(context, container_id).any(|record| record.started || record.nic.is_some())
}

fn of_sandbox(context: &Context<'_>, container_id: &str) -> impl Iterator<Item = Record> {
    context.records().into_iter().filter(move |record| record.container_id == container_id)
}

/// Records that the guest is about to be asked to release the NIC at this path, in every record of the pod that has it.
pub fn record_removal(context: &Context<'_>, path: &str) -> Result<(), Error> {
    let is_it = |record: &Record| record.nic.as_ref().is_some_and(|nic| nic.path == path && !nic.detaching);
    for mut record in context.records().into_iter().filter(is_it) {
        record.nic.iter_mut().for_each(|nic| nic.detaching = true);
        context.write(&record)?;
    }
    Ok(())
}
