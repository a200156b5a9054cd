//! The MTU that the guest uses for a NIC, compared with the MTU of the NIC's network.
//!
//! libvirt refuses `<mtu>` on a vhost-user NIC that is hot-plugged: it looks for a host device to set it on
//! (`qemuDomainAttachNetDevice`, src/qemu/qemu_hotplug.c). A back end can't set an MTU either: with vhost-user's NET_MTU it
//! is the front end that sends it (`vhost_user_net_set_mtu`, hw/virtio/vhost-user.c). So the guest uses virtio-net's
//! default, unless the VM was started with another MTU for all its virtio NICs.

use crate::attachment::record::Nic;
use crate::vm::domain::Description;

/// The MTU of a guest that is given none.
const DEFAULT: u32 = 1500;

/// Returns the MTU that a VM's guest uses for a NIC of this model, until somebody sets another in the guest.
#[must_use]
pub fn of_guest(vm: &Description, model: &str) -> u32 {
    vm.host_mtu(model).unwrap_or(DEFAULT)
}

/// Returns the MTU of a NIC's network, and that of its guest, if the first is known.
#[must_use]
pub fn of_nic(nic: &Nic) -> Option<(u32, u32)> {
    Some((nic.mtu?, nic.guest_mtu.unwrap_or(DEFAULT)))
}

/// Returns a warning if the guest sends packets that are too large for the NIC's network.
#[must_use]
pub fn warning(nic: &Nic) -> Option<String> {
    let (network, guest) = of_nic(nic)?;
    (guest > network).then(|| {
        format!(
            "the MTU of the NIC's network is {network}, and the guest takes {guest}, because libvirt can't set the MTU of \
             a hot-plugged vhost-user NIC: larger packets get lost until {network} is set in the guest (DHCP option 26, router \
             advertisement, cloud-init, ip link)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_network_with_a_smaller_mtu_is_warned_of() {
        let nic = |mtu, guest_mtu| Nic {
            alias: String::new(),
            mac: String::new(),
            path: String::new(),
            socket: String::new(),
            domain: String::new(),
            queues: None,
            mtu,
            guest_mtu,
            attached: true,
            detaching: false,
        };
        let text = warning(&nic(Some(1400), None)).unwrap();
        assert!(text.contains("network is 1400") && text.contains("takes 1500"), "{text}");
        assert!(warning(&nic(Some(1280), Some(1400))).is_some());
        for (network, guest) in [(None, None), (Some(1500), None), (Some(8900), None), (Some(1400), Some(1400))] {
            assert_eq!(warning(&nic(network, guest)), None);
        }
    }
}
