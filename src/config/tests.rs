use super::*;
use crate::cni::Command;

fn conf(members: &str) -> NetConf {
    let text = format!(r#"{{"cniVersion":"1.1.0","name":"net","type":"vhostuser-hotplug"{members}}}"#);
    NetConf::parse(text.into_bytes(), Command::Add).unwrap()
}

fn config(members: &str) -> Config {
    Config::parse(&conf(members)).unwrap()
}

#[test]
fn the_defaults_are_the_contracts() {
    let config = config("");
    assert_eq!(config.volume_name, "vhostuser-sockets");
    assert_eq!(config.socket_name("pod59cc33fa39b").unwrap(), "pod59cc33fa39b");
    assert_eq!((config.attach, config.queues(), config.libvirt_uri), (Attach::Auto, Queues::Auto, LibvirtUri::Auto));
    assert_eq!(config.model.as_str(), "virtio-non-transitional");
    assert_eq!((config.rx_queue_size, config.tx_queue_size, config.domain.as_deref()), (None, None, None));
    assert_eq!(config.libvirt_sockets.len(), 4);
    assert_eq!(config.kubelet_dir, PathBuf::from("/var/lib/kubelet"));
    assert_eq!(config.socket_base_dir, PathBuf::from("/run/openvswitch/vhost_sockets"));
    assert_eq!(config.state_dir, PathBuf::from("/run/vhostuser-hotplug"));
    assert_eq!((config.attach_timeout.as_secs(), config.detach_timeout.as_secs()), (20, 40));
    assert_eq!(config.log_level, LevelFilter::Info);
    assert_eq!(config.nic, Nic::default());
}

#[test]
fn every_key_is_read() {
    let config = config(
        r#","vhost_user_socket_volume_name":"v","vhost_user_socket_consumption":"","vhost_user_socket_name":"sock",
        "attach":"never","queues":8,"model":"virtio","rx_queue_size":256,"tx_queue_size":1024,
        "libvirt_uri":"qemu:///session","libvirt_sockets":["/a/b"],"domain":"vm","kubelet_dir":"/k",
        "socket_base_dir":"/s","state_dir":"/r","ovsdb_socket":"/d","attach_timeout":1,"detach_timeout":600,"log_level":"debug",
        "args":{"cni":{"vhostuser-hotplug":{"alias":"ua-x_1","pci_address":"07:1f.7","queues":"auto","other":1}}},
        "runtimeConfig":{"mac":"0A:00:00:00:00:01","bandwidth":7},"capabilities":{"mac":true},"other":{}"#,
    );
    assert_eq!((config.volume_name.as_str(), config.socket_name("eth0").unwrap()), ("v", "sock"));
    assert_eq!((config.attach, config.queues, config.queues()), (Attach::Never, Queues::Pairs(8), Queues::Auto));
    assert_eq!((config.model, config.rx_queue_size, config.tx_queue_size), (Model::Virtio, Some(256), Some(1024)));
    assert_eq!((config.libvirt_uri, config.domain.as_deref()), (LibvirtUri::Session, Some("vm")));
    assert_eq!(config.libvirt_sockets, [PathBuf::from("/a/b")]);
    assert_eq!(config.kubelet_dir.join("x"), PathBuf::from("/k/x"));
    assert_eq!(config.ovsdb_socket, PathBuf::from("/d"));
    assert_eq!((config.attach_timeout.as_secs(), config.detach_timeout.as_secs()), (1, 600));
    assert_eq!(config.log_level, LevelFilter::Debug);
    assert_eq!(config.nic.alias.as_deref(), Some("ua-x_1"));
    assert_eq!(config.nic.pci_address.unwrap().to_string(), "0000:07:1f.7");
    assert_eq!(config.nic.mac.unwrap().to_string(), "0a:00:00:00:00:01");
}

#[test]
fn a_socket_that_nothing_names_is_an_error_only_where_it_counts() {
    let config = config(r#","vhost_user_socket_consumption":"dpdk","vhost_user_socket_name":"""#);
    let error = config.socket_name("eth0").unwrap_err();
    assert!(error.code == 7 && error.msg.contains("vhost_user_socket_name"), "{error}");
}

#[test]
fn a_wrong_value_is_error_7_with_key_and_value_or_makes_place_for_the_default() {
    for (key, raw) in [
        ("vhost_user_socket_volume_name", "\"../x\""),
        ("vhost_user_socket_consumption", "7"),
        ("vhost_user_socket_name", "\"a/b\""),
        ("vhost_user_socket_name", "\"..\""),
        ("attach", "\"sometimes\""),
        ("attach", "true"),
        ("queues", "0"),
        ("queues", "129"),
        ("queues", "4.5"),
        ("queues", "\"4\""),
        ("model", "\"e1000\""),
        ("rx_queue_size", "300"),
        ("tx_queue_size", "-1"),
        ("libvirt_uri", "\"qemu+tcp://h/system\""),
        ("libvirt_sockets", "\"/a\""),
        ("libvirt_sockets", "[\"a\"]"),
        ("libvirt_sockets", "[\"/a/../b\"]"),
        ("domain", "\"a\\nb\""),
        ("kubelet_dir", "\"relative\""),
        ("socket_base_dir", "\"/a\\u0000\""),
        ("state_dir", "[]"),
        ("ovsdb_socket", "\"tcp:127.0.0.1:6640\""),
        ("attach_timeout", "0"),
        ("detach_timeout", "601"),
        ("detach_timeout", "1e3"),
        ("log_level", "\"trace\""),
    ] {
        let conf = conf(&format!(r#","{key}":{raw}"#));
        let error = Config::parse(&conf).unwrap_err();
        assert_eq!(error.code, 7, "{key}={raw}: {error}");
        assert!(error.msg.contains(key) && error.msg.contains(raw), "{key}={raw}: {error}");
        assert_eq!(Config::parse_lenient(&conf), config(""), "{key}={raw}");
    }
    for (key, raw) in [("alias", "\"net0\""), ("pci_address", "\"0000:00:20.0\""), ("queues", "{}")] {
        let conf = conf(&format!(r#","args":{{"cni":{{"vhostuser-hotplug":{{"{key}":{raw}}}}}}}"#));
        let error = Config::parse(&conf).unwrap_err();
        assert!(error.code == 7 && error.msg.contains(key) && error.msg.contains(raw), "{error}");
    }
    for mac in ["\"zz\"", "1", "\"01:00:5e:00:00:01\""] {
        let error = Config::parse(&conf(&format!(r#","runtimeConfig":{{"mac":{mac}}}"#))).unwrap_err();
        assert!(error.code == 7 && error.msg.contains("runtimeConfig.mac"), "{error}");
    }
}

#[test]
fn keys_of_others_may_have_any_form() {
    for members in [
        r#","args":null"#,
        r#","args":7"#,
        r#","args":{"cni":[]}"#,
        r#","args":{"cni":{"vhostuser-hotplug":null,"labels":7}}"#,
        r#","runtimeConfig":"x""#,
        r#","runtimeConfig":{"mac":""}"#,
        r#","capabilities":1,"ipam":{},"dns":[],"deviceID":{}"#,
    ] {
        assert_eq!(config(members), config(""), "{members}");
    }
}
