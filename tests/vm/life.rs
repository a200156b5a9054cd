//! The life of a pod: created, used, killed.

use std::time::Instant;

use serde_json::json;

use super::lab::{Pod, lab};

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_pod_that_is_only_being_created_gets_its_share() {
    let pod = Pod::new(&["--only-sandbox", "--no-pause"]);
    let answer = pod.call_as_kubelet("add", "eth0", &json!({}));
    answer.succeeded();
    let target = format!("/run/openvswitch/vhost_sockets/{}/vhostuser-sockets", pod.fact("POD_UID"));
    lab(&["exec", "touch", &format!("{}/seen", pod.fact("VOLUME"))]);
    lab(&["exec", "test", "-e", &format!("{target}/seen")]);
    lab(&["exec", "rm", &format!("{target}/seen")]);
    pod.call_as_kubelet("del", "eth0", &json!({})).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn del_after_the_pod_has_died_cleans_up_what_it_left() {
    let pod = Pod::new(&[]);
    let nic = pod.add("net1").nic();
    pod.ping(&nic);
    lab(&["pod-kill", &pod.name]);
    // A QEMU that was killed leaves its socket's file behind.
    lab(&["exec", "test", "-S", &format!("{}/net1", pod.fact("VOLUME"))]);
    let began = Instant::now();
    pod.call_as_kubelet("del", "net1", &json!({"detach_timeout": 300})).succeeded();
    assert!(began.elapsed().as_secs() < 150, "there is no guest to wait for");
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_guest_that_does_not_let_go_keeps_the_nic_the_port_and_the_record() {
    let pod = Pod::new(&["--no-virtio"]);
    pod.add("net1").succeeded();
    let keys = json!({"detach_timeout": 3});
    let began = Instant::now();
    let answer = pod.call("del", "net1", &keys);
    let took = began.elapsed().as_secs();
    assert_eq!(answer.code(), 11, "{answer:#?}");
    assert!((3..40).contains(&took), "{took} s");
    let left = pod.leftovers();
    for part in ["/run/vhostuser-hotplug/pods/", "/vhostuser-sockets/net1", "/run/openvswitch/vhost_sockets/"] {
        assert!(left.iter().any(|path| path.contains(part)), "{part} is not in {left:?}");
    }
    assert!(left.iter().any(|name| !name.starts_with('/')), "kube-ovn's port must stay: {left:?}");
    lab(&["pod-kill", &pod.name]);
    pod.call_as_kubelet("del", "net1", &keys).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn the_pods_last_del_takes_a_plugged_nics_remains_along() {
    let pod = Pod::new(&[]);
    pod.call_as_kubelet("add", "eth0", &json!({"attach": "never"})).succeeded();
    pod.add("net1").nic();
    // Multus knows nothing of NICs that were plugged later: at the pod's end only eth0's DEL comes.
    lab(&["pod-kill", &pod.name]);
    pod.call_as_kubelet("del", "eth0", &json!({})).succeeded();
    let ours: Vec<String> = pod.leftovers().into_iter().filter(|left| left.starts_with('/')).collect();
    assert_eq!(ours, Vec::<String>::new(), "only kube-ovn's port may be left, which is for kube-ovn to collect");
    pod.call_as_kubelet("del", "net1", &json!({})).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn del_finds_the_nic_though_the_records_are_lost() {
    let pod = Pod::new(&[]);
    let nic = pod.add("net1").nic();
    lab(&["exec", "rm", "-rf", "/run/vhostuser-hotplug"]);
    pod.del("net1").succeeded();
    assert!(!pod.guest_has(&nic));
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}
