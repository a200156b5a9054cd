//! Who is measured, and with which calls.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Options;
use crate::measure::Call;
use crate::scene::{Scene, UID};

/// Peers that nearly every node has in its chains, asked for nothing, so that they too only pass the result on.
const PEERS: [&str; 3] = ["tuning", "portmap", "bandwidth"];

/// The verbs that are measured.
const VERBS: [&str; 5] = ["ADD", "DEL", "CHECK", "STATUS", "VERSION"];

/// What the no-op is called in the tables.
pub const NOOP: &str = "no-op";
/// What our plugin is called in the tables.
pub const OURS: &str = "vhostuser-hotplug";

/// Every call: each contender with each verb that it knows.
pub fn calls(options: &Options, scene: &Scene) -> Vec<Call> {
    let mut calls = Vec::new();
    for verb in VERBS {
        calls.push(call(NOOP, &options.noop, verb, scene, 0));
        calls.push(call(OURS, &options.plugin, verb, scene, 0));
        for peer in PEERS.iter().filter(|peer| knows(peer, verb)) {
            calls.push(call(peer, &options.peers.join(peer), verb, scene, 0));
        }
    }
    calls
}

/// Those of Debian 12 know no STATUS, and the CHECK of bandwidth looks for what its ADD was not asked for.
fn knows(peer: &str, verb: &str) -> bool {
    verb != "STATUS" && (peer, verb) != ("bandwidth", "CHECK")
}

/// One call; prevResult has at least `size` bytes.
pub fn call(name: &'static str, program: &Path, verb: &'static str, scene: &Scene, size: usize) -> Call {
    let version = if verb == "STATUS" { "1.1.0" } else { "1.0.0" };
    let mut config = json!({
        "cniVersion": version, "name": "kube-ovn", "type": name,
        "kubelet_dir": scene.kubelet(), "socket_base_dir": scene.path("sockets"), "state_dir": scene.path("state"),
    });
    if verb != "STATUS" && verb != "VERSION" {
        config["prevResult"] = prev_result(scene, size);
    }
    let file = scene.path(&format!("{name}-{verb}-{size}.json"));
    std::fs::write(&file, config.to_string()).expect("a file");
    let env = [
        ("CNI_COMMAND", verb.to_owned()),
        ("CNI_CONTAINERID", "5bbbd3a0c1".to_owned()),
        ("CNI_NETNS", scene.netns()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_PATH", "/opt/cni/bin".to_owned()),
        (
            "CNI_ARGS",
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID=5;K8S_POD_UID={UID}"
            ),
        ),
    ];
    Call { name, verb, program: PathBuf::from(program), env: env.to_vec(), config: file }
}

/// What kube-ovn answers for a primary network; with as many routes as it takes to reach `size`.
fn prev_result(scene: &Scene, size: usize) -> Value {
    let mut result = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "mac": "00:00:00:24:65:F4", "sandbox": scene.netns()}],
        "ips": [{"address": "10.16.0.11/16", "gateway": "10.16.0.1", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.16.0.1"}], "dns": {},
    });
    let route = json!({"dst": "10.96.0.0/12", "gw": "10.16.0.1"});
    let routes = vec![route.clone(); size / route.to_string().len()];
    if let Some(all) = result["routes"].as_array_mut() {
        all.extend(routes);
    }
    result
}
