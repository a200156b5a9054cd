//! Whether QEMU accepts the data plane as back end of the NIC. This is checked before the VM is touched, because QEMU tries
//! a back end that it refuses again and again, and the VM stands still meanwhile.

use crate::cni::Error;
use crate::dataplane::capabilities::Capabilities;
use crate::vm::domain::Description;

/// Fails if QEMU is certain to refuse the data plane. Succeeds if the VM's memory may or may not fit.
pub fn ensure_accepted(capabilities: &Capabilities, vm: &Description) -> Result<(), Error> {
    if let Some(reason) = capabilities.refusal() {
        return Err(Error::libvirt(format!(
            "QEMU refuses this data plane for any VM, because {reason}: change its configuration, or use another."
        ))
        .with_details(capabilities));
    }
    if vm.encrypted_pci && !capabilities.has_access_platform() {
        return Err(Error::libvirt(
            "The VM's memory is encrypted (<launchSecurity>), so its NIC must have VIRTIO_F_ACCESS_PLATFORM, and this data plane \
             doesn't offer that: let it do so (OVS: ovs-vsctl set Open_vSwitch . other_config:vhost-iommu-support=true, and \
             restart it).",
        )
        .with_details(capabilities));
    }
    let (limit, wanted) = (capabilities.slot_limit(), vm.memory_slots);
    if wanted.at_least <= limit {
        return Ok(());
    }
    let (least, or_more) = (wanted.at_least, if wanted.at_most > wanted.at_least { " or more" } else { "" });
    Err(Error::libvirt(format!(
        "The VM's memory is in {least}{or_more} regions and the data plane can map {limit}: give the VM fewer NUMA cells \
         and memory devices (DIMM, NVDIMM, virtio-mem), or use a data plane with more memory slots (protocol feature \
         CONFIGURE_MEM_SLOTS). DPDK has 8, up to 26.07."
    ))
    .with_details(capabilities))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::error::code;
    use crate::vm::memory::MemorySlots;

    /// DPDK 24.11.
    const OVS: Capabilities =
        Capabilities { features: 0xd7c6_6a7ca, protocol_features: 0x10cbf, queues: 128, memory_slots: None };

    fn vm(change: impl FnOnce(&mut Description)) -> Description {
        let mut vm = Description::default();
        change(&mut vm);
        vm
    }

    #[test]
    fn a_vm_with_too_many_regions_is_refused_with_both_numbers() {
        let slots = |at_least, at_most| vm(|vm| vm.memory_slots = MemorySlots { at_least, at_most });
        for wanted in [slots(1, 1), slots(8, 8), slots(8, 9), slots(1, u32::MAX)] {
            assert_eq!(ensure_accepted(&OVS, &wanted), Ok(()), "{wanted:?}");
        }
        let error = ensure_accepted(&OVS, &slots(9, 9)).unwrap_err();
        assert_eq!(error.code, code::LIBVIRT);
        assert!(error.msg.contains("in 9 regions") && error.msg.contains("map 8"), "{error}");
        let error = ensure_accepted(&OVS, &slots(9, 12)).unwrap_err();
        assert!(error.msg.contains("in 9 or more regions"), "{error}");
        assert_eq!(ensure_accepted(&Capabilities { memory_slots: Some(32), ..OVS }, &slots(32, 32)), Ok(()));
    }

    #[test]
    fn a_data_plane_without_protocol_features_is_refused_for_any_vm() {
        let error = ensure_accepted(&Capabilities { features: 1 << 32, ..OVS }, &Description::default()).unwrap_err();
        assert_eq!(error.code, code::LIBVIRT);
        assert!(error.msg.contains("PROTOCOL_FEATURES"), "{error}");
    }
    #[test]
    fn an_encrypted_vm_needs_a_data_plane_with_access_platform() {
        let encrypted = vm(|vm| vm.encrypted_pci = true);
        let error = ensure_accepted(&OVS, &encrypted).unwrap_err();
        assert!(error.code == code::LIBVIRT && error.msg.contains("vhost-iommu-support"), "{error}");
        let with = Capabilities { features: OVS.features | 1 << 33, protocol_features: 0x10cbf | 1 << 5, ..OVS };
        assert_eq!(ensure_accepted(&with, &encrypted), Ok(()));
        assert_eq!(ensure_accepted(&with, &Description::default()), Ok(()));
    }
}
