//! R23-R28: what stdin holds.

use std::fs::File;

use crate::plugin::{ALL, Call, quoted, versions_with};
use crate::scene::Scene;

const COMMANDS: [&str; 5] = ["ADD", "DEL", "CHECK", "GC", "STATUS"];

#[test]
fn r23_what_is_no_configuration_is_a_decoding_error() {
    let scene = Scene::new();
    let sound = r#"{"cniVersion":"1.1.0","name":"n","type":"t"}"#;
    let broken: [&[u8]; 16] = [
        b"",
        b" \n",
        b"null",
        b"{",
        b"}",
        b"[]",
        b"\"text\"",
        b"7",
        b"true",
        b"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",}",
        b"{cniVersion:\"1.1.0\"}",
        b"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\"x\":\"\xff\"}",
        b"\xef\xbb\xbf{\"cniVersion\":\"1.1.0\",\"name\":\"n\"}",
        b"{\"cniVersion\":\"1.1.0\",\"name\":\"n\"}{}",
        b"{\"cniVersion\":\"1.1.0\",\"name\":\"n\"} x",
        b"{\"cniVersion\":\"1.1.0\",\"name\":\"n\"}\0",
    ];
    for command in COMMANDS {
        let call = Call::new(command, "1.1.0", &scene);
        for stdin in broken {
            call.clone().stdin(stdin).run().refused(&[6]);
        }
        // Cut at every place.
        for length in (0..sound.len()).step_by(3) {
            call.clone().stdin(&sound[..length]).run().refused(&[6]);
        }
    }
}

#[test]
fn r23_a_known_key_of_another_type_is_a_decoding_error() {
    let scene = Scene::new();
    for command in COMMANDS {
        for version in versions_with(command) {
            for key in ["cniVersion", "name", "type"] {
                for raw in ["7", "true", "[]", "{}", "[\"1.0.0\"]"] {
                    let refusal = Call::new(command, version, &scene).member(key, raw).run().refused(&[6]);
                    assert!(refusal.text.contains(key), "{refusal:?}");
                }
            }
        }
    }
}

#[test]
fn r23_what_can_not_be_read_is_an_io_error() {
    let scene = Scene::new();
    for command in COMMANDS {
        let call = Call::new(command, "1.1.0", &scene);
        let mut process = call.command();
        process.stdin(File::open("/").unwrap());
        call.run_as(process).refused(&[5]);
    }
}

#[test]
fn r23_an_endless_configuration_is_refused() {
    let scene = Scene::new();
    let call = Call::new("ADD", "1.0.0", &scene);
    let mut process = call.command();
    process.stdin(File::open("/dev/zero").unwrap());
    call.run_as(process).refused(&[5]);
}

#[test]
fn r23_nesting_of_any_depth_breaks_nothing() {
    let scene = Scene::new();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        let call = Call::new("ADD", "1.0.0", &scene);
        for key in ["unknown", "args", "runtimeConfig", "ipam", "dns"] {
            call.clone().member(key, &deep).run().document();
        }
        for key in ["queues", "libvirt_sockets"] {
            call.clone().member(key, &deep).run().refused(&[7]);
        }
        let result = format!(r#"{{"cniVersion":"1.0.0","interfaces":{deep}}}"#);
        assert_eq!(call.member("prevResult", &result).run().printed().trim_end(), result);
    }
}

#[test]
fn r24_the_networks_name_syntax() {
    let scene = Scene::new();
    let good = ["n", "kube-ovn", "Net_1.a-b", "0"];
    let bad = ["", ".", "-n", "_n", "a/b", "../a", "a b", "a\n", "ü", "a:b"];
    for command in COMMANDS {
        for version in versions_with(command) {
            let call = Call::new(command, version, &scene);
            for name in good {
                let outcome = call.clone().member("name", &quoted(name)).run();
                assert!(outcome.status.success(), "{name:?}: {outcome:?}");
            }
            for name in bad {
                let refusal = call.clone().member("name", &quoted(name)).run().refused(&[7]);
                assert!(refusal.text.contains("name"), "{refusal:?}");
            }
            call.clone().member("name", "null").run().refused(&[7]);
            call.without("name").run().refused(&[7]);
        }
    }
}

#[test]
fn r25_no_version_means_0_1_0() {
    let scene = Scene::new();
    let old = Call::new("ADD", "0.1.0", &scene);
    for call in [old.clone().without("cniVersion"), old.clone().member("cniVersion", "\"\"")] {
        assert_eq!(call.run().document()["cniVersion"], "0.1.0");
        assert_eq!(call.member("name", "\"\"").run().refused(&[7]).version, "0.1.0");
    }
    Call::new("DEL", "0.1.0", &scene).without("cniVersion").run().silent();
}

#[test]
fn r26_a_version_that_is_not_listed_is_refused() {
    let scene = Scene::new();
    for command in COMMANDS {
        for version in [
            "99.0.0",
            "1.99.0",
            "1.1.7",
            "1.0.1",
            "1.2.0",
            "0.9.9",
            "0.4.1",
            "0.3.2",
            "0.0.0",
            "1",
            "1.1",
            "1.1.0.0",
            "v1.0.0",
            " 1.0.0",
            "1.0.0 ",
            "1.0.0\n",
            "01.0.0",
            "1.0.0-rc1",
            "1.0.0+x",
            "^1.0.0",
            "latest",
            "１.0.0",
        ] {
            let call = Call::new(command, "1.1.0", &scene).member("cniVersion", &quoted(version));
            let refusal = call.run().refused(&[1]);
            assert!(ALL.iter().all(|known| refusal.text.contains(known)), "should list what there is: {refusal:?}");
        }
    }
}

#[test]
fn r27_well_known_keys_break_nothing_in_any_form() {
    let scene = Scene::new();
    for (key, raw) in [
        ("capabilities", r#"{"mac":true,"portMappings":true}"#),
        ("capabilities", "{}"),
        ("ipam", "{}"),
        ("ipam", r#"{"type":"kube-ovn","server_socket":"/run/openvswitch/kube-ovn-daemon.sock"}"#),
        ("dns", "{}"),
        ("dns", r#"{"nameservers":["fe80::1%eth0"],"search":[]}"#),
        ("ipMasq", "true"),
        ("args", "{}"),
        ("args", r#"{"cni":{"labels":[{"key":"a","value":"b"}],"ips":["10.0.0.1"]},"org.other":[1]}"#),
        ("runtimeConfig", "{}"),
        ("cni.dev/valid-attachments", "[]"),
        ("cni.dev/attachments", "[]"),
        ("cni.dev/unheard-of", r#"{"x":[]}"#),
        ("cniVersions", r#"["0.4.0","1.0.0"]"#),
        ("disableCheck", "true"),
        ("disableGC", "\"true\""),
        ("loadOnlyInlinedPlugins", "false"),
    ] {
        for raw in [raw, "null"] {
            for version in ALL {
                let add = Call::new("ADD", version, &scene).member(key, raw);
                assert_eq!(add.run().document()["cniVersion"], version, "{key}: {raw}");
                Call::new("DEL", version, &scene).member(key, raw).run().silent();
            }
        }
    }
}

#[test]
fn r27_no_well_known_key_but_those_of_the_plugin_needs_a_form() {
    let scene = Scene::new();
    for key in ["capabilities", "ipam", "dns", "ipMasq", "args", "runtimeConfig", "cni.dev/attachments", "disableCheck"]
    {
        for raw in ["7", "\"x\"", "[]", "[{}]", "{\"cni\":7}", "true"] {
            Call::new("ADD", "1.0.0", &scene).member(key, raw).run().document();
            Call::new("DEL", "1.0.0", &scene).member(key, raw).run().silent();
        }
    }
}

#[test]
fn r28_unknown_keys_are_passed_over() {
    let scene = Scene::new();
    for version in ALL {
        for (key, raw) in [("unknown", "1"), ("", "{}"), ("Name", "7"), ("CNIVERSION", "\"9\""), ("ünïcode", "1e999")]
        {
            Call::new("ADD", version, &scene).member(key, raw).run().document();
            Call::new("DEL", version, &scene).member(key, raw).run().silent();
        }
    }
}
