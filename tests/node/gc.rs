//! GC: what the runtime no longer knows, what pods that are gone have left, and nothing else.

use serde_json::json;
use support::{Call, DataPlane, Double, Node, Pod, SOCKETS, STATE, VOLUME, new_uid};

/// A GC of a runtime that knows no attachment.
fn gc_of_all() -> Call {
    Call::new("GC", "", "").gc()
}

/// A GC without a list.
fn gc() -> Call {
    gc_of_all().without("cni.dev/valid-attachments")
}

/// A pod whose sandbox is only being created, with its share.
fn shared(node: &Node, network: &str) -> (String, Call) {
    let uid = new_uid();
    node.make_volume(&uid);
    let netns = node.make_netns(&uid[24..]);
    let add = Call::new("ADD", &uid, &netns).set("name", json!(network));
    add.run(node).succeeded();
    (uid, add)
}

#[test]
fn gc_takes_what_is_not_listed_of_this_network_and_nothing_else() {
    let node = Node::new();
    let uid = new_uid();
    node.make_volume(&uid);
    let netns = node.make_netns("n");
    let add = Call::new("ADD", &uid, &netns).set("cniVersion", json!("1.1.0"));
    let (stale, valid, foreign) =
        (add.clone(), add.clone().ifname("net2"), add.clone().ifname("net3").set("name", json!("x")));
    for call in [&stale, &valid, &foreign] {
        call.run(&node).succeeded();
    }
    let list = json!([{"containerID": "4f3c2b1a09876543", "ifname": "net2"}]);
    let gc = gc();
    gc.run(&node).succeeded();
    let records = || node.sh(&format!("ls {STATE}/pods/{uid} | cut -d@ -f1 | tr '\\n' ' '"));
    assert_eq!(records(), "net1 net2 net3", "no list is not an empty list");
    let answer = gc.clone().set("cni.dev/valid-attachments", list).run(&node);
    answer.succeeded();
    assert_eq!(records(), "net2 net3");
    assert!(answer.log.contains(&format!("undo net1 of 4f3c2b1a09876543, pod {uid}")), "{}", answer.log);
    gc.set("cni.dev/attachments", json!([])).run(&node).succeeded();
    assert_eq!(records(), "net3");
    assert!(node.is_shared(&uid));
}

#[test]
fn what_pods_that_are_gone_have_left_is_removed_whatever_their_network() {
    let node = Node::new();
    let remove = |uid: &str| node.sh(&format!("rm -rf /run/kubelet/pods/{uid}"));
    let alive = shared(&node, "another").0;
    let foreign = shared(&node, "another").0;
    let unrecorded = shared(&node, "kube-ovn").0;
    let newer = shared(&node, "kube-ovn").0;
    let unmounted = shared(&node, "kube-ovn").0;
    let (directory, lock, half_written) = (new_uid(), new_uid(), new_uid());
    node.sh(&format!(
        "rm -r {STATE}/pods/{unrecorded} && sed -i 's/\"format\":1/\"format\":99/' {STATE}/pods/{newer}/* && \
         umount {} && mkdir -p {SOCKETS}/{directory}/{VOLUME} && touch {STATE}/locks/{lock} && \
         mkdir {STATE}/pods/{half_written} && touch {STATE}/pods/{half_written}/net1@c.new",
        node.target(&unmounted)
    ));
    let gone = [foreign, unrecorded, newer, unmounted, directory, lock, half_written];
    gone.iter().for_each(|uid| {
        remove(uid);
    });
    gc().run(&node).succeeded();
    assert!(gone.iter().all(|uid| !node.is_clean(uid)), "no list, no work");
    let answer = gc_of_all().run(&node);
    answer.succeeded();
    for uid in gone {
        assert!(node.is_clean(&uid), "{uid}: {}\n{}", node.left(&uid), answer.log);
    }
    assert!(node.is_shared(&alive), "it is of another network, and kubelet has it");
}

#[test]
fn what_is_not_ours_or_may_still_live_is_left_alone() {
    let node = Node::new();
    // kubelet's directory is gone, but a process of the pod is not.
    let pod = Pod::new(&node);
    pod.add().set("attach", json!("never")).set("name", json!("x")).run(&node).succeeded();
    // Another plugin's directory and mount of a pod that is gone, and names that are no pod's.
    let uid = new_uid();
    node.sh(&format!(
        "mkdir -p {SOCKETS}/{uid}/theirs {SOCKETS}/manual/{VOLUME} /run/some && \
         mount --bind /run/some {SOCKETS}/{uid}/theirs && mount --bind /run/some {SOCKETS}/manual/{VOLUME} && \
         mv /run/kubelet/pods/{0} /run/kubelet/elsewhere",
        pod.uid
    ));
    let kept = || {
        node.holds(&format!("mountpoint -q {SOCKETS}/{uid}/theirs && mountpoint -q {SOCKETS}/manual/{VOLUME}"))
            && node.holds(&format!("mountpoint -q {} && test -e {STATE}/pods/{}", node.target(&pod.uid), pod.uid))
    };
    gc_of_all().run(&node).succeeded();
    assert!(kept(), "{}", node.sh("findmnt -R /run"));

    // A kubelet directory that holds no pods at all is a wrong one.
    let (other, _) = shared(&node, "x");
    gc_of_all().set("kubelet_dir", json!("/run/no-such")).run(&node).succeeded();
    assert!(kept() && node.is_shared(&other));
}

#[test]
fn an_error_stops_nothing_and_all_are_told() {
    let node = Node::new();
    let pods: Vec<Pod> = (0..3).map(|_| Pod::new(&node)).collect();
    let guests = ["never", "obeys", "never"];
    let doubles: Vec<_> = pods
        .iter()
        .zip(guests)
        .map(|(pod, guest)| {
            let double = Double::start(pod, &json!({"detach": {"guest": guest}}));
            let plane = DataPlane::start(&node, pod, "net1");
            pod.add().container(&format!("sandbox-{}", &pod.uid[24..])).run(&node).succeeded();
            (double, plane)
        })
        .collect();
    let answer = gc_of_all().set("detach_timeout", json!(5)).run(&node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert!(answer.text().contains("2 leftovers"), "{answer:?}");
    for ((pod, (double, _)), guest) in pods.iter().zip(&doubles).zip(guests) {
        assert_eq!(double.count("detach-alias"), 1);
        assert_eq!(node.is_clean(&pod.uid), guest == "obeys");
        assert_eq!(answer.text().contains(&pod.uid[24..]), guest == "never", "{answer:?}");
    }
}
