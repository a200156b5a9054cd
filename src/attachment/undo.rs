//! Undoing: what a DEL, a GC and a failed ADD have in common.

use std::path::Path;

use crate::attachment::record::{Lock, Nic, Record, Store};
use crate::attachment::share::Share;
use crate::cni::{Error, NetConf};
use crate::config::{Attach, Config};
use crate::dataplane::socket_path::SocketPath;
use crate::deadline::Deadline;
use crate::libvirt::{Access, Client, Domain};
use crate::pod::identity::PodUid;
use crate::pod::unix_path::UnixPath;
use crate::pod::unix_sockets::Socket;
use crate::pod::volume::{Entry, Volume};
use crate::quote;
use crate::vm::error::Error as VmError;
use crate::vm::interface::{Target, alias_of};
use crate::vm::{attach, detach};

use super::hypervisor::Hypervisor;
use super::journal::Journal;
use super::ledger;
use super::nic_state::{Heard, NicState, Recorded, judge};
use super::release::{is_unused, release};
use super::shares;
use super::unfinished::{self, SocketName};
use super::{errors, sandbox};
use crate::pod::running::RunningPod;

/// An attachment that is to be undone. The pod's lock is held, and this process is in the host's mount namespace.
pub struct Undo<'a> {
    /// The configuration for this attachment.
    pub config: &'a Config,
    /// What the call was given of it, for a NIC that is not recorded.
    pub conf: &'a NetConf,
    /// The records.
    pub store: &'a Store,
    /// The pod.
    pub uid: &'a PodUid,
    /// The network's name, for a NIC that is not recorded.
    pub network: &'a str,
    /// The sandbox.
    pub container_id: &'a str,
    /// The NIC's name.
    pub ifname: &'a str,
    /// CNI_NETNS, if the call names it.
    pub netns: Option<&'a Path>,
    /// The NIC's MAC address, if the call tells it.
    pub mac: Option<String>,
    /// When to give up.
    pub deadline: Deadline,
    /// Whether NICs of the same sandbox are forgotten too once their VM is gone: who plugged them may never call DEL for
    /// them (Multus replays only what it knew when the pod started).
    pub with_dead: bool,
}

/// A NIC as it is to be looked for.
struct NicToDetach {
    nic: Nic,
    origin: Origin,
}

/// Whose NIC it is, as far as the record tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// This attachment's: it is recorded.
    Recorded,
    /// There is no record; it is the one that an ADD of this call would have plugged.
    Unrecorded,
    /// The record is of the share alone, or that is all that an ADD of this call makes. A VM that has migrated here since may
    /// have brought the NIC along.
    Migrated,
}

impl Undo<'_> {
    /// Unplugs the NIC, removes its socket, forgets the attachment, and takes its share away if it was the last to have it.
    /// Returns whether a process of the pod lives.
    ///
    /// # Errors
    /// That the guest has not let go, or that it cannot be known whether it has: then the record stays, and another DEL
    /// goes on from there.
    pub fn run(&self, journal: &mut Journal) -> Result<bool, Error> {
        let record = self.store.find(self.uid, self.container_id, self.ifname);
        let name = record.as_ref().map_or(&self.config.volume_name, |record| &record.volume);
        let volume = self.volume(name, journal);
        let running = RunningPod::find(self.uid, self.netns, record.as_ref().map(|record| record.netns.as_path()));
        journal
            .checked(format_args!("pod: {} processes", running.as_ref().map_or(0, |running| running.processes.len())));

        if let Some(sought) = self.sought(record.as_ref(), volume.as_ref(), running.as_ref())? {
            let unplug =
                |running: &RunningPod| self.unplug(&sought, record.as_ref(), volume.as_ref(), running, journal);
            let found = running.as_ref().map_or(Ok(false), unplug)?;
            // What else listens there is the business of the VM's own definition.
            let is_ours = found || sought.origin != Origin::Migrated;
            if let Some(volume) = volume.as_ref().filter(|_| is_ours) {
                self.remove_socket(&sought.nic, volume, running.as_ref(), journal)?;
            }
        }
        remove_device_info(record.as_ref(), journal);
        let dead = if running.is_none() && self.with_dead { self.others_of_the_sandbox() } else { Vec::new() };
        for other in &dead {
            if let Some((nic, volume)) = other.nic.as_ref().zip(self.volume(&other.volume, journal)) {
                self.remove_socket(nic, &volume, None, journal)?;
            }
        }
        let in_use = volume
            .as_ref()
            .zip(running.as_ref())
            .is_some_and(|(volume, running)| shares::is_in_use(volume, running, self.deadline));
        let goes = |other: &Record| dead.contains(other) || self.is_this(other);
        for share in
            [self.share(record.as_ref())].into_iter().chain(dead.iter().map(|other| shares::of(other, self.uid)))
        {
            let is_needed = in_use || shares::is_needed(&share, self.store, self.uid, goes);
            if !is_needed && share.remove().map_err(|error| errors::share(&error))? {
                journal.changed("unmount");
            }
        }
        // Last, so that nothing is ever there that no record tells of, wherever this call may be killed.
        let remove = |ifname: &str| {
            let removed = self.store.remove(self.uid, self.container_id, ifname);
            removed.map_err(|error| errors::record(&error))
        };
        for other in &dead {
            remove_device_info(Some(other), journal);
            remove(&other.ifname)?;
            journal.changed(format_args!("forget {}, whose VM is gone", quote::value(&other.ifname)));
        }
        remove(self.ifname)?;
        journal.checked("forgotten");
        Ok(running.is_some())
    }

    /// Whether nothing is to be unmounted: the share, and those of NICs that may turn out to be dead, are certain to stay for
    /// the sake of other attachments.
    pub fn leaves_the_shares(&self) -> bool {
        let record = self.store.find(self.uid, self.container_id, self.ifname);
        let others = self.others_of_the_sandbox();
        let may_go = |other: &Record| others.contains(other) || self.is_this(other);
        let mut shares = others.iter().map(|other| shares::of(other, self.uid)).chain([self.share(record.as_ref())]);
        shares.all(|share| shares::is_needed(&share, self.store, self.uid, may_go))
    }

    /// The share that the attachment has, or would have by the configuration.
    pub fn share(&self, record: Option<&Record>) -> Share {
        let usual = || Share::new(&self.config.socket_base_dir, self.uid, &self.config.volume_name);
        record.map_or_else(usual, |record| shares::of(record, self.uid))
    }

    /// One of the pod's volumes. One that is not what it must be is left alone, with all that lies in it.
    fn volume(&self, name: &str, journal: &Journal) -> Option<Volume> {
        let volume = Volume::open(&self.config.kubelet_dir, self.uid.as_str(), name);
        volume.inspect_err(|error| journal.warn(error)).ok().flatten()
    }

    fn is_this(&self, record: &Record) -> bool {
        record.is_of(self.container_id, self.ifname)
    }

    /// The records of the sandbox' other attachments that plugged a NIC.
    fn others_of_the_sandbox(&self) -> Vec<Record> {
        let all = self.store.of_pod(self.uid).into_iter();
        let with_nic = all.filter(|other| other.nic.is_some() && other.container_id == self.container_id);
        with_nic.filter(|other| !self.is_this(other)).collect()
    }

    /// The NIC that this attachment plugged. Where none is recorded (in a wiped /run, or because the VM has brought it along)
    /// it is the one that an ADD would have plugged, but only if the call names the pod's living sandbox, and no other
    /// attachment of the pod has that name: else this is the late DEL of an old sandbox.
    ///
    /// # Errors
    /// That it could not be looked for, or not in time: without an answer, its DEL is no success.
    fn sought(
        &self,
        record: Option<&Record>,
        volume: Option<&Volume>,
        running: Option<&RunningPod>,
    ) -> Result<Option<NicToDetach>, Error> {
        if let Some(nic) = record.and_then(|record| record.nic.clone()) {
            return Ok(Some(NicToDetach { nic, origin: Origin::Recorded }));
        }
        let Some((running, volume)) = running.zip(volume) else { return Ok(None) };
        let is_rival = |other: &Record| other.ifname == self.ifname && !self.is_this(other);
        let is_named = self.netns.is_some_and(|netns| running.sandbox.is_at(netns));
        if !is_named || self.store.of_pod(self.uid).iter().any(is_rival) {
            return Ok(None);
        }
        let (Ok(socket), Ok(location)) = (self.config.socket_name(self.ifname), volume.location()) else {
            return Ok(None);
        };
        let points = running.mount_points(&location, self.deadline);
        if self.deadline.passed() {
            return Err(Error::try_again(
                "The time was up before it was known whether the pod's VM has the NIC. Nothing was undone; the next DEL \
                 begins anew.",
            ));
        }
        let paths: Vec<_> =
            points.iter().filter_map(|point| point.join(socket).into_os_string().into_string().ok()).collect();
        // QEMU's container need not be the only one that has the volume.
        let spellings: Vec<UnixPath> = paths.iter().map(|path| running.path(path)).collect();
        let mut held = None;
        let note = |socket: Socket<'_>| {
            let index = spellings.iter().position(|path| socket.listens && path.may_be(socket.path))?;
            held = held.map_or(Some(index), |held: usize| Some(held.min(index)));
            None::<()>
        };
        running.find_socket(note).map_err(|error| {
            Error::try_again(
                "The pod's unix sockets cannot be listed, so that it cannot be known whether its VM has the NIC. Nothing was \
                 undone; the next DEL begins anew.",
            )
            .with_details(error)
        })?;
        let held = held.and_then(|index| paths.get(index));
        // The plugin's alias must tell a NIC that came along, or that an ADD would not have plugged: one of the VM's
        // definition may have the same MAC and socket.
        let (origin, mac) = match record {
            None if self.config.attach != Attach::Never => (Origin::Unrecorded, self.mac.clone()),
            _ if held.is_none() => return Ok(None),
            _ => (Origin::Migrated, None),
        };
        let Some(path) = held.or(paths.first()).cloned() else { return Ok(None) };
        let nic = Nic {
            alias: self.config.nic.alias.clone().unwrap_or_else(|| alias_of(self.ifname)),
            mac: mac.unwrap_or_default(),
            path,
            socket: socket.to_owned(),
            domain: String::new(),
            queues: None,
            mtu: None,
            guest_mtu: None,
            attached: true,
            detaching: false,
        };
        Ok(Some(NicToDetach { nic, origin }))
    }

    /// Makes the guest release the NIC, if there is a guest that has it. Returns whether there was.
    fn unplug(
        &self,
        sought: &NicToDetach,
        record: Option<&Record>,
        volume: Option<&Volume>,
        running: &RunningPod,
        journal: &mut Journal,
    ) -> Result<bool, Error> {
        let nic = &sought.nic;
        let Some(volume) = volume.filter(|_| Recorded::from(nic).opening) else {
            return self.unplug_by_libvirt(sought, record, volume, running, journal);
        };
        let socket = SocketName { volume, name: &nic.socket, path: &nic.path };
        let mark = || ledger::record_removal(self.store, self.uid, &nic.path);
        unfinished::end(&socket, running, self.deadline, journal, mark, |journal, _| {
            self.unplug_by_libvirt(sought, record, Some(volume), running, journal)
        })
    }

    fn unplug_by_libvirt(
        &self,
        sought: &NicToDetach,
        record: Option<&Record>,
        volume: Option<&Volume>,
        running: &RunningPod,
        journal: &mut Journal,
    ) -> Result<bool, Error> {
        let nic = &sought.nic;
        let recorded = Recorded::from(nic);
        let listens = || sandbox::listens(running, &nic.path);
        let mut libvirt = match Hypervisor::reach(self.config, self.uid, running, Access::Full, self.deadline) {
            Ok(libvirt) => libvirt,
            Err(unreached) => {
                let (told, is_absent) = (errors::hypervisor(&unreached), unreached.is_absent());
                return match judge(recorded, Heard::Unreached(told.clone()), listens) {
                    NicState::Absent => {
                        if !is_absent {
                            journal.warn(told);
                        }
                        Ok(false)
                    }
                    _ if volume.is_some_and(|volume| running.has_no_vm(volume, self.deadline)) => Ok(false),
                    _ => Err(unsure(nic, told)),
                };
            }
        };
        let client = &mut libvirt.client;
        let domains = client.domains(self.deadline).map_err(|error| errors::libvirt(&error))?;
        journal.checked("libvirt");
        // One that does not run may have the NIC stored, if somebody made it persistent. What no record tells to have been
        // plugged is then the definition's own business.
        let is_it = |domain: &&Domain| {
            if sought.origin == Origin::Recorded { domain.uuid_digits() == nic.domain } else { domain.is_active() }
        };
        let mut found = false;
        for domain in domains.iter().filter(is_it) {
            if recorded.opening {
                attach::settle(client, domain, self.deadline).map_err(|error| errors::held(&error))?;
                journal.checked("attach ended");
            }
            found |= self.unplug_from(sought, record, client, domain, running, journal)?;
            // Another client's attach may be under way.
            if !found && !recorded.opening && domain.is_active() && running.may_listen(&nic.path) {
                attach::settle(client, domain, self.deadline).map_err(|error| errors::held(&error))?;
                found |= self.unplug_from(sought, record, client, domain, running, journal)?;
            }
        }
        if !found && sought.origin != Origin::Migrated && running.may_listen(&nic.path) {
            self.ensure_not_anothers(nic, client, &domains, running)?;
        }
        Ok(found)
    }

    /// Makes sure that who listens at the socket is not a NIC that a VM shows, under another alias and MAC. It may be another client's, or
    /// that of an ADD whose record is lost and whose alias this call does not tell.
    fn ensure_not_anothers(
        &self,
        nic: &Nic,
        client: &mut Client,
        domains: &[Domain],
        running: &RunningPod,
    ) -> Result<(), Error> {
        let path = running.path(&nic.path);
        for domain in domains.iter().filter(|domain| domain.is_active()) {
            match attach::describe(client, domain, self.deadline) {
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

    fn unplug_from(
        &self,
        sought: &NicToDetach,
        record: Option<&Record>,
        client: &mut Client,
        domain: &Domain,
        running: &RunningPod,
        journal: &mut Journal,
    ) -> Result<bool, Error> {
        let nic = &sought.nic;
        let mac = Some(nic.mac.as_str()).filter(|mac| !mac.is_empty());
        let path = running.path(&nic.path);
        let target = Target { mac, path: &path, alias: &nic.alias };
        let stored = detach::forget_stored(client, domain, target, self.deadline);
        let stored = stored.map_err(|error| errors::held(&error))?;
        let found = detach::find_when_free(client, domain, target, self.deadline);
        let Some(alias) = found.map_err(|error| errors::held(&error))? else { return Ok(stored) };
        // First, so that no later ADD takes a NIC for plugged that the guest is about to release.
        self.record_removal(nic, domain, record)?;
        release(running, client, domain, (target, &alias), self.deadline, journal)?;
        Ok(true)
    }

    /// Records that the guest is about to be asked to release the NIC.
    fn record_removal(&self, nic: &Nic, domain: &Domain, record: Option<&Record>) -> Result<(), Error> {
        let nic = Nic { detaching: true, domain: domain.uuid_digits(), ..nic.clone() };
        if record.is_some_and(|record| record.nic.as_ref() == Some(&nic)) {
            return Ok(());
        }
        let unrecorded = || {
            let attachment = (self.network, self.container_id, self.ifname);
            let share = (self.config.volume_name.as_str(), self.config.socket_base_dir.as_path());
            let record = Record::new(attachment, self.uid, self.netns.unwrap_or(Path::new("")), share);
            Record { keys: Some(self.config.keys(self.conf)), ..record }
        };
        let record = Record { nic: Some(nic), ..record.cloned().unwrap_or_else(unrecorded) };
        self.store.write(self.uid, &record).map_err(|error| errors::record(&error))
    }

    /// Removes the socket's file, if QEMU has not: one that died has left it. Waits until nobody listens there any more, for
    /// an ADD that comes next would find the name in use. Nor does a directory stay there that an ADD made.
    fn remove_socket(
        &self,
        nic: &Nic,
        volume: &Volume,
        running: Option<&RunningPod>,
        journal: &mut Journal,
    ) -> Result<(), Error> {
        let looking = |error| errors::system("looking at the NIC's socket", &error);
        if let Some(running) = running
            && !is_unused(running, &nic.path, self.deadline)?
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
            journal.changed("remove socket");
        }
        Ok(())
    }
}

/// It can't be known whether the VM has the NIC.
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

/// Removes the file that told the runtime of the NIC. The runtime may have done so, and does it if this fails.
pub fn remove_device_info(record: Option<&Record>, journal: &mut Journal) {
    let Some(info) = record.and_then(|record| record.device_info.as_ref()) else { return };
    match info.remove() {
        Ok(true) => journal.changed(format_args!("remove {}", info.file.display())),
        Ok(false) => {}
        Err(error) => journal.warn(error),
    }
}

/// Lets go of the pod's lock, for good if nothing of the pod is recorded.
pub fn release_lock(lock: Lock, store: &Store, uid: &PodUid) {
    if store.of_pod(uid).is_empty() {
        store.tidy(uid);
        lock.retire();
    }
}
