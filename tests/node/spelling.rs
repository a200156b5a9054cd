//! One socket, spelled in several ways: compared by what it is.

use std::time::Duration;

use serde_json::json;
use support::libvirt::{DOMAIN, client, domain, nics};
use support::{DataPlane, Double, INSIDE, KUBELET, Node, Pod};
use vhostuser_hotplug::deadline::Deadline;
use vhostuser_hotplug::libvirt::{Scope, Xml};

use super::left_over::Listener;

/// Makes a link to the volume and a second mount of it in the pod's container.
fn prepare(pod: &Pod) {
    let script = format!(
        "mkdir /run/second && mount --bind {INSIDE} /run/second && ln -s {INSIDE} /run/link && mkdir /run/another"
    );
    assert!(pod.command("sh").args(["-c", &script]).status().unwrap().success());
}

/// Other spellings of the path of a socket in the volume, as the container's processes may bind it.
fn spellings(name: &str) -> [String; 5] {
    [
        format!("/run/../{INSIDE}/{name}"),
        format!("//{INSIDE}//{name}"),
        format!("{INSIDE}/./{name}"),
        format!("/run/link/{name}"),
        format!("/run/second/{name}"),
    ]
}

fn nic(mac: &str, path: &str, alias: &str) -> String {
    format!(
        "<interface type='vhostuser'><mac address='{mac}'/><source type='unix' path='{path}' mode='server'/><model \
         type='virtio-non-transitional'/><driver name='vhost' queues='2'/><alias name='{alias}'/></interface>"
    )
}

#[test]
fn a_listener_is_seen_whatever_it_calls_the_socket() {
    let (node, pod) = Node::with_pod();
    prepare(&pod);
    let _plane = DataPlane::start(&node, &pod, "net1");
    let double = Double::start(&pod, &json!({}));
    for path in spellings("net1") {
        let listener = Listener::start(&pod, "qemu-system-x86", &path);
        let answer = pod.add().run(&node);
        assert!(answer.code() == 11 && answer.text().contains("QEMU (process"), "{path}: {answer:?}");
        assert!(node.is_shared(&pod.uid), "{path}: the share is in use");
        assert_eq!(double.count("attach"), 0, "{path}");
        drop(listener);
        pod.command("rm").args(["-f", &path]).status().unwrap();
        pod.del().run(&node).succeeded();
        assert!(node.is_clean(&pod.uid), "{path}");
    }
    // One of the same name elsewhere is none of its business.
    let _listener = Listener::start(&pod, "qemu-system-x86", "/run/another/net1");
    pod.add().run(&node).succeeded();
    pod.del().run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn another_clients_nic_at_the_socket_is_a_conflict_whatever_it_calls_that() {
    let (node, pod) = Node::with_pod();
    prepare(&pod);
    let _plane = DataPlane::start(&node, &pod, "net1");
    for path in spellings("net1") {
        let xml = DOMAIN.replace("<devices>", &format!("<devices>{}", nic("02:00:00:00:00:01", &path, "ua-other")));
        let double = Double::start(&pod, &json!({"domains": [domain("ns_vm", "1", &xml)]}));
        let answer = pod.add().run(&node);
        assert_eq!(answer.code(), 100, "{path}: {answer:?}");
        assert!(answer.text().contains(&format!("ocket {INSIDE}/net1 is already that of another NIC")), "{answer:?}");
        assert_eq!(double.count("attach"), 0, "{path}");
        assert!(node.is_clean(&pod.uid), "{path}");
    }
    let xml =
        DOMAIN.replace("<devices>", &format!("<devices>{}", nic("02:00:00:00:00:01", "/run/another/net1", "ua-other")));
    let _double = Double::start(&pod, &json!({"domains": [domain("ns_vm", "1", &xml)]}));
    pod.add().run(&node).succeeded();
    pod.del().run(&node).succeeded();
}

/// Its listener, its connection and its place in the XML are all spelled otherwise: ADD takes it, CHECK, `list` and `inspect` find it
/// sound, DEL unplugs it.
#[test]
fn a_nic_that_another_client_plugged_is_the_same_one_whatever_it_calls_the_socket() {
    let (node, pod) = Node::with_pod();
    prepare(&pod);
    let person = |words: &[&str]| node.person(&[words, &["--kubelet-dir", KUBELET]].concat());
    let _plane = DataPlane::start(&node, &pod, "net1");
    let soon = || Deadline::after(Duration::from_secs(30));
    for path in spellings("net1") {
        let double = Double::start(&pod, &json!({"attach": {"data_plane": "handshake"}}));
        // The share, through which the data plane comes.
        pod.add().set("attach", json!("never")).run(&node).succeeded();
        let mut client = client(&pod);
        let domain = client.domains(soon()).unwrap().remove(0);
        client.attach(&domain, &nic("00:00:00:24:65:f4", &path, "ua-theirs"), Scope::Live, soon()).unwrap();
        pod.add().run(&node).succeeded();
        assert_eq!(double.count("attach"), 1, "{path}: it is there");
        pod.call("CHECK").run(&node).succeeded();
        let shown = person(&["inspect", "default/vm", "net1"]);
        assert!(shown.ok && shown.out.contains("Data plane:  connected"), "{path}: {shown:?}");
        let listed = person(&["list", "--json"]).json();
        assert_eq!(listed["attachments"][0]["nic"]["vm"]["nic"], "plugged", "{path}: {listed:#}");
        pod.del().run(&node).succeeded();
        assert!(nics(&pod, Xml::Live).is_empty() && node.is_clean(&pod.uid), "{path}");
    }
}
