//! The NIC's part of ADD: find the pod's libvirt, prepare the NIC, link it with the data plane.

use std::path::Path;
use std::sync::atomic::Ordering;

use crate::attachment::device_info::DeviceInfo;
use crate::attachment::record::Nic;
use crate::attachment::share::{self, SUN_PATH, Share};
use crate::cni::mac::Mac;
use crate::cni::{Error, Request};
use crate::config::{Config, Queues};
use crate::dataplane::capabilities::Capabilities;
use crate::dataplane::socket_path::SocketPath;
use crate::deadline::Deadline;
use crate::libvirt::{Access, Client, Domain};
use crate::ovs::port;
use crate::pod::identity::PodUid;
use crate::pod::process::Process;
use crate::pod::unix_path::UnixPath;
use crate::pod::volume::{Entry, Volume};
use crate::quote;
use crate::vm::attach;
use crate::vm::detach;
use crate::vm::domain::Description;
use crate::vm::interface::{Interface, Target, alias_of};

use super::errors::Failure;
use super::hypervisor::Hypervisor;
use super::journal::Journal;
use super::ledger::{self, Ledger};
use super::link::Link;
use super::nic_state::Recorded;
use super::ports::Port;
use super::release::{is_unused, release};
use super::unfinished::{self, SocketName};
use super::{errors, fit, mtu, shares};
use crate::pod::running::RunningPod;

/// Longest alias that is taken from a VM's description into a record, in bytes: one that libvirt makes has a dozen, one of
/// a user's fits into the configuration's 64.
const ALIAS_LIMIT: usize = 255;

/// Most queue pairs that are taken unasked; a guest with more vCPUs seldom gains by more.
const AUTO_QUEUES: u16 = 16;

/// A NIC that is to be plugged.
pub struct Plug<'a> {
    /// The call.
    pub request: &'a Request,
    /// Its configuration.
    pub config: &'a Config,
    /// The pod.
    pub uid: &'a PodUid,
    /// Its volume.
    pub volume: &'a Volume,
    /// Where the data plane sees that.
    pub share: &'a Share,
    /// Whether this call may still mount it.
    pub may_mount: bool,
    /// What lives of the pod.
    pub running: &'a RunningPod,
    /// When to give up.
    pub deadline: Deadline,
}

impl Plug<'_> {
    /// Plugs the NIC, unless it is there as asked, and records it.
    pub fn run(&self, ledger: &mut Ledger<'_>, journal: &mut Journal) -> Result<(), Failure> {
        let (config, deadline) = (self.config, self.deadline);
        let mac = self.mac()?;
        let socket = config.socket_name(&self.request.ifname)?;
        self.end_earlier_attaches(socket, ledger, journal)?;
        let mut libvirt = Hypervisor::reach(config, self.uid, self.running, Access::Full, deadline)
            .map_err(|error| errors::hypervisor(&error))?;
        journal.checked("libvirt");
        let host_path = self.host_path(socket);
        let path = self.guest_path(&libvirt.process, socket, &host_path)?;
        let client = &mut libvirt.client;
        let domain = attach::choose(client, config.domain.as_deref(), deadline)?;
        let path = self.running.path(&path);
        let recorded = Recorded::of(&ledger.of_pod(), &path);
        let asked = self.interface(mac, path);
        self.ensure_not_elsewhere(&asked, (&mut *client, &domain), ledger)?;
        let mut description = attach::describe(client, &domain, deadline).map_err(|error| errors::held(&error))?;
        if recorded.leaving && self.end_removal(&asked, &description, (&mut *client, &domain), journal)? {
            description = attach::describe(client, &domain, deadline).map_err(|error| errors::held(&error))?;
        }
        let (mut asked, queues_matter) = self.with_queues(asked, &description);

        let nic = Nic {
            alias: asked.alias.clone(),
            mac: asked.mac.clone(),
            path: asked.path.to_string(),
            socket: socket.to_owned(),
            domain: domain.uuid_digits(),
            queues: None,
            mtu: self.mtu()?,
            guest_mtu: Some(mtu::of_guest(&description, &asked.model)),
            attached: false,
            detaching: false,
        };
        let socket_path = SocketPath::new(self.volume.fd(), socket, Path::new(&host_path));
        let guest_path = asked.path.clone();
        let share = || shares::ensure(self.share, self.volume, self.may_mount);
        let (target, pod) = (self.share.target(), ledger.record.pod.clone());
        let port = self.port(&target, &host_path, &pod);
        let link = Link {
            running: self.running,
            socket_path,
            guest_path: &guest_path,
            host_path: &host_path,
            share: &share,
            port,
            deadline,
        };
        let shown = match attach::examine(&description, &asked, queues_matter)? {
            Some(there) => {
                attach::ensure_arrived(client, &domain, deadline).map_err(|error| errors::held(&error))?;
                Some(there)
            }
            None => None,
        };
        let was_there = shown.is_some();
        if let Some(there) = shown {
            let alias = there.alias.filter(|alias| alias.len() <= ALIAS_LIMIT).unwrap_or(nic.alias.clone());
            ledger.keep(Nic { alias, queues: Some(there.queues), attached: true, ..nic })?;
            journal.checked("already plugged");
        } else {
            // First, so that a DEL removes what a call that is killed leaves.
            ledger.keep(nic)?;
            link.ensure_unused((&mut *client, &domain), &asked.alias)?;
            journal.checked("VM looked at");
            port.ensure_ready(deadline, journal)?;
            let mut met = link.meet(journal)?;
            let mut ensure_free =
                || attach::ensure_free(client, &domain, deadline).map_err(|error| errors::held(&error));
            ensure_free()?;
            journal.checked("VM not busy");
            if let Err(fault) = met.ask_again(link.deadline.half()) {
                journal.warn(format_args!("the data plane is met once more: {fault}"));
                drop(met);
                met = link.meet(journal)?;
                ensure_free()?;
            }
            asked.queues = negotiate_queues(asked.queues, queues_matter, met.capabilities)?;
            fit::ensure_accepted(&met.capabilities, &description)?;
            share()?;
            link.plug(client, &domain, &asked, met, ledger, journal)?;
            ledger.plugged(asked.queues)?;
        }
        ledger.claim_nic()?;
        journal.checked("recorded");
        if was_there {
            // It stays whatever the data plane does, with what it needs: an earlier ADD has told of it.
            let linked = link.ensure_linked(journal).and_then(|()| {
                journal.checked("data plane connected");
                port.ensure_passing(deadline, journal)
            });
            linked.map_err(|error| Failure { error, open: true })?;
            let entry =
                self.volume.entry(socket).map_err(|error| errors::system("looking at the NIC's socket", &error))?;
            if entry != Entry::Socket {
                let error = Error::try_again(format!(
                    "The VM has this NIC, and its socket {} is gone from the volume, so no data plane can connect to it any \
                     more: unplug the NIC (DEL), and plug it anew.",
                    quote::value(&host_path)
                ));
                return Err(Failure { error, open: true });
            }
        }
        share().map_err(|error| Failure { error, open: true })?;
        if let Some(told) = ledger.nic().and_then(mtu::warning) {
            journal.warn(told);
        }
        self.write_device_info(ledger, journal).map_err(Failure::from)
    }

    /// OVS's port for the NIC, whose socket the data plane knows by the path `host_path`.
    fn port<'a>(&'a self, share: &'a Path, host_path: &'a str, pod: &'a str) -> Port<'a> {
        let Request { container_id, ifname, .. } = self.request;
        Port {
            socket: &self.config.ovsdb_socket,
            share,
            nic: port::Nic { path: Path::new(host_path), container_id, ifname, pod },
        }
    }

    /// Waits for the end of attaches that earlier ADDs sent for this socket, each to the VM that its record names. What a stand-in
    /// had to bring about is unplugged.
    fn end_earlier_attaches(
        &self,
        socket: &str,
        ledger: &mut Ledger<'_>,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let nics = ledger.of_pod().into_iter().filter_map(|record| record.nic);
        for nic in nics.filter(|nic| nic.socket == socket && Recorded::from(nic).opening) {
            self.end_earlier_attach(&nic, ledger, journal)?;
        }
        let socket_path = SocketPath::new(self.volume.fd(), socket, self.volume.path());
        if socket_path.is_blocked() {
            // Its record may be lost. The VM that is chosen below is settled before anything is plugged.
            socket_path.unblock().map_err(|error| errors::system("freeing the NIC's socket", &error))?;
        }
        Ok(())
    }

    fn end_earlier_attach(&self, nic: &Nic, ledger: &mut Ledger<'_>, journal: &mut Journal) -> Result<(), Failure> {
        let (running, deadline) = (self.running, self.deadline.half());
        let socket = SocketName { volume: self.volume, name: &nic.socket, path: &nic.path };
        let (store, uid) = (ledger.store, ledger.uid);
        let mark = || ledger::record_removal(store, uid, &nic.path);
        let path = running.path(&nic.path);
        let target = Target { mac: Some(&nic.mac), path: &path, alias: &nic.alias };
        unfinished::end(&socket, running, deadline, journal, mark, |journal, freed| {
            let reached = Hypervisor::reach(self.config, self.uid, running, Access::Full, deadline);
            let mut libvirt = reached.map_err(|error| errors::hypervisor(&error))?;
            let client = &mut libvirt.client;
            let domains = client.running_domains(deadline).map_err(|error| errors::libvirt(&error))?;
            // Nothing comes of it any more if its VM has ended.
            let Some(domain) = domains.iter().find(|one| one.uuid_digits() == nic.domain) else { return Ok(()) };
            attach::settle(client, domain, deadline).map_err(|error| errors::held(&error))?;
            journal.checked("attach ended");
            if !freed.load(Ordering::Acquire) {
                return Ok(());
            }
            let alias = detach::find(client, domain, target, deadline).map_err(|error| errors::held(&error))?;
            let Some(alias) = alias else { return Ok(()) };
            ledger.leaving(&nic.path)?;
            release(running, client, domain, (target, &alias), deadline, journal)?;
            is_unused(running, &nic.path, deadline).map(drop)
        })?;
        Ok(())
    }

    /// Makes sure that no other VM of the pod has this NIC: the second one would take the socket's name from the first.
    fn ensure_not_elsewhere(
        &self,
        asked: &Interface,
        (client, domain): (&mut Client, &Domain),
        ledger: &Ledger<'_>,
    ) -> Result<(), Failure> {
        let nics = ledger.of_pod().into_iter().filter_map(|record| record.nic);
        let elsewhere = |nic: &Nic| asked.path.is(&nic.path) && nic.domain != domain.uuid_digits();
        let others: Vec<String> = nics.filter(elsewhere).map(|nic| nic.domain).collect();
        if others.is_empty() {
            return Ok(());
        }
        let running = client.running_domains(self.deadline).map_err(|error| errors::libvirt(&error))?;
        for other in running.iter().filter(|one| others.contains(&one.uuid_digits())) {
            let there = detach::find(client, other, asked.target(), self.deadline);
            if there.map_err(|error| errors::held(&error))?.is_some() {
                return Err(Failure::from(Error::conflict(format!(
                    "The VM {} of the pod has this NIC already: unplug it there first (DEL).",
                    quote::value(&other.name)
                ))));
            }
        }
        Ok(())
    }

    /// Ends a removal that a DEL began: a NIC that the guest releases at any time is not plugged. Returns whether there was one.
    fn end_removal(
        &self,
        asked: &Interface,
        description: &Description,
        (client, domain): (&mut Client, &Domain),
        journal: &mut Journal,
    ) -> Result<bool, Failure> {
        let target = asked.target();
        let Some(nic) = description.find(target) else { return Ok(false) };
        let alias = nic.alias.clone().unwrap_or_else(|| asked.alias.clone());
        let deadline = self.deadline.half();
        let released = release(self.running, client, domain, (target, &alias), deadline, journal);
        released.map_err(|error| {
            let msg = format!(
                "This NIC is leaving: the guest was asked to release it, and must do so before the NIC is plugged anew. {}",
                error.msg
            );
            Error { msg, ..error }
        })?;
        is_unused(self.running, target.path, deadline)?;
        Ok(true)
    }

    /// Tells of the NIC in the file that the runtime named, if it did.
    fn write_device_info(&self, ledger: &mut Ledger<'_>, journal: &mut Journal) -> Result<(), Error> {
        let Some(file) = self.config.nic.device_info_file.clone() else { return Ok(()) };
        let Some(nic) = ledger.nic() else { return Ok(()) };
        let info = DeviceInfo { file, socket: nic.path.clone() };
        let unwritten = |error| {
            let file = info.file.display();
            Error::io(format!("CNIDeviceInfoFile {file} could not be written; the NIC is plugged.")).with_details(error)
        };
        let earlier = ledger.record.device_info.take().filter(|earlier| *earlier != info);
        if let Some(earlier) = earlier {
            earlier.remove().map_err(unwritten)?;
        }
        // First, so that a DEL removes what a call that is killed leaves.
        ledger.told(Some(info.clone()))?;
        if info.write().map_err(unwritten)? {
            journal.changed(format_args!("write {}", info.file.display()));
            return Ok(());
        }
        journal.warn(format_args!("{} holds what another has told, and was left alone", info.file.display()));
        ledger.told(None)
    }

    /// The MAC address: the runtime's, if it gives one, else the one that kube-ovn's result bears.
    fn mac(&self) -> Result<String, Error> {
        if let Some(mac) = &self.config.nic.mac {
            return Ok(mac.to_string());
        }
        let chosen = self.request.prev_result()?.interface_of(&self.request.ifname);
        let text = chosen.and_then(|interface| interface.mac).filter(|mac| !mac.is_empty()).ok_or_else(|| {
            Error::invalid_config(
                "Neither runtimeConfig.mac nor an interface of prevResult gives the NIC's MAC address, which the VM's NIC \
                 must share with the data plane's port.",
            )
        })?;
        let mac = text.parse::<Mac>().ok().filter(Mac::is_unicast);
        mac.map(|mac| mac.to_string()).ok_or_else(|| {
            Error::invalid_config(format!(
                "prevResult's MAC address {} is not the address of a NIC.",
                quote::value(&text)
            ))
        })
    }

    /// The network's MTU, if kube-ovn's result tells it.
    fn mtu(&self) -> Result<Option<u32>, Error> {
        Ok(self.request.prev_result()?.interface_of(&self.request.ifname).and_then(|interface| interface.mtu))
    }

    /// The socket's path as the data plane knows it.
    fn host_path(&self, socket: &str) -> String {
        share::data_plane_path(&self.share.target().join(socket)).display().to_string()
    }

    /// The socket's path as QEMU knows it: where the daemon's container has the volume, and the socket's name.
    fn guest_path(&self, daemon: &Process, socket: &str, host_path: &str) -> Result<String, Error> {
        let location = self.volume.location().map_err(|error| errors::system("locating the pod's volume", &error))?;
        let point = daemon.mount_point(&location);
        let point = point.map_err(|error| errors::system("reading the mounts of the pod's libvirt daemon", &error))?;
        let point = point.ok_or_else(|| {
            Error::no_volume(format!(
                "The container of the pod's libvirt daemon does not mount the volume {}.",
                self.config.volume_name
            ))
        })?;
        let guest_path = point.join(socket);
        for path in [guest_path.to_string_lossy().as_ref(), host_path] {
            if path.len() > SUN_PATH {
                return Err(Error::invalid_config(format!(
                    "The socket's path {} has {} bytes, and a unix socket's may have {SUN_PATH}: mount the volume \
                     {} at a shorter path, or choose a shorter socket name.",
                    quote::value(path),
                    path.len(),
                    self.config.volume_name
                )));
            }
        }
        match guest_path.to_str() {
            Some(path) if path.chars().all(stands_in_xml) => Ok(path.to_owned()),
            _ => Err(Error::untrusted_files(format!(
                "The socket's path would be {}, which cannot stand in XML as it is: mount the volume at a path without \
                 control characters.",
                quote::value(&guest_path.to_string_lossy())
            ))),
        }
    }

    /// The NIC to ask for, but for its number of queues.
    fn interface(&self, mac: String, path: UnixPath) -> Interface {
        let config = self.config;
        Interface {
            mac,
            path,
            model: config.model.as_str().to_owned(),
            queues: 1,
            rx_queue_size: config.rx_queue_size,
            tx_queue_size: config.tx_queue_size,
            alias: config.nic.alias.clone().unwrap_or_else(|| alias_of(&self.request.ifname)),
            address: config.nic.pci_address,
            iommu: false,
        }
    }

    /// The NIC to ask for, and whether its number of queues was asked for.
    fn with_queues(&self, asked: Interface, description: &Description) -> (Interface, bool) {
        let (queues, queues_matter) = match self.config.queues() {
            Queues::Pairs(pairs) => (pairs, true),
            Queues::Auto => {
                let vcpus = u16::try_from(description.vcpus).unwrap_or(AUTO_QUEUES);
                (vcpus.clamp(1, AUTO_QUEUES), false)
            }
        };
        (Interface { queues, iommu: description.encrypted, ..asked }, queues_matter)
    }
}

/// Whether XML can hold a character, and an attribute keeps it as it is (XML 1.0, "Characters" and "Attribute-Value
/// Normalization").
fn stands_in_xml(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// The queue pairs that both sides can have: QEMU would never be done with a NIC that has more than its data plane.
fn negotiate_queues(queues: u16, queues_matter: bool, capabilities: Capabilities) -> Result<u16, Error> {
    let offered = u16::try_from(capabilities.queues).unwrap_or(u16::MAX);
    if queues_matter && queues > offered {
        return Err(Error::invalid_config(format!(
            "The key \"queues\" asks for {queues} queue pairs, and the data plane offers {offered}: ask for less, or for \
             \"auto\"."
        )));
    }
    Ok(queues.min(offered))
}
