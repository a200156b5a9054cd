//! R8-R22: the command and the variables.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;

use crate::plugin::{ALL, Call, versions_with};
use crate::scene::{Scene, in_new_namespaces};

const VARIABLES: [&str; 3] = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"];

#[test]
fn r8_only_the_six_commands_are_commands() {
    let scene = Scene::new();
    for version in ALL {
        for bad in ["NOPE", "add", "Add", "ADD ", " ADD", "ADD\n", "DELETE", "UPDATE", "GCC", "gc", "Status", "ADD,DEL"]
        {
            let refusal = Call::new("ADD", version, &scene).env("CNI_COMMAND", bad).run().refused(&[4]);
            assert!(refusal.text.contains("CNI_COMMAND"), "{bad:?}: {refusal:?}");
        }
    }
    let not_text = OsString::from_vec(b"ADD\xff".to_vec());
    Call::new("ADD", "1.0.0", &scene).env("CNI_COMMAND", not_text).run().refused(&[4]);
    // Whatever stdin holds.
    Call::bare("NOPE").run().refused(&[4]);
}

#[test]
fn r9_no_command_is_an_error() {
    let scene = Scene::new();
    let add = Call::new("ADD", "1.0.0", &scene);
    for call in [
        add.clone().without_env("CNI_COMMAND"),
        add.clone().env("CNI_COMMAND", ""),
        add.clone().without_any_env(),
        add.without_any_env().stdin(""),
    ] {
        let refusal = call.run().refused(&[4]);
        assert!(refusal.text.contains("CNI_COMMAND"), "{refusal:?}");
    }
}

#[test]
fn r10_r11_a_command_that_came_later_than_the_version_is_refused() {
    let scene = Scene::new();
    for command in ["CHECK", "GC", "STATUS"] {
        for version in ALL.into_iter().filter(|version| !versions_with(command).contains(version)) {
            let refusal = Call::new(command, version, &scene).run().refused(&[1]);
            assert_eq!(refusal.version, version, "{command}");
        }
        Call::new(command, "1.1.0", &scene).without("cniVersion").run().refused(&[1]);
    }
}

#[test]
fn r12_r13_r14_r16_r17_what_a_command_needs_must_be_there_and_is_named_if_not() {
    let scene = Scene::new();
    for (command, needed) in
        [("ADD", &VARIABLES[..]), ("CHECK", &VARIABLES), ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"])]
    {
        for version in versions_with(command) {
            let call = Call::new(command, version, &scene);
            for name in needed {
                for call in [call.clone().without_env(name), call.clone().env(name, "")] {
                    let refusal = call.run().refused(&[4]);
                    for other in VARIABLES {
                        assert_eq!(
                            refusal.text.contains(other),
                            other == *name,
                            "{command} without {name}: {refusal:?}"
                        );
                    }
                }
            }
            let mut call = call;
            for name in needed {
                call = call.without_env(name);
            }
            let refusal = call.run().refused(&[4]);
            assert!(needed.iter().all(|name| refusal.text.contains(name)), "{command}: {refusal:?}");
        }
    }
}

#[test]
fn r13_r16_del_needs_neither_namespace_nor_arguments() {
    let scene = Scene::new();
    for version in ALL {
        let del = Call::new("DEL", version, &scene);
        del.clone().without_env("CNI_NETNS").without_env("CNI_ARGS").run().silent();
        del.clone().env("CNI_NETNS", "").env("CNI_ARGS", "").run().silent();
        del.without_env("CNI_NETNS").without("prevResult").run().silent();
    }
}

#[test]
fn r15_r16_gc_status_and_version_concern_no_container() {
    let scene = Scene::new();
    for command in ["GC", "STATUS"] {
        // Call::new sets them empty, as libcni does.
        let call = Call::new(command, "1.1.0", &scene);
        call.run().silent();
        let mut bare = call;
        for name in VARIABLES.into_iter().chain(["CNI_ARGS"]) {
            bare = bare.without_env(name);
        }
        bare.run().silent();
        bare.env("CNI_CONTAINERID", "/").env("CNI_IFNAME", "a/b").env("CNI_NETNS", "dummy").run().silent();
    }
    Call::bare("VERSION").run().document();
}

#[test]
fn r17_several_faults_are_named_together() {
    let scene = Scene::new();
    let call = Call::new("ADD", "1.0.0", &scene);
    let call = call.env("CNI_CONTAINERID", ".").env("CNI_IFNAME", "..").without_env("CNI_NETNS");
    let refusal = call.run().refused(&[4]);
    assert!(VARIABLES.iter().all(|name| refusal.text.contains(name)), "{refusal:?}");
}

#[test]
fn r18_container_id_syntax() {
    let scene = Scene::new();
    let long = "a".repeat(1000);
    let good = ["a", "0", "A", "ABCdef", "a.b", "a_b", "a-b", "9.-_", long.as_str()];
    let bad = [".a", "-a", "_a", "a/b", "a b", "a\n", "\na", "a:b", "ä", "a\u{661}", "a+b", "a\0b"];
    for command in ["ADD", "CHECK", "DEL"] {
        for version in versions_with(command) {
            let call = Call::new(command, version, &scene);
            for id in good {
                assert!(call.clone().env("CNI_CONTAINERID", id).run().status.success(), "{id:?}");
            }
            // No variable can hold a NUL.
            for id in bad.into_iter().filter(|id| !id.contains('\0')) {
                let refusal = call.clone().env("CNI_CONTAINERID", id).run().refused(&[4]);
                assert!(refusal.text.contains("CNI_CONTAINERID"), "{id:?}: {refusal:?}");
            }
            let not_text = OsString::from_vec(b"a\xff".to_vec());
            let refusal = call.env("CNI_CONTAINERID", not_text).run().refused(&[4]);
            assert!(refusal.text.contains("CNI_CONTAINERID"), "{refusal:?}");
        }
    }
}

#[test]
fn r19_interface_name_syntax() {
    let scene = Scene::new();
    let good = ["a", "eth0", "eth0.100", "pod59cc33fa39b", "abcdefghijklmno", "...", "ethé"];
    let bad =
        [".", "..", "a/b", "a:b", "a b", "a\tb", "a\n", "abcdefghijklmnop", "éééééééé", "a\u{a0}b", "a\u{2003}b", "/"];
    for command in ["ADD", "CHECK", "DEL"] {
        for version in versions_with(command) {
            let call = Call::new(command, version, &scene);
            for name in good {
                let outcome = call.clone().env("CNI_IFNAME", name).run();
                assert!(outcome.status.success(), "{name:?}: {outcome:?}");
            }
            for name in bad {
                let refusal = call.clone().env("CNI_IFNAME", name).run().refused(&[4]);
                assert!(refusal.text.contains("CNI_IFNAME"), "{name:?}: {refusal:?}");
            }
        }
    }
}

#[test]
fn r20_the_plugins_path_is_not_needed() {
    let scene = Scene::new();
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        for version in versions_with(command) {
            let call = Call::new(command, version, &scene);
            assert!(call.clone().without_env("CNI_PATH").run().status.success(), "{command} {version}");
            assert!(call.env("CNI_PATH", "").run().status.success(), "{command} {version}");
        }
    }
}

#[test]
fn r21_any_path_to_a_namespace_will_do() {
    let scene = Scene::new();
    let of_process = scene.sandbox.netns();
    let link = scene.path("link");
    std::os::unix::fs::symlink(&of_process, &link).unwrap();
    let mounted = scene.path("netns-0123");
    File::create(&mounted).unwrap();
    in_new_namespaces(|| {
        // As runtimes keep them in /run/netns.
        let (none, bind) = (None::<&str>, nix::mount::MsFlags::MS_BIND);
        nix::mount::mount(Some(&of_process), &mounted, none, bind, none).unwrap();
        for version in ALL {
            for netns in [&of_process, &link, &mounted] {
                let add = Call::new("ADD", version, &scene).env("CNI_NETNS", netns);
                assert_eq!(add.run().document()["cniVersion"], version, "{}", netns.display());
                Call::new("DEL", version, &scene).env("CNI_NETNS", netns).run().silent();
            }
        }
    });
}

#[test]
fn r22_add_into_the_plugins_own_namespace_is_refused_before_it_acts() {
    let scene = Scene::new();
    let mounted = scene.path("netns-own");
    File::create(&mounted).unwrap();
    in_new_namespaces(|| {
        // The plugin that is started here is in this thread's namespace.
        let (none, bind) = (None::<&str>, nix::mount::MsFlags::MS_BIND);
        nix::mount::mount(Some("/proc/thread-self/ns/net"), &mounted, none, bind, none).unwrap();
        for version in ALL {
            for netns in [mounted.to_str().unwrap(), "/proc/self/ns/net"] {
                let add = Call::new("ADD", version, &scene).env("CNI_NETNS", netns);
                let refusal = add.run().refused(&[4]);
                assert!(refusal.text.contains("CNI_NETNS"), "{refusal:?}");
                for yes in ["1", "true", "TRUE"] {
                    add.clone().env("CNI_NETNS_OVERRIDE", yes).run().document();
                }
                add.env("CNI_NETNS_OVERRIDE", "0").run().refused(&[4]);
                Call::new("DEL", version, &scene).env("CNI_NETNS", netns).run().silent();
            }
            // The container's is another one from here too.
            Call::new("ADD", version, &scene).run().document();
        }
    });
}
