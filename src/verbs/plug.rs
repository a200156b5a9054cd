//! The NIC's part of ADD: find the pod's libvirt, prepare the NIC, link it with the data plane.

use std::path::Path;

use crate::cni::mac::Mac;
use crate::cni::{Error, Request};
use crate::config::{Config, Queues};
use crate::dataplane::figures::Figures;
use crate::dataplane::seat::Seat;
use crate::deadline::Deadline;
use crate::device_info::DeviceInfo;
use crate::libvirt::Access;
use crate::pod::identity::PodUid;
use crate::pod::process::Process;
use crate::pod::volume::Volume;
use crate::quote;
use crate::record::{Nic, Record, Store};
use crate::share::{self, SUN_PATH, Share};
use crate::vm::attach;
use crate::vm::domain::Description;
use crate::vm::error::Error as VmError;
use crate::vm::interface::{Interface, alias_of};

use super::hypervisor::Hypervisor;
use super::journal::Journal;
use super::link::Link;
use super::sandbox::Living;
use super::{fault, fit, prev_result};

/// Longest alias that is taken from a VM's description into a record, in bytes: one that libvirt makes has a dozen, one of
/// a user's fits into the configuration's 64.
const ALIAS_LIMIT: usize = 255;

/// Most queue pairs that are taken unasked; a guest with more vCPUs seldom gains by more.
const AUTO_QUEUES: u16 = 16;

/// Why a NIC was not plugged.
pub struct Failure {
    /// What to tell.
    pub error: Error,
    /// Whether it may still come about, so that its share and record must stay.
    pub open: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, open: false }
    }
}

impl From<VmError> for Failure {
    fn from(error: VmError) -> Self {
        Self { error: fault::vm(&error), open: error.is_open() }
    }
}

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
    /// What lives of the pod.
    pub living: &'a Living,
    /// When to give up.
    pub deadline: Deadline,
}

impl Plug<'_> {
    /// Plugs the NIC, unless it is there as asked, and records it.
    pub fn run(&self, store: &Store, record: &mut Record, journal: &mut Journal) -> Result<(), Failure> {
        let (config, deadline) = (self.config, self.deadline);
        let mac = self.mac()?;
        let socket = config.socket_name(&self.request.ifname)?;
        let mut libvirt =
            Hypervisor::reach(config, self.uid, self.living, Access::Full, deadline).map_err(|error| error.told())?;
        journal.saw("libvirt");
        let outside = self.outside(socket);
        let path = self.inside(&libvirt.process, socket, &outside)?;
        let client = &mut libvirt.client;
        let domain = attach::choose(client, config.domain.as_deref(), deadline)?;
        let description = attach::describe(client, &domain, deadline).map_err(|error| fault::held(&error))?;
        let (mut asked, queues_matter) = self.interface(mac, path, &description);

        let mut nic = Nic {
            alias: asked.alias.clone(),
            mac: asked.mac.clone(),
            path: asked.path.clone(),
            socket: socket.to_owned(),
            domain: domain.uuid_digits(),
            queues: None,
            attached: false,
        };
        let mut keep = |nic: &Nic| {
            record.nic = Some(nic.clone());
            store.write(self.uid, record).map_err(|error| fault::record(&error))
        };
        let seat = Seat::new(self.volume.fd(), socket, Path::new(&outside));
        let inside = asked.path.clone();
        let link = Link { living: self.living, seat, inside: &inside, outside: &outside, deadline };
        let there = attach::examine(&description, &asked, queues_matter)?;
        let was_there = there.is_some();
        if let Some(there) = there {
            attach::ensure_arrived(client, &domain, deadline).map_err(|error| fault::held(&error))?;
            nic.alias = there.alias.filter(|alias| alias.len() <= ALIAS_LIMIT).unwrap_or(nic.alias);
            nic.queues = Some(there.queues);
            journal.saw("already plugged");
        } else {
            // First, so that a DEL removes what a call that is killed leaves.
            keep(&nic)?;
            link.ensure_unused()?;
            journal.saw("VM looked at");
            let mut met = link.meet(journal)?;
            let mut ensure_free =
                || attach::ensure_free(client, &domain, deadline).map_err(|error| fault::held(&error));
            ensure_free()?;
            journal.saw("VM not busy");
            if let Err(fault) = met.ask_again(link.half_of_the_rest()) {
                journal.warn(format_args!("the data plane is met once more: {fault}"));
                drop(met);
                met = link.meet(journal)?;
                ensure_free()?;
            }
            asked.queues = agreed(asked.queues, queues_matter, met.figures)?;
            fit::ensure_accepted(&met.figures, description.memory_slots)?;
            link.plug(client, &domain, &asked, met, journal)?;
            nic.queues = Some(asked.queues);
        }
        nic.attached = true;
        keep(&nic)?;
        take_over(store, self.uid, record)?;
        journal.saw("recorded");
        if was_there {
            // It stays whatever the data plane does, with what it needs: an earlier ADD has told of it.
            link.ensure_linked().map_err(|error| Failure { error, open: true })?;
            journal.saw("data plane connected");
        }
        self.tell(&nic, store, record, journal).map_err(Failure::from)
    }

    /// Tells of the NIC in the file that the runtime named, if it did.
    fn tell(&self, nic: &Nic, store: &Store, record: &mut Record, journal: &mut Journal) -> Result<(), Error> {
        let Some(file) = self.config.nic.device_info_file.clone() else { return Ok(()) };
        let info = DeviceInfo { file, socket: nic.path.clone() };
        let unwritten = |error| {
            let file = info.file.display();
            Error::io(format!("CNIDeviceInfoFile {file} could not be written; the NIC is plugged.")).with_details(error)
        };
        if let Some(earlier) = record.device_info.take().filter(|earlier| *earlier != info) {
            earlier.remove().map_err(unwritten)?;
        }
        let keep = |record: &Record| store.write(self.uid, record).map_err(|error| fault::record(&error));
        record.device_info = Some(info.clone());
        // First, so that a DEL removes what a call that is killed leaves.
        keep(record)?;
        if info.write().map_err(unwritten)? {
            journal.did(format_args!("write {}", info.file.display()));
            return Ok(());
        }
        journal.warn(format_args!("{} holds what another has told, and was left alone", info.file.display()));
        record.device_info = None;
        keep(record)
    }

    /// The MAC address: the runtime's, if it gives one, else the one that kube-ovn's result bears.
    fn mac(&self) -> Result<String, Error> {
        if let Some(mac) = &self.config.nic.mac {
            return Ok(mac.to_string());
        }
        let chosen = prev_result(self.request)?.interface_of(&self.request.ifname);
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

    /// The socket's path as the data plane knows it.
    fn outside(&self, socket: &str) -> String {
        share::as_told(&self.share.target().join(socket)).display().to_string()
    }

    /// The socket's path as QEMU knows it: where the daemon's container has the volume, and the socket's name.
    fn inside(&self, daemon: &Process, socket: &str, outside: &str) -> Result<String, Error> {
        let location = self.volume.location().map_err(|error| fault::system("locating the pod's volume", &error))?;
        let point = daemon.mount_point(&location);
        let point = point.map_err(|error| fault::system("reading the mounts of the pod's libvirt daemon", &error))?;
        let point = point.ok_or_else(|| {
            Error::no_volume(format!(
                "The container of the pod's libvirt daemon does not mount the volume {}.",
                self.config.volume_name
            ))
        })?;
        let inside = point.join(socket);
        for path in [inside.to_string_lossy().as_ref(), outside] {
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
        match inside.to_str() {
            Some(path) if path.chars().all(stands_in_xml) => Ok(path.to_owned()),
            _ => Err(Error::untrusted_files(format!(
                "The socket's path would be {}, which cannot stand in XML as it is: mount the volume at a path without \
                 control characters.",
                quote::value(&inside.to_string_lossy())
            ))),
        }
    }

    /// The NIC to ask for, and whether its number of queues was asked for.
    fn interface(&self, mac: String, path: String, description: &Description) -> (Interface, bool) {
        let config = self.config;
        let (queues, queues_matter) = match config.queues() {
            Queues::Pairs(pairs) => (pairs, true),
            Queues::Auto => {
                let vcpus = u16::try_from(description.vcpus).unwrap_or(AUTO_QUEUES);
                (vcpus.clamp(1, AUTO_QUEUES), false)
            }
        };
        let interface = Interface {
            mac,
            path,
            model: config.model.as_str().to_owned(),
            queues,
            rx_queue_size: config.rx_queue_size,
            tx_queue_size: config.tx_queue_size,
            alias: config.nic.alias.clone().unwrap_or_else(|| alias_of(&self.request.ifname)),
            address: config.nic.pci_address,
        };
        (interface, queues_matter)
    }
}

/// Whether XML can hold a character, and an attribute keeps it as it is (XML 1.0, "Characters" and "Attribute-Value
/// Normalization").
fn stands_in_xml(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// The queue pairs that both sides can have: QEMU would never be done with a NIC that has more than its data plane.
fn agreed(queues: u16, queues_matter: bool, figures: Figures) -> Result<u16, Error> {
    let offered = u16::try_from(figures.queues).unwrap_or(u16::MAX);
    if queues_matter && queues > offered {
        return Err(Error::invalid_config(format!(
            "The key \"queues\" asks for {queues} queue pairs, and the data plane offers {offered}: ask for less, or for \
             \"auto\"."
        )));
    }
    Ok(queues.min(offered))
}

/// A NIC belongs to the attachment that plugged it last: a pod's new sandbox takes it over from the old one, whose late
/// DEL must not touch it.
fn take_over(store: &Store, uid: &PodUid, record: &Record) -> Result<(), Error> {
    let path = record.nic.as_ref().map(|nic| &nic.path);
    for mut other in store.of_pod(uid) {
        if !other.is_of(&record.container_id, &record.ifname) && other.nic.as_ref().map(|nic| &nic.path) == path {
            other.nic = None;
            store.write(uid, &other).map_err(|error| fault::record(&error))?;
        }
    }
    Ok(())
}
