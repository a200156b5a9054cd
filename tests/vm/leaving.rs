//! A guest that was asked to release a NIC, and has not answered yet: one answer from every call, and the true one.

use serde_json::json;

use super::lab::{Pod, holds, lab, log};
use super::watch::until;

/// What `list`, `inspect` and CHECK say of the VM's NIC.
fn said(pod: &Pod) -> [String; 3] {
    let plugin = ["exec", "/opt/cni/bin/vhostuser-hotplug"];
    let name = format!("{}/{}", pod.fact("NAMESPACE"), pod.name);
    let list = lab(&[&plugin[..], &["list", "--json"]].concat());
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let all = list["attachments"].as_array().unwrap().iter();
    let one = all.filter(|one| one["pod"] == name.as_str()).find_map(|one| one["nic"]["vm"]["nic"].as_str());
    let inspect = format!("/opt/cni/bin/vhostuser-hotplug inspect --json {name}; true");
    let inspect: serde_json::Value = serde_json::from_str(&lab(&["exec", "sh", "-c", &inspect])).unwrap();
    let inspected = inspect["attachments"][0]["nic"]["vm"]["nic"].as_str();
    let check = pod.call("check", "net1", &json!({}));
    let check = if check.ok { "fine".to_owned() } else { check.json.to_string() };
    [one.unwrap_or("none").to_owned(), inspected.unwrap_or("none").to_owned(), check]
}

fn is_leaving(pod: &Pod, why: &str) {
    let [list, inspect, check] = said(pod);
    assert_eq!([list.as_str(), inspect.as_str()], ["leaving"; 2], "{check}");
    assert!(check.contains("\"code\":104") && check.contains("asked to release ua-net1"), "{check}");
    for (command, keys) in [("add", json!({"attach_timeout": 4})), ("del", json!({"detach_timeout": 2}))] {
        let answer = pod.call_plugin_alone(command, "net1", &keys, &result(pod));
        assert_eq!(answer.code(), 11, "{command}: {answer:#?}");
        assert!(answer.json.to_string().contains(why), "{command}: {answer:#?}");
    }
}

/// What the plugins before ours answer.
fn result(pod: &Pod) -> serde_json::Value {
    let mac = pod.xml().split("<mac address='").nth(1).and_then(|rest| rest.split('\'').next()).unwrap().to_owned();
    json!({"cniVersion": "1.0.0", "interfaces": [{"name": "net1", "mac": mac, "sandbox": "/proc/1/ns/net"}], "ips": []})
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_guest_that_is_paused_while_it_is_asked() {
    for libvirt in ["11", "9"] {
        let pod = Pod::new(&["--libvirt", libvirt]);
        let nic = pod.add("net1").nic();
        pod.ping(&nic);
        assert_eq!(said(&pod), ["plugged", "plugged", "fine"]);
        lab(&["vm", &pod.name, "suspend"]);
        let answer = pod.call("del", "net1", &json!({"detach_timeout": 2}));
        assert_eq!(answer.code(), 11, "{answer:#?}");
        assert!(answer.json.to_string().contains("the VM is paused: resume it"), "{answer:#?}");
        is_leaving(&pod, "paused");
        lab(&["vm", &pod.name, "resume"]);
        until("the guest releases the NIC", || !pod.xml().contains("<interface"));
        let [list, inspect, check] = said(&pod);
        assert_eq!([list.as_str(), inspect.as_str()], ["gone"; 2], "{check}");
        assert!(check.contains("\"code\":104"), "{check}");
        let nic = pod.add("net1").nic();
        pod.ping(&nic);
        assert_eq!(said(&pod), ["plugged", "plugged", "fine"]);
        pod.del("net1").succeeded();
        assert_eq!(pod.leftovers(), Vec::<String>::new());
    }
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_guest_that_refuses_until_it_reboots() {
    let pod = Pod::new(&["--stubborn"]);
    pod.add("net1").succeeded();
    let answer = pod.call("del", "net1", &json!({"detach_timeout": 2}));
    assert_eq!(answer.code(), 11, "{answer:#?}");
    is_leaving(&pod, "has not released");
    lab(&["vm", &pod.name, "reboot"]);
    let nic = pod.add("net1").nic();
    until("the guest finds its NIC", || pod.guest_has(&nic));
    pod.ping(&nic);
    lab(&["vm", &pod.name, "reboot"]);
    pod.add("net1").succeeded();
    pod.call("del", "net1", &json!({"detach_timeout": 1}));
    lab(&["vm", &pod.name, "reboot"]);
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_guest_that_still_boots_while_it_is_asked() {
    let pod = Pod::new(&[]);
    pod.add("net1").succeeded();
    // It does not answer before its kernel is up.
    lab(&["virsh", &pod.name, "reset", pod.fact("DOMAIN")]);
    let answer = pod.call("del", "net1", &json!({"detach_timeout": 1}));
    if !answer.ok {
        assert_eq!(answer.code(), 11, "{answer:#?}");
        let nic = pod.call("add", "net1", &json!({"attach_timeout": 60}));
        assert!(nic.ok, "{nic:#?}\n{}", log());
        assert_eq!(said(&pod)[..2], ["plugged", "plugged"]);
        until("the guest has the NIC that it keeps", || holds(&["guest", &pod.name, "true"]));
        // Nothing of the removal is left that would still take it away.
        lab(&["vm", &pod.name, "reboot"]);
        assert_eq!(said(&pod)[..2], ["plugged", "plugged"]);
        pod.ping(&nic.nic());
    }
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_del_that_is_killed_when_it_has_asked_is_ended_by_the_next_add() {
    let pod = Pod::new(&[]);
    let nic = pod.add("net1").nic();
    pod.ping(&nic);
    let result = result(&pod);
    let (mut nth, mut was_killed) = (0, true);
    // After each of its messages to libvirt, of which one asks the guest.
    while was_killed {
        nth += 1;
        let inject = format!("inject=sendto:signal=SIGKILL:when={nth}");
        let strace = ["strace", "-f", "-qq", "-o", "/run/killed-del", "-e", "trace=sendto", "-e", &inject];
        let _ = pod.start_plugin(&strace, "del", "net1", &json!({}), &result).wait_with_output().unwrap();
        was_killed = holds(&["exec", "grep", "-q", "killed by SIGKILL", "/run/killed-del"]);
        let nic = pod.add("net1").nic();
        // Had the guest still to answer, this NIC would go.
        std::thread::sleep(std::time::Duration::from_millis(300));
        pod.ping(&nic);
        assert_eq!(said(&pod), ["plugged", "plugged", "fine"], "killed after {nth} messages");
    }
    assert!(nth > 5, "DEL sent only {nth} messages");
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}
