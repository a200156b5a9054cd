//! The plugin's NIC: to XML, from XML, and comparing both.

use std::fmt;

use quick_xml::writer::Writer;

use super::xml::Element;
use crate::pod::unix_path::UnixPath;

/// A requested vhost-user NIC. QEMU is the server, the data plane the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// MAC address, lower case with colons.
    pub mac: String,
    /// Path of the socket, as QEMU knows it.
    pub path: UnixPath,
    /// The device's model, as libvirt names it: "virtio", "virtio-transitional", "virtio-non-transitional".
    pub model: String,
    pub queues: u16,
    /// Length of the receive queues, if not QEMU's default.
    pub rx_queue_size: Option<u16>,
    /// Length of the transmit queues, if not QEMU's default.
    pub tx_queue_size: Option<u16>,
    /// Alias: `ua-` and letters, digits, `_`, `-`. libvirt silently drops any other (domain_conf.c,
    /// virDomainDeviceInfoParseXML).
    pub alias: String,
    /// The requested address in the guest.
    pub address: Option<PciAddress>,
    /// Offers `VIRTIO_F_ACCESS_PLATFORM`, which a guest with encrypted memory requires.
    pub iommu: bool,
}

/// Identifies a NIC.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its MAC address, if that is known.
    pub mac: Option<&'a str>,
    /// Its socket, as QEMU knows it.
    pub path: &'a UnixPath,
    /// The alias that it should have.
    pub alias: &'a str,
}

/// Returns the alias of a NIC by its interface name: `ua-` and the name. libvirt silently drops an alias with other
/// characters, so such names are encoded: each other character, and `_`, becomes `_` and two hexadecimal digits per
/// byte. A suffix makes the alias longer than any plain interface name, so that no two names have the same alias.
#[must_use]
pub fn alias_of(ifname: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if ifname.bytes().all(|byte| plain(byte) || byte == b'_') {
        return format!("ua-{ifname}");
    }
    let spelled: String = ifname
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("_{byte:02x}") })
        .collect();
    format!("ua-{spelled}-ifname-spelled")
}

/// A PCI address, `0000:01:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciAddress {
    pub domain: u16,
    pub bus: u8,
    /// Slot, 0 to 31.
    pub slot: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

impl PciAddress {
    /// Reads `domain:bus:slot.function`, hexadecimal, as lspci(8) prints it; the domain may be left out.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, function) = text.split_once('.')?;
        let (rest, slot) = rest.rsplit_once(':')?;
        let (domain, bus) = rest.split_once(':').unwrap_or(("0000", rest));
        let digits = |part: &str, count: usize| {
            let fits = part.len() == count && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            fits.then(|| u16::from_str_radix(part, 16).ok()).flatten()
        };
        let address = Self {
            domain: digits(domain, 4)?,
            bus: u8::try_from(digits(bus, 2)?).ok()?,
            slot: u8::try_from(digits(slot, 2)?).ok()?,
            function: u8::try_from(digits(function, 1)?).ok()?,
        };
        (address.slot < 32 && address.function < 8).then_some(address)
    }

    /// Reads libvirt's `<address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>`.
    #[must_use]
    pub fn from_xml(address: &Element) -> Option<Self> {
        if address.attribute("type") != Some("pci") {
            return None;
        }
        let part = |name: &str| u16::from_str_radix(address.attribute(name)?.strip_prefix("0x")?, 16).ok();
        let byte = |name: &str| part(name).and_then(|value| u8::try_from(value).ok());
        Some(Self { domain: part("domain")?, bus: byte("bus")?, slot: byte("slot")?, function: byte("function")? })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.slot, self.function)
    }
}

impl Interface {
    /// Returns the target that identifies this NIC.
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        Target { mac: Some(&self.mac), path: &self.path, alias: &self.alias }
    }

    /// Returns the XML for libvirt (formatdomain, "vhost-user interface"). It never has an `<mtu>`: libvirt would look
    /// for a host device, which a vhost-user NIC does not have, and refuse.
    ///
    /// # Errors
    /// None in practice: the text is written to memory.
    pub fn to_xml(&self) -> std::io::Result<String> {
        let mut writer = Writer::new(Vec::new());
        writer.create_element("interface").with_attribute(("type", "vhostuser")).write_inner_content(|inner| {
            inner.create_element("mac").with_attribute(("address", self.mac.as_str())).write_empty()?;
            let source = [("type", "unix"), ("path", &*self.path), ("mode", "server")];
            inner.create_element("source").with_attributes(source).write_empty()?;
            inner.create_element("model").with_attribute(("type", self.model.as_str())).write_empty()?;
            let numbers = [
                ("queues", Some(self.queues)),
                ("rx_queue_size", self.rx_queue_size),
                ("tx_queue_size", self.tx_queue_size),
            ];
            let mut driver = inner.create_element("driver").with_attribute(("name", "vhost"));
            for (name, number) in numbers {
                if let Some(number) = number {
                    driver = driver.with_attribute((name, number.to_string().as_str()));
                }
            }
            if self.iommu {
                driver = driver.with_attribute(("iommu", "on"));
            }
            driver.write_empty()?;
            inner.create_element("alias").with_attribute(("name", self.alias.as_str())).write_empty()?;
            if let Some(PciAddress { domain, bus, slot, function }) = self.address {
                let parts = [
                    ("domain", format!("0x{domain:04x}")),
                    ("bus", format!("0x{bus:02x}")),
                    ("slot", format!("0x{slot:02x}")),
                    ("function", format!("0x{function:x}")),
                ];
                let mut address = inner.create_element("address").with_attribute(("type", "pci"));
                for (name, value) in &parts {
                    address = address.with_attribute((*name, value.as_str()));
                }
                address.write_empty()?;
            }
            // Images without iPXE's ROM files (KubeVirt's) could not plug the NIC at all; nobody boots from it.
            inner.create_element("rom").with_attribute(("enabled", "no")).write_empty()?;
            Ok(())
        })?;
        String::from_utf8(writer.into_inner()).map_err(std::io::Error::other)
    }
}

/// A NIC that a domain has, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nic {
    /// The interface's type: "vhostuser", "bridge", …
    pub kind: String,
    /// MAC address, lower case.
    pub mac: String,
    /// Path of its socket, if it has one.
    pub path: Option<String>,
    /// Alias, at most 1024 bytes; a running domain's devices all have one.
    pub alias: Option<String>,
    pub model: Option<String>,
    /// Number of queue pairs; 1 where none is stated.
    pub queues: u16,
    /// Length of the receive queues, if it is not QEMU's default.
    pub rx_queue_size: Option<u16>,
    /// Length of the transmit queues, if it is not QEMU's default.
    pub tx_queue_size: Option<u16>,
    /// Its place in the guest.
    pub address: Option<PciAddress>,
}

impl Nic {
    /// Reads an `<interface>` element.
    #[must_use]
    pub fn from_xml(interface: &Element) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let number = |name: &str| interface.child_attribute("driver", name).and_then(|number| number.parse().ok());
        Self {
            kind: interface.attribute("type").unwrap_or_default().to_owned(),
            mac: interface.child_attribute("mac", "address").unwrap_or_default().to_ascii_lowercase(),
            path: owned(interface.child_attribute("source", "path")),
            alias: owned(interface.child_attribute("alias", "name")),
            model: owned(interface.child_attribute("model", "type")),
            queues: number("queues").unwrap_or(1),
            rx_queue_size: number("rx_queue_size"),
            tx_queue_size: number("tx_queue_size"),
            address: interface.child("address").and_then(PciAddress::from_xml),
        }
    }

    /// Returns true if this is a vhost-user NIC with this MAC and socket: then it is the same NIC, whatever its alias.
    #[must_use]
    pub fn is_on(&self, mac: &str, path: &UnixPath) -> bool {
        self.kind == "vhostuser" && self.mac == mac && self.is_at(path)
    }

    /// Returns true if its socket has this path.
    #[must_use]
    pub fn is_at(&self, path: &UnixPath) -> bool {
        self.path.as_ref().is_some_and(|own| path.is(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface() -> Interface {
        Interface {
            mac: "00:00:00:24:65:f4".into(),
            path: "/var/run/openvswitch/vhostuser-sockets/pod59cc33fa39b".into(),
            model: "virtio-non-transitional".into(),
            queues: 4,
            rx_queue_size: None,
            tx_queue_size: None,
            alias: "ua-pod59cc33fa39b".into(),
            address: None,
            iommu: false,
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut asked = interface();
        asked.address = PciAddress::parse("0000:0a:1f.7");
        asked.rx_queue_size = Some(1024);
        let xml = asked.to_xml().unwrap();
        let element = Element::parse(&xml).unwrap();
        let nic = Nic::from_xml(&element);
        assert!(nic.is_on(&asked.mac, &asked.path));
        assert_eq!(nic.alias.as_deref(), Some("ua-pod59cc33fa39b"));
        assert_eq!(
            (nic.queues, nic.address, nic.model.as_deref()),
            (4, asked.address, Some("virtio-non-transitional"))
        );
        assert_eq!((nic.rx_queue_size, nic.tx_queue_size), (Some(1024), None));
        assert_eq!(element.child_attribute("source", "mode"), Some("server"));
        assert_eq!(element.child_attribute("driver", "iommu"), None);
        asked.iommu = true;
        let element = Element::parse(&asked.to_xml().unwrap()).unwrap();
        assert_eq!(element.child_attribute("driver", "iommu"), Some("on"));
    }

    #[test]
    fn no_value_changes_the_structure() {
        let mut asked = interface();
        for hostile in
            ["'/><x a='", "\"/><x a=\"", "</interface><interface>", "]]>", "<!--", "&amp;&x;", "a\u{7f}ü\u{202e}"]
        {
            asked.path = format!("/run/{hostile}").into();
            asked.mac = hostile.into();
            asked.alias = hostile.into();
            let element = Element::parse(&asked.to_xml().unwrap()).unwrap();
            let nic = Nic::from_xml(&element);
            assert_eq!(nic.path.as_deref(), Some(&*asked.path));
            assert_eq!(nic.alias.as_deref(), Some(hostile));
            assert_eq!(element.all_children().len(), 6, "{hostile}");
        }
    }

    #[test]
    fn every_interface_name_has_an_alias_of_its_own() {
        assert_eq!(alias_of("pod59cc33fa39b"), "ua-pod59cc33fa39b");
        assert_eq!(alias_of("net_1-a"), "ua-net_1-a");
        let names = ["eth0.100", "eth0_2e100", "eth0_2e1", "eth0.1", "eth0:1", "ä", "_.", ".", "_2e", "_5f.", "a@b"];
        let aliases: std::collections::HashSet<String> = names.into_iter().map(alias_of).collect();
        assert_eq!(aliases.len(), names.len());
        for alias in aliases {
            assert!(alias.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{alias}");
        }
    }

    #[test]
    fn a_pci_address_is_read_strictly() {
        assert_eq!(PciAddress::parse("0000:01:00.0").unwrap().to_string(), "0000:01:00.0");
        assert_eq!(PciAddress::parse("a0:1f.7").unwrap().to_string(), "0000:a0:1f.7");
        for bad in [
            "",
            "01",
            "01:00",
            "0000:01:20.0",
            "01:00.8",
            "+1:00.0",
            "00000:01:00.0",
            "01:00.0 ",
            "1:2:3:4.0",
            "0x01:00.0",
        ] {
            assert_eq!(PciAddress::parse(bad), None, "{bad}");
        }
    }
}
