//! R58, R59: several attachments.

use std::thread;

use crate::plugin::{ALL, Call, WITH_CHECK};
use crate::scene::{Sandbox, Scene};

#[test]
fn r58_an_attachment_is_a_container_and_an_interface() {
    let scene = Scene::new();
    for version in WITH_CHECK {
        let call = |command, ifname| Call::new(command, version, &scene).env("CNI_IFNAME", ifname);
        for ifname in ["eth0", "net1"] {
            call("ADD", ifname).run().document();
        }
        call("DEL", "net1").run().silent();
        call("CHECK", "eth0").run().silent();
        call("DEL", "eth0").run().silent();
    }
}

#[test]
fn r59_calls_for_different_containers_run_at_once() {
    let scene = Scene::new();
    let sandboxes: Vec<_> = (0..8).map(|_| Sandbox::new()).collect();
    thread::scope(|scope| {
        for (number, sandbox) in sandboxes.iter().enumerate() {
            let scene = &scene;
            scope.spawn(move || {
                let call = |command, version| {
                    Call::new(command, version, scene)
                        .env("CNI_CONTAINERID", format!("container-{number}"))
                        .env("CNI_NETNS", sandbox.netns())
                        .env("CNI_ARGS", format!("K8S_POD_UID=8f3a1c52-0b6e-4a7d-9c41-5a0f4de9b7c{number}"))
                };
                for version in ALL {
                    let result = call("ADD", version).run().printed();
                    if WITH_CHECK.contains(&version) {
                        call("CHECK", version).member("prevResult", &result).run().silent();
                    }
                    call("DEL", version).run().silent();
                }
            });
        }
    });
}

#[test]
fn r59_calls_for_one_pod_wait_for_each_other() {
    let scene = Scene::new();
    thread::scope(|scope| {
        for number in 0..8 {
            let scene = &scene;
            scope.spawn(move || {
                let ifname = format!("net{number}");
                for command in ["ADD", "CHECK", "DEL", "DEL"] {
                    let outcome = Call::new(command, "1.1.0", scene).env("CNI_IFNAME", &ifname).run();
                    assert!(outcome.status.success(), "{outcome:?}");
                }
            });
        }
    });
}
