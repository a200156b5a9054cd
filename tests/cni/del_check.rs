//! R43-R50: DEL and CHECK.

use std::fs;

use crate::plugin::{ALL, Call, WITH_CHECK};
use crate::results::{SPARSE, odd, sparse, usual};
use crate::scene::Scene;

#[test]
fn r43_r44_del_undoes_add_as_often_as_it_comes() {
    let scene = Scene::new();
    for version in ALL {
        let (add, del) = (Call::new("ADD", version, &scene), Call::new("DEL", version, &scene));
        del.run().silent();
        let result = add.run().printed();
        let with_result = del.clone().member("prevResult", &result);
        for call in [&with_result, &with_result, &del] {
            call.run().silent();
        }
        assert_eq!(add.run().printed(), result);
        del.run().silent();
    }
}

#[test]
fn r43_del_takes_a_result_of_any_shape() {
    let scene = Scene::new();
    for version in ALL {
        let del = Call::new("DEL", version, &scene);
        for body in SPARSE {
            del.clone().member("prevResult", &sparse(version, body)).run().silent();
        }
        del.member("prevResult", &odd(version)).run().silent();
    }
}

#[test]
fn r45_del_does_not_need_the_namespace_to_be_there() {
    let scene = Scene::new();
    let file = scene.path("file");
    fs::write(&file, "no namespace").unwrap();
    for version in ALL {
        let del = Call::new("DEL", version, &scene);
        for netns in ["/nowhere/netns", "/proc/0/ns/net", "/", "relative", "/dev/null", file.to_str().unwrap()] {
            del.clone().env("CNI_NETNS", netns).run().silent();
        }
    }
}

#[test]
fn r45_del_does_not_need_the_plugins_directories_to_be_there() {
    let scene = Scene::new();
    for name in ["kubelet", "sockets"] {
        fs::remove_dir(scene.path(name)).unwrap();
    }
    for version in ALL {
        Call::new("DEL", version, &scene).run().silent();
    }
}

#[test]
fn r46_del_without_a_result_cleans_up_what_can_be() {
    let scene = Scene::new();
    for version in ALL {
        Call::new("ADD", version, &scene).run().document();
        Call::new("DEL", version, &scene).without("prevResult").run().silent();
        Call::new("DEL", version, &scene).member("prevResult", "null").run().silent();
    }
}

#[test]
fn r47_del_after_the_link_vanished_or_add_failed() {
    let scene = Scene::new();
    for version in ALL {
        Call::new("ADD", version, &scene).run().document();
    }
    scene.sandbox.lose_link();
    for version in ALL {
        Call::new("DEL", version, &scene).run().silent();
        Call::new("ADD", version, &scene).without("prevResult").run().refusal();
        Call::new("DEL", version, &scene).run().silent();
    }
}

#[test]
fn r48_check_after_add_finds_all_well_as_often_as_it_comes() {
    let scene = Scene::new();
    for version in WITH_CHECK {
        let result = Call::new("ADD", version, &scene).run().printed();
        let check = Call::new("CHECK", version, &scene).member("prevResult", &result);
        check.run().silent();
        check.run().silent();
        Call::new("DEL", version, &scene).run().silent();
    }
}

#[test]
fn r49_check_allows_for_what_later_plugins_did() {
    let scene = Scene::new();
    for version in WITH_CHECK {
        Call::new("ADD", version, &scene).run().document();
        let changed = [
            r#""interfaces":[{"name":"tap0","sandbox":""},{"name":"eth0","mac":"00:00:00:24:65:f4","sandbox":"/run/netns/a"}],
               "ips":[{"address":"10.16.0.5/16","interface":1},{"address":"192.0.2.7/32"}],"routes":[{"dst":"192.0.2.0/24"}]"#,
            r#""ips":[{"address":"10.16.0.5/16"}]"#,
            "",
        ];
        for body in changed {
            Call::new("CHECK", version, &scene).member("prevResult", &sparse(version, body)).run().silent();
        }
        Call::new("DEL", version, &scene).run().silent();
    }
}

#[test]
fn r50_check_needs_the_result() {
    let scene = Scene::new();
    for version in WITH_CHECK {
        let check = Call::new("CHECK", version, &scene).member("prevResult", &usual(version));
        for call in [check.clone().without("prevResult"), check.member("prevResult", "null")] {
            let refusal = call.run().refused(&[7]);
            assert!(refusal.text.contains("prevResult"), "{refusal:?}");
        }
    }
}
