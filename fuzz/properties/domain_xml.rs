//! A domain's XML, as the tenant's daemon gives it, and the NIC's, as it is sent: whatever stands in a value, it is read
//! as it was written and makes no structure.

use vhostuser_hotplug::vm::domain::{Description, Match};
use vhostuser_hotplug::vm::interface::{Interface, Nic, PciAddress, alias_of};
use vhostuser_hotplug::vm::xml::Element;

use super::said;

/// The bounds of `vm::xml`, which its documentation names.
const DEPTH: usize = 32;
const NODES: usize = 10_000 + 20_000;

pub fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let root = match Element::parse(text) {
        Ok(root) => root,
        Err(error) => {
            said(&error);
            assert!(Description::parse(text).is_err());
            return;
        }
    };
    let mut nodes = 0;
    is_bounded(&root, 1, &mut nodes);
    let description = Description::parse(text).expect("what is XML is a description, if an empty one");
    description.nics.iter().for_each(|nic| is_compared(&description, nic));
}

fn is_bounded(element: &Element, depth: usize, nodes: &mut usize) {
    *nodes += 1;
    assert!(depth <= DEPTH && *nodes <= NODES, "depth {depth}, {nodes} elements");
    let _ = (element.text(), element.child_attribute("alias", "name"));
    element.all_children().iter().for_each(|child| is_bounded(child, depth + 1, nodes));
}

/// The same NIC asked for again, and others that share one mark with it.
fn is_compared(description: &Description, nic: &Nic) {
    let asked = Interface {
        mac: nic.mac.clone(),
        path: nic.path.clone().unwrap_or_default().into(),
        model: nic.model.clone().unwrap_or_default(),
        queues: nic.queues,
        rx_queue_size: Some(256),
        tx_queue_size: None,
        alias: nic.alias.clone().unwrap_or_default(),
        address: nic.address,
        iommu: description.encrypted,
    };
    let _ = description.check(&asked);
    let found = description.find(asked.target());
    assert!(nic.kind != "vhostuser" || nic.path.is_none() || found.is_some(), "{nic:?} is not found");
    for other in
        [asked.clone(), Interface { path: "/x".into(), ..asked.clone() }, Interface { mac: "x".into(), ..asked }]
    {
        if let Match::Conflict(text) = description.compare(&other, true) {
            said(&text);
        }
        is_written_as_it_is(&other);
    }
}

/// What is written is read as it was, whatever stands in it.
pub fn is_written_as_it_is(asked: &Interface) {
    let xml = asked.to_xml().expect("it is written to memory");
    let element = Element::parse(&xml).expect("what is written is XML");
    let names: Vec<_> = element.all_children().iter().map(|child| child.name.as_str()).collect();
    let address = asked.address.map(|_| "address");
    let expected: Vec<_> =
        ["mac", "source", "model", "driver", "alias"].into_iter().chain(address).chain(["rom"]).collect();
    assert_eq!(names, expected, "{xml}");
    assert!(element.all_children().iter().all(|child| child.all_children().is_empty() && child.text().is_empty()));
    let nic = Nic::from_xml(&element);
    assert_eq!((nic.kind.as_str(), nic.mac), ("vhostuser", asked.mac.to_ascii_lowercase()));
    assert_eq!((nic.path.as_deref(), nic.model.as_ref()), (Some(&*asked.path), Some(&asked.model)));
    assert_eq!((nic.queues, nic.address), (asked.queues, asked.address));
    assert_eq!(nic.alias.as_ref(), Some(&asked.alias));
}

/// An alias by any interface name: of characters that libvirt keeps, and within XML as it is.
pub fn alias_is_plain(ifname: &str) {
    let alias = alias_of(ifname);
    assert!(
        alias.starts_with("ua-") && alias.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    );
}

/// A PCI address by any text: what is read is printed the same, but for the domain that may be left out.
pub fn pci_address_is_strict(text: &str) {
    if let Some(address) = PciAddress::parse(text) {
        assert!(address.to_string().ends_with(&text.to_ascii_lowercase()), "{text}");
        assert!(address.slot < 32 && address.function < 8);
    }
}
