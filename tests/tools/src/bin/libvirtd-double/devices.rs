//! A domain's XML as far as the double needs it: its devices, their aliases, addresses and places in the text.

use std::ops::Range;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::script::Shows;

/// A child of `<devices>`, or an element on its own.
#[derive(Clone, Default)]
pub struct Device {
    pub name: String,
    pub kind: String,
    pub alias: String,
    pub mac: String,
    pub path: String,
    pub mode: String,
    pub model: String,
    pub queues: String,
    pub iommu: String,
    /// For receiving and for sending.
    pub queue_sizes: [String; 2],
    /// The PCI bus in its address.
    pub bus: Option<u32>,
    /// A controller's own number, if it is a root port that allows hot-plugging.
    pub port: Option<u32>,
    pub has_mtu: bool,
    /// Where it stands.
    pub place: Range<usize>,
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = element.try_get_attribute(name).ok()??;
    Some(attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).ok()?.into_owned())
}

fn number(text: &str) -> Option<u32> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok())
}

impl Device {
    fn note(&mut self, element: &BytesStart<'_>, depth: usize) {
        let get = |name: &str| attribute(element, name).unwrap_or_default();
        let is_interface = self.name == "interface";
        match (depth, element.name().as_ref()) {
            (0, "interface") => self.kind = get("type"),
            (0, "controller") if get("model") == "pcie-root-port" => self.port = number(&get("index")),
            (1, "target") if get("hotplug") == "off" => self.port = None,
            (1, "alias") => self.alias = get("name"),
            (1, "mac") => self.mac = get("address"),
            (1, "model") if is_interface => self.model = get("type"),
            (1, "driver") => {
                (self.queues, self.queue_sizes) = (get("queues"), ["rx_queue_size", "tx_queue_size"].map(get));
                self.iommu = get("iommu");
            }
            (1, "mtu") => self.has_mtu = true,
            (1, "source") if is_interface => (self.path, self.mode) = (get("path"), get("mode")),
            (1, "address") if get("type") == "pci" => self.bus = number(&get("bus")),
            _ => {}
        }
    }

    /// As the live XML shows it, honestly or not.
    pub fn shown(&self, how: Shows) -> String {
        match how {
            Shows::It => self.rendered(),
            Shows::Nothing => String::new(),
            Shows::Twice => self.rendered().repeat(2),
            Shows::OtherPath => Self { path: format!("{}-other", self.path), ..self.clone() }.rendered(),
        }
    }

    /// As libvirt shows a vhost-user interface in the live XML.
    fn rendered(&self) -> String {
        let escape = |text: &str| quick_xml::escape::escape(text).into_owned();
        let [rx, tx] = &self.queue_sizes;
        let driver = [("queues", &self.queues), ("rx_queue_size", rx), ("tx_queue_size", tx), ("iommu", &self.iommu)];
        let driver = driver.iter().filter(|(_, value)| !value.is_empty());
        let driver: String = driver.map(|(name, value)| format!(" {name}='{}'", escape(value))).collect();
        format!(
            "    <interface type='vhostuser'>\n      <mac address='{}'/>\n      <source type='unix' path='{}' mode='{}'/>\n      \
             <model type='{}'/>\n      <driver name='vhost'{driver}/>\n      <alias name='{}'/>\n      <address type='pci' \
             domain='0x0000' bus='0x{:02x}' slot='0x00' function='0x0'/>\n    </interface>\n",
            escape(&self.mac),
            escape(&self.path),
            escape(&self.mode),
            escape(&self.model),
            escape(&self.alias),
            self.bus.unwrap_or_default(),
        )
    }
}

/// The elements at `level` (2 for those in a domain's `<devices>`, 0 for an element on its own); None when the text
/// is not well-formed.
pub fn devices(xml: &str, level: usize) -> Option<Vec<Device>> {
    let mut reader = Reader::from_str(xml);
    let (mut path, mut devices): (Vec<String>, Vec<Device>) = (Vec::new(), Vec::new());
    loop {
        let start = usize::try_from(reader.buffer_position()).unwrap();
        let (element, is_empty) = match reader.read_event().ok()? {
            Event::Start(element) => (element, false),
            Event::Empty(element) => (element, true),
            Event::End(_) => {
                path.pop();
                if path.len() == level && (level == 0 || path[1] == "devices") {
                    devices.last_mut()?.place.end = usize::try_from(reader.buffer_position()).unwrap();
                }
                continue;
            }
            Event::Eof if path.is_empty() => return Some(devices),
            Event::Eof => return None,
            _ => continue,
        };
        if path.len() >= level && (level == 0 || path[1] == "devices") {
            if path.len() == level {
                let end = usize::try_from(reader.buffer_position()).unwrap();
                let name = element.name().as_ref().to_owned();
                devices.push(Device { name, place: start..end, ..Device::default() });
            }
            devices.last_mut()?.note(&element, path.len() - level);
        }
        if !is_empty {
            path.push(element.name().as_ref().to_owned());
        }
    }
}

/// A root port that nothing is plugged into.
pub fn free_port(devices: &[Device]) -> Option<u32> {
    let is_free = |port: &u32| devices.iter().all(|device| device.bus != Some(*port));
    devices.iter().filter_map(|device| device.port).find(is_free)
}

/// The text without the device at `place` and the blanks around it.
pub fn without(xml: &str, place: &Range<usize>) -> String {
    let before = xml[..place.start].trim_end_matches([' ', '\n']);
    format!("{before}\n{}", xml[place.end..].trim_start_matches('\n'))
}
