//! The share: made, mended, kept as long as it is needed, and taken away.

use serde_json::json;
use support::{Call, Node, Pod, SOCKETS, STATE, VOLUME, new_uid};

/// What a tenant's files have no business with on the host.
const RESTRICTIONS: [&str; 4] = ["nosuid", "nodev", "noexec", "nosymfollow"];

/// A pod whose sandbox is only being created: a volume, a network namespace, no process.
pub fn created(node: &Node) -> (String, String) {
    let uid = new_uid();
    node.make_volume(&uid);
    let netns = node.make_netns(&uid[24..]);
    (uid, netns)
}

#[test]
fn a_sandbox_that_is_being_created_gets_its_share_and_its_result_back() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let add = Call::new("ADD", &uid, &netns);
    let answer = add.run(&node);
    answer.succeeded();
    assert_eq!(&answer.json, add.prev_result());
    assert!(node.is_shared(&uid));
    let options = node.sh(&format!("findmnt -n -o OPTIONS {}", node.target(&uid)));
    for option in RESTRICTIONS {
        assert!(options.split(',').any(|is| is == option), "{options}");
    }
    let modes =
        node.sh(&format!("stat -c %a {SOCKETS} {SOCKETS}/{uid}; stat -c %a {STATE} {STATE}/pods {STATE}/pods/{uid}"));
    assert_eq!(
        modes, "755\n755\n700\n700\n700",
        "nobody but root may rename a pod's directory, or look at the records"
    );

    let trace = std::env::temp_dir().join(format!("vhu-share-{uid}"));
    let words = ["strace", "-f", "-qq", "-o", trace.to_str().unwrap(), "-e", "trace=mount,move_mount,unshare,umount2"];
    add.clone().through(&words).run(&node).succeeded();
    assert_eq!(std::fs::read_to_string(&trace).unwrap(), "", "a second ADD mounts nothing");
    std::fs::remove_file(trace).unwrap();
    assert_eq!(node.sh(&format!("grep -c {} /proc/self/mountinfo", node.target(&uid))), "1");

    let del = add.clone().command("DEL");
    del.run(&node).succeeded();
    assert!(node.is_clean(&uid));
    assert!(node.holds(&format!("test -d /run/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/{VOLUME}")));
    del.run(&node).succeeded();
    add.run(&node).succeeded();
    assert!(node.is_shared(&uid), "an ADD after a DEL works again");
}

#[test]
fn a_pod_without_the_volume_costs_nothing_and_leaves_nothing() {
    let node = Node::new();
    let netns = node.make_netns("n");
    let add = Call::new("ADD", &new_uid(), &netns);
    for call in [&add, &add.clone().command("CHECK"), &add.clone().command("DEL")] {
        call.run(&node).succeeded();
    }
    assert!(node.holds(&format!("! test -e {STATE} && ! test -e {SOCKETS}")));
    let answer = add.set("attach", json!("always")).run(&node);
    assert_eq!(answer.code(), 101, "{answer:?}");
    assert!(answer.text().contains(VOLUME), "{answer:?}");
}

#[test]
fn a_directory_that_nothing_is_mounted_on_is_not_taken_for_a_share() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    node.sh(&format!("mkdir -p {}", node.target(&uid)));
    assert!(!node.is_shared(&uid));
    Call::new("ADD", &uid, &netns).run(&node).succeeded();
    assert!(node.is_shared(&uid));
}

#[test]
fn a_stale_mount_is_replaced_even_under_others() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let add = Call::new("ADD", &uid, &netns);
    add.run(&node).succeeded();
    let volume = node.make_volume(&uid);
    node.sh(&format!("rm -rf {volume}"));
    node.make_volume(&uid);
    assert!(!node.is_shared(&uid), "the mount shows the deleted volume");
    add.run(&node).succeeded();
    assert!(node.is_shared(&uid));

    let target = node.target(&uid);
    // Private first: else the new mounts would spread to the volume itself, which the share is a peer of.
    node.sh(&format!(
        "mkdir /run/a /run/b && mount --make-private {target} && mount --bind /run/a {target} && \
                      mount --make-private {target} && mount --bind /run/b {target}"
    ));
    assert!(!node.is_shared(&uid));
    add.run(&node).succeeded();
    assert!(node.is_shared(&uid));
    add.clone().command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&uid));
}

#[test]
fn a_mount_made_by_somebody_else_is_as_good() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let (volume, target) = (node.make_volume(&uid), node.target(&uid));
    node.sh(&format!("mkdir -p {target} && mount --bind {volume} {target}"));
    Call::new("ADD", &uid, &netns).run(&node).succeeded();
    assert_eq!(node.sh(&format!("grep -c {target} /proc/self/mountinfo")), "1");
}

#[test]
fn whoever_receives_the_share_receives_it_restricted() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    // As a data plane in a container does (HostToContainer).
    let mut plane = node.command("unshare");
    plane.args(["--mount", "--propagation", "slave", "sh", "-c", "echo $$; exec sleep infinity"]);
    let mut plane = plane.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut pid = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(plane.stdout.take().unwrap()), &mut pid).unwrap();
    Call::new("ADD", &uid, &netns).run(&node).succeeded();
    let seen = node.sh(&format!("grep -F ' {} ' /proc/{}/mountinfo | cut -d ' ' -f 6", node.target(&uid), pid.trim()));
    support::end(&mut plane);
    assert!(RESTRICTIONS.iter().all(|option| seen.split(',').any(|is| is == *option)), "{seen:?}");
}

#[test]
fn what_is_mounted_in_the_volume_does_not_show_in_the_share_nor_the_other_way() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let (volume, target) = (node.make_volume(&uid), node.target(&uid));
    node.sh(&format!("mkdir {volume}/a {volume}/b"));
    Call::new("ADD", &uid, &netns).run(&node).succeeded();
    // As a container of the pod with Bidirectional propagation may.
    node.sh(&format!("mount -t tmpfs evil {volume}/a && mount -t tmpfs own {target}/b"));
    assert!(node.holds(&format!("! mountpoint -q {target}/a && ! mountpoint -q {volume}/b")));
    node.sh(&format!("umount {target}/b"));
    Call::new("DEL", &uid, &netns).run(&node).succeeded();
    assert!(node.is_clean(&uid));
}

#[test]
fn from_a_mount_namespace_that_only_receives_the_share_still_reaches_the_host() {
    let node = Node::new();
    for wrapper in
        [["unshare", "--mount", "--propagation", "slave"], ["unshare", "--mount", "--propagation", "private"]]
    {
        let (uid, netns) = created(&node);
        let add = Call::new("ADD", &uid, &netns).through(&wrapper);
        add.run(&node).succeeded();
        assert!(node.is_shared(&uid), "{wrapper:?}");
        add.command("DEL").run(&node).succeeded();
        assert!(node.is_clean(&uid), "{wrapper:?}");
    }
}

#[test]
fn the_share_stays_until_the_pods_last_attachment_is_gone() {
    let (node, pod) = Node::with_pod();
    let first = pod.add().set("attach", json!("never"));
    let second = first.clone().ifname("net2");
    first.run(&node).succeeded();
    second.run(&node).succeeded();
    first.clone().command("DEL").run(&node).succeeded();
    assert!(node.is_shared(&pod.uid));
    second.clone().command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn an_old_sandbox_does_not_take_the_new_ones_share() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let old = Call::new("ADD", &uid, &netns).container("old");
    let new = Call::new("ADD", &uid, &node.make_netns("new")).container("new");
    old.run(&node).succeeded();
    new.run(&node).succeeded();
    // As containerd sends it, from the second time on: without a namespace and without prevResult.
    old.clone().command("DEL").netns("").without("prevResult").run(&node).succeeded();
    assert!(node.is_shared(&uid));
    new.command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&uid));
}

#[test]
fn a_del_finds_its_pod_by_the_record_alone() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let add = Call::new("ADD", &uid, &netns);
    add.run(&node).succeeded();
    add.command("DEL").netns("").args("").without("prevResult").run(&node).succeeded();
    assert!(node.is_clean(&uid));
}

#[test]
fn a_del_cleans_up_after_the_pods_directory_and_after_the_records() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let add = Call::new("ADD", &uid, &netns);
    add.run(&node).succeeded();
    node.sh(&format!("rm -rf /run/kubelet/pods/{uid}"));
    add.clone().command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&uid), "kubelet was faster");

    node.make_volume(&uid);
    add.run(&node).succeeded();
    node.sh(&format!("rm -rf {STATE}"));
    add.command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&uid), "the records were lost");
}

#[test]
fn a_del_after_a_reboot_finds_nothing_to_undo() {
    let node = Node::new();
    let uid = new_uid();
    // emptyDirs outlive it; what lies in /run does not: records, mounts, namespaces.
    node.make_volume(&uid);
    for netns in ["/run/netns/gone", ""] {
        Call::new("DEL", &uid, netns).without("prevResult").run(&node).succeeded();
        assert!(node.is_clean(&uid) && node.holds(&format!("! test -e {SOCKETS}")), "{}", node.left(&uid));
    }
}

#[test]
fn kubelets_directory_may_be_a_link() {
    let (node, pod) = Node::with_pod();
    node.sh("ln -s kubelet /run/link");
    for args in [format!("K8S_POD_UID={}", pod.uid), "K8S_POD_NAME=vm".to_owned()] {
        let add = Call::new("ADD", "", &pod.netns()).args(&args).set("attach", json!("never"));
        let add = add.set("kubelet_dir", json!("/run/link"));
        add.run(&node).succeeded();
        assert!(node.is_shared(&pod.uid), "{args}");
        add.clone().command("CHECK").run(&node).succeeded();
        add.command("DEL").run(&node).succeeded();
        assert!(node.is_clean(&pod.uid), "{args}: {}", node.left(&pod.uid));
    }
}

#[test]
fn a_share_that_somebody_works_in_goes_all_the_same() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let add = Call::new("ADD", &uid, &netns);
    add.run(&node).succeeded();
    let script = format!("cd {} && echo ready && exec sleep infinity", node.target(&uid));
    // In the host's namespaces, and as one that keeps a copy of the mount to itself.
    let (mut same, ..) = node.unshared(&["--uts"], &script);
    let (mut own, ..) = node.unshared(&["--mount", "--propagation", "private"], &script);
    add.clone().command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&uid), "{}", node.left(&uid));
    support::end(&mut same);
    support::end(&mut own);
}

/// Starts a process of the pod that listens on a socket of this name in its volume.
pub fn listener(pod: &Pod, name: &str) -> std::process::Child {
    let listen = format!(
        "import socket,time; s=socket.socket(socket.AF_UNIX); s.bind('{}/{name}'); s.listen(); print(1,flush=True); time.sleep(600)",
        support::INSIDE
    );
    let mut child = pod.command("python3").args(["-c", &listen]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 2]).unwrap();
    child
}

#[test]
fn sockets_in_use_keep_the_share_and_dead_ones_do_not() {
    let (node, mut pod) = Node::with_pod();
    let add = pod.add().set("attach", json!("never"));
    add.run(&node).succeeded();
    let mut listener = listener(&pod, "cold");
    add.clone().command("DEL").run(&node).succeeded();
    assert!(node.is_shared(&pod.uid), "a NIC that the VM was started with still needs it");
    support::end(&mut listener);
    pod.die();
    add.command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn what_a_pod_or_a_neighbour_put_in_the_way_is_not_followed() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let volume = node.make_volume(&uid);
    node.sh("mkdir -p /run/canary && touch /run/canary/file");
    let untouched = || assert_eq!(node.sh("ls -A /run/canary; stat -c %a /run/canary"), "file\n755");

    node.sh(&format!("rmdir {volume} && ln -s /run/canary {volume}"));
    let answer = Call::new("ADD", &uid, &netns).run(&node);
    assert_eq!(answer.code(), 103, "{answer:?}");
    assert!(node.is_clean(&uid));
    untouched();

    node.sh(&format!("rm {volume} && touch {volume}"));
    assert_eq!(Call::new("ADD", &uid, &netns).run(&node).code(), 103);
    node.sh(&format!("rm {volume}"));
    node.make_volume(&uid);

    // kube-ovn leaves the directories open to everyone.
    node.sh(&format!("mkdir -p {SOCKETS} && ln -s /run/canary {SOCKETS}/{uid}"));
    let answer = Call::new("ADD", &uid, &netns).run(&node);
    assert_eq!(answer.code(), 103, "{answer:?}");
    untouched();
    assert!(node.holds(&format!("! grep -q /run/canary /proc/self/mountinfo && ! test -e {STATE}/pods/{uid}")));
    Call::new("DEL", &uid, &netns).run(&node).succeeded();
    untouched();
    assert!(node.holds(&format!("test -L {SOCKETS}/{uid}")), "not ours to remove");
}

#[test]
fn check_misses_the_mount() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let add = Call::new("ADD", &uid, &netns);
    let check = add.clone().command("CHECK");
    check.run(&node).succeeded();
    add.run(&node).succeeded();
    check.run(&node).succeeded();
    node.sh(&format!("umount {}", node.target(&uid)));
    let answer = check.run(&node);
    assert_eq!(answer.code(), 104, "{answer:?}");
    assert!(answer.text().contains("mount"), "{answer:?}");
}

#[test]
fn parallel_calls_for_one_pod_take_turns_and_lose_nothing() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let calls: Vec<Call> = (0..16).map(|n| Call::new("ADD", &uid, &netns).ifname(&format!("net{n}"))).collect();
    let all = |command| {
        let started: Vec<_> = calls.iter().map(|call| call.clone().command(command).start(&node)).collect();
        for child in started {
            support::answer(support::patience::output(child)).succeeded();
        }
    };
    all("ADD");
    assert_eq!(
        node.sh(&format!("ls {STATE}/pods/{uid} | wc -l; grep -c {uid}/{VOLUME} /proc/self/mountinfo")),
        "16\n1"
    );
    all("DEL");
    assert!(node.is_clean(&uid));
}

#[test]
fn the_hosts_mount_namespace_is_entered_before_there_is_another_thread() {
    let node = Node::new();
    let (uid, netns) = created(&node);
    let trace = std::env::temp_dir().join(format!("vhu-share-{uid}"));
    let words = ["unshare", "--mount", "--propagation", "slave", "strace", "-f", "-qq", "-o", trace.to_str().unwrap()];
    let words = [&words[..], &["-e", "trace=clone,clone3,setns"]].concat();
    Call::new("ADD", &uid, &netns).through(&words).run(&node).succeeded();
    let calls = std::fs::read_to_string(&trace).unwrap();
    std::fs::remove_file(trace).unwrap();
    let (entered, thread) = (calls.find("CLONE_NEWNS"), calls.find("clone"));
    assert!(entered.is_some() && entered < thread, "{calls}");
}
