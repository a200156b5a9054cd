//! The XML of a running domain: vCPUs, memory, free ports, NICs (libvirt, formatdomain).

use std::collections::HashSet;

use super::interface::{Interface, Nic, PciAddress, Target};
use super::memory::{MemorySlots, qemu_arguments};
use super::xml::{self, Element};
use crate::pod::unix_path::UnixPath;
use crate::quote;

/// The part of a domain's XML that matters here. The tenant may have written it: compare it, never follow it.
#[derive(Clone, Debug, Default)]
pub struct Description {
    pub vcpus: u32,
    /// Whether all of the guest's memory is shared, so that a data plane can map it.
    pub shared_memory: bool,
    /// The memory slots that QEMU needs from a data plane.
    pub memory_slots: MemorySlots,
    /// Whether the guest's memory is encrypted (`<launchSecurity>`: SEV, SEV-SNP, TDX, Secure Execution). Devices see
    /// only what the guest shares with them, and the guest uses a virtio device only if it offers
    /// `VIRTIO_F_ACCESS_PLATFORM`.
    pub encrypted: bool,
    /// As `encrypted`, and the virtio devices are PCI devices; those of Secure Execution (s390) are not.
    pub encrypted_pci: bool,
    /// The MTUs that QEMU's arguments set for virtio NICs, each with QEMU's name of the device.
    host_mtus: Vec<(String, u32)>,
    pub nics: Vec<Nic>,
    aliases: HashSet<String>,
    ports: Ports,
}

/// The free slots for a hot-plugged device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ports {
    /// The XML does not show them: libvirt will find out.
    #[default]
    Unknown,
    /// Conventional PCI: the number of empty slots.
    Conventional { free: usize },
    /// PCI Express: the number of empty root or downstream ports, and whether there is a conventional bridge.
    Express { free: usize, bridge: bool },
}

/// The result of comparing a requested NIC with those of the domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    Absent,
    /// It is there, as asked.
    Same(Nic),
    /// Another device has its alias, MAC or socket, or the NIC is there with other properties.
    Conflict(String),
}

/// The domain can't take the NIC. Each message says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "the VM's memory is not shared, so no data plane could reach it: the domain needs <memoryBacking> with <access \
         mode='shared'/> (and memfd or hugepages), or memAccess='shared' on every NUMA cell, when it starts"
    )]
    MemoryNotShared,
    #[error(
        "the VM has no free PCIe port: the domain needs a spare <controller type='pci' model='pcie-root-port'/> for each NIC \
         to be plugged, when it starts"
    )]
    NoFreePort,
    #[error(
        "the VM has no free PCI slot: the domain needs a spare <controller type='pci' model='pci-bridge'/> when it starts"
    )]
    NoFreeSlot,
    #[error(
        "model virtio-transitional needs a conventional PCI slot, and the VM has none: use model virtio-non-transitional, or \
         give the domain a pcie-to-pci-bridge when it starts"
    )]
    NoConventionalSlot,
    #[error(
        "the VM's memory is encrypted (<launchSecurity>), which model virtio-transitional does not support: use model \
         virtio-non-transitional"
    )]
    EncryptedTransitional,
}

impl Description {
    /// Parses a domain's live XML.
    ///
    /// # Errors
    /// Those of [`Element::parse`].
    pub fn parse(document: &str) -> Result<Self, xml::Error> {
        let domain = Element::parse(document)?;
        let nowhere = Element::default();
        let devices = domain.child("devices").unwrap_or(&nowhere);
        let aliases = devices.all_children().iter().filter_map(|device| device.child_attribute("alias", "name"));
        let security = domain.child("launchSecurity");
        Ok(Self {
            vcpus: vcpus(&domain),
            shared_memory: shared_memory(&domain),
            memory_slots: MemorySlots::of(&domain),
            encrypted: security.is_some(),
            encrypted_pci: security.is_some_and(|security| security.attribute("type") != Some("s390-pv")),
            host_mtus: host_mtus(&domain),
            nics: devices.children("interface").map(Nic::from_xml).collect(),
            aliases: aliases.map(str::to_owned).collect(),
            ports: ports(devices),
        })
    }

    /// Returns the NIC with this MAC and socket, or with this alias and one of them.
    #[must_use]
    pub fn find(&self, Target { mac, path, alias }: Target<'_>) -> Option<&Nic> {
        self.nics.iter().find(|nic| {
            let (same_path, same_alias) = (nic.is_at(path), nic.alias.as_deref() == Some(alias));
            let same_mac = mac.is_some_and(|mac| nic.mac == mac);
            nic.kind == "vhostuser" && ((same_path && same_mac) || (same_alias && (same_path || same_mac)))
        })
    }

    /// Returns the vhost-user NIC with this socket.
    #[must_use]
    pub fn at(&self, path: &UnixPath) -> Option<&Nic> {
        self.nics.iter().find(|nic| nic.kind == "vhostuser" && nic.is_at(path))
    }

    /// Compares a requested NIC with those of the domain. `queues_matter` is true if the number of queues was requested
    /// too.
    #[must_use]
    pub fn compare(&self, asked: &Interface, queues_matter: bool) -> Match {
        if let Some(nic) = self.nics.iter().find(|nic| nic.is_on(&asked.mac, &asked.path)) {
            if let Some(difference) = difference(nic, asked, queues_matter) {
                let mac = &asked.mac;
                return Match::Conflict(format!(
                    "the VM already has this NIC (MAC {mac}) with {difference}: unplug it first"
                ));
            }
            return Match::Same(nic.clone());
        }
        let held_by = |nic: &Nic, what: String| {
            let (alias, mac) = (quote::value(nic.alias.as_deref().unwrap_or("-")), quote::value(&nic.mac));
            Match::Conflict(format!("{what} is already that of another NIC of the VM ({alias}, MAC {mac})"))
        };
        // libvirt accepts a second NIC with the same MAC or socket, but the two break each other.
        if let Some(nic) = self.nics.iter().find(|nic| nic.alias.as_deref() == Some(&asked.alias)) {
            return held_by(nic, format!("alias {}", asked.alias));
        }
        if let Some(nic) = self.nics.iter().find(|nic| nic.mac == asked.mac) {
            return held_by(nic, format!("MAC {}", asked.mac));
        }
        if let Some(nic) = self.nics.iter().find(|nic| nic.is_at(&asked.path)) {
            return held_by(nic, format!("socket {}", quote::value(&asked.path)));
        }
        if self.aliases.contains(&asked.alias) {
            return Match::Conflict(format!("alias {} is already that of another device of the VM", asked.alias));
        }
        Match::Absent
    }

    /// Returns what is wrong with a NIC that was just plugged; `None` if it is there once, as requested.
    #[must_use]
    pub fn mismatch(&self, asked: &Interface) -> Option<String> {
        // libvirt may choose number and size of the queues.
        let asked = &Interface { rx_queue_size: None, tx_queue_size: None, ..asked.clone() };
        match self.compare(asked, false) {
            Match::Absent => Some("the VM's description does not show it".to_owned()),
            Match::Conflict(text) => Some(text),
            Match::Same(_) => {
                let is_it = |nic: &&Nic| nic.mac == asked.mac || nic.is_at(&asked.path);
                let count = self.nics.iter().filter(is_it).count();
                (count > 1).then(|| format!("the VM's description shows {count} NICs of its MAC or socket"))
            }
        }
    }

    /// Returns the default MTU that QEMU's arguments set for a NIC of this model, if any. The last argument counts
    /// ("-global" in QEMU's manual).
    #[must_use]
    pub fn host_mtu(&self, model: &str) -> Option<u32> {
        let of_model = match model {
            "virtio" => "virtio-net-pci".to_owned(),
            other => other.replace("virtio", "virtio-net-pci"),
        };
        let mut of_all =
            self.host_mtus.iter().filter(|(driver, _)| *driver == "virtio-net-device" || *driver == of_model);
        of_all.next_back().map(|(_, mtu)| *mtu)
    }

    /// Checks what the domain has for a NIC, before libvirt is asked.
    ///
    /// # Errors
    /// What the domain lacks.
    pub fn check(&self, asked: &Interface) -> Result<(), Error> {
        if !self.shared_memory {
            return Err(Error::MemoryNotShared);
        }
        let is_transitional = asked.model == "virtio-transitional";
        if self.encrypted && is_transitional {
            return Err(Error::EncryptedTransitional);
        }
        match self.ports {
            Ports::Express { bridge: false, .. } if is_transitional => Err(Error::NoConventionalSlot),
            Ports::Express { free: 0, bridge: false } if asked.address.is_none() => Err(Error::NoFreePort),
            Ports::Conventional { free: 0 } if asked.address.is_none() => Err(Error::NoFreeSlot),
            _ => Ok(()),
        }
    }
}

/// Returns a property of a NIC that differs from the request: what it is, and what was requested.
fn difference(nic: &Nic, asked: &Interface, queues_matter: bool) -> Option<String> {
    if queues_matter && nic.queues != asked.queues {
        return Some(format!("queues={}; requested {}", nic.queues, asked.queues));
    }
    let sizes = [
        ("rx_queue_size", nic.rx_queue_size, asked.rx_queue_size),
        ("tx_queue_size", nic.tx_queue_size, asked.tx_queue_size),
    ];
    for (what, is, should) in sizes {
        if let Some(should) = should.filter(|_| is != should) {
            let is = is.map_or("QEMU's default".to_owned(), |is| is.to_string());
            return Some(format!("{what}={is}; requested {should}"));
        }
    }
    if let Some(model) = nic.model.as_ref().filter(|model| **model != asked.model) {
        return Some(format!("model={}; requested {}", quote::value(model), asked.model));
    }
    let (is, should) = nic.address.zip(asked.address)?;
    (is != should).then(|| format!("pci_address={is}; requested {should}"))
}

/// `<vcpu current='2'>4</vcpu>`; `current` is there only if it is less.
fn vcpus(domain: &Element) -> u32 {
    let Some(vcpu) = domain.child("vcpu") else { return 1 };
    vcpu.attribute("current").unwrap_or(vcpu.text()).parse().unwrap_or(1)
}

/// Returns true if all memory is shared, by libvirt's own rule (qemu_validate.c,
/// qemuValidateDomainDefVhostUserRequireSharedMemory): a NUMA cell's own attribute counts, else the domain's.
fn shared_memory(domain: &Element) -> bool {
    let general = domain.child("memoryBacking").and_then(|backing| backing.child_attribute("access", "mode"));
    let cells = domain.child("cpu").and_then(|cpu| cpu.child("numa"));
    let cells: Vec<&Element> = cells.map(|numa| numa.children("cell").collect()).unwrap_or_default();
    if cells.is_empty() {
        return general == Some("shared");
    }
    cells.iter().all(|cell| cell.attribute("memAccess").or(general) == Some("shared"))
}

/// Finds `-global virtio-net-device.host_mtu=1400`, or its long form: the default of the property that `<mtu>` sets. It
/// also applies to NICs that are plugged later.
fn host_mtus(domain: &Element) -> Vec<(String, u32)> {
    let of = |argument: &str| {
        let short = argument.split_once(".host_mtu=");
        let long = || argument.strip_prefix("driver=")?.split_once(",property=host_mtu,value=");
        let (driver, mtu) = short.or_else(long)?;
        Some((driver.to_owned(), mtu.parse().ok()?))
    };
    qemu_arguments(domain).into_iter().filter_map(of).collect()
}

fn ports(devices: &Element) -> Ports {
    let of_model = |models: &'static [&'static str]| {
        let pci = devices.children("controller").filter(|device| device.attribute("type") == Some("pci"));
        pci.filter(move |device| device.attribute("model").is_some_and(|model| models.contains(&model)))
    };
    let addresses = devices.all_children().iter().filter_map(|device| device.child("address"));
    let addresses: Vec<PciAddress> = addresses.filter_map(PciAddress::from_xml).collect();
    let index = |device: &Element| device.attribute("index").and_then(|index| index.parse::<u8>().ok());
    if of_model(&["pcie-root"]).next().is_none() {
        let pci = devices.children("controller").filter(|device| device.attribute("type") == Some("pci"));
        let buses: Vec<Option<u8>> = of_model(&["pci-root", "pci-bridge"]).map(index).collect();
        // A bus of another kind may have free slots too.
        if buses.is_empty() || buses.len() < pci.count() {
            return Ports::Unknown;
        }
        let taken: HashSet<_> = addresses.iter().map(|address| (Some(address.bus), address.slot)).collect();
        let is_free = |bus: &Option<u8>| (1..32).filter(|slot| !taken.contains(&(*bus, *slot))).count();
        return Ports::Conventional { free: buses.iter().map(is_free).sum() };
    }
    let taken: HashSet<u8> = addresses.iter().map(|address| address.bus).collect();
    let free = of_model(&["pcie-root-port", "pcie-switch-downstream-port"]).filter(|port| {
        let closed = port.child_attribute("target", "hotplug") == Some("off");
        !closed && index(port).is_some_and(|bus| !taken.contains(&bus))
    });
    let bridge = of_model(&["pcie-to-pci-bridge", "dmi-to-pci-bridge", "pci-bridge"]).next().is_some();
    Ports::Express { free: free.count(), bridge }
}

#[cfg(test)]
mod tests;
