//! R51-R56: STATUS and GC.

use crate::plugin::{Call, WITH_GC, quoted};
use crate::scene::Scene;

const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

fn attachments(list: &[(&str, &str)]) -> String {
    let one = |(id, ifname): &(&str, &str)| format!(r#"{{"containerID":{},"ifname":{}}}"#, quoted(id), quoted(ifname));
    format!("[{}]", list.iter().map(one).collect::<Vec<_>>().join(","))
}

#[test]
fn r51_r52_status_says_ready_and_changes_nothing() {
    let scene = Scene::new();
    for version in WITH_GC {
        Call::new("STATUS", version, &scene).run().silent();
        // A runtime doesn't ask with a result, nor need it ask at all.
        Call::new("STATUS", version, &scene).member("prevResult", "{}").run().silent();
        Call::new("ADD", version, &scene).run().document();
        Call::new("STATUS", version, &scene).run().silent();
        Call::new("DEL", version, &scene).run().silent();
    }
}

#[test]
fn r51_add_and_del_work_after_a_status_that_failed() {
    let scene = Scene::new();
    for version in WITH_GC {
        Call::new("STATUS", version, &scene).member("queues", "\"many\"").run().refused(&[7, 50]);
        Call::new("ADD", version, &scene).run().document();
        Call::new("DEL", version, &scene).run().silent();
    }
}

#[test]
fn r53_gc_takes_any_list_of_attachments() {
    let scene = Scene::new();
    let many: Vec<_> = (0..300).map(|number| format!("container-{number}")).collect();
    let many: Vec<_> = many.iter().map(|id| (id.as_str(), "eth0")).collect();
    for version in WITH_GC {
        for list in [&[][..], &[("unknown", "eth0")], &[("0123456789abcdef", "eth0"), ("b", "net1")], &many] {
            Call::new("GC", version, &scene).member(KEYS[0], &attachments(list)).run().silent();
        }
    }
}

#[test]
fn r54_gc_leaves_valid_attachments_and_other_networks_alone() {
    let scene = Scene::new();
    for version in WITH_GC {
        let result = Call::new("ADD", version, &scene).run().printed();
        let check = Call::new("CHECK", version, &scene).member("prevResult", &result);
        let gc = Call::new("GC", version, &scene);
        gc.clone().member(KEYS[0], &attachments(&[("0123456789abcdef", "eth0")])).run().silent();
        check.run().silent();
        gc.member("name", "\"another\"").member(KEYS[0], "[]").run().silent();
        check.run().silent();
        Call::new("DEL", version, &scene).run().silent();
    }
}

#[test]
fn r55_del_still_works_after_gc_and_gc_after_the_container_is_gone() {
    let scene = Scene::new();
    for version in WITH_GC {
        Call::new("ADD", version, &scene).run().document();
        Call::new("GC", version, &scene).member(KEYS[0], "[]").run().silent();
        Call::new("DEL", version, &scene).env("CNI_NETNS", "").run().silent();
        Call::new("GC", version, &scene).member(KEYS[0], "[]").run().silent();
    }
}

#[test]
fn r56_the_list_has_two_names_and_may_be_missing() {
    let scene = Scene::new();
    for version in WITH_GC {
        let gc = Call::new("GC", version, &scene);
        gc.run().silent();
        let list = attachments(&[("a", "eth0")]);
        gc.clone().member(KEYS[0], &list).member(KEYS[1], &list).run().silent();
        for key in KEYS {
            gc.clone().member(key, &list).run().silent();
            gc.clone().member(key, "null").run().silent();
        }
    }
}

#[test]
fn r56_a_list_that_is_none_is_refused_and_not_taken_for_empty() {
    let scene = Scene::new();
    for version in WITH_GC {
        for key in KEYS {
            for bad in ["{}", "\"a\"", "7", "[7]", "[[]]", "[{}]", r#"[{"containerID":"a"}]"#, r#"[{"ifname":"a"}]"#] {
                let refusal = Call::new("GC", version, &scene).member(key, bad).run().refused(&[7]);
                assert!(refusal.text.contains(key), "{refusal:?}");
            }
        }
    }
}
