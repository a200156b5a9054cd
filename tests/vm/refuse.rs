//! What cannot be plugged is refused in words, and nothing is left of the try.

use serde_json::{Value, json};

use super::lab::{Pod, lab};

/// The chain's ADD fails, libcni's DEL (as a runtime sends it then) succeeds, and nothing is left.
pub fn refused(pod: &Pod, ifname: &str, keys: &Value, code: u64, words: &[&str]) {
    let answer = pod.call("add", ifname, keys);
    assert_eq!(answer.code(), code, "{answer:#?}");
    let text = answer.json.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    let ours: Vec<String> = pod.leftovers().into_iter().filter(|left| left.starts_with('/')).collect();
    assert_eq!(ours, Vec::<String>::new(), "right after the ADD that failed");
    pod.call("del", ifname, keys).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_vm_whose_memory_is_not_shared() {
    refused(&Pod::new(&["--no-shared-memory"]), "net1", &json!({}), 102, &["memory", "access mode='shared'"]);
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_vm_without_a_free_port_and_a_model_that_needs_another_slot() {
    let pod = Pod::new(&["--ports", "1"]);
    refused(&pod, "net1", &json!({"model": "virtio-transitional"}), 102, &["pcie-to-pci-bridge"]);
    let nic = pod.add("net1").nic();
    let answer = pod.add("net2");
    assert_eq!(answer.code(), 102, "{answer:#?}");
    assert!(answer.json.to_string().contains("pcie-root-port"), "{answer:#?}");
    pod.del("net2").succeeded();
    pod.ping(&nic);
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_pod_without_a_vm_and_one_without_libvirt() {
    refused(&Pod::new(&["--no-vm"]), "net1", &json!({}), 11, &["No VM runs"]);
    refused(&Pod::new(&["--no-libvirt"]), "net1", &json!({}), 11, &["libvirt"]);
    let pod = Pod::new(&["--no-libvirt"]);
    pod.call("add", "net1", &json!({"attach": "never"})).succeeded();
    pod.call("del", "net1", &json!({})).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_mac_an_alias_or_a_nic_that_is_there_already_but_different() {
    let pod = Pod::new(&["--vcpus", "2"]);
    let nic = pod.add("net1").nic();
    let address = format!("/run/kube-ovn-standin/{}/{}/net3.json", pod.fact("NAMESPACE"), pod.name);
    lab(&["exec", "sh", "-c", &format!("echo '{{\"mac\": \"{}\"}}' > {address}", nic.mac)]);
    for (ifname, keys, words) in [
        ("net3", json!({}), "MAC"),
        ("net2", json!({"args": {"cni": {"vhostuser-hotplug": {"alias": "ua-net1"}}}}), "Alias ua-net1"),
        ("net1", json!({"queues": 1}), "queues"),
        ("net1", json!({"model": "virtio"}), "model"),
    ] {
        let answer = pod.call("add", ifname, &keys);
        assert_eq!(answer.code(), 100, "{answer:#?}");
        assert!(answer.json.to_string().contains(words), "{answer:#?}");
    }
    pod.ping(&nic);
    pod.del("net1").succeeded();
    for ifname in ["net2", "net3"] {
        pod.del(ifname).succeeded();
    }
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_pod_without_the_volume_is_passed_over() {
    let pod = Pod::new(&["--no-volume", "--no-vm"]);
    pod.call_as_kubelet("add", "net1", &json!({})).succeeded();
    let ours: Vec<String> = pod.leftovers().into_iter().filter(|left| left.starts_with('/')).collect();
    assert_eq!(ours, Vec::<String>::new());
    pod.call_as_kubelet("del", "net1", &json!({})).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}
