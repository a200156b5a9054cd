//! What the guest is shown of a NIC: its network's MTU, and that its device goes through an IOMMU.

use serde_json::json;

use super::lab::{Nic, Pod, holds, lab, lab_with, log};

/// What the guest's kernel says of a NIC.
fn shown(pod: &Pod, nic: &Nic, what: &str) -> String {
    pod.guest(&format!("cat /sys/class/net/$(nic {})/{what}", nic.mac)).trim().to_owned()
}

/// A file in the container of the VM.
fn in_container(pod: &Pod, name: &str, text: &str) -> String {
    lab_with(&["exec", "sh", "-c", &format!("cat >/proc/{}/root/tmp/{name}", pod.fact("PID"))], text);
    format!("/tmp/{name}")
}

fn listed(pod: &Pod) -> String {
    let list = lab(&["exec", "/opt/cni/bin/vhostuser-hotplug", "list"]);
    list.lines().find(|line| line.contains(&pod.name)).unwrap_or_default().to_owned()
}

/// Plugs a NIC, with a result of kube-ovn's in which its network's MTU is 1400.
fn add_with_mtu(pod: &Pod) -> Nic {
    let mut port = pod.call("add", "net1", &json!({"attach": "never"}));
    let nic = port.nic();
    port.json["interfaces"][0]["mtu"] = json!(1400);
    pod.call_plugin_alone("add", "net1", &json!({}), &port.json).succeeded();
    nic
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_network_with_smaller_packets_than_the_guests_is_told_of() {
    let pod = Pod::new(&[]);
    let nic = add_with_mtu(&pod);
    assert!(log().contains("the MTU of the NIC's network is 1400, and the guest takes 1500"), "{}", log());
    assert_eq!(shown(&pod, &nic, "mtu"), "1500");
    assert!(listed(&pod).contains("1400, guest 1500"), "{}", listed(&pod));
    pod.ping(&nic);
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_vm_whose_qemu_gives_all_nics_the_networks_mtu_shows_it() {
    let pod = Pod::new(&[]);
    let xml = lab(&["virsh", &pod.name, "dumpxml", "--inactive", pod.fact("DOMAIN")]);
    let global = "<qemu:commandline><qemu:arg value='-global'/><qemu:arg value='virtio-net-device.host_mtu=1400'/></qemu:commandline>";
    let xml = xml.replacen("<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ", 1);
    let file = in_container(&pod, "mtu.xml", &xml.replace("</domain>", &format!("{global}</domain>")));
    lab(&["virsh", &pod.name, "define", &file]);
    lab(&["vm", &pod.name, "destroy"]);
    lab(&["vm", &pod.name, "start"]);
    let nic = add_with_mtu(&pod);
    assert_eq!(shown(&pod, &nic, "mtu"), "1400");
    let line = listed(&pod);
    assert!(line.contains(" 1400 ") && !line.contains("guest 1500"), "{line}");
    pod.ping(&nic);
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

/// A NIC as the plugin plugs it into a VM with `<launchSecurity>`, which takes a CPU that the lab does not have. QEMU takes it if OVS
/// offers VIRTIO_F_ACCESS_PLATFORM, and not otherwise.
#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_for_an_encrypted_guest_passes_packets_if_ovs_offers_what_it_needs() {
    let pod = Pod::new(&["--vcpus", "2"]);
    let attach = |nic: &Nic| {
        let xml = format!(
            "<interface type='vhostuser'><mac address='{}'/><source type='unix' path='{}/net1' mode='server'/><model \
             type='virtio-non-transitional'/><driver name='vhost' queues='2' iommu='on'/><alias name='ua-net1'/></interface>",
            nic.mac,
            pod.fact("SOCKETS")
        );
        let file = in_container(&pod, "iommu.xml", &xml);
        holds(&["virsh", &pod.name, "attach-device", pod.fact("DOMAIN"), &file, "--live"])
    };
    // The share and OVS's port.
    let nic = pod.call("add", "net1", &json!({"attach": "never"})).nic();
    assert!(!attach(&nic), "QEMU takes it without");
    lab(&["ovs", "set", "Open_vSwitch", ".", "other_config:vhost-iommu-support=true"]);
    let restart = || {
        lab(&["ovs-stop"]);
        lab(&["ovs-start"]);
    };
    restart();
    let taken = attach(&nic);
    if taken {
        pod.ping(&nic);
        // VIRTIO_F_VERSION_1, and VIRTIO_F_ACCESS_PLATFORM.
        let features = shown(&pod, &nic, "device/features");
        assert_eq!(features.get(32..34), Some("11"), "{features}");
    }
    pod.del("net1").succeeded();
    // Any other VM is served as before.
    let other = pod.add("net1").nic();
    pod.ping(&other);
    pod.del("net1").succeeded();
    lab(&["ovs", "remove", "Open_vSwitch", ".", "other_config", "vhost-iommu-support"]);
    restart();
    assert!(taken, "{}", log());
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}
