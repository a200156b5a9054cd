//! What the XML of a running domain tells: vCPUs, memory, free ports, NICs (libvirt, formatdomain).

use std::collections::HashSet;
use std::fmt;

use super::interface::{Interface, Nic, PciAddress};
use super::xml::{self, Element};
use crate::quote;

/// A domain's description, as far as it matters here. It is the tenant's word: compared, never followed.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// vCPUs that the guest has now.
    pub vcpus: u32,
    /// Whether all of the guest's memory is shared, so that a data plane can map it.
    pub shared_memory: bool,
    /// The NICs.
    pub nics: Vec<Nic>,
    /// Aliases of all devices.
    aliases: HashSet<String>,
    /// Where a NIC can be plugged.
    ports: Ports,
}

/// The slots for a hot-plugged device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ports {
    /// The machine has conventional PCI slots, or none that the description tells of: libvirt will know.
    #[default]
    Unknown,
    /// PCI Express: so many root or downstream ports with nothing behind them, and whether there is a conventional
    /// bridge.
    Express { free: usize, bridge: bool },
}

/// What a NIC that is asked for is to what the domain has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Nothing in its way.
    Absent,
    /// It is there, as asked.
    Same(Nic),
    /// Another device has its alias, MAC or socket, or it is there with other properties: in words.
    Conflict(String),
}

/// Why the domain cannot take the NIC; each says what would change that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The guest's memory is private to QEMU.
    MemoryNotShared,
    /// No port is free.
    NoFreePort,
    /// The model wants a conventional PCI slot and there is no bridge to such.
    NoConventionalSlot,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MemoryNotShared => {
                "the VM's memory is not shared, so no data plane could reach it: the domain needs <memoryBacking> with \
                 <access mode='shared'/> (and memfd or hugepages), or memAccess='shared' on every NUMA cell, when it starts"
            }
            Self::NoFreePort => {
                "the VM has no free PCIe port: the domain needs a spare <controller type='pci' model='pcie-root-port'/> for \
                 each NIC to be plugged, when it starts"
            }
            Self::NoConventionalSlot => {
                "model virtio-transitional needs a conventional PCI slot, and the VM has none: use model \
                 virtio-non-transitional, or give the domain a pcie-to-pci-bridge when it starts"
            }
        })
    }
}

impl Description {
    /// Reads a domain's live XML.
    ///
    /// # Errors
    /// Those of [`Element::parse`], or that it is no domain.
    pub fn parse(document: &str) -> Result<Self, xml::Error> {
        let domain = Element::parse(document)?;
        let nowhere = Element::default();
        let devices = domain.child("devices").unwrap_or(&nowhere);
        let aliases = devices.all_children().iter().filter_map(|device| device.child_attribute("alias", "name"));
        Ok(Self {
            vcpus: vcpus(&domain),
            shared_memory: shared_memory(&domain),
            nics: devices.children("interface").map(Nic::from_xml).collect(),
            aliases: aliases.map(str::to_owned).collect(),
            ports: ports(devices),
        })
    }

    /// The NIC of this MAC and socket, or of this alias if its socket or MAC agrees.
    #[must_use]
    pub fn find(&self, mac: Option<&str>, path: &str, alias: &str) -> Option<&Nic> {
        self.nics.iter().find(|nic| {
            let (same_path, same_alias) = (nic.path.as_deref() == Some(path), nic.alias.as_deref() == Some(alias));
            let same_mac = mac.is_some_and(|mac| nic.mac == mac);
            nic.kind == "vhostuser" && ((same_path && same_mac) || (same_alias && (same_path || same_mac)))
        })
    }

    /// Compares a NIC that is asked for with what is there. `queues_matter` says whether their number was asked for too.
    #[must_use]
    pub fn compare(&self, asked: &Interface, queues_matter: bool) -> Match {
        if let Some(nic) = self.nics.iter().find(|nic| nic.is_on(&asked.mac, &asked.path)) {
            let differs = |what: &str, is: String, should: String| {
                let mac = &asked.mac;
                Match::Conflict(format!(
                    "the VM has this NIC (MAC {mac}) already, but with {what} {is} where {should} is asked for; unplug it first"
                ))
            };
            if queues_matter && nic.queues != asked.queues {
                return differs("queues", nic.queues.to_string(), asked.queues.to_string());
            }
            if let Some(model) = &nic.model
                && *model != asked.model
            {
                return differs("model", quote::value(model), asked.model.clone());
            }
            if let (Some(is), Some(should)) = (nic.address, asked.address)
                && is != should
            {
                return differs("PCI address", is.to_string(), should.to_string());
            }
            return Match::Same(nic.clone());
        }
        let held_by = |nic: &Nic, what: String| {
            let (alias, mac) = (quote::value(nic.alias.as_deref().unwrap_or("-")), quote::value(&nic.mac));
            Match::Conflict(format!("{what} is already that of another NIC of the VM ({alias}, MAC {mac})"))
        };
        // libvirt itself takes a second NIC of the same MAC or socket, and the two then break each other.
        if let Some(nic) = self.nics.iter().find(|nic| nic.alias.as_deref() == Some(&asked.alias)) {
            return held_by(nic, format!("alias {}", asked.alias));
        }
        if let Some(nic) = self.nics.iter().find(|nic| nic.mac == asked.mac) {
            return held_by(nic, format!("MAC {}", asked.mac));
        }
        if let Some(nic) = self.nics.iter().find(|nic| nic.path.as_deref() == Some(&asked.path)) {
            return held_by(nic, format!("socket {}", quote::value(&asked.path)));
        }
        if self.aliases.contains(&asked.alias) {
            return Match::Conflict(format!("alias {} is already that of another device of the VM", asked.alias));
        }
        Match::Absent
    }

    /// What is wrong with a NIC that was plugged a moment ago, in words; `None` if it is there once, as asked.
    #[must_use]
    pub fn misfit(&self, asked: &Interface) -> Option<String> {
        // libvirt may number queues as it sees fit.
        match self.compare(asked, false) {
            Match::Absent => Some("the VM's description does not show it".to_owned()),
            Match::Conflict(text) => Some(text),
            Match::Same(_) => {
                let is_it = |nic: &&Nic| nic.mac == asked.mac || nic.path.as_deref() == Some(&asked.path);
                let count = self.nics.iter().filter(is_it).count();
                (count > 1).then(|| format!("the VM's description shows {count} NICs of its MAC or socket"))
            }
        }
    }

    /// What keeps a NIC from being plugged, known before libvirt is asked.
    #[must_use]
    pub fn obstacle(&self, asked: &Interface) -> Option<Obstacle> {
        if !self.shared_memory {
            return Some(Obstacle::MemoryNotShared);
        }
        match self.ports {
            Ports::Express { bridge: false, .. } if asked.model == "virtio-transitional" => {
                Some(Obstacle::NoConventionalSlot)
            }
            Ports::Express { free: 0, bridge: false } if asked.address.is_none() => Some(Obstacle::NoFreePort),
            _ => None,
        }
    }
}

/// `<vcpu current='2'>4</vcpu>`; `current` only where it is less.
fn vcpus(domain: &Element) -> u32 {
    let Some(vcpu) = domain.child("vcpu") else { return 1 };
    vcpu.attribute("current").unwrap_or(vcpu.text()).parse().unwrap_or(1)
}

/// As libvirt judges it (qemu_validate.c, qemuValidateDomainDefVhostUserRequireSharedMemory): each NUMA cell by its own
/// word, or by the domain's where it has none.
fn shared_memory(domain: &Element) -> bool {
    let general = domain.child("memoryBacking").and_then(|backing| backing.child_attribute("access", "mode"));
    let cells = domain.child("cpu").and_then(|cpu| cpu.child("numa"));
    let cells: Vec<&Element> = cells.map(|numa| numa.children("cell").collect()).unwrap_or_default();
    if cells.is_empty() {
        return general == Some("shared");
    }
    cells.iter().all(|cell| cell.attribute("memAccess").or(general) == Some("shared"))
}

fn ports(devices: &Element) -> Ports {
    let of_model = |models: &'static [&'static str]| {
        let pci = devices.children("controller").filter(|device| device.attribute("type") == Some("pci"));
        pci.filter(move |device| device.attribute("model").is_some_and(|model| models.contains(&model)))
    };
    if of_model(&["pcie-root"]).next().is_none() {
        return Ports::Unknown;
    }
    let addresses = devices.all_children().iter().filter_map(|device| device.child("address"));
    let taken: HashSet<u8> = addresses.filter_map(PciAddress::from_xml).map(|address| address.bus).collect();
    let free = of_model(&["pcie-root-port", "pcie-switch-downstream-port"]).filter(|port| {
        let bus = port.attribute("index").and_then(|index| index.parse::<u8>().ok());
        let closed = port.child_attribute("target", "hotplug") == Some("off");
        !closed && bus.is_some_and(|bus| !taken.contains(&bus))
    });
    let bridge = of_model(&["pcie-to-pci-bridge", "dmi-to-pci-bridge", "pci-bridge"]).next().is_some();
    Ports::Express { free: free.count(), bridge }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(memory: &str, devices: &str) -> Description {
        let text = format!(
            "<domain type='qemu' id='1'><name>vm</name><vcpu placement='static' current='2'>4</vcpu>{memory}<devices>
             <controller type='pci' index='0' model='pcie-root'><alias name='pcie.0'/></controller>
             <controller type='pci' index='1' model='pcie-root-port'><alias name='pci.1'/>
               <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0' multifunction='on'/></controller>
             <controller type='pci' index='2' model='pcie-root-port'><target chassis='2' hotplug='off'/></controller>
             {devices}</devices></domain>"
        );
        Description::parse(&text).unwrap()
    }

    const SHARED: &str = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>";
    const OURS: &str = "<interface type='vhostuser'><mac address='00:00:00:24:65:F4'/>
        <source type='unix' path='/run/vm/pod1' mode='server'/><target dev=''/><model type='virtio-non-transitional'/>
        <driver name='vhost' queues='4'/><alias name='ua-pod1'/>
        <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></interface>";

    fn asked() -> Interface {
        Interface {
            mac: "00:00:00:24:65:f4".into(),
            path: "/run/vm/pod1".into(),
            model: "virtio-non-transitional".into(),
            queues: 4,
            rx_queue_size: None,
            tx_queue_size: None,
            alias: "ua-pod1".into(),
            address: None,
        }
    }

    #[test]
    fn vcpus_and_memory_are_read_as_libvirt_means_them() {
        assert_eq!(domain(SHARED, "").vcpus, 2);
        let numa = |a: &str, b: &str| format!("<cpu><numa><cell id='0' {a}/><cell id='1' {b}/></numa></cpu>");
        let own = "memAccess='shared'";
        for (memory, shared) in [
            (SHARED.to_owned(), true),
            ("<memoryBacking><hugepages/></memoryBacking>".to_owned(), false),
            (String::new(), false),
            (numa(own, own), true),
            (numa(own, ""), false),
            (format!("{SHARED}{}", numa(own, "")), true),
            (format!("{SHARED}{}", numa(own, "memAccess='private'")), false),
        ] {
            assert_eq!(domain(&memory, "").shared_memory, shared, "{memory}");
        }
    }

    #[test]
    fn the_same_nic_is_told_by_type_mac_and_socket() {
        let there = domain(SHARED, OURS);
        assert!(matches!(there.compare(&asked(), true), Match::Same(_)));
        let mut other_alias = asked();
        other_alias.alias = "ua-other".into();
        assert!(matches!(there.compare(&other_alias, true), Match::Same(_)));
        assert_eq!(domain(SHARED, "").compare(&asked(), true), Match::Absent);
    }

    #[test]
    fn whatever_else_holds_alias_mac_or_socket_is_a_conflict_in_words() {
        let there = domain(SHARED, OURS);
        let edit = |change: fn(&mut Interface)| {
            let mut nic = asked();
            change(&mut nic);
            match there.compare(&nic, true) {
                Match::Conflict(text) => text,
                other => panic!("{other:?}"),
            }
        };
        assert!(edit(|nic| nic.queues = 2).contains("queues 4 where 2"));
        assert!(edit(|nic| nic.model = "virtio".into()).contains("model virtio-non-transitional where virtio "));
        assert!(
            edit(|nic| nic.address = PciAddress::parse("02:00.0"))
                .contains("PCI address 0000:01:00.0 where 0000:02:00.0")
        );
        assert!(edit(|nic| nic.mac = "02:00:00:00:00:01".into()).starts_with("alias ua-pod1"));
        assert!(edit(|nic| (nic.path, nic.alias) = ("/x".into(), "ua-x".into())).starts_with("MAC 00:00:00:24:65:f4"));
        assert!(edit(|nic| (nic.mac, nic.alias) = ("x".into(), "ua-x".into())).starts_with("socket /run/vm/pod1"));
        assert!(
            edit(|nic| (nic.mac, nic.path, nic.alias) = ("x".into(), "/x".into(), "pci.1".into())).contains("device")
        );
        let mut auto = asked();
        auto.queues = 1;
        assert!(matches!(there.compare(&auto, false), Match::Same(_)), "a number nobody asked for does not matter");
    }

    #[test]
    fn a_nic_that_was_plugged_must_be_there_once() {
        assert_eq!(domain(SHARED, OURS).misfit(&asked()), None);
        assert!(domain(SHARED, "").misfit(&asked()).unwrap().contains("does not show it"));
        assert!(domain(SHARED, &OURS.repeat(2)).misfit(&asked()).unwrap().contains("2 NICs"));
        let elsewhere = OURS.replace("/run/vm/pod1", "/run/vm/other");
        assert!(domain(SHARED, &elsewhere).misfit(&asked()).unwrap().starts_with("alias ua-pod1"));
        let again = OURS.replace("/run/vm/pod1", "/run/vm/other").replace("ua-pod1", "ua-other");
        assert!(domain(SHARED, &(OURS.to_owned() + &again)).misfit(&asked()).unwrap().contains("2 NICs"));
    }

    #[test]
    fn a_conflict_quotes_the_tenant_within_bounds() {
        let long = "\u{202e}".repeat(40_000);
        let there = domain(SHARED, &OURS.replace("ua-pod1", &long).replace("non-transitional", &long));
        let mut asked = asked();
        let mut texts = vec![there.compare(&asked, true)];
        asked.path = "/x".into();
        texts.push(there.compare(&asked, true));
        for text in texts {
            assert!(
                matches!(&text, Match::Conflict(text) if text.len() < 8192 && !text.contains('\u{202e}')),
                "{:.300}",
                format!("{text:?}")
            );
        }
    }

    #[test]
    fn a_nic_to_detach_needs_two_marks() {
        let there = domain(SHARED, OURS);
        let (mac, path, alias) = ("00:00:00:24:65:f4", "/run/vm/pod1", "ua-pod1");
        for (mac, path, alias, found) in [
            (Some(mac), path, alias, true),
            (None, path, alias, true),
            (Some(mac), path, "ua-x", true),
            (Some(mac), "/x", alias, true),
            (None, "/x", alias, false),
            (None, path, "ua-x", false),
            (Some("x"), "/x", alias, false),
        ] {
            assert_eq!(there.find(mac, path, alias).is_some(), found, "{mac:?} {path} {alias}");
        }
    }

    #[test]
    fn obstacles_are_seen_before_libvirt_is_asked() {
        assert_eq!(domain("", "").obstacle(&asked()), Some(Obstacle::MemoryNotShared));
        assert_eq!(domain(SHARED, "").obstacle(&asked()), None);
        assert_eq!(domain(SHARED, OURS).obstacle(&asked()), Some(Obstacle::NoFreePort), "the other port is closed");
        let mut transitional = asked();
        transitional.model = "virtio-transitional".into();
        assert_eq!(domain(SHARED, "").obstacle(&transitional), Some(Obstacle::NoConventionalSlot));
        let bridge = "<controller type='pci' index='3' model='pcie-to-pci-bridge'/>";
        assert_eq!(domain(SHARED, bridge).obstacle(&transitional), None);
        let old = Description::parse(&format!(
            "<domain>{SHARED}<devices><controller type='pci' index='0' model='pci-root'/></devices></domain>"
        ));
        assert_eq!(old.unwrap().obstacle(&asked()), None);
    }
}
