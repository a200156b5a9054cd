//! A pod's life as containerd lives it, through the Container Runtime Interface: which plugin is called, when, with what.

use std::time::Instant;

use serde_json::{Value, json};

use super::lab::{Pod, holds, lab, lab_with};
use super::watch::PATIENCE;

/// Where the node's containerd looks for a network.
const NET_D: &str = "/etc/cni/net.d";

/// containerd at work in the node; it ends, and its configuration goes, with this value.
pub struct Containerd(());

impl Containerd {
    /// Of this major version, with these files for a network.
    pub fn start(version: &str, files: &[(&str, &str)]) -> Self {
        for (name, text) in files {
            let path = format!("{NET_D}/{name}");
            lab_with(&["exec", "sh", "-c", "mkdir -p \"$(dirname \"$0\")\" && cat > \"$0\"", &path], text);
        }
        let containerd = Self(());
        lab(&["containerd-up", version]);
        containerd
    }

    /// The calls so far, but for those of the loopback's plugin, which are made beside the others.
    pub fn calls(&self) -> Vec<Value> {
        let calls = lab(&["cni-calls"]);
        let calls =
            calls.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
        calls.filter(|call: &Value| call["plugin"] != "loopback").collect()
    }

    /// Waits until the network that it has loaded has the plugin in its chain, or has it no more.
    pub fn has_loaded(&self, chained: bool) {
        let end = Instant::now() + PATIENCE;
        while lab_with(&["cri", "Status"], "verbose: true").contains("vhostuser-hotplug") != chained {
            assert!(Instant::now() < end, "containerd does not look at its directory again");
        }
    }

    /// The runtime's network condition.
    fn is_ready(&self) -> bool {
        let status: String = lab_with(&["cri", "Status"], "").split_whitespace().collect();
        status.contains("type:\"NetworkReady\"status:true")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = holds(&["containerd-down"]);
        let _ = holds(&["exec", "sh", "-c", &format!("rm -rf {NET_D}/*")]);
    }
}

/// Calls as (command, plugin, whether there is a namespace, whether there is a prevResult).
fn shapes(calls: &[Value]) -> Vec<(&str, &str, bool, bool)> {
    let mut shapes = Vec::new();
    for call in calls {
        let (command, plugin) = (call["command"].as_str().unwrap(), call["plugin"].as_str().unwrap());
        shapes.push((command, plugin, call["netns"] != "", call["stdin"].get("prevResult").is_some()));
    }
    shapes
}

/// Asks for the end of a pod's sandbox, or its removal.
pub fn sandbox(method: &str, pod: &Pod) {
    lab_with(&["cri", method], &format!("pod_sandbox_id: \"{}\"", pod.fact("CID")));
}

/// Every call was of this pod, told as Kubernetes' runtimes tell it, and succeeded.
fn are_of(pod: &Pod, calls: &[Value]) {
    for call in calls {
        assert_eq!(call["status"], 0, "{call}");
        assert_eq!(call["containerid"], pod.fact("CID"), "{call}");
        assert_eq!(call["ifname"], "eth0", "{call}");
        let netns = call["netns"].as_str().unwrap();
        assert!(netns.is_empty() || netns == pod.fact("NETNS"), "{call}");
        let args: Vec<_> = call["args"].as_str().unwrap().split(';').collect();
        for (key, value) in [
            ("K8S_POD_NAMESPACE", pod.fact("NAMESPACE")),
            ("K8S_POD_NAME", &pod.name),
            ("K8S_POD_INFRA_CONTAINER_ID", pod.fact("CID")),
            ("K8S_POD_UID", pod.fact("POD_UID")),
            ("IgnoreUnknown", "1"),
        ] {
            assert!(args.contains(&format!("{key}={value}").as_str()), "{key}={value} is not in {call}");
        }
    }
}

const ADDS: [(&str, &str, bool, bool); 3] =
    [("ADD", "kube-ovn", true, false), ("ADD", "portmap", true, true), ("ADD", "vhostuser-hotplug", true, true)];

/// DEL of the chain, backwards; cniVersion 0.3.1, as kube-ovn has it, knows no prevResult there.
fn dels(netns: bool) -> [(&'static str, &'static str, bool, bool); 3] {
    ["vhostuser-hotplug", "portmap", "kube-ovn"].map(|plugin| ("DEL", plugin, netns, false))
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_pod_with_a_vm_lives_its_life_in_containerd() {
    let conflist = include_str!("../../conflist/01-kube-ovn.conflist");
    let containerd = Containerd::start("1", &[("01-kube-ovn.conflist", conflist)]);
    let pod = Pod::new(&["--cri"]);
    let shared = || {
        let target = format!("/run/openvswitch/vhost_sockets/{}/vhostuser-sockets", pod.fact("POD_UID"));
        holds(&["exec", "test", pod.fact("VOLUME"), "-ef", &target])
    };
    let calls = containerd.calls();
    assert_eq!(shapes(&calls), ADDS, "and none when the container was started");
    are_of(&pod, &calls);
    assert_eq!(calls[2]["answer"], calls[1]["answer"], "the chain's result is kube-ovn's");
    assert!(shared());

    for _ in 0..2 {
        let nic = pod.add("net1").nic();
        pod.ping(&nic);
        pod.call_as_kubelet("del", "net1", &json!({})).succeeded();
        assert!(!pod.guest_has(&nic) && shared(), "eth0's share stays");
    }
    let nic = pod.call_as_kubelet("add", "net1", &json!({})).nic();
    pod.ping(&nic);

    // The pod ends with the NIC plugged; and, as kubelet does, everything is asked for more than once.
    for (method, netns) in [("StopPodSandbox", true), ("StopPodSandbox", false), ("RemovePodSandbox", false)] {
        let before = containerd.calls().len();
        sandbox(method, &pod);
        let calls = containerd.calls().split_off(before);
        assert_eq!(shapes(&calls), dels(netns), "{method}");
        are_of(&pod, &calls);
        let ours: Vec<_> = pod.leftovers().into_iter().filter(|left| left.starts_with('/')).collect();
        assert_eq!(ours, Vec::<String>::new(), "{method}");
    }
    // Whoever plugged it tells kube-ovn, or kube-ovn finds out by itself.
    pod.call_as_kubelet("del", "net1", &json!({})).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

/// KubeVirt's shape: daemon and QEMU of an ordinary user, whose runtime directory is an emptyDir.
#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_user_sessions_vm_in_containerd_2_gets_its_nic() {
    let conflist = include_str!("../../conflist/01-kube-ovn.conflist");
    let _containerd = Containerd::start("2", &[("01-kube-ovn.conflist", conflist)]);
    let pod = Pod::new(&["--cri", "--session"]);
    let owner = lab(&["exec", "stat", "-c", "%u", &format!("/proc/{}", pod.fact("QEMU_PID"))]);
    assert_eq!(owner, "107", "QEMU is not root's");
    let nic = pod.call_as_kubelet("add", "net1", &json!({})).nic();
    pod.ping(&nic);
    pod.call_as_kubelet("check", "net1", &json!({})).succeeded();
    pod.call_as_kubelet("del", "net1", &json!({})).succeeded();
    assert!(!pod.guest_has(&nic));
    // It is unplugged by the pod's end too.
    pod.call_as_kubelet("add", "net1", &json!({})).succeeded();
    sandbox("StopPodSandbox", &pod);
    pod.call_as_kubelet("del", "net1", &json!({})).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn containerd_2_asks_a_dropped_in_plugin_for_its_status_and_an_old_sandbox_takes_nothing_along() {
    // kube-ovn's own file untouched but for the version, and the plugin in the network's folder.
    let list = json!({
        "name": "kube-ovn", "cniVersion": "1.1.0",
        "plugins": [{"type": "kube-ovn", "server_socket": "/run/openvswitch/kube-ovn-daemon.sock"}],
    });
    let containerd = Containerd::start(
        "2",
        &[
            ("01-kube-ovn.conflist", &list.to_string()),
            ("kube-ovn/90-vhostuser-hotplug.conf", r#"{"type": "vhostuser-hotplug"}"#),
        ],
    );
    assert!(containerd.is_ready());
    let asked = containerd.calls();
    let status = |call: &&Value| call["command"] == "STATUS" && call["plugin"] == "vhostuser-hotplug";
    assert!(
        asked.iter().filter(status).all(|call| call["status"] == 0) && asked.iter().any(|call| status(&call)),
        "{asked:#?}"
    );

    let of = |from: usize| {
        let calls = containerd.calls().split_off(from);
        calls.into_iter().filter(|call| call["command"] != "STATUS").collect::<Vec<_>>()
    };
    let old = Pod::new(&["--cri", "--only-sandbox"]);
    let uid = old.fact("POD_UID");
    let calls = of(0);
    assert_eq!(shapes(&calls), [("ADD", "kube-ovn", true, false), ("ADD", "vhostuser-hotplug", true, true)]);
    are_of(&old, &calls);
    let mark = containerd.calls().len();
    sandbox("StopPodSandbox", &old);
    let backwards = |netns| ["vhostuser-hotplug", "kube-ovn"].map(|plugin| ("DEL", plugin, netns, netns));
    assert_eq!(shapes(&of(mark)), backwards(true), "this version has a prevResult on DEL, once");
    assert_eq!(old.leftovers(), Vec::<String>::new());

    // The pod's next sandbox is there when kubelet gets to remove the one before.
    let new = Pod::new(&["--cri", "--only-sandbox", "--uid", uid, "--attempt", "1"]);
    let mark = containerd.calls().len();
    sandbox("RemovePodSandbox", &old);
    let calls = of(mark);
    assert_eq!(shapes(&calls), backwards(false));
    are_of(&old, &calls);
    let target = format!("/run/openvswitch/vhost_sockets/{uid}/vhostuser-sockets");
    assert!(holds(&["exec", "test", new.fact("VOLUME"), "-ef", &target]), "the share is the new sandbox'");
    sandbox("StopPodSandbox", &new);
    assert_eq!(new.leftovers(), Vec::<String>::new());
}
