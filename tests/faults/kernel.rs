//! A kernel, or a filter of system calls, without openat2(2). What a pod's files need it for is refused, and pods that the
//! plugin has nothing to do with do not notice.

use serde_json::Value;
use support::{Answer, Call, KUBELET, Node, SOCKETS, STATE, new_uid};

/// How the call is refused.
const ERRORS: [&str; 2] = ["ENOSYS", "EPERM"];

fn run(node: &Node, call: &Call, errno: &str) -> Answer {
    let fault = format!("inject=openat2:error={errno}");
    let words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=openat2", "-e", &fault];
    call.clone().through(&words).run(node)
}

fn gc() -> Call {
    Call::new("GC", "", "").gc()
}

#[test]
fn without_openat2_nothing_is_done_for_a_pod_with_the_volume() {
    let (node, pod, double, _plane) = Node::with_vm();
    // As kube-ovn leaves it, before this plugin is called.
    node.sh(&format!("mkdir -p {}", node.target(&pod.uid)));
    let seen = || node.sh("find /run -not -path '*/libvirt*' | sort; cat /proc/self/mountinfo");
    for errno in ERRORS {
        let before = seen();
        for uid in [&pod.uid[..], ""] {
            let answer = run(&node, &Call::new("ADD", uid, &pod.netns()), errno);
            assert_eq!(answer.code(), 5, "{answer:?}");
            assert!(answer.text().contains("openat2") && answer.text().contains("Linux 5.6"), "{answer:?}");
        }
        assert_eq!(before, seen());
        assert!(double.calls().is_empty(), "{:?}", double.calls());
        // The pod can go all the same, and the node is not NotReady.
        run(&node, &pod.del(), errno).succeeded();
        run(&node, &gc(), errno).succeeded();
        run(&node, &gc().command("STATUS").without("cni.dev/valid-attachments"), errno).succeeded();
        assert!(node.holds(&format!("! test -e {STATE}/pods && test -d {}", node.target(&pod.uid))));
    }
    assert!(double.calls().is_empty(), "{:?}", double.calls());
}

#[test]
fn without_openat2_other_pods_get_their_results() {
    let node = Node::new();
    let (uid, netns) = (new_uid(), node.make_netns("n"));
    for other in ["", "/volumes/kubernetes.io~empty-dir/cache"] {
        node.sh(&format!("mkdir -p {KUBELET}/pods/{uid}{other}"));
        for (uid, errno) in [&uid[..], ""].into_iter().flat_map(|uid| ERRORS.map(|errno| (uid, errno))) {
            let add = Call::new("ADD", uid, &netns);
            let answer = run(&node, &add, errno);
            answer.succeeded();
            assert_eq!(&answer.json, add.prev_result());
            run(&node, &add.clone().command("CHECK"), errno).succeeded();
            assert_eq!(run(&node, &add.command("DEL"), errno).json, Value::Null);
        }
    }
    assert!(node.holds(&format!("! test -e {STATE} && ! test -e {SOCKETS}")));
}
