//! OVSDB as a double says it, for what the real one never says: whatever it answers, a NIC that a data plane serves is
//! plugged.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use support::{Call, DataPlane, Double, Node};

use super::cgroup::Cgroup;
use super::identity::started;

/// What a server does with a connection.
type Conversation = fn(UnixStream);

/// A server at OVSDB's socket on a node; it ends with this value.
struct Server {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    path: std::path::PathBuf,
}

impl Server {
    fn start(node: &Node, conversation: impl Fn(UnixStream) + Send + Sync + 'static) -> Self {
        node.sh("mkdir -p /run/openvswitch");
        let path = node.root().join("run/openvswitch/db.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ended, count, conversation) = (Arc::clone(&over), Arc::clone(&asked), Arc::new(conversation));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                count.fetch_add(1, Ordering::AcqRel);
                let conversation = Arc::clone(&conversation);
                thread::spawn(move || conversation(stream));
            }
        });
        Self { over, asked, path }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads one request, as far as a read brings it.
fn request(stream: &mut UnixStream) -> usize {
    stream.read(&mut [0; 65_536]).unwrap_or_default()
}

fn says(mut stream: UnixStream, bytes: &[u8]) {
    request(&mut stream);
    let _ = stream.write_all(bytes);
    // Until the plugin has had enough.
    while request(&mut stream) > 0 {}
}

fn says_without_end(mut stream: UnixStream, bytes: &[u8]) {
    request(&mut stream);
    while stream.write_all(bytes).is_ok() {}
}

/// What a peer that never ends may come to, by how fast the machine is.
const ENDLESS: &str = "broke the protocol|did not answer in time";

/// Everything that no OVSDB says, and what the log then says, or one of these.
const HOSTILE: [(&str, Conversation, &str); 9] = [
    ("garbage", |stream| says(stream, b"\xff\xfe\0garbage"), "broke the protocol"),
    ("silence", |stream| says(stream, b""), "did not answer in time"),
    ("half of an answer", |stream| says(stream, br#"{"id":0,"result":[{"rows":["#), "did not answer in time"),
    ("an end", drop, "closed the connection"),
    ("an endless answer", |stream| says_without_end(stream, &[b'['; 65_536]), ENDLESS),
    (
        "an endless object",
        |mut stream| {
            let _ = stream.write_all(b"{");
            says_without_end(stream, &[b' '; 65_536]);
        },
        ENDLESS,
    ),
    (
        "depth",
        |stream| says(stream, &[br#"{"id":0,"result":"#.as_slice(), &[b'['; 100_000]].concat()),
        "did not answer in time",
    ),
    ("questions without end", |stream| says_without_end(stream, br#"{"id":1,"method":"echo","params":[]}"#), ENDLESS),
    (
        "other rows",
        |stream| says(stream, br#"{"id":0,"error":null,"result":[{"rows":[7]},{"rows":[{}]},{}]}"#),
        "broke the protocol",
    ),
];

#[test]
fn an_ovsdb_that_says_what_none_says_keeps_no_nic_from_its_vm() {
    let (node, pod, _double, _plane) = Node::with_vm();
    let add = pod.add();
    for (what, conversation, expected) in HOSTILE {
        let server = Server::start(&node, conversation);
        let answer = add.run(&node);
        answer.succeeded();
        let told = answer.log.lines().any(|line| {
            line.contains("OVSDB (/run/openvswitch/db.sock)") && expected.split('|').any(|words| line.contains(words))
        });
        assert!(told, "{what}: {}", answer.log);
        add.clone().command("CHECK").run(&node).succeeded();
        assert!(server.asked.load(Ordering::Acquire) >= 2, "{what}");
        add.clone().command("DEL").run(&node).succeeded();
    }
    assert!(node.is_clean(&pod.uid));
}

/// A process that is killed leaves its socket behind.
#[test]
fn an_ovsdb_that_was_killed_is_logged_and_keeps_no_nic_from_its_vm() {
    let (node, pod, _double, _plane) = Node::with_vm();
    node.sh("mkdir -p /run/openvswitch");
    drop(UnixListener::bind(node.root().join("run/openvswitch/db.sock")).unwrap());
    let add = pod.add();
    let answer = add.run(&node);
    answer.succeeded();
    let told = "OVSDB (/run/openvswitch/db.sock) could not be asked about the NIC's port: nothing listens there";
    assert!(answer.log.contains(told), "{}", answer.log);
    add.clone().command("CHECK").run(&node).succeeded();
    add.command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

/// The database's answer, with one switch and these ports.
fn answer(ports: &[Value]) -> Vec<u8> {
    let switch = json!({"dpdk_initialized": true, "dpdk_version": "DPDK 24.11.8", "ovs_version": "3.5.0",
                        "external_ids": ["map", []], "other_config": ["map", [["dpdk-init", "true"]]]});
    json!({"id": 0, "error": null, "result": [{"rows": [switch]}, {"rows": ports}, {"rows": []}]})
        .to_string()
        .into_bytes()
}

fn port(name: &str, path: &str) -> Value {
    json!({"_uuid": ["uuid", "7a"], "name": name, "type": "dpdkvhostuserclient", "error": ["set", []], "ofport": 3,
           "link_state": "down", "options": ["map", [["vhost-server-path", path]]], "external_ids": ["map", []]})
}

#[test]
fn names_in_ovsdb_forge_neither_a_line_nor_a_command() {
    let (node, pod, double, _plane) = Node::with_vm();
    let path = format!("/var/run/openvswitch/vhost_sockets/{}/vhostuser-sockets/net1", pod.uid);
    let own = json!(["map", [["iface-id", "vm.default"]]]);
    let mut sound = port("4f3c2b1a_net1_h", &path);
    sound["external_ids"] = own;
    let reply = answer(&[sound, port("x$(reboot)\n code=0: done", &path)]);
    let _server = Server::start(&node, move |stream| says(stream, &reply));
    let told = pod.add().run(&node);
    assert_eq!(told.code(), 11, "{told:?}");
    let text = told.text();
    assert!(text.contains(r#""x$(reboot)\n code=0: done" (stale: it has no iface-id)"#), "{text}");
    assert!(text.contains("--with-iface del-port NAME") && !text.contains("del-port x"), "{text}");
    assert_eq!(double.count("attach"), 0);
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn a_node_without_ovs_is_asked_nothing_and_misses_nothing() {
    let (node, pod, _double, _plane) = Node::with_vm();
    let add = pod.add();
    let answer = add.run(&node);
    answer.succeeded();
    assert!(!answer.log.contains("OVSDB") && !answer.log.contains("OVS asked"), "{}", answer.log);
    add.clone().command("CHECK").run(&node).succeeded();
    add.command("DEL").run(&node).succeeded();
}

#[test]
fn a_del_by_the_name_of_a_process_that_has_ended_leaves_the_ports_of_the_pods_other_nics() {
    let (node, mut pod) = Node::with_pod();
    let group = Cgroup::new(&format!("kubepods/pod{}/1", pod.uid), pod.machine_pid());
    let mut sidecar = pod.start_container(false);
    let double = Double::start(&pod, &json!({}));
    group.add(started(double.child.id()));
    let _planes = ["net1", "net2"].map(|nic| DataPlane::start(&node, &pod, nic));
    let netns = sidecar.netns();
    let uid = pod.uid.clone();
    let nic = |ifname: &str, mac: &str| Call::new("ADD", &uid, &netns).ifname(ifname).mac(mac);
    let (one, two) = (nic("net1", "00:00:00:24:65:f1"), nic("net2", "00:00:00:24:65:f2"));
    let port = |ifname: &str| {
        let path = format!("/var/run/openvswitch/vhost_sockets/{uid}/vhostuser-sockets/{ifname}");
        let mut port = port(&format!("4f3c2b1a_{ifname}_h"), &path);
        port["_uuid"] = json!(["uuid", ifname]);
        port["external_ids"] =
            json!(["map", [["pod_name", "vm"], ["pod_namespace", "default"], ["pod_netns", netns.as_str()]]]);
        port
    };
    let reply = answer(&[port("net1"), port("net2")]);
    // Whose port is about to be removed: it is asked for first, and is in no bridge.
    let sought = Arc::new(Mutex::new(String::new()));
    let noted = Arc::clone(&sought);
    let _server = Server::start(&node, move |mut stream| {
        let mut buffer = [0; 65_536];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            let question: Value = serde_json::from_slice(&buffer[..read]).unwrap();
            let reply = if question["params"][1]["table"] == "Port" {
                noted.lock().unwrap().push_str(question["params"][1]["where"][0][2][1].as_str().unwrap());
                br#"{"id":0,"error":null,"result":[{"rows":[]}]}"#.to_vec()
            } else {
                reply.clone()
            };
            stream.write_all(&reply).unwrap();
        }
    });
    one.run(&node).succeeded();
    two.run(&node).succeeded();
    sidecar.die();
    one.command("DEL").run(&node).succeeded();
    assert_eq!(*sought.lock().unwrap(), "net1");
    assert_eq!(double.count("detach-alias"), 1);

    // With the pod, all of the sandbox' ports go.
    sought.lock().unwrap().clear();
    drop(double);
    pod.die();
    drop(group);
    two.command("DEL").netns("").run(&node).succeeded();
    assert_eq!(*sought.lock().unwrap(), "net1net2");
}
