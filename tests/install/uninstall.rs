//! Uninstalling: the chain first, and the binary only when no sandbox can call it any more.

use super::machine::{Machine, SHIPPED};

/// What libcni 1.1.2 left in its cache after an ADD of the shipped list with the plugin in it.
const KEPT: &str = include_str!("lists/kept-by-libcni.json");

#[test]
fn nothing_is_left_of_an_installation() {
    let machine = Machine::new();
    let before = machine.names("etc/cni/net.d");
    machine.install(&[]);
    machine.install(&["--uninstall"]);
    assert_eq!((machine.names("etc/cni/net.d"), machine.list()), (before, SHIPPED.to_owned()));
    assert!(machine.names("opt/cni/bin").is_empty());
    // The release has a binary, so a second time finds nothing to do.
    assert!(machine.install(&["--uninstall"]).contains("not there"));
}

#[test]
fn a_sandbox_that_was_made_with_the_plugin_keeps_its_binary() {
    let results = "var/lib/cni/results/kube-ovn-5bbb-eth0";
    let multus = "var/lib/cni/multus/5bbb";
    let delegates = r#"[{"Conf":{"type":"kube-ovn"},"Bytes":"{\"plugins\":[{\"type\":\"vhostuser-hotplug\"}]}"}]"#;
    for (file, text) in [(results, KEPT), (multus, delegates)] {
        let machine = Machine::new();
        machine.install(&[]);
        let kept = machine.path(file);
        std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
        std::fs::write(&kept, text).unwrap();
        std::fs::write(kept.with_file_name("other"), r#"{"kind":"cniCacheV1","config":"e30="}"#).unwrap();
        for _ in 0..2 {
            let text = machine.install(&["--uninstall"]);
            assert!(
                text.contains("left for now: sandboxes made with it in the chain: 1 (") && text.contains("5bbb"),
                "{text}"
            );
            assert_eq!(machine.list(), SHIPPED);
            assert!(machine.binary().exists());
        }
        std::fs::remove_file(&kept).unwrap();
        assert!(machine.install(&["--uninstall"]).contains("removed"));
        assert!(!machine.binary().exists());
    }
}

#[test]
fn an_attachment_that_is_not_undone_keeps_the_binary() {
    let machine = Machine::new();
    machine.install(&[]);
    let uid = "93a5c4b2-0000-4000-8000-000000000001";
    let record = machine.path(&format!("run/vhostuser-hotplug/pods/{uid}/net1@5bbb.json"));
    std::fs::create_dir_all(record.parent().unwrap()).unwrap();
    let text = format!(
        r#"{{"format":1,"network":"dpdk1","container_id":"5bbb","ifname":"net1","uid":"{uid}","pod":"default/vm1",
            "volume":"vhostuser-sockets","socket_base_dir":"/run/x","created":0}}"#
    );
    std::fs::write(&record, text).unwrap();
    let text = machine.install(&["--uninstall"]);
    assert!(text.contains("attachments not undone: 1 (default/vm1 net1)"), "{text}");
    assert!(machine.list() == SHIPPED && machine.binary().exists());
    std::fs::remove_file(&record).unwrap();
    machine.install(&["--uninstall"]);
    assert!(!machine.binary().exists());
}

#[test]
fn kube_ovn_may_have_gone_first() {
    for mode in ["conflist", "dropin"] {
        let machine = Machine::new();
        machine.install(&["--mode", mode]);
        std::fs::remove_file(machine.conflist()).unwrap();
        machine.install(&["--uninstall"]);
        assert!(!machine.binary().exists() && !machine.drop_in().exists());
    }
}

#[test]
fn a_list_that_cannot_be_edited_keeps_the_binary() {
    let machine = Machine::new();
    machine.install(&[]);
    let broken = &machine.list()[..300];
    std::fs::write(machine.conflist(), broken).unwrap();
    let (ok, text) = machine.run(&["--uninstall"]);
    assert!(!ok && text.contains("01-kube-ovn.conflist") && machine.binary().exists(), "{text}");
}
