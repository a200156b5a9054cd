//! The order in which each containerd makes a pod whose first NIC is a vhost-user one: what lives when its ADD comes.

use serde_json::{Value, json};

use super::containerd::{Containerd, sandbox};
use super::lab::{Pod, lab};

/// What the plugin logged of a pod's interface.
fn logged(pod: &Pod, ifname: &str) -> Vec<String> {
    let log = lab(&["log"]);
    let is_its = |line: &&str| {
        line.contains("vhostuser-hotplug")
            && line.contains(pod.fact("CID"))
            && line.contains(&format!("ifname={ifname} "))
    };
    log.lines().filter(is_its).map(str::to_owned).collect()
}

fn is_started(pod: &Pod, ifname: &str) -> bool {
    let record = format!("/run/vhostuser-hotplug/pods/{}/{ifname}@{}.json", pod.fact("POD_UID"), pod.fact("CID"));
    let record: Value = serde_json::from_str(&lab(&["exec", "cat", &record])).unwrap();
    record["started"] == true
}

/// With `all` in this variable, every order is run; else those that differ, for a VM takes its time to boot.
const ALL: &str = "CONTAINERD_ORDERS";

/// containerd's version, the pod, and how many processes live when the ADD of its first NIC comes; whether it is usually run.
/// With a user namespace, containerd 1.7 has runc make the network namespace, and so the sandbox's process is first. With
/// `--cgroup systemd`, a kubelet with systemd's driver is above a runtime without it.
const ORDERS: [(&str, &[&str], usize, bool); 8] = [
    ("1", &[], 0, false),
    ("1.7", &[], 0, false),
    ("1.7", &["--userns"], 1, false),
    ("1.7", &["--cgroup", "systemd"], 0, false),
    ("1.7", &["--cgroup", "systemd", "--userns"], 1, true),
    ("2", &[], 0, false),
    ("2", &["--cgroup", "systemd"], 0, true),
    ("2", &["--userns", "--only-sandbox"], 0, true),
];

#[test]
#[ignore = "needs the lab: run tests/run"]
fn every_containerd_makes_its_pods_and_their_vms_get_nics() {
    let mut list: Value = serde_json::from_str(include_str!("../../conflist/hotplug.conflist")).unwrap();
    list["plugins"][1]["log_level"] = json!("debug");
    let all = std::env::var(ALL).is_ok_and(|value| value == "all");
    for (version, options, processes) in
        ORDERS.into_iter().filter(|(.., is_usual)| all || *is_usual).map(|row| (row.0, row.1, row.2))
    {
        let what = format!("containerd {version} {options:?}");
        let _containerd = Containerd::start(version, &[("01-dpdk.conflist", &list.to_string())]);
        let pod = Pod::new(&[&["--cri"], options].concat());
        let log = logged(&pod, "eth0");
        let says = |words: &str| log.iter().any(|line| line.contains(words));
        assert!(says(&format!("pod: {processes} processes")), "{what}: {log:#?}");
        assert_eq!(says("the sandbox is being made"), processes > 0, "{what}: {log:#?}");
        assert!(!is_started(&pod, "eth0"), "{what}");

        if !options.contains(&"--only-sandbox") {
            // Its caller does not say which pod it is.
            let nic = pod.add("net1").nic();
            pod.ping(&nic);
            assert!(is_started(&pod, "net1") && is_started(&pod, "eth0"), "{what}: what net1 saw holds for eth0");
            pod.del("net1").succeeded();
        }
        sandbox("StopPodSandbox", &pod);
        sandbox("RemovePodSandbox", &pod);
        assert_eq!(pod.leftovers(), Vec::<String>::new(), "{what}");
        println!("{what}: {processes} processes when the ADD came");
    }
}
