use serde_json::{Value, json};

use super::super::database::parse;
use super::super::stale::{Of, stale};
use super::*;

const CONTAINER: &str = "4f3c2b1a09876543";
const SHARE: &str = "/var/run/openvswitch/vhost_sockets/no-such-uid/vhostuser-sockets";

fn port(name: &str, path: &str, ids: &[(&str, &str)]) -> Value {
    json!({"_uuid": ["uuid", name], "name": name, "type": CLIENT, "error": ["set", []], "ofport": 3, "link_state": "down",
           "options": ["map", [["vhost-server-path", path]]], "external_ids": ["map", ids]})
}

fn snapshot(ports: &[Value], switch_ids: &[(&str, &str)]) -> Snapshot {
    let switch = json!({"dpdk_initialized": true, "dpdk_version": "DPDK 24.11.8", "ovs_version": "3.5.0",
                        "external_ids": ["map", switch_ids], "other_config": ["map", []]});
    parse(&json!([{"rows": [switch]}, {"rows": ports}, {"rows": []}]).to_string()).unwrap()
}

fn problem(snapshot: &Snapshot) -> String {
    let path = format!("{SHARE}/net1");
    let nic = Nic { path: Path::new(&path), container_id: CONTAINER, ifname: "net1", pod: "default/vm" };
    snapshot.problem(&nic).map_or_else(String::new, |problem| problem.to_string())
}

#[test]
fn a_port_has_the_name_that_kube_ovn_gives_it() {
    let name = |ifname| Nic { path: Path::new("/x"), container_id: CONTAINER, ifname, pod: "-" }.port_name();
    assert_eq!(name("eth0").as_deref(), Some("4f3c2b1a0987_h"));
    assert_eq!(name("net1").as_deref(), Some("4f3c2b1a_net1_h"));
    assert_eq!(name("pod59cc33fa39b").as_deref(), Some("4f3c2_59cc33f_h"));
    assert_eq!((name("thirteen-char"), name("fourteen-chars")), (None, None));
    let sandboxes = ["4f3c2b1a0987_h", "4f3c2b1a_net1_h", "_twelve-chars_h", "vhost-user1", "net_h"].map(sandbox_of);
    assert_eq!(sandboxes, [Some("4f3c2b1a0987"), Some("4f3c2b1a"), None, None, None]);
}

#[test]
fn each_problem_names_the_port_and_its_kind() {
    let own = |ids: &[(&str, &str)]| port("4f3c2b1a_net1_h", &format!("{SHARE}/net1"), ids);
    let with = |column: &str, value: Value| {
        let mut port = own(&[]);
        port[column] = value;
        problem(&snapshot(&[port], &[]))
    };
    assert_eq!(problem(&snapshot(&[own(&[])], &[])), "");
    assert!(with("error", json!("no memory")).contains("4f3c2b1a_net1_h is in error: OVS says \"no memory\""));
    assert!(with("ofport", json!(-1)).contains("could not make port 4f3c2b1a_net1_h"));
    // OVS hasn't tried.
    assert_eq!(with("ofport", json!(["set", []])), "");
    let other = port("0dead0d_net1_h", "/var/run/other/net1", &[("pod_name", "vm"), ("pod_namespace", "default")]);
    let missing = problem(&snapshot(&[other], &[]));
    assert!(
        missing.contains("no port of OVS") && missing.contains("port 0dead0d_net1_h, of the same pod"),
        "{missing}"
    );
    let ovn = [("ovn-remote", "ssl:[::1]:6642")];
    let managed = problem(&snapshot(&[own(&[("iface-id", "vm.default")])], &ovn));
    assert!(managed.contains("has not installed port 4f3c2b1a_net1_h") && managed.contains("vm.default"), "{managed}");
    let installed = own(&[("iface-id", "vm.default"), ("ovn-installed", "true")]);
    assert_eq!(problem(&snapshot(&[installed], &ovn)), "");
    // A port of somebody's own, and an OVS without OVN.
    assert_eq!(problem(&snapshot(&[own(&[])], &ovn)), "");
    assert_eq!(problem(&snapshot(&[own(&[("iface-id", "vm.default")])], &[])), "");
}

#[test]
fn of_two_ports_the_stale_one_is_named_with_a_way_out_that_is_safe() {
    let own = port("4f3c2b1a_net1_h", &format!("{SHARE}/net1"), &[("iface-id", "vm.default")]);
    let twin =
        |path: &str, ids: &[(&str, &str)]| problem(&snapshot(&[port("0dead0d_net1_h", path, ids), own.clone()], &[]));
    let alike =
        twin(&format!("{SHARE}/net1"), &[("iface-id", "vm.default"), ("pod_netns", "/run/netns/no-such-namespace")]);
    assert!(alike.contains("0dead0d_net1_h (stale: its sandbox is gone, /run/netns/no-such-namespace"), "{alike}");
    assert!(alike.contains("--no-wait --with-iface del-port 0dead0d_net1_h, then restart"), "{alike}");
    assert!(twin(&format!("{SHARE}/net1"), &[("iface-id", "a")]).contains("(stale: it is of another sandbox)"));
    let spelled = twin(&format!("{}//net1", SHARE.replacen("/var", "", 1)), &[]);
    assert!(spelled.contains("(stale: it has no iface-id)") && spelled.contains("safe while OVS runs"), "{spelled}");
}

#[test]
fn only_what_is_certainly_dead_and_alone_is_removed() {
    let path = format!("{SHARE}/net1");
    let dead = [("pod_name", "vm"), ("pod_namespace", "default"), ("pod_netns", "/run/netns/no-such-namespace")];
    let removed = |ports: &[Value], of| {
        let snapshot = snapshot(ports, &[]);
        stale(&snapshot, Path::new(SHARE), of).iter().map(|port| port.name.clone()).collect::<Vec<_>>()
    };
    let others = Of::OtherSandboxes(CONTAINER);
    let old = port("0dead0d_net1_h", &path, &dead);
    assert_eq!(removed(std::slice::from_ref(&old), others), ["0dead0d_net1_h"]);
    assert_eq!(removed(std::slice::from_ref(&old), Of::Sandbox("0dead0dabcdef")), ["0dead0d_net1_h"]);
    assert_eq!(removed(std::slice::from_ref(&old), Of::Sandbox(CONTAINER)), [] as [&str; 0]);
    let nic = |socket| Of::Nic { sandbox: "0dead0dabcdef", socket };
    assert_eq!(removed(std::slice::from_ref(&old), nic("net1")), ["0dead0d_net1_h"]);
    assert_eq!(removed(std::slice::from_ref(&old), nic("net2")), [] as [&str; 0]);
    assert_eq!(removed(std::slice::from_ref(&old), Of::Nic { sandbox: CONTAINER, socket: "net1" }), [] as [&str; 0]);
    let own = port("4f3c2b1a_net1_h", &path, &dead);
    let spelled = port("4f3c2b1a_net1_h", &format!("{SHARE}//net1"), &dead);
    assert_eq!(removed(&[old.clone(), own.clone()], others), [] as [&str; 0], "DPDK breaks");
    assert_eq!(removed(&[old.clone(), spelled], others), ["0dead0d_net1_h"]);
    let lives = [dead[0], dead[1], ("pod_netns", "/proc/self/ns/net")];
    let nobodys = [dead[0], dead[2]];
    let relative = [dead[0], dead[1], ("pod_netns", "no-such-namespace")];
    let mut connected = old.clone();
    connected["link_state"] = json!("up");
    let other_pod = port("0dead0d_net1_h", "/var/run/openvswitch/vhost_sockets/other/vhostuser-sockets/net1", &dead);
    let kept = [
        own,
        port("0dead0d_net1_h", &path, &lives),
        port("0dead0d_net1_h", &path, &nobodys),
        port("0dead0d_net1_h", &path, &relative),
        port("0dead0d_net1_h", &path, &[]),
        port("vhost-user1", &path, &dead),
        connected,
        other_pod,
    ];
    for port in kept {
        assert_eq!(removed(std::slice::from_ref(&port), others), [] as [&str; 0], "{port}");
    }
}
