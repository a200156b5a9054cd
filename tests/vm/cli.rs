//! What a person is shown of a real VM's NIC, and of a node with a real OVS-DPDK.

use serde_json::Value;

use super::lab::{Pod, holds, lab};

const PLUGIN: &str = "/opt/cni/bin/vhostuser-hotplug";

/// The plugin's words, which must be those of success.
fn told(words: &[&str]) -> String {
    let told = lab(&[&["exec", PLUGIN], words].concat());
    println!("vhostuser-hotplug {}\n{told}\n", words.join(" "));
    told
}

fn verdict<'a>(told: &'a Value, check: &str) -> &'a str {
    let checks = told["checks"].as_array().unwrap();
    checks.iter().find(|one| one["check"] == check).and_then(|one| one["verdict"].as_str()).unwrap()
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_its_vm_and_its_data_plane_are_shown_as_they_are() {
    let pod = Pod::new(&[]);
    let ifname = "pod59cc33fa39b";
    let nic = pod.add(ifname).nic();
    let name = format!("{}/{}", pod.fact("NAMESPACE"), pod.name);
    let list = told(&["list"]);
    let line = list.lines().find(|line| line.starts_with(&name)).unwrap_or_else(|| panic!("{list}"));
    for part in [ifname, &nic.mac, pod.fact("SOCKETS"), "  ok  ", "  up  ", "  connected  "] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    let seen = told(&["inspect", &name]);
    let domain = pod.fact("DOMAIN");
    assert!(seen.contains(&format!(" {domain} (uuid ")) && seen.contains("running: has the NIC"), "{seen}");
    assert!(seen.contains("Data plane:  connected"), "{seen}");

    lab(&["virsh", &pod.name, "suspend", domain]);
    assert!(told(&["inspect", pod.fact("POD_UID"), ifname]).contains("paused: has the NIC"));
    lab(&["virsh", &pod.name, "resume", domain]);
    pod.ping(&nic);

    lab(&["virsh", &pod.name, "destroy", domain]);
    let words = ["exec", PLUGIN, "inspect", &name];
    assert!(!holds(&words), "a NIC whose VM is gone is not as ADD left it");
    assert!(told(&["list"]).lines().any(|line| line.starts_with(&name) && line.contains("  gone  ")));
    pod.del(ifname).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_real_data_plane_is_found() {
    let _pod = Pod::new(&[]);
    // What else is on the lab's node, and what is not, is not the doctor's to praise.
    let script = format!("{PLUGIN} doctor --json; true");
    let told: Value = serde_json::from_str(&lab(&["exec", "sh", "-c", &script])).unwrap();
    println!("{}", lab(&["exec", "sh", "-c", &format!("{PLUGIN} doctor; true")]));
    for check in ["rights", "openat2", "pidfd_getfd", "kubelet_dir", "binary", "OVS-DPDK", "OVS's view"] {
        assert_eq!(verdict(&told, check), "ok", "{check} in {told:#}");
    }
}
