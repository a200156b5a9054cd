//! What every step of a call on a pod needs. The command makes it once, and passes it on.

use std::path::Path;

use crate::attachment::record::{self, Lock, Record, Store};
use crate::attachment::share::Share;
use crate::cni::Error;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::libvirt::Access;
use crate::pod::identity::PodUid;
use crate::pod::running::RunningPod;

use super::errors;
use super::hypervisor::{self, Hypervisor};
use super::journal::Journal;

/// The names of an attachment: one interface of one sandbox, in one network.
#[derive(Clone, Copy)]
pub struct AttachmentId<'a> {
    pub network: &'a str,
    pub container_id: &'a str,
    pub ifname: &'a str,
}

impl AttachmentId<'_> {
    /// Returns true if this is the attachment's record.
    pub fn has(&self, record: &Record) -> bool {
        record.is_of(self.container_id, self.ifname)
    }
}

/// A call on one pod. This process is in the host's mount namespace.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The configuration of the attachment, which may differ from that of the call: see [`Config::for_attachment`].
    pub config: &'a Config,
    pub uid: &'a PodUid,
    pub store: &'a Store,
    pub journal: &'a Journal,
    pub deadline: Deadline,
}

impl<'a> Context<'a> {
    /// Returns all records of the pod.
    pub fn records(&self) -> Vec<Record> {
        self.store.of_pod(self.uid)
    }

    /// Returns the record of an attachment of the pod.
    pub fn find(&self, id: AttachmentId<'_>) -> Option<Record> {
        self.store.find(self.uid, id.container_id, id.ifname)
    }

    pub fn write(&self, record: &Record) -> Result<(), Error> {
        self.store.write(self.uid, record).map_err(|error| errors::record(&error))
    }

    pub fn remove(&self, id: AttachmentId<'_>) -> Result<(), Error> {
        self.store.remove(self.uid, id.container_id, id.ifname).map_err(|error| errors::record(&error))
    }

    /// Returns the share that the configuration names.
    pub fn share(&self) -> Share {
        Share::new(&self.config.socket_base_dir, self.uid, &self.config.volume_name)
    }

    /// Returns a new record of an attachment of the pod, with the share that the configuration names.
    pub fn new_record(&self, id: AttachmentId<'_>, netns: Option<&Path>) -> Record {
        let AttachmentId { network, container_id, ifname } = id;
        let share = (self.config.volume_name.as_str(), self.config.socket_base_dir.as_path());
        Record::new((network, container_id, ifname), self.uid, netns.unwrap_or(Path::new("")), share)
    }

    /// Connects to the pod's libvirt, to change its VM.
    pub fn libvirt(&self, running: &RunningPod) -> Result<Hypervisor, hypervisor::Error> {
        Hypervisor::reach(self.config, self.uid, running, Access::Full, self.deadline)
    }

    /// Takes the pod's lock until the returned value is dropped.
    pub fn lock(&self) -> Result<PodLock<'a>, Error> {
        PodLock::take(self.store, self.uid, self.deadline).map_err(|error| errors::record(&error))
    }
}

/// The pod's lock, held as long as this value lives. At its end the lock's file is removed, if nothing of the pod is
/// recorded.
pub struct PodLock<'a> {
    lock: Option<Lock>,
    store: &'a Store,
    uid: &'a PodUid,
}

impl<'a> PodLock<'a> {
    /// Waits for the lock until the deadline.
    pub fn take(store: &'a Store, uid: &'a PodUid, deadline: Deadline) -> Result<Self, record::Error> {
        Ok(Self { lock: Some(store.lock(uid, deadline)?), store, uid })
    }
}

impl Drop for PodLock<'_> {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take()
            && self.store.of_pod(self.uid).is_empty()
        {
            self.store.tidy(self.uid);
            lock.retire();
        }
    }
}
