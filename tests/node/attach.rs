//! The conversation with the pod's libvirt, shown with its double: what is asked of it, in which order, and what becomes of
//! each answer.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::libvirt::{DOMAIN, PORTLESS, UNSHARED, domain};
use support::patience::MARGIN;
use support::{Answer, Call, DataPlane, Double, INSIDE, Node, Pod, STATE};

/// It failed with this code, its words hold that, and nothing is left.
fn failed(node: &Node, pod: &Pod, answer: &Answer, code: u64, word: &str) {
    assert_eq!(answer.code(), code, "{answer:?}");
    assert!(answer.text().contains(word), "{word:?} is not in {answer:?}");
    assert!(node.is_clean(&pod.uid), "{answer:?}");
}

#[test]
fn the_nic_is_asked_for_as_it_must_be_and_let_go_by_its_alias() {
    let (node, pod, double, _plane) = Node::with_vm();
    let answer = pod.add().run(&node);
    answer.succeeded();
    assert_eq!(&answer.json, pod.add().prev_result());
    let (_, asked) = double.calls().into_iter().find(|(call, _)| call == "attach").unwrap();
    let xml = asked["device"].as_str().unwrap_or_else(|| panic!("{asked}"));
    for part in [
        "type=\"vhostuser\"",
        "<mac address=\"00:00:00:24:65:f4\"/>",
        &format!("<source type=\"unix\" path=\"{INSIDE}/net1\" mode=\"server\"/>"),
        "<model type=\"virtio-non-transitional\"/>",
        "<driver name=\"vhost\" queues=\"2\"/>",
        "<alias name=\"ua-net1\"/>",
    ] {
        assert!(xml.contains(part), "{part} is not in {xml}");
    }
    assert!(!xml.contains("mtu"), "{xml}");
    assert_eq!(asked["flags"], 1, "live only: {asked}");

    pod.add().run(&node).succeeded();
    assert_eq!(double.count("attach"), 1, "a repeated ADD does not touch the VM");
    pod.call("CHECK").run(&node).succeeded();

    pod.del().run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
    let (_, asked) = double.calls().into_iter().find(|(call, _)| call == "detach-alias").unwrap();
    assert_eq!(asked["device"], "ua-net1");
    pod.del().run(&node).succeeded();
    assert_eq!(double.count("detach-alias"), 1);
}

#[test]
fn what_is_configured_reaches_the_vm() {
    let (node, pod) = Node::with_pod();
    let _plane = DataPlane::start(&node, &pod, "sock");
    let double = Double::start(&pod, &json!({}));
    let call = pod
        .add()
        .ifname("eth0.100")
        .set("model", json!("virtio"))
        .set("rx_queue_size", json!(1024))
        .set("tx_queue_size", json!(256))
        .set("vhost_user_socket_consumption", json!("other"))
        .set("vhost_user_socket_name", json!("sock"))
        .set("runtimeConfig", json!({"mac": "0A:58:00:00:00:01"}))
        .set("args", json!({"cni": {"vhostuser-hotplug": {"queues": 4, "pci_address": "0000:02:00.0"}}}));
    call.run(&node).succeeded();
    let xml = double.calls().into_iter().find(|(call, _)| call == "attach").unwrap().1["device"].to_string();
    for part in [
        "0a:58:00:00:00:01",
        &format!("{INSIDE}/sock"),
        "type=\\\"virtio\\\"",
        "queues=\\\"4\\\" rx_queue_size=\\\"1024\\\" tx_queue_size=\\\"256\\\"",
        "ua-eth0_2e100-ifname-spelled",
        "bus=\\\"0x02\\\"",
    ] {
        assert!(xml.contains(part), "{part} is not in {xml}");
    }
    call.run(&node).succeeded();
    assert_eq!(double.count("attach"), 1, "it is there as asked");
    let answer = call.clone().set("tx_queue_size", json!(1024)).run(&node);
    assert!(answer.code() == 100 && answer.text().contains("tx_queue_size=256; requested 1024"), "{answer:?}");
    call.command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn refusals_are_told_in_words_and_leave_nothing() {
    let (node, pod, _plane) = Node::with_plane();
    let run = |changes: &Value| {
        let double = Double::start(&pod, changes);
        (pod.add().run(&node), double)
    };
    let one = |xml| json!({"domains": [domain("ns_vm", "1", xml)]});
    for (changes, code, word, attaches) in [
        (one(UNSHARED), 102, "access mode='shared'", 0),
        (one(PORTLESS), 102, "pcie-root-port", 0),
        (json!({"domains": []}), 11, "No VM runs", 0),
        (json!({"domains": [domain("a", "1", DOMAIN), domain("b", "2", DOMAIN)]}), 7, "\"domain\"", 0),
        (json!({"auth": "sasl"}), 102, "SASL", 0),
        (json!({"auth": "polkit-refused"}), 102, "polkit", 0),
        (
            json!({"attach": {"refuse": {"code": 67, "message": "unsupported configuration: x"}}}),
            102,
            "configuration: x",
            1,
        ),
        (json!({"attach": {"refuse": {"code": 1, "message": "internal error: x"}}}), 102, "error: x", 1),
        (
            json!({"attach": {"refuse": {"code": 68, "message": "Timed out during operation: cannot acquire state change lock"}}}),
            11,
            "stuck",
            1,
        ),
    ] {
        let (answer, double) = run(&changes);
        failed(&node, &pod, &answer, code, word);
        assert_eq!(double.count("attach"), attaches, "{changes}");
    }
    assert_eq!(pod.add().run(&node).code(), 11, "no daemon at all");
    assert!(node.is_clean(&pod.uid));
}

/// What another client plugs between the plugin's look at the VM and its attach is found in the VM's description, whatever the
/// language in which libvirt refuses.
#[test]
fn a_refusal_is_explained_by_the_vm_and_not_by_libvirts_words() {
    let (node, pod, _plane) = Node::with_plane();
    let rng = |bus: u32, alias: &str| {
        format!(
            "<rng model='virtio'><backend model='random'>/dev/urandom</backend><alias name='{alias}'/><address type='pci' \
             domain='0x0000' bus='0x0{bus}' slot='0x00' function='0x0'/></rng>\n"
        )
    };
    let slot = |number: u32| {
        let (bus, slot) = (number / 32, number % 32);
        format!("<rng><address type='pci' domain='0x0000' bus='{bus:#04x}' slot='{slot:#04x}' function='0x0'/></rng>\n")
    };
    let slots: String = (0..96).map(slot).collect();
    let conventional =
        DOMAIN.replace("pcie-root-port", "pci-bridge").replace("pcie-root", "pci-root").replace("q35", "pc");
    for (domains, meanwhile, code, word) in [
        (
            DOMAIN,
            [rng(1, "rng0"), rng(2, "rng1")].concat(),
            102,
            "spare <controller type='pci' model='pcie-root-port'/>",
        ),
        (DOMAIN, rng(1, "ua-net1"), 100, "Alias ua-net1 is already that of another device"),
        (&conventional, slots, 102, "model='pci-bridge'"),
    ] {
        for foreign in [false, true] {
            let double = Double::start(
                &pod,
                &json!({"foreign": foreign, "domains": [domain("ns_vm", "1", domains)], "attach": {"meanwhile": meanwhile}}),
            );
            let answer = pod.add().run(&node);
            failed(&node, &pod, &answer, code, word);
            assert_eq!(
                answer.text().contains("möglich"),
                foreign,
                "libvirt's own words are in the details: {answer:?}"
            );
            assert_eq!(double.count("attach"), 1);
        }
    }
}

/// A guest whose memory is encrypted drives the NIC only if it is shown VIRTIO_F_ACCESS_PLATFORM.
#[test]
fn an_encrypted_vm_gets_a_nic_that_it_can_use_or_none() {
    let (node, pod) = Node::with_pod();
    let start = |call: &Call, kind: &str| {
        let xml = DOMAIN.replace("<devices>", &format!("<launchSecurity type='{kind}'/><devices>"));
        let double = Double::start(&pod, &json!({"domains": [domain("ns_vm", "1", &xml)]}));
        (call.run(&node), double)
    };
    // As OVS-DPDK offers it with vhost-iommu-support.
    let with = ["--features", "0xfd7c667ca", "--protocol-features", "0x10cbf"];
    let plane = DataPlane::with(&node, &pod, "net1", &with);
    for kind in ["sev", "sev-snp", "tdx", "s390-pv"] {
        let (answer, double) = start(&pod.add(), kind);
        answer.succeeded();
        let (_, asked) = double.calls().into_iter().find(|(call, _)| call == "attach").unwrap();
        assert!(asked["device"].as_str().unwrap().contains("queues=\"2\" iommu=\"on\"/>"), "{asked}");
        pod.call("CHECK").run(&node).succeeded();
        pod.del().run(&node).succeeded();
        assert!(node.is_clean(&pod.uid));
    }
    let transitional = pod.add().set("model", json!("virtio-transitional"));
    let (answer, double) = start(&transitional, "sev");
    failed(&node, &pod, &answer, 102, "use model virtio-non-transitional");
    assert_eq!(double.count("attach"), 0, "the VM is not touched");
    drop(plane);
    let _plane = DataPlane::start(&node, &pod, "net1");
    for kind in ["sev", "sev-snp", "tdx"] {
        let (answer, double) = start(&pod.add(), kind);
        failed(&node, &pod, &answer, 102, "vhost-iommu-support");
        assert_eq!(double.count("attach"), 0, "the VM is not touched");
    }
    // Its virtio devices are no PCI devices.
    let (answer, _double) = start(&pod.add(), "s390-pv");
    answer.succeeded();
    pod.del().run(&node).succeeded();
}

/// Every decision about a daemon's refusals, with one that speaks another language.
#[test]
fn a_daemon_in_another_language_is_dealt_with_as_any() {
    let (node, pod, _plane) = Node::with_plane();
    for (changes, code, word) in [
        (json!({"foreign": true, "domains": [domain("ns_vm", "1", UNSHARED)]}), 102, "access mode='shared'"),
        (json!({"foreign": true, "domains": [domain("ns_vm", "1", PORTLESS)]}), 102, "pcie-root-port"),
        (json!({"foreign": true, "attach": {"refuse": {"code": 68, "message": "その操作"}}}), 11, "stuck"),
        (json!({"foreign": true, "attach": {"refuse": {"code": 55, "message": "その操作"}}}), 11, "not running"),
        (json!({"foreign": true, "attach": {"refuse": {"code": 42, "message": "その操作"}}}), 11, "not running"),
        (json!({"foreign": true, "attach": {"refuse": {"code": 67, "message": "その操作"}}}), 102, "its message"),
        (json!({"foreign": true, "auth": "polkit-refused"}), 102, "möglich"),
    ] {
        let _double = Double::start(&pod, &changes);
        failed(&node, &pod, &pod.add().run(&node), code, word);
    }
    // The session's daemon, a guest that must be asked twice, and a NIC that is gone when it is asked for again.
    let refuse = json!({"code": 1, "message": "その操作", "once": true});
    for detach in [json!({}), json!({"guest": "second-ask"}), json!({"refuse": refuse})] {
        let double = Double::start(&pod, &json!({"foreign": true, "uris": ["qemu:///session"], "detach": detach}));
        pod.add().run(&node).succeeded();
        pod.del().set("detach_timeout", json!(60)).run(&node).succeeded();
        assert!(node.is_clean(&pod.uid) && double.count("detach-alias") >= 1);
        pod.del().run(&node).succeeded();
    }
}

#[test]
fn one_of_several_vms_is_named_by_the_configuration() {
    let (node, pod, double, _plane) =
        Node::with_libvirt(&json!({"domains": [domain("a", "1", UNSHARED), domain("b", "2", DOMAIN)]}));
    pod.add().set("domain", json!("b")).run(&node).succeeded();
    assert_eq!(double.count("attach"), 1);
    let answer = pod.add().ifname("net2").set("domain", json!("c")).run(&node);
    assert_eq!(answer.code(), 11);
    assert!(answer.text().contains("a, b"), "{answer:?}");
    // The record knows which VM it was, whatever the configuration says by now.
    pod.del().run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn what_is_there_but_different_is_not_touched() {
    let (node, pod, double, _plane) = Node::with_vm();
    pod.add().run(&node).succeeded();
    for (call, word) in [
        (pod.add().ifname("net2"), "MAC"),
        (pod.add().mac("00:00:00:00:00:02"), "lias"),
        (pod.add().set("queues", json!(1)), "queues"),
        (pod.add().set("model", json!("virtio")), "model"),
        (pod.add().set("rx_queue_size", json!(512)), "rx_queue_size=QEMU's default; requested 512"),
    ] {
        let answer = call.run(&node);
        assert_eq!(answer.code(), 100, "{answer:?}");
        assert!(answer.text().contains(word), "{answer:?}");
    }
    assert_eq!(double.count("attach"), 1);
    pod.call("CHECK").run(&node).succeeded();
    pod.del().run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn a_guest_that_needs_time_is_waited_for_and_one_that_refuses_keeps_its_nic() {
    let (node, pod, _plane) = Node::with_plane();
    for detach in [json!({"after_ms": 700}), json!({"after_ms": 300, "event": false}), json!({"leave_socket": true})] {
        let _double = Double::start(&pod, &json!({"detach": detach}));
        pod.add().run(&node).succeeded();
        pod.del().run(&node).succeeded();
        assert!(node.is_clean(&pod.uid), "{detach}");
        assert!(node.holds(&format!(
            "! test -e /run/kubelet/pods/{}/volumes/kubernetes.io~empty-dir/vhostuser-sockets/net1",
            pod.uid
        )));
    }

    let double = Double::start(&pod, &json!({"detach": {"guest": "second-ask"}}));
    pod.add().run(&node).succeeded();
    let began = Instant::now();
    let answer = pod.del().set("detach_timeout", json!(2)).run(&node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert!(answer.text().contains("has not released"), "{answer:?}");
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert!(node.is_shared(&pod.uid) && node.holds(&format!("test -e {STATE}/pods/{}", pod.uid)), "it all stays");
    assert_eq!(double.count("detach-alias"), 1, "a guest is not pressed");
    pod.del().run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "the next DEL goes on from there");
}

#[test]
fn an_attach_that_is_no_success_is_none() {
    let (node, pod) = Node::with_pod();
    for attach in [json!({"ignore": true}), json!({"data_plane": "none"})] {
        let _double = Double::start(&pod, &json!({"attach": attach}));
        let answer = pod.add().set("attach_timeout", json!(1)).run(&node);
        failed(&node, &pod, &answer, 11, "data plane");
    }
}

#[test]
fn a_data_plane_that_stops_while_it_is_connected_is_none() {
    let (node, pod) = Node::with_pod();
    let wait = json!({"attach": {"data_plane": "wait"}});
    // The first connection is the probe's; QEMU asks nothing on the second, so that nobody waits for an answer.
    let stops = |node| DataPlane::with(node, &pod, "net1", &["--stop", "3"]);
    {
        let (double, _plane) = (Double::start(&pod, &wait), stops(&node));
        let answer = pod.add().set("attach_timeout", json!(12)).run(&node);
        failed(&node, &pod, &answer, 11, "did not connect");
        assert!(answer.log.contains("the data plane is stopped, and was cut off"), "{}", answer.log);
        assert_eq!(double.count("detach-alias"), 1);
    }
    let (_double, plane) = (Double::start(&pod, &wait), stops(&node));
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            plane.until_stopped();
            // Long enough for the plugin to find it so.
            std::thread::sleep(Duration::from_millis(500));
            plane.go_on();
        });
        pod.add().run(&node)
    });
    answer.succeeded();
    assert!(answer.log.contains("the data plane is stopped, and was cut off"), "{}", answer.log);
    pod.del().run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn a_nic_that_is_there_succeeds_only_with_its_data_plane() {
    let (node, pod, double, plane) = Node::with_libvirt(&json!({"attach": {"data_plane": "wait"}}));
    pod.add().run(&node).succeeded();
    drop(plane);
    let answer = pod.add().set("attach_timeout", json!(4)).run(&node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert!(answer.text().contains("plugged already, and no data plane is connected"), "{answer:?}");
    assert!(node.is_shared(&pod.uid), "the NIC and what it needs stay");
    let stopped = DataPlane::with(&node, &pod, "net1", &["--stop", "1"]);
    stopped.until_stopped();
    let answer = pod.add().set("attach_timeout", json!(4)).run(&node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    let answer = pod.call("CHECK").run(&node);
    assert_eq!(answer.code(), 104, "{answer:?}");
    assert!(answer.text().contains("is stopped"), "{answer:?}");
    stopped.go_on();
    pod.add().run(&node).succeeded();
    pod.call("CHECK").run(&node).succeeded();
    assert_eq!((double.count("attach"), double.count("detach-alias")), (1, 0));
    pod.del().run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn a_nic_that_cannot_be_unplugged_again_is_not_told_to_be() {
    let (node, pod, _double, _plane) =
        Node::with_libvirt(&json!({"attach": {"socket": false}, "detach": {"guest": "never"}}));
    let answer = pod.add().set("attach_timeout", json!(2)).run(&node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert!(answer.text().contains("could not be unplugged again"), "{answer:?}");
    assert!(!answer.log.contains(": detach ("), "{}", answer.log);
    assert!(node.is_shared(&pod.uid), "what it needs stays");
}

#[test]
fn an_attach_without_an_answer_keeps_what_it_needs_and_the_next_call_mends_it() {
    let (node, pod, double, _plane) =
        Node::with_libvirt(&json!({"lies": [{"at": "attach", "nth": 1, "lie": "done-but-close"}]}));
    let answer = pod.add().run(&node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert!(node.is_shared(&pod.uid), "the NIC may be there, and then it needs its share");
    pod.add().run(&node).succeeded();
    assert_eq!(double.count("attach"), 1);
    pod.del().run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn a_new_sandbox_takes_the_nic_over_from_the_old_one() {
    let (node, pod, double, _plane) = Node::with_vm();
    pod.add().container("old").run(&node).succeeded();
    pod.add().container("new").run(&node).succeeded();
    for late in [
        pod.del().container("old"),
        pod.del().container("old").netns("").without("prevResult"),
        pod.del().container("older"),
    ] {
        late.run(&node).succeeded();
    }
    assert_eq!(double.count("detach-alias"), 0);
    assert!(node.is_shared(&pod.uid));
    pod.add().container("new").command("CHECK").run(&node).succeeded();
    pod.del().container("new").run(&node).succeeded();
    assert_eq!(double.count("detach-alias"), 1);
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn del_without_a_record_finds_the_nic_and_del_without_libvirt_is_no_error() {
    let (node, mut pod, double, _plane) = Node::with_vm();
    pod.add().run(&node).succeeded();
    node.sh(&format!("rm -rf {STATE}"));
    pod.del().run(&node).succeeded();
    assert_eq!(double.count("detach-alias"), 1);
    assert!(node.is_clean(&pod.uid));

    pod.add().run(&node).succeeded();
    drop(double);
    pod.del().run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "libvirt is gone, and nobody has the socket");

    let _double = Double::start(&pod, &json!({}));
    pod.add().run(&node).succeeded();
    pod.die();
    pod.del().netns("").without("prevResult").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid), "the pod is gone");
}

#[test]
fn a_daemon_that_is_not_the_pods_own_is_not_spoken_to() {
    let (node, pod) = Node::with_pod();
    // In the container's file system, but of the node's network namespace: as if a tenant had got hold of a host's socket.
    let start = &mut |program: &std::path::PathBuf| {
        let mut command = node.command("nsenter");
        command.args(["--mount", "--target", &pod.pid.to_string(), "--"]).arg(program);
        command
    };
    let double = Double::through(start, &json!({}));
    let answer = pod.add().run(&node);
    failed(&node, &pod, &answer, 103, "network namespace");
    assert!(double.calls().iter().all(|(call, _)| call == "connect"), "not a word: {:?}", double.calls());
    drop(double);

    assert!(
        pod.command("sh")
            .args(["-c", "rm -f /run/libvirt/libvirt-sock; echo > /run/libvirt/libvirt-sock"])
            .status()
            .unwrap()
            .success()
    );
    failed(&node, &pod, &pod.add().run(&node), 103, "not a socket");
}

#[test]
fn lies_end_in_an_error_within_the_deadline() {
    let (node, pod) = Node::with_pod();
    for lie in [
        json!("silence"),
        json!({"trickle": 200}),
        json!("ping-flood"),
        json!("unknown-event-flood"),
        json!({"endless": 4_000_000}),
        json!({"claim": 33_554_432}),
        json!({"length": 4_294_967_295_u32}),
        json!({"first-word": 4_294_967_295_u32}),
        json!({"garbage": 4000}),
        json!({"cut-at": 20}),
        json!("not-utf8"),
        json!("unsolicited"),
        json!({"error": {"code": 1, "domain": 10, "message": "'/><x>\n\u{1b}[31m", "repeat": 5000}}),
    ] {
        let _double = Double::start(&pod, &json!({"lies": [{"at": "xml", "lie": lie}]}));
        let began = Instant::now();
        let answer = pod.add().set("attach_timeout", json!(1)).run(&node);
        assert!([11, 102].contains(&answer.code()), "{lie}: {answer:?}");
        assert!(began.elapsed() < MARGIN, "{lie}: {:?}", began.elapsed());
        assert!(node.is_clean(&pod.uid), "{lie}");
        assert!(!answer.log.contains('\u{1b}') && !answer.text().contains('\u{1b}'), "{lie}");
    }
}

#[test]
fn a_hostile_description_of_the_vm_is_an_error() {
    let (node, pod) = Node::with_pod();
    let deep = format!("<domain>{}{}</domain>", "<a>".repeat(10_000), "</a>".repeat(10_000));
    for xml in ["", "<domain", "<!DOCTYPE a [<!ENTITY b 'c'>]><domain>&b;</domain>", "<a/><b/>", &deep] {
        let _double = Double::start(&pod, &json!({"domains": [domain("ns_vm", "1", xml)]}));
        failed(&node, &pod, &pod.add().run(&node), 102, "cannot be read");
    }
}
