//! The plugin's own keys: a wrong value is told by ADD, CHECK and STATUS, and keeps no pod from being taken down.

use crate::plugin::{ALL, Call, versions_with};
use crate::scene::Scene;

const WRONG: [(&str, &str); 23] = [
    ("vhost_user_socket_volume_name", r#""../../etc""#),
    ("vhost_user_socket_volume_name", "7"),
    ("vhost_user_socket_consumption", "[]"),
    ("vhost_user_socket_name", r#""a/b""#),
    ("vhost_user_socket_name", r#""..""#),
    ("attach", r#""maybe""#),
    ("queues", "0"),
    ("queues", "129"),
    ("queues", "2.5"),
    ("queues", r#""four""#),
    ("model", r#""e1000""#),
    ("rx_queue_size", "1000"),
    ("tx_queue_size", r#""256""#),
    ("libvirt_uri", r#""qemu+ssh://host/system""#),
    ("libvirt_sockets", r#"["relative"]"#),
    ("libvirt_sockets", r#""/run/libvirt/libvirt-sock""#),
    ("domain", "{}"),
    ("kubelet_dir", r#""var/lib/kubelet""#),
    ("socket_base_dir", r#""/run/../etc""#),
    ("ovsdb_socket", r#""unix:/run/openvswitch/db.sock""#),
    ("attach_timeout", "0"),
    ("detach_timeout", r#""60s""#),
    ("log_level", r#""verbose""#),
];

#[test]
fn a_wrong_value_is_error_7_with_key_and_value() {
    let scene = Scene::new();
    for command in ["ADD", "CHECK", "STATUS"] {
        for version in versions_with(command) {
            for (key, raw) in WRONG {
                let refusal = Call::new(command, version, &scene).member(key, raw).run().refused(&[7]);
                assert!(refusal.text.contains(key) && refusal.text.contains(raw), "{key}: {raw}: {refusal:?}");
            }
        }
    }
}

#[test]
fn a_wrong_value_does_not_keep_what_undoes() {
    let scene = Scene::new();
    for (key, raw) in WRONG {
        Call::new("DEL", "0.3.1", &scene).member(key, raw).run().silent();
    }
}

#[test]
fn a_null_is_the_default() {
    let scene = Scene::new();
    for version in ALL {
        // Not the directories: their defaults are the machine's.
        for (key, _) in WRONG.iter().filter(|(key, _)| !key.ends_with("_dir")) {
            Call::new("ADD", version, &scene).member(key, "null").run().document();
        }
    }
}

#[test]
fn the_keys_of_one_nic_are_checked_too() {
    let scene = Scene::new();
    for (key, raw) in [("alias", r#""net0""#), ("pci_address", r#""01:00""#), ("queues", "0")] {
        let args = format!(r#"{{"cni":{{"vhostuser-hotplug":{{"{key}":{raw}}}}}}}"#);
        let refusal = Call::new("ADD", "1.0.0", &scene).member("args", &args).run().refused(&[7]);
        assert!(refusal.text.contains(key) && refusal.text.contains(raw), "{refusal:?}");
    }
    let sound = r#"{"cni":{"vhostuser-hotplug":{"alias":"ua-a_B-1","pci_address":"0000:07:00.0","queues":2}}}"#;
    Call::new("ADD", "1.0.0", &scene).member("args", sound).run().document();
}

#[test]
fn sound_values_are_taken() {
    let scene = Scene::new();
    for (key, raw) in [
        ("vhost_user_socket_volume_name", r#""sockets-1""#),
        ("vhost_user_socket_consumption", r#""kubevirt""#),
        ("vhost_user_socket_consumption", r#""""#),
        ("vhost_user_socket_name", r#""vhost.sock""#),
        ("attach", r#""never""#),
        ("queues", "16"),
        ("queues", r#""auto""#),
        ("model", r#""virtio-transitional""#),
        ("rx_queue_size", "1024"),
        ("tx_queue_size", "512"),
        ("libvirt_uri", r#""qemu:///session""#),
        ("libvirt_sockets", r#"["/run/a","/run/b"]"#),
        ("domain", r#""default_vm""#),
        ("attach_timeout", "600"),
        ("detach_timeout", "1"),
        ("log_level", r#""error""#),
    ] {
        for version in ALL {
            let answer = Call::new("ADD", version, &scene).member(key, raw).run().document();
            assert_eq!(answer["cniVersion"], version, "{key}: {raw}");
        }
    }
}
