//! Undoes an attachment, for a DEL or a GC: unplug the NIC, remove its socket, its share and its record.

use crate::attachment::record::{Nic, Record};
use crate::attachment::share::Share;
use crate::cni::Error;
use crate::dataplane::socket_path::SocketPath;
use crate::pod::running::RunningPod;
use crate::pod::volume::{Entry, Volume};
use crate::quote;

use super::context::{AttachmentId, Context};
use super::journal::Journal;
use super::nic_to_detach::{DetachRequest, Origin};
use super::release::is_unused;
use super::unplug::Unplug;
use super::{errors, shares, unfinished};

/// An attachment that is to be undone. The pod's lock is held.
pub struct Undo<'a> {
    pub request: DetachRequest<'a>,
    /// True if other NICs of the same sandbox are forgotten too once their VM is gone. There may never be a DEL for them:
    /// Multus replays only what it knew when the pod started.
    pub with_dead: bool,
}

impl Undo<'_> {
    /// Unplugs the NIC, removes its socket and its record, and its share if no other attachment needs that. Returns whether a
    /// process of the pod lives.
    ///
    /// # Errors
    /// The guest has not released the NIC, or it can't be known whether it has. The record stays then, and another DEL goes
    /// on from there.
    pub fn run(&self) -> Result<bool, Error> {
        let DetachRequest { context, id, netns, .. } = self.request;
        let Context { config, uid, journal, deadline, .. } = context;
        let record = context.find(id);
        let record = record.as_ref();
        let volume = self.volume(record.map_or(&config.volume_name, |record| &record.volume));
        let volume = volume.as_ref();
        let running = RunningPod::find(uid, netns, record.map(|record| record.netns.as_path()));
        let running = running.as_ref();
        journal.checked(format_args!("pod: {} processes", running.map_or(0, |running| running.processes.len())));

        if let Some(wanted) = self.request.nic(record, volume, running)? {
            let found = match running {
                Some(running) => Unplug { request: &self.request, wanted: &wanted, record, volume, running }.run()?,
                None => false,
            };
            // If no NIC of the plugin was found, what listens there belongs to the VM's own definition.
            let is_ours = found || wanted.origin != Origin::Migrated;
            if let Some(volume) = volume.filter(|_| is_ours) {
                remove_socket(&context, &wanted.nic, volume, running)?;
            }
        }
        remove_device_info(record, journal);
        let dead = if running.is_none() && self.with_dead { self.others_of_the_sandbox() } else { Vec::new() };
        for other in &dead {
            if let Some((nic, volume)) = other.nic.as_ref().zip(self.volume(&other.volume)) {
                remove_socket(&context, nic, &volume, None)?;
            }
        }
        let in_use = volume.zip(running).is_some_and(|(volume, running)| shares::is_in_use(volume, running, deadline));
        let goes = |other: &Record| dead.contains(other) || id.has(other);
        for share in [self.share(record)].into_iter().chain(dead.iter().map(|other| shares::of(other, uid))) {
            let is_needed = in_use || shares::is_needed(&share, &context, goes);
            if !is_needed && share.remove().map_err(|error| errors::share(&error))? {
                journal.changed("unmount");
            }
        }
        // The records go last, so that a killed call leaves nothing that no record describes.
        for other in &dead {
            remove_device_info(Some(other), journal);
            context.remove(AttachmentId { ifname: &other.ifname, ..id })?;
            journal.changed(format_args!("forget {}, whose VM is gone", quote::value(&other.ifname)));
        }
        context.remove(id)?;
        journal.checked("forgotten");
        Ok(running.is_some())
    }

    /// Returns true if no share can be unmounted, because other attachments still need every one.
    pub fn leaves_the_shares(&self) -> bool {
        let DetachRequest { context, id, .. } = self.request;
        let record = context.find(id);
        let others = self.others_of_the_sandbox();
        let may_go = |other: &Record| others.contains(other) || id.has(other);
        let of_others = others.iter().map(|other| shares::of(other, context.uid));
        of_others.chain([self.share(record.as_ref())]).all(|share| shares::is_needed(&share, &context, may_go))
    }

    /// Returns the share that the attachment has, or would have by the configuration.
    pub fn share(&self, record: Option<&Record>) -> Share {
        let context = &self.request.context;
        record.map_or_else(|| context.share(), |record| shares::of(record, context.uid))
    }

    /// Opens one of the pod's volumes. One that is not what kubelet makes is left alone, with everything in it.
    fn volume(&self, name: &str) -> Option<Volume> {
        let Context { config, uid, journal, .. } = self.request.context;
        let volume = Volume::open(&config.kubelet_dir, uid.as_str(), name);
        volume.inspect_err(|error| journal.warn(error)).ok().flatten()
    }

    /// Returns the records of the other attachments of the sandbox that plugged a NIC.
    fn others_of_the_sandbox(&self) -> Vec<Record> {
        let DetachRequest { context, id, .. } = &self.request;
        let all = context.records().into_iter();
        let with_nic = all.filter(|other| other.nic.is_some() && other.container_id == id.container_id);
        with_nic.filter(|other| !id.has(other)).collect()
    }
}

/// Removes the file of the socket, which a QEMU that died has left. Waits first until nobody listens there any more,
/// because the next ADD would find the name in use. A directory that an ADD put there goes too.
fn remove_socket(context: &Context<'_>, nic: &Nic, volume: &Volume, running: Option<&RunningPod>) -> Result<(), Error> {
    let looking = |error| errors::system("looking at the NIC's socket", &error);
    if let Some(running) = running
        && !is_unused(context, running, &nic.path)?
    {
        if volume.entry(&nic.socket).map_err(looking)? == Entry::Socket {
            let what = unfinished::left_over(running, &nic.path, &nic.alias, &nic.domain);
            return Err(Error::try_again(errors::sentence(&what)));
        }
        return Ok(()); // It listens at something that no path leads to.
    }
    let path = volume.path().join(&nic.socket);
    SocketPath::new(volume.fd(), &nic.socket, &path).unblock().map_err(looking)?;
    if volume.remove_socket(&nic.socket).map_err(looking)? {
        context.journal.changed("remove socket");
    }
    Ok(())
}

/// Removes the device-information file. The runtime may have done so, and does it if this fails.
pub fn remove_device_info(record: Option<&Record>, journal: &Journal) {
    let Some(info) = record.and_then(|record| record.device_info.as_ref()) else { return };
    match info.remove() {
        Ok(true) => journal.changed(format_args!("remove {}", info.file.display())),
        Ok(false) => {}
        Err(error) => journal.warn(error),
    }
}
