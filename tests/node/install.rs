//! `install` on the node itself: whether its runtime does well with a drop-in; and `--uninstall` with pods: the plugin out of
//! the chain at once, its files when the last pod is gone.

use serde_json::{Value, json};
use support::{Call, Node, Pod, SOCKETS, STATE, Told, VOLUME, new_uid, told};

const BINARY: &str = env!("CARGO_BIN_EXE_vhostuser-hotplug");
const BIN: &str = "/run/cni/bin";
const NET_D: &str = "/run/cni/net.d";
const LIST: &str = "/run/cni/net.d/01-kube-ovn.conflist";
const INSTALLED: &str = "/run/cni/bin/vhostuser-hotplug";

/// A node with the plugin installed, with these keys in its object.
fn node_with(keys: &Value) -> Node {
    let node = Node::new();
    let list = json!({"name": "kube-ovn", "cniVersion": "0.3.1", "plugins": [{"type": "kube-ovn"}]});
    // What libcni remembers on this machine is not the node's.
    node.sh(&format!("mount -t tmpfs tmpfs /var/lib && mkdir -p {BIN} {NET_D} && echo '{list}' > {LIST}"));
    assert!(run(&node, &[]).ok);
    let text = node.sh(&format!("cat {LIST}"));
    let mut list: Value = serde_json::from_str(&text).unwrap();
    let ours = list["plugins"][1].as_object_mut().unwrap();
    ours.extend(keys.as_object().unwrap().clone());
    node.sh(&format!("echo '{list}' > {LIST}"));
    node
}

fn run(node: &Node, options: &[&str]) -> Told {
    let mut command = node.command(BINARY);
    told(command.args(["install", "--bin-dir", BIN, "--conf-dir", NET_D]).args(options).output().unwrap())
}

fn uninstall(node: &Node, options: &[&str]) -> String {
    let told = run(node, &[&["--uninstall"], options].concat());
    assert!(told.ok, "{told:?}");
    assert!(!node.holds(&format!("grep -q vhostuser-hotplug {LIST}")), "the chain comes first: {told:?}");
    told.out
}

fn share_only(uid: &str, netns: &str) -> Call {
    Call::new("ADD", uid, netns).set("attach", json!("never"))
}

#[test]
fn a_drop_in_is_refused_where_the_runtime_would_not_read_it_or_send_no_del_by_it() {
    let node = node_with(&json!({}));
    let list = "/etc/cni/net.d/01-kube-ovn.conflist";
    node.sh(&format!(
        "mkdir /run/upper /run/work /run/path
         mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work overlay /etc
         mkdir -p /etc/cni/net.d; cp {LIST} {list}"
    ));
    let drop_in = |programs: &[(&str, &str)]| {
        node.sh("rm -f /run/path/*; ln -s /bin/sh /run/path/sh");
        for (name, version) in programs {
            node.sh(&format!(
                "printf '#!/bin/sh\\necho \"%s\"\\n' '{version}' > /run/path/{name}; chmod +x /run/path/{name}"
            ));
        }
        let mut command = node.command("env");
        command.args(["PATH=/run/path", BINARY, "install", "--bin-dir", BIN, "--mode", "dropin"]);
        told(command.output().unwrap())
    };
    let containerd = |version| ("containerd", version);
    for (programs, word) in [
        (&[containerd("containerd github.com/containerd/containerd 1.7.2 x")][..], "older than 2.1"),
        (&[("crio", "crio version 1.34.0")], "CRI-O"),
    ] {
        let refused = drop_in(programs);
        assert!(!refused.ok && refused.out.contains(word), "{refused:?}");
        assert!(node.holds(&format!("grep -q vhostuser-hotplug {list} && ! test -e /etc/cni/net.d/kube-ovn")));
    }
    let (new, crio) = (containerd("containerd github.com/containerd/containerd/v2 v2.1.0 x"), ("crio", "crio"));
    assert!(drop_in(&[new, crio]).ok);
    assert!(node.holds(&format!("! grep -q vhostuser-hotplug {list} && test -e /etc/cni/net.d/kube-ovn/*.conf")));
}

/// Whether nothing but kube-ovn's directory of sockets is left, and what is in the way if there is.
fn left(node: &Node, state: &str) -> String {
    node.sh(&format!(
        "ls -d {INSTALLED} {state} {SOCKETS}/* 2>/dev/null || true; grep {SOCKETS} /proc/self/mountinfo || true"
    ))
}

#[test]
fn what_pods_that_are_gone_have_left_goes_and_the_last_pod_takes_the_rest_along() {
    let node = node_with(&json!({"kubelet_dir": "/run/kubelet"}));
    let mut pod = Pod::new(&node);
    let add = share_only(&pod.uid, &pod.netns());
    add.run(&node).succeeded();
    // Of one pod the record is left, of one the share alone, and of one a call that was killed.
    let (recorded, unrecorded, killed) = (new_uid(), new_uid(), new_uid());
    for uid in [&recorded, &unrecorded] {
        node.make_volume(uid);
        share_only(uid, &node.make_netns(&uid[24..])).run(&node).succeeded();
    }
    node.sh(&format!(
        "rm -r /run/kubelet/pods/{recorded} /run/kubelet/pods/{unrecorded} {STATE}/pods/{unrecorded} && \
         touch {STATE}/locks/{killed} && mkdir {STATE}/pods/{killed}"
    ));
    // Nobody's business here.
    node.sh(&format!("mkdir -p {SOCKETS}/manual/{VOLUME}"));

    let before = left(&node, STATE);
    let dry = run(&node, &["--uninstall", "--dry-run"]);
    assert!(dry.ok && dry.out.contains("would be edited: plugin vhostuser-hotplug removed"), "{dry:?}");
    assert_eq!(left(&node, STATE), before);

    let text = uninstall(&node, &[]);
    assert!(text.contains("left for now: attachments not undone: 1 (default/vm net1)"), "{text}");
    assert!(text.contains("--kubelet-dir /run/kubelet") && !text.contains("--state-dir"), "{text}");
    for uid in [&recorded, &unrecorded, &killed] {
        assert!(node.is_clean(uid), "{}", node.left(uid));
    }
    assert!(node.is_shared(&pod.uid) && node.holds(&format!("test -x {INSTALLED}")));

    // The pod ends, and its DEL is answered.
    let netns = pod.netns();
    pod.die();
    add.command("DEL").netns(&netns).run(&node).succeeded();
    let text = uninstall(&node, &["--kubelet-dir", "/run/kubelet"]);
    assert!(text.contains("removed"), "{text}");
    assert_eq!(left(&node, STATE), format!("{SOCKETS}/manual"), "{text}");
    assert!(uninstall(&node, &[]).contains("not there"));
}

#[test]
fn a_dead_pod_that_no_del_came_for_is_undone_by_the_second_run() {
    let state = "/run/elsewhere";
    let node = node_with(&json!({"kubelet_dir": "/run/kubelet", "state_dir": state}));
    let mut pod = Pod::new(&node);
    share_only(&pod.uid, &pod.netns()).set("state_dir", json!(state)).run(&node).succeeded();
    let text = uninstall(&node, &[]);
    let options = "--state-dir /run/elsewhere --kubelet-dir /run/kubelet";
    assert!(text.contains("left for now: attachments not undone: 1") && text.contains(options), "{text}");
    pod.die();
    let options: Vec<&str> = options.split(' ').collect();
    // kubelet still has the pod.
    assert!(uninstall(&node, &options).contains("left for now"));
    assert!(node.is_shared(&pod.uid));
    node.sh(&format!("rm -r /run/kubelet/pods/{}", pod.uid));
    let text = uninstall(&node, &options);
    assert_eq!(left(&node, state), "", "{text}");
}

#[test]
fn records_in_another_state_directory_are_found_without_an_option() {
    let state = "/run/elsewhere";
    let node = node_with(&json!({"kubelet_dir": "/run/kubelet"}));
    let pod = Pod::new(&node);
    // By a NAD, whose keys nobody knows here.
    let add = share_only(&pod.uid, &pod.netns()).set("state_dir", json!(state));
    add.run(&node).succeeded();
    let text = uninstall(&node, &[]);
    assert!(text.contains("left for now: attachments not undone: 1 (default/vm net1)"), "{text}");
    add.command("DEL").run(&node).succeeded();
    let text = uninstall(&node, &["--kubelet-dir", "/run/kubelet"]);
    assert_eq!((left(&node, STATE), left(&node, &format!("{state}/*"))), (String::new(), String::new()), "{text}");
}

#[test]
fn a_record_that_cannot_be_read_keeps_the_binary_while_its_pod_is_there() {
    let node = node_with(&json!({"kubelet_dir": "/run/kubelet"}));
    let pod = Pod::new(&node);
    share_only(&pod.uid, &pod.netns()).run(&node).succeeded();
    node.sh(&format!("sed -i 's/\"format\":1/\"format\":99/' {STATE}/pods/{}/*", pod.uid));
    for _ in 0..2 {
        let text = uninstall(&node, &["--kubelet-dir", "/run/kubelet"]);
        assert!(
            text.contains("left for now: attachments not undone: 1") && text.contains("newer than this plugin"),
            "{text}"
        );
    }
    assert!(node.is_shared(&pod.uid) && node.holds(&format!("test -x {INSTALLED}")));
}

#[test]
fn a_binary_that_others_may_change_is_not_sound() {
    let node = node_with(&json!({}));
    let told = run(&node, &[]);
    assert!(told.ok && run(&node, &["--check"]).ok, "{told:?}");
    node.sh(&format!("chmod 0775 {BIN}/vhostuser-hotplug"));
    let told = run(&node, &["--check"]);
    assert!(!told.ok && told.out.contains("others may change it"), "{told:?}");
}
