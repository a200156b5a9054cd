//! The record of an attachment as its ADD goes on: each step is written before or after it is taken, so that a DEL or the next ADD
//! knows what a call that is killed leaves.

use crate::attachment::device_info::DeviceInfo;
use crate::attachment::record::{Nic, Record, Store};
use crate::cni::Error;
use crate::pod::identity::PodUid;

use super::errors;

/// The record, and where it is kept.
pub struct Ledger<'a> {
    /// The records of the node.
    pub store: &'a Store,
    /// The pod.
    pub uid: &'a PodUid,
    /// The attachment's record.
    pub record: &'a mut Record,
}

impl Ledger<'_> {
    /// All records of the pod.
    pub fn of_pod(&self) -> Vec<Record> {
        self.store.of_pod(self.uid)
    }

    /// The NIC, once it is recorded.
    pub fn nic(&self) -> Option<&Nic> {
        self.record.nic.as_ref()
    }

    /// Records the NIC: as it was found, or as it is about to be plugged.
    pub fn keep(&mut self, nic: Nic) -> Result<(), Error> {
        // From here on it is known by what it was plugged with. A NIC of the VM's own definition may have the alias
        // that was asked for.
        self.record.keys.iter_mut().for_each(|keys| drop(keys.remove("args")));
        self.record.nic = Some(nic);
        self.write(self.record)
    }

    /// Records that the NIC is plugged.
    pub fn plugged(&mut self, queues: u16) -> Result<(), Error> {
        self.record.nic.iter_mut().for_each(|nic| (nic.queues, nic.attached) = (Some(queues), true));
        self.write(self.record)
    }

    /// Records that containers of the pod have run in this sandbox. All its records say so, since any may go first.
    pub fn start(&mut self) -> Result<(), Error> {
        self.record.started = true;
        for record in self.of_sandbox().filter(|record| !record.started) {
            self.write(&Record { started: true, ..record })?;
        }
        Ok(())
    }

    /// The records of the sandbox' attachments, this one's included.
    pub fn of_sandbox(&self) -> impl Iterator<Item = Record> {
        of_sandbox(self.store, self.uid, &self.record.container_id)
    }

    /// Records that the guest is about to be asked to release the NIC at this path, whichever sandbox of the pod plugged it.
    pub fn leaving(&mut self, path: &str) -> Result<(), Error> {
        record_removal(self.store, self.uid, path)?;
        self.record.nic.iter_mut().filter(|nic| nic.path == path).for_each(|nic| nic.detaching = true);
        Ok(())
    }

    /// Records what the runtime is told of the NIC, and in which file.
    pub fn told(&mut self, info: Option<DeviceInfo>) -> Result<(), Error> {
        self.record.device_info = info;
        self.write(self.record)
    }

    /// A NIC belongs to the attachment that plugged it last: a pod's new sandbox takes it over from the old one, whose late
    /// DEL must not touch it.
    pub fn claim_nic(&self) -> Result<(), Error> {
        let path = self.nic().map(|nic| nic.path.clone());
        for mut other in self.of_pod() {
            let is_this = other.is_of(&self.record.container_id, &self.record.ifname);
            if !is_this && other.nic.as_ref().map(|nic| &nic.path) == path.as_ref() {
                other.nic = None;
                self.write(&other)?;
            }
        }
        Ok(())
    }

    fn write(&self, record: &Record) -> Result<(), Error> {
        self.store.write(self.uid, record).map_err(|error| errors::record(&error))
    }
}

/// Returns true if containers of the pod are recorded to have run in this sandbox, by an ADD of any of its interfaces.
/// A NIC says so too: an earlier version recorded nothing else.
pub fn is_started(store: &Store, uid: &PodUid, container_id: &str) -> bool {
    of_sandbox(store, uid, container_id).any(|record| record.started || record.nic.is_some())
}

fn of_sandbox(store: &Store, uid: &PodUid, container_id: &str) -> impl Iterator<Item = Record> {
    store.of_pod(uid).into_iter().filter(move |record| record.container_id == container_id)
}

/// Records that the guest is about to be asked to release the NIC at this path, in every record of the pod that has it.
pub fn record_removal(store: &Store, uid: &PodUid, path: &str) -> Result<(), Error> {
    let is_it = |record: &Record| record.nic.as_ref().is_some_and(|nic| nic.path == path && !nic.detaching);
    for mut record in store.of_pod(uid).into_iter().filter(is_it) {
        record.nic.iter_mut().for_each(|nic| nic.detaching = true);
        store.write(uid, &record).map_err(|error| errors::record(&error))?;
    }
    Ok(())
}
