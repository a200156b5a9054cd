//! R60-R65, R67: what Kubernetes' runtimes add to the specification, and what else a call may meet.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use crate::plugin::{ALL, ARGS, Call, quoted};
use crate::results::usual;
use crate::scene::Scene;

/// ADD and DEL with one more key at every version.
fn add_and_del_with(scene: &Scene, key: &str, raw: &str) {
    for version in ALL {
        let answer = Call::new("ADD", version, scene).member(key, raw).run().printed();
        assert_eq!(answer.trim_end(), usual(version), "{key}: {raw}");
        Call::new("DEL", version, scene).member(key, raw).run().silent();
    }
}

/// Every order of these.
fn orders(pairs: &[&str]) -> Vec<Vec<String>> {
    let Some((first, rest)) = pairs.split_first() else { return vec![Vec::new()] };
    let insert = |order: Vec<String>| {
        (0..=order.len()).map(move |place| {
            let mut longer = order.clone();
            longer.insert(place, (*first).to_owned());
            longer
        })
    };
    orders(rest).into_iter().flat_map(insert).collect()
}

#[test]
fn r60_the_arguments_come_in_any_order() {
    let scene = Scene::new();
    let pairs: Vec<_> = ARGS.split(';').collect();
    let orders = orders(&pairs);
    assert_eq!(orders.len(), 120);
    for (order, version) in orders.iter().zip(ALL.into_iter().cycle()) {
        Call::new("ADD", version, &scene).env("CNI_ARGS", order.join(";")).run().document();
    }
}

#[test]
fn r60_the_arguments_of_real_runtimes() {
    let scene = Scene::new();
    for args in [
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b",
        "IgnoreUnknown=true;K8S_POD_NAME=b;K8S_POD_NAMESPACE=a;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=d-e",
        "K8S_POD_NAME=b;K8S_POD_NAMESPACE=a;K8S_POD_UID=8f3a1c52-0b6e-4a7d-9c41-5a0f4de9b7c1;IgnoreUnknown=1",
        "K8S_POD_NAME=b;K8S_POD_NAMESPACE=a",
        "",
    ] {
        for version in ALL {
            Call::new("ADD", version, &scene).env("CNI_ARGS", args).run().document();
            Call::new("DEL", version, &scene).env("CNI_ARGS", args).run().silent();
        }
    }
}

#[test]
fn r61_odd_arguments_are_passed_over() {
    let scene = Scene::new();
    let long = format!("K8S_POD_NAME={}", "x".repeat(100_000));
    let many = "a=b;".repeat(30_000);
    for args in [
        "FOO=BAR;ABC=123",
        "FOO",
        "=",
        ";;;",
        "A=B=C;=D;E=",
        "K8S_POD_UID=",
        "K8S_POD_UID=..;K8S_POD_UID=../../../etc",
        "K8S_POD_UID=/",
        "K8S_POD_UID=a b\n",
        "K8S_POD_NAME=\u{202e}\u{1b}[2J",
        &long,
        &many,
    ] {
        for version in ["0.3.1", "1.1.0"] {
            let add = Call::new("ADD", version, &scene).env("CNI_ARGS", args).run();
            // Refusing what can't be a pod's uid is as good as passing it over.
            if add.status.success() {
                add.document();
            } else {
                let refusal = add.refused(&[4]);
                assert!(refusal.text.contains("K8S_POD_UID"), "{refusal:?}");
            }
            Call::new("DEL", version, &scene).env("CNI_ARGS", args).run();
        }
    }
    let not_text = OsString::from_vec(b"K8S_POD_NAME=\xff;\xfe;K8S_POD_NAMESPACE=a".to_vec());
    Call::new("ADD", "1.0.0", &scene).env("CNI_ARGS", not_text).run().document();
}

#[test]
fn r62_arguments_in_the_configuration_that_are_not_understood_are_ignored() {
    let scene = Scene::new();
    for raw in [
        r#"{"cni":{"labels":[{"key":"app","value":"vm"}]}}"#,
        r#"{"cni":{"ips":["10.16.0.5"],"mac":"zz"}}"#,
        r#"{"cni":{"vhostuser-hotplug":{"unknown":1}},"org.other":{"cni":7}}"#,
        r#"{"cni":{"vhostuser-hotplug":{}}}"#,
    ] {
        add_and_del_with(&scene, "args", raw);
    }
}

#[test]
fn r63_capabilities_of_others_break_nothing() {
    let scene = Scene::new();
    for raw in [
        r#"{"mac":"00:11:22:33:44:55"}"#,
        r#"{"mac":"0A:BB:cc:DD:ee:0F"}"#,
        r#"{"bandwidth":{"ingressRate":2048,"ingressBurst":1600,"egressRate":4096,"egressBurst":1600}}"#,
        r#"{"bandwidth":{"ingressRate":0,"ingressBurst":0,"egressRate":1e6,"unshapedSubnets":["10.0.0.0/8"]}}"#,
        r#"{"deviceID":"0000:03:00.2"}"#,
        r#"{"infinibandGUID":"c2:11:22:33:44:55:66:77"}"#,
        r#"{"cgroupPath":"/kubepods/besteffort"}"#,
        r#"{"dns":{"servers":["10.96.0.10"],"searches":["svc"],"options":["ndots:5"]}}"#,
        r#"{"ips":["10.10.0.1/24","fd00::1/64"]}"#,
        r#"{"ipRanges":[[{"subnet":"10.1.2.0/24","rangeStart":"10.1.2.3"}]]}"#,
        r#"{"aliases":["my-container"]}"#,
        r#"{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"SCTP","hostIP":"0.0.0.0"}]}"#,
        r#"{"io.kubernetes.cri.pod-annotations":{"a":"b"}}"#,
        r#"{"unknown":{"x":[1e999]},"mac":null}"#,
    ] {
        add_and_del_with(&scene, "runtimeConfig", raw);
    }
}

#[test]
fn r63_a_mac_address_that_is_none_is_refused_but_keeps_no_pod() {
    let scene = Scene::new();
    for mac in ["\"zz\"", "7", "\"01:00:5e:00:00:01\""] {
        let runtime = format!("{{\"mac\":{mac}}}");
        let refusal = Call::new("ADD", "1.0.0", &scene).member("runtimeConfig", &runtime).run().refused(&[7]);
        assert!(refusal.text.contains("mac") && refusal.text.contains(mac), "{refusal:?}");
        Call::new("DEL", "1.0.0", &scene).member("runtimeConfig", &runtime).run().silent();
    }
}

#[test]
fn r64_a_device_information_file_of_another_is_not_overwritten() {
    let scene = Scene::new();
    let file = scene.path("device.json");
    let text = r#"{"type":"pci","version":"1.0.0","pci":{"pci-address":"0000:03:00.2"}}"#;
    let runtime = format!(r#"{{"CNIDeviceInfoFile":{}}}"#, quoted(file.to_str().unwrap()));
    fs::write(&file, text).unwrap();
    add_and_del_with(&scene, "runtimeConfig", &runtime);
    // The convention has the network plugin delete it on DEL, not one that made no device.
    assert_eq!(fs::read_to_string(&file).unwrap(), text);

    fs::remove_file(&file).unwrap();
    add_and_del_with(&scene, "runtimeConfig", &runtime);
    assert!(!file.exists(), "there is no device to tell of");
}

#[test]
fn r65_the_keys_that_multus_adds_are_no_trouble() {
    let scene = Scene::new();
    for key in ["deviceID", "pciBusID"] {
        add_and_del_with(&scene, key, "\"0000:03:00.2\"");
        add_and_del_with(&scene, key, "\"\"");
    }
}

#[test]
fn r67_nothing_is_left_in_the_working_directory() {
    let scene = Scene::new();
    for version in ALL {
        Call::new("ADD", version, &scene).member("log_level", "\"debug\"").run().document();
        Call::new("ADD", version, &scene).member("name", "\"\"").run().refusal();
        Call::new("DEL", version, &scene).run().silent();
    }
    assert_eq!(fs::read_dir(scene.path("cwd")).unwrap().count(), 0);
    // A container that has nothing for the plugin leaves no trace elsewhere either.
    for name in ["kubelet", "sockets"] {
        assert_eq!(fs::read_dir(scene.path(name)).unwrap().count(), 0, "{name}");
    }
}

#[test]
fn r67_a_configuration_of_a_mebibyte_works() {
    let scene = Scene::new();
    let route = r#"{"dst":"10.0.0.0/8","gw":"10.16.0.1"},"#;
    let routes = route.repeat((1 << 20) / route.len());
    for version in ALL {
        let big = format!("{{\"cniVersion\":{},\"routes\":[{}]}}", quoted(version), routes.trim_end_matches(','));
        let add = Call::new("ADD", version, &scene).member("prevResult", &big);
        assert_eq!(add.run().printed().trim_end(), big);
        let add = Call::new("ADD", version, &scene).member("unknown", &quoted(&"x".repeat(1 << 20)));
        assert_eq!(add.run().printed().trim_end(), usual(version));
    }
    Call::new("DEL", "1.0.0", &scene).member("unknown", &quoted(&"x".repeat(1 << 20))).run().silent();
}

#[test]
fn r67_odd_characters_are_no_trouble() {
    let scene = Scene::new();
    for text in ["é😀", "\u{0}", "\u{202e}gnp.exe", "\u{feff}", "\u{10ffff}", "a\u{0301}", "\r\n\t"] {
        add_and_del_with(&scene, "unknown", &quoted(text));
        add_and_del_with(&scene, text, "1");
    }
    for raw in [r#""\ud800""#, r#""\udc00\ud800""#, r#""\u0000""#] {
        add_and_del_with(&scene, "unknown", raw);
    }
}
