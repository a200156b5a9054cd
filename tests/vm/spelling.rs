//! A socket that another client spells otherwise.

use serde_json::json;

use super::lab::{Pod, lab, lab_with, log};

/// libvirt, QEMU and the kernel's list have the path as the other client wrote it.
#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_that_another_client_plugged_under_another_spelling_is_the_plugins_own() {
    let pod = Pod::new(&["--vcpus", "2"]);
    let sockets = pod.fact("SOCKETS");
    let link = format!("ln -sfn {sockets} /proc/{}/root/tmp/sockets", pod.fact("PID"));
    lab(&["exec", "sh", "-c", &link]);
    for (number, spelled) in [format!("/{sockets}//net1"), "/tmp/sockets/net1".to_owned()].iter().enumerate() {
        // The share and OVS's port.
        let nic = pod.call("add", "net1", &json!({"attach": "never"})).nic();
        let xml = format!(
            "<interface type='vhostuser'><mac address='{}'/><source type='unix' path='{spelled}' mode='server'/><model \
             type='virtio-non-transitional'/><driver name='vhost' queues='2'/><alias name='ua-theirs'/></interface>",
            nic.mac
        );
        let name = format!("spelled-{number}.xml");
        lab_with(&["exec", "sh", "-c", &format!("cat >/proc/{}/root/tmp/{name}", pod.fact("PID"))], &xml);
        lab(&["virsh", &pod.name, "attach-device", pod.fact("DOMAIN"), &format!("/tmp/{name}"), "--live"]);
        let shown = pod.xml();
        assert!(shown.contains(&format!("path='{spelled}'")), "{shown}");
        pod.add("net1").succeeded();
        assert!(!log().contains("attach ua-net1"), "it was there: {}", log());
        pod.call("check", "net1", &json!({})).succeeded();
        let listed = lab(&["exec", "/opt/cni/bin/vhostuser-hotplug", "inspect", pod.fact("POD_UID"), "net1"]);
        assert!(listed.contains("has the NIC") && listed.contains("Data plane:  connected"), "{listed}");
        pod.ping(&nic);
        pod.del("net1").succeeded();
        assert!(!pod.xml().contains("ua-theirs"), "{}", log());
        assert_eq!(pod.leftovers(), Vec::<String>::new());
    }
}
