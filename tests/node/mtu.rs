//! The MTU of a NIC's network, where the guest takes another.

use serde_json::json;
use support::libvirt::{DOMAIN, domain};
use support::{Call, Double, KUBELET, Node};

/// Adds the MTU that kube-ovn tells of a network to the call's prevResult.
fn with_mtu(call: Call, mtu: u32) -> Call {
    let mut result = call.prev_result().clone();
    result["interfaces"][0]["mtu"] = json!(mtu);
    call.set("prevResult", result)
}

#[test]
fn a_network_whose_packets_are_smaller_than_the_guests_is_told_of() {
    let global = |value: &str| {
        let arguments =
            format!("<qemu:commandline><qemu:arg value='-global'/><qemu:arg value='{value}'/></qemu:commandline>");
        DOMAIN.replace("</devices>", &format!("</devices>{arguments}"))
    };
    let warning = "packets get lost until 1400 is set in the guest";
    for (mtu, xml, cell, line, warned) in [
        (1400, DOMAIN.to_owned(), "1400, guest 1500", "1400 in the network, 1500 in the guest: larger", true),
        (1400, global("virtio-net-device.host_mtu=1400"), "1400", "1400", false),
        (
            1400,
            global("driver=virtio-net-device,property=host_mtu,value=1300"),
            "1400",
            "1400 in the network, 1300",
            false,
        ),
        (8900, DOMAIN.to_owned(), "8900", "8900 in the network, 1500 in the guest unless set there", false),
        (1500, DOMAIN.to_owned(), "1500", "1500", false),
    ] {
        let (node, pod, _plane) = Node::with_plane();
        let person = |words: &[&str]| node.person(&[words, &["--kubelet-dir", KUBELET]].concat());
        let _double = Double::start(&pod, &json!({"domains": [domain("ns_vm", "1", &xml)]}));
        let answer = with_mtu(pod.add(), mtu).run(&node);
        answer.succeeded();
        assert_eq!(answer.log.contains(warning), warned, "{answer:?}");
        assert_eq!(answer.json["interfaces"][0]["mtu"], json!(mtu), "the result stays as it is");
        let told = person(&["list"]);
        let cells: Vec<&str> =
            told.out.lines().nth(1).unwrap().split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells[7], cell, "{told:?}");
        let told = person(&["inspect", "default/vm", "net1"]);
        assert!(told.ok && told.out.contains(&format!("MTU:         {line}")), "{told:?}");
        assert_eq!(person(&["list", "--json"]).json()["attachments"][0]["nic"]["mtu"]["network"], json!(mtu));
        pod.del().run(&node).succeeded();
    }
}
