//! What libcni has since CNI 1.1.0: STATUS and GC, and networks whose plugins are dropped into a folder.

use serde_json::{Value, json};

use super::lab::{Answer, Conflist, Pod, call, lab};

/// The hot-plug network at this version, which only makes shares here.
fn network(version: &str) -> Conflist {
    let mut list: Value = serde_json::from_str(include_str!("../../conflist/hotplug.conflist")).unwrap();
    list["cniVersion"] = json!(version);
    list["plugins"][1]["attach"] = json!("never");
    Conflist::new(&list)
}

fn run(command: &str, network: &Conflist, pod: Option<(&Pod, &str)>, valid: &Value) -> Answer {
    let valid = valid.to_string();
    let mut variables = vec![("LAB_LIBCNI", "1.3"), ("CNI_VALID", &valid)];
    let args = pod.map(|(pod, _)| format!("K8S_POD_NAME={};K8S_POD_NAMESPACE={}", pod.name, pod.fact("NAMESPACE")));
    if let (Some((pod, ifname)), Some(args)) = (pod, &args) {
        variables.extend([("CNI_CONTAINERID", pod.fact("CID")), ("CNI_NETNS", pod.fact("NETNS"))]);
        variables.extend([("CNI_IFNAME", ifname), ("CNI_ARGS", args)]);
    }
    call(&["runtime", command, network.path()], &variables, "")
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn libcni_1_3_asks_for_the_status_and_collects_what_it_no_longer_knows() {
    let network = network("1.1.0");
    run("status", &network, None, &json!([])).succeeded();
    let (kept, stale) = (Pod::new(&["--no-libvirt"]), Pod::new(&["--no-libvirt"]));
    let all = [(&kept, "net1"), (&stale, "net1"), (&kept, "net2")];
    for attachment in all {
        let answer = run("add", &network, Some(attachment), &json!([]));
        answer.nic();
        run("check", &network, Some(attachment), &json!([])).succeeded();
    }
    let valid = json!([{"containerID": kept.fact("CID"), "ifname": "net1"}]);
    // Its own cache is lost: no DEL comes of it, and all is left to the plugins.
    lab(&["exec", "rm", "-rf", "/var/lib/cni/results"]);
    run("gc", &network, None, &valid).succeeded();
    let ours = |pod: &Pod| pod.leftovers().into_iter().filter(|left| left.starts_with('/')).collect::<Vec<_>>();
    assert_eq!(ours(&stale), Vec::<String>::new());
    assert!(!ours(&kept).is_empty(), "its share is still needed");
    let records = lab(&["exec", "ls", &format!("/run/vhostuser-hotplug/pods/{}", kept.fact("POD_UID"))]);
    assert!(records.starts_with("net1@") && !records.contains("net2"), "{records}");

    for attachment in all {
        run("del", &network, Some(attachment), &json!([])).succeeded();
    }
    assert_eq!((kept.leftovers(), stale.leftovers()), (Vec::new(), Vec::new()));
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn libcni_1_3_deletes_what_it_finds_stale_in_its_cache_at_every_version() {
    for version in ["1.0.0", "1.1.0"] {
        let network = network(version);
        let pod = Pod::new(&["--no-libvirt"]);
        run("add", &network, Some((&pod, "net1")), &json!([])).nic();
        assert!(!pod.leftovers().is_empty());
        run("gc", &network, None, &json!([])).succeeded();
        assert_eq!(pod.leftovers(), Vec::<String>::new(), "{version}");
    }
}
