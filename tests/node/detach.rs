//! The end of a NIC: what is asked of libvirt and its guest, when, and what counts as the end.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::libvirt::{DOMAIN, domain, nics};
use support::patience::output;
use support::{DataPlane, Double, INSIDE, Node, Pod, STATE, answer};
use vhostuser_hotplug::libvirt::Xml;

/// A domain that is stored too: with the plugin's NIC in it, under this alias if any, and with somebody's else.
fn persistent(alias: Option<&str>) -> Value {
    let nic = |mac: &str, socket: &str, alias: Option<&str>| {
        let alias = alias.map(|alias| format!("<alias name='{alias}'/>")).unwrap_or_default();
        format!(
            "<interface type='vhostuser'><mac address='{mac}'/><source type='unix' path='{INSIDE}/{socket}' \
             mode='server'/><model type='virtio'/>{alias}</interface>"
        )
    };
    let nics = nic("52:54:00:00:00:01", "other", Some("ua-other")) + &nic("00:00:00:24:65:f4", "net1", alias);
    let mut domain = domain("ns_vm", "1", DOMAIN);
    domain["stored"] = json!(DOMAIN.replace("</devices>", &(nics + "</devices>")));
    json!({"domains": [domain]})
}

/// The calls that detach, as (call, flags), and their number.
fn detaches(double: &Double) -> Vec<(String, u64)> {
    let calls = double.calls().into_iter().filter(|(call, _)| call.starts_with("detach"));
    calls.map(|(call, args)| (call, args["flags"].as_u64().unwrap())).collect()
}

#[test]
fn a_nic_that_was_made_persistent_is_forgotten_before_it_is_unplugged() {
    let (node, pod, _plane) = Node::with_plane();
    for (alias, call) in [(Some("ua-net1"), "detach-alias"), (None, "detach")] {
        let double = Double::start(&pod, &persistent(alias));
        pod.add().run(&node).succeeded();
        assert_eq!(detaches(&double), []);
        pod.del().run(&node).succeeded();
        assert_eq!(detaches(&double), [(call.to_owned(), 2), ("detach-alias".to_owned(), 1)]);
        assert_eq!(nics(&pod, Xml::Persistent), ["ua-other"], "and nothing else is");
        assert!(nics(&pod, Xml::Live).is_empty() && node.is_clean(&pod.uid));
    }
}

/// The domain has been shut off since, and its stored description has the NIC, under this alias if any.
fn shut_off(alias: Option<&str>) -> Value {
    let mut script = persistent(alias);
    (script["domains"][0]["id"], script["domains"][0]["state"]) = (json!(-1), json!(5));
    script
}

#[test]
fn a_persistent_nic_of_a_domain_that_is_shut_off_is_forgotten() {
    let (node, pod, _plane) = Node::with_plane();
    for (alias, call) in [(Some("ua-net1"), "detach-alias"), (None, "detach")] {
        let running = Double::start(&pod, &json!({}));
        pod.add().run(&node).succeeded();
        drop(running);
        let double = Double::start(&pod, &shut_off(alias));
        pod.del().run(&node).succeeded();
        assert_eq!(detaches(&double), [(call.to_owned(), 2)], "there is no guest to ask");
        assert_eq!(nics(&pod, Xml::Persistent), ["ua-other"], "and nothing else is");
        assert!(node.is_clean(&pod.uid));
    }
}

#[test]
fn what_a_domain_that_is_shut_off_has_of_its_own_stays() {
    let (node, pod, _plane) = Node::with_plane();
    let mut other_domain = shut_off(Some("ua-net1"));
    other_domain["domains"][0]["uuid"] = json!("22222222-2222-3333-4444-555555555555");
    let mut other_nic = shut_off(None);
    let stored = other_nic["domains"][0]["stored"].as_str().unwrap().replace("00:00:00:24:65:f4", "52:54:00:00:00:02");
    other_nic["domains"][0]["stored"] = json!(stored);
    for (script, lost) in [(other_domain, false), (other_nic, false), (shut_off(Some("ua-net1")), true)] {
        let running = Double::start(&pod, &json!({}));
        pod.add().run(&node).succeeded();
        drop(running);
        if lost {
            // What no record tells to have been plugged may be what the VM is to be started with.
            node.sh(&format!("rm -r {STATE}"));
        }
        let double = Double::start(&pod, &script);
        pod.del().run(&node).succeeded();
        assert_eq!((detaches(&double), nics(&pod, Xml::Persistent).len()), (vec![], 2), "{script}");
        assert!(node.is_clean(&pod.uid));
    }
}

/// Makes of the pod's record one of the share alone, as an ADD with `attach: "never"` leaves it.
fn record_the_share_alone(node: &Node, pod: &Pod) {
    let file = node.sh(&format!("ls {STATE}/pods/{}/net1@*.json", pod.uid));
    let mut record: Value = serde_json::from_str(&node.sh(&format!("cat {file}"))).unwrap();
    assert!(record["nic"].take().is_object());
    node.sh(&format!("echo '{record}' > {file}"));
}

#[test]
fn a_nic_that_a_vm_has_brought_along_is_unplugged_though_the_share_alone_is_recorded() {
    let (node, pod, double, _plane) = Node::with_vm();
    pod.add().run(&node).succeeded();
    record_the_share_alone(&node, &pod);
    pod.del().run(&node).succeeded();
    assert_eq!(detaches(&double), [("detach-alias".to_owned(), 1)]);
    assert!(nics(&pod, Xml::Live).is_empty() && node.is_clean(&pod.uid));
}

#[test]
fn a_nic_of_the_vms_definition_stays_where_the_share_alone_is_recorded() {
    let (node, pod, double, _plane) = Node::with_vm();
    let own = json!({"cni": {"vhostuser-hotplug": {"alias": "ua-own"}}});
    pod.add().set("args", own).run(&node).succeeded();
    record_the_share_alone(&node, &pod);
    pod.del().run(&node).succeeded();
    assert_eq!(detaches(&double), []);
    assert_eq!(nics(&pod, Xml::Live), ["ua-own"]);
    assert!(node.is_shared(&pod.uid), "its socket is in use");
}

#[test]
fn a_nic_of_the_vms_definition_stays_however_often_del_comes_for_what_never_plugs() {
    let (node, pod, double, _plane) = Node::with_vm();
    let own = json!({"cni": {"vhostuser-hotplug": {"alias": "ua-own"}}});
    pod.add().set("args", own).run(&node).succeeded();
    record_the_share_alone(&node, &pod);
    for _ in 0..3 {
        pod.del().set("attach", json!("never")).run(&node).succeeded();
        assert_eq!((detaches(&double), nics(&pod, Xml::Live)), (vec![], vec!["ua-own".to_owned()]));
        assert!(node.holds(&format!("test -S {}/net1", node.target(&pod.uid))));
    }
}

#[test]
fn a_nic_whose_record_is_lost_is_found_though_another_container_has_the_volume_elsewhere() {
    let (node, pod, double, _plane) = Node::with_vm();
    pod.add().run(&node).succeeded();
    node.sh(&format!("rm -r {STATE}"));
    // A path that sorts before libvirt's, in a mount namespace that only its own process has.
    let script = format!(
        "mkdir -p /run/a && mount --bind {INSIDE} /run/a && umount {INSIDE} && echo ready && exec sleep infinity"
    );
    let mut other = pod.command("unshare");
    other.args(["--mount", "--propagation", "private", "sh", "-ec", &script]).stdout(Stdio::piped());
    let mut other = other.spawn().unwrap();
    std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    // As a conflist of 0.3.1 has it called: without prevResult, so that the MAC address is not told either.
    let answer = pod.del().without("prevResult").run(&node);
    support::end(&mut other);
    answer.succeeded();
    assert_eq!(detaches(&double), [("detach-alias".to_owned(), 1)]);
    assert!(nics(&pod, Xml::Live).is_empty() && node.is_clean(&pod.uid), "{}", node.left(&pod.uid));
}

#[test]
fn a_domain_that_is_not_stored_is_asked_that_once_and_no_more() {
    let (node, pod, double, _plane) = Node::with_vm();
    pod.add().run(&node).succeeded();
    assert_eq!(double.count("persistent"), 0);
    pod.del().run(&node).succeeded();
    assert_eq!(double.count("persistent"), 1);
    let stored = |(call, args): &(String, Value)| call == "xml" && args["flags"] == 2;
    assert!(!double.calls().iter().any(stored), "nothing is stored: {:?}", double.calls());
    assert_eq!(detaches(&double), [("detach-alias".to_owned(), 1)]);
}

#[test]
fn a_nic_that_cannot_be_forgotten_is_not_unplugged_either() {
    let (node, pod, _plane) = Node::with_plane();
    let mut changes = persistent(Some("ua-net1"));
    changes["detach"] =
        json!({"refuse": {"code": 38, "message": "cannot write the configuration: No space", "once": true}});
    let double = Double::start(&pod, &changes);
    pod.add().run(&node).succeeded();
    let answer = pod.del().run(&node);
    assert_eq!(answer.code(), 102, "{answer:?}");
    assert!(answer.text().contains("No space"), "{answer:?}");
    assert_eq!(detaches(&double), [("detach-alias".to_owned(), 2)]);
    assert_eq!(nics(&pod, Xml::Live), ["ua-net1"]);
    assert!(node.is_shared(&pod.uid));
    pod.del().run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "the next DEL goes on from there");
}

#[test]
fn a_domain_that_ends_has_let_go() {
    let (node, pod, _plane) = Node::with_plane();
    for changes in [json!({}), persistent(Some("ua-net1"))] {
        let mut changes = changes;
        changes["detach"] = json!({"guest": "stops", "after_ms": 300});
        // Looks now and then, a second apart, would never be as quick; a busy machine is not always.
        let is_quick = |_| {
            let _double = Double::start(&pod, &changes);
            pod.add().run(&node).succeeded();
            let began = Instant::now();
            pod.del().run(&node).succeeded();
            let took = began.elapsed();
            assert!(node.is_clean(&pod.uid), "{changes}");
            took < Duration::from_secs(1)
        };
        assert!((0..10).any(is_quick), "the event ends it, not a look now and then");
    }
}

/// Guests and QEMUs that do not let go at the first request. All at once, for each takes its time.
#[test]
fn the_guest_is_asked_again_but_not_pressed() {
    let refuse = |message: &str| json!({"refuse": {"code": 1, "message": message, "once": true}});
    let qemu = "internal error: unable to execute QEMU command 'device_del'";
    let blinking = format!("{qemu}: Hot-unplug failed: guest is busy (power indicator blinking)");
    let under_way = format!("{qemu}: Device ua-net1 is already in the process of unplug");
    // The guest's ways, the deadline in seconds, how often it is asked, and what is said if it does not let go.
    let rows = [
        (json!({"guest": "second-ask"}), 60, 2, None),
        (refuse(&blinking), 60, 2, None),
        (refuse(&under_way), 60, 2, None),
        (json!({"guest": "refuses-once"}), 60, 2, None),
        // Ten seconds on, less than the slot's indicator blinks would be left for the guest.
        (json!({"guest": "never"}), 13, 1, Some("its operating system")),
        (json!({"guest": "refuses"}), 8, 1, Some("the guest refused")),
        (json!({"refuse": {"code": 1, "message": under_way}}), 8, 1, Some("already in the process of unplug")),
    ];
    let node = Node::new();
    let pods: Vec<Pod> = rows.iter().map(|_| Pod::new(&node)).collect();
    let started: Vec<_> = rows
        .iter()
        .zip(&pods)
        .map(|((detach, timeout, ..), pod)| {
            let double = (Double::start(pod, &json!({"detach": detach})), DataPlane::start(&node, pod, "net1"));
            pod.add().run(&node).succeeded();
            (double, pod.del().set("detach_timeout", json!(timeout)).start(&node))
        })
        .collect();
    for (((detach, _, asks, words), pod), ((double, _), child)) in rows.iter().zip(&pods).zip(started) {
        let answer = answer(output(child));
        let asked = double.times(&json!("detach-alias"));
        assert_eq!(asked.len(), *asks, "{detach}: {answer:?}");
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= 10_000_000), "{detach}: {asked:?} us");
        if let Some(words) = words {
            assert_eq!(answer.code(), 11, "{detach}");
            assert!(
                answer.text().contains("has not released") && answer.text().contains(words),
                "{detach}: {answer:?}"
            );
            assert!(node.is_shared(&pod.uid), "it all stays");
            assert_eq!(nics(pod, Xml::Live), ["ua-net1"]);
        } else {
            answer.succeeded();
            assert!(node.is_clean(&pod.uid), "{detach}");
        }
    }
}
