//! CNI_NETNS as hostile input, and a container whose files never answer.

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Instant;

use serde_json::json;
use support::libvirt::SOCKET;
use support::patience::{MARGIN, until};
use support::{Answer, Call, DataPlane, Double, INSIDE, Node, Pod, end, new_uid};

/// The call, ended if it hangs.
fn bounded(call: &Call, node: &Node) -> Answer {
    call.clone().through(&["timeout", "--signal=KILL", "60"]).run(node)
}

#[test]
fn a_netns_that_is_none_is_refused_without_being_opened() {
    let (node, pod) = Node::with_pod();
    node.sh(&format!(
        "mkdir /run/odd; cd /run/odd; mkfifo fifo; touch file; ln -s loop loop; mknod zero c 1 5; \
         ln -s /proc/{}/ns/net link",
        pod.pid
    ));
    let long = format!("/run/{}", "x/".repeat(32 << 10));
    let hostile = [
        "/run/odd",
        "/run/odd/fifo",
        "/run/odd/file",
        "/run/odd/loop",
        "/run/odd/zero",
        "/run/odd/gone",
        "/proc/self",
        "/proc/self/exe",
        "/proc/1/ns/mnt",
        "relative",
        &long,
    ];
    for uid in [&pod.uid[..], ""] {
        for netns in hostile {
            let add = Call::new("ADD", uid, netns);
            let answer = bounded(&add, &node);
            // Another kind of namespace tells no pod, for nobody lives in it.
            if uid.is_empty() && netns.ends_with("mnt") {
                answer.succeeded();
                continue;
            }
            assert_eq!(answer.code(), 4, "{netns:.99}: {answer:?}");
            assert!(answer.text().contains("CNI_NETNS"), "{answer:?}");
            assert!(node.is_clean(&pod.uid), "{netns:.99}");
            bounded(&add.command("DEL"), &node).succeeded();
        }
    }
    // A link of the host's own is what a runtime may give.
    let add = Call::new("ADD", "", "/run/odd/link").set("attach", json!("never"));
    bounded(&add, &node).succeeded();
    assert!(node.is_shared(&pod.uid));
    bounded(&add.clone().command("DEL").netns("/run/odd/fifo"), &node).succeeded();
    assert!(node.is_clean(&pod.uid), "a DEL goes by the record");
}

#[test]
fn a_netns_by_the_way_of_a_pods_files_is_refused() {
    let node = Node::new();
    let (pod, victim) = (Pod::new(&node), Pod::new(&node));
    let netns = format!("/proc/{}/root/run/libvirt/netns", pod.pid);
    let link = format!("ln -s /proc/{}/ns/net /run/libvirt/netns", victim.pid);
    assert!(pod.command("sh").args(["-c", &link]).status().unwrap().success());
    let answer = bounded(&Call::new("ADD", "", &netns).set("attach", json!("never")), &node);
    assert_eq!(answer.code(), 4, "{answer:?}");
    assert!(node.is_clean(&victim.uid) && node.is_clean(&pod.uid));
}

#[test]
fn the_hosts_own_namespace_is_no_pods() {
    let (node, pod) = Node::with_pod();
    let allowed = ["env", "CNI_NETNS_OVERRIDE=1"];
    for (uid, wrapper) in [(&pod.uid[..], &allowed[..]), ("", &allowed), (&pod.uid, &[]), ("", &[])] {
        for attach in ["auto", "always", "never"] {
            let add = Call::new("ADD", uid, "/proc/1/ns/net").set("attach", json!(attach)).through(wrapper);
            let answer = add.run(&node);
            assert_eq!(answer.code(), 4, "{answer:?}");
            assert!(node.is_clean(&pod.uid), "{attach}");
            add.command("DEL").run(&node).succeeded();
        }
    }
    // A DEL that names it finds the pod all the same, and never the host's processes.
    let _plane = DataPlane::start(&node, &pod, "net1");
    let double = Double::start(&pod, &json!({}));
    let add = pod.add();
    add.run(&node).succeeded();
    add.command("DEL").netns("/proc/1/ns/net").run(&node).succeeded();
    assert_eq!(double.count("detach-alias"), 1);
    assert!(node.is_clean(&pod.uid));
}

/// Mounts a file system whose daemon never says a word.
const DEAF: &str = r#"
import ctypes, os, sys, time
fd = os.open("/dev/fuse", os.O_RDWR)
os.mkdir("/run/libvirt/deaf")
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
assert libc.mount(b"deaf", b"/run/libvirt/deaf", b"fuse", 0, options) == 0, os.strerror(ctypes.get_errno())
print(1, flush=True)
time.sleep(600)
"#;

/// Has a file system mounted in the pod, below /run/libvirt, that answers nobody; it ends with this process.
fn deaf(pod: &Pod) -> Child {
    let mut deaf = pod.command("python3").args(["-c", DEAF]).stdout(Stdio::piped()).spawn().unwrap();
    deaf.stdout.as_mut().unwrap().read_exact(&mut [0; 2]).expect("a FUSE file system can be mounted");
    deaf
}

#[test]
fn a_netns_on_a_file_system_of_the_pods_that_never_answers_is_not_waited_for() {
    let (node, pod) = Node::with_pod();
    let mut deaf = deaf(&pod);
    for way in ["root", "./root", "ns/../root", "task/{pid}/root", "cwd"] {
        let way = way.replace("{pid}", &pod.pid.to_string());
        let netns = format!("/proc/{}/{way}/run/libvirt/deaf/netns", pod.pid);
        // It is nothing of a pod's without the volume, and no namespace for one with it.
        bounded(&Call::new("ADD", &new_uid(), &netns), &node).succeeded();
        for uid in [&pod.uid[..], ""] {
            let answer = bounded(&Call::new("ADD", uid, &netns), &node);
            assert_eq!(answer.code(), 4, "{answer:?}");
        }
        bounded(&Call::new("DEL", &pod.uid, &netns), &node).succeeded();
    }
    assert!(node.is_clean(&pod.uid));
    end(&mut deaf);
}

#[test]
fn a_file_system_of_the_pods_that_never_answers_is_waited_for_until_the_deadline() {
    let (node, pod) = Node::with_pod();
    let mut deaf = deaf(&pod);
    let call = pod.add().set("attach_timeout", json!(1));
    let call = call.set("libvirt_sockets", json!(["/run/libvirt/deaf/libvirt-sock", SOCKET]));
    let begun = Instant::now();
    let answer = bounded(&call, &node);
    assert_eq!(answer.code(), 11, "{answer:?}");
    assert!(answer.text().contains("took too long"), "{answer:?}");
    assert!(begun.elapsed() < MARGIN, "{:?}", begun.elapsed());
    assert!(node.is_clean(&pod.uid));
    end(&mut deaf);
}

/// Binds a socket to the abstract name that it is given, and keeps it.
const NAMED: &str = r#"
import socket, sys, time
named = socket.socket(socket.AF_UNIX)
named.bind(b"\0" + sys.argv[1].encode())
print(1, flush=True)
time.sleep(600)
"#;

/// The kernel prints a socket's name as it is in its list of them. A host's process that connects to a pod's socket takes
/// the socket's name into the host's list, where another pod's connections are looked for.
#[test]
fn a_sockets_name_with_a_line_break_in_it_is_no_connection_of_anybodys() {
    let (node, pod, _double, plane) = Node::with_vm();
    let add = pod.add();
    let check = add.clone().command("CHECK");
    add.run(&node).succeeded();
    check.run(&node).succeeded();
    drop(plane);
    until("CHECK misses the data plane", || {
        let answer = check.run(&node);
        !answer.ok && answer.code() == 104 && answer.text().contains("data plane")
    });

    // A socket that a process of the pod has, to be sure, but one of libvirt's.
    let sockets = node.sh(&format!("cat /proc/{}/net/unix", pod.pid));
    let line = sockets.lines().find(|line| line.ends_with(SOCKET)).unwrap();
    let inode = line.split_whitespace().nth(6).unwrap();
    let forged = format!("\n0: 3 0 0 1 03 {inode} {INSIDE}/net1");
    for mut command in [node.command("python3"), pod.command("python3")] {
        let mut forger = command.args(["-c", NAMED, &forged]).stdout(Stdio::piped()).spawn().unwrap();
        forger.stdout.as_mut().unwrap().read_exact(&mut [0; 2]).expect("the name is bound");
        let list = format!("cat /proc/1/net/unix /proc/{}/net/unix", pod.pid);
        assert!(node.sh(&list).contains(&forged), "the kernel prints it otherwise");
        let answer = check.run(&node);
        assert_eq!(answer.code(), 104, "{answer:?}");
        assert!(answer.text().contains("data plane"), "{answer:?}");
        end(&mut forger);
    }
    add.command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn a_list_of_sockets_that_cannot_be_read_does_not_tell_that_the_nic_is_gone() {
    let (node, pod, mut double, _plane) = Node::with_vm();
    let del = pod.del();
    bounded(&del.clone().command("ADD"), &node).succeeded();
    // Of this one the share alone is recorded: a VM that has migrated here may have brought the NIC.
    let brought = del.clone().ifname("net2");
    bounded(&brought.clone().command("ADD").set("attach", json!("never")), &node).succeeded();
    end(&mut double.child);
    // A directory can be opened, and not read.
    let list = format!("/proc/{}/net", pod.pid);
    node.sh(&format!("mkdir -p /run/net/unix && mount --bind /run/net {list}"));
    for del in [&del, &brought] {
        let answer = bounded(del, &node);
        assert_eq!(answer.code(), 11, "{answer:?}");
        assert!(answer.text().contains("cannot be known"), "{answer:?}");
    }
    assert!(node.is_shared(&pod.uid) && node.holds(&format!("test -S {}/net1", node.target(&pod.uid))));
    node.sh(&format!("umount {list}"));
    bounded(&brought, &node).succeeded();
    bounded(&del, &node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn who_plays_the_data_plane_is_handed_nothing_of_anybodys() {
    let (node, pod) = Node::with_pod();
    let _double = Double::start(&pod, &json!({}));
    let path = std::env::temp_dir().join(format!("vhu-handed-{}", std::process::id()));
    let plane = DataPlane::writing(&node, &pod, "net1", &[], std::fs::File::create(&path).unwrap());
    let add = pod.add();
    add.run(&node).succeeded();
    add.command("DEL").run(&node).succeeded();
    let written = || std::fs::read_to_string(&path).unwrap();
    until("the probe's connections have ended", || written().lines().count() >= 2);
    let written = written();
    let handed: Vec<&str> = written.lines().next().unwrap().split("; ").skip(1).collect();
    let event = |request: u32| format!("{request}: no memory");
    let memory = "5: 2097152 bytes, zeros true, seals SealFlags(SEAL | SHRINK | GROW".to_owned();
    assert!(handed.first().is_some_and(|first| first.starts_with(&memory)), "{written}");
    assert_eq!(handed[1..], [event(13), event(12), event(13), event(12)], "{written}");
    assert!(
        !written.lines().nth(1).unwrap().contains("; "),
        "the connection that is kept is handed nothing: {written}"
    );
    drop(plane);
    std::fs::remove_file(path).unwrap();
}
