//! A socket that QEMU has kept, since libvirt ended in the middle of an attach: told apart from an attach that is under
//! way, and named, with the way out.

use std::io::Read;
use std::process::{Child, Stdio};

use serde_json::json;
use support::libvirt::{client, nics};
use support::patience::until;
use support::{Answer, Double, INSIDE, KUBELET, Node, Pod, STATE, end};
use vhostuser_hotplug::deadline::Deadline;
use vhostuser_hotplug::libvirt::{Scope, Xml};

/// Listens at a path, under a name.
const LISTENER: &str = "import socket, sys, time
open('/proc/self/comm', 'w').write(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen()
print('ready', flush=True)
time.sleep(1000)";

/// A process of the pod that listens at a path; it ends with this value.
pub struct Listener(Child);

impl Listener {
    pub fn start(pod: &Pod, name: &str, path: &str) -> Self {
        let mut command = pod.command("python3");
        let mut child = command.args(["-c", LISTENER, name, path]).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        Self(child)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// The words hold all of this, and do not say that the VM stands still.
fn told(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    assert!(!text.contains("stands still") && !text.contains("under way"), "{text}");
}

fn failed(answer: &Answer, code: u64, words: &[&str]) {
    assert_eq!(answer.code(), code, "{answer:?}");
    told(&answer.text(), words);
}

#[test]
fn a_socket_that_qemu_has_kept_is_named_by_all_with_the_way_out() {
    let (node, pod, double, _plane) = Node::with_vm();
    let path = format!("{INSIDE}/net1");
    let person = |words: &[&str]| node.person(&[words, &["--kubelet-dir", KUBELET]].concat());
    let monitor = "virsh qemu-monitor-command 11111111-2222-3333-4444-555555555555 --hmp";
    let commands = format!(
        "Run {monitor} 'device_del ua-net1'; {monitor} 'netdev_del hostua-net1'; {monitor} 'chardev-remove charua-net1' ("
    );
    let listens = format!("listens at its socket {path}");
    for (name, way_out) in [("qemu-system-x86", commands.as_str()), ("impostor", "end that process")] {
        let listener = Listener::start(&pod, name, &path);
        let who = if way_out == commands { "but QEMU (process " } else { " (impostor) listens" };
        let words = [who, &listens, way_out];
        failed(&pod.add().run(&node), 11, &words);
        assert_eq!(double.count("attach"), 0);
        drop(listener);
        pod.command("rm").args(["-f", &path]).status().unwrap();
    }
    // Once more, with a record of the NIC. Somebody unplugs it, and then it is as above.
    pod.add().run(&node).succeeded();
    let mut client = client(&pod);
    let soon = || Deadline::after(std::time::Duration::from_secs(30));
    let domain = client.domains(soon()).unwrap().remove(0);
    client.detach_alias(&domain, "ua-net1", Scope::Live, soon()).unwrap();
    until("the NIC goes", || nics(&pod, Xml::Live).is_empty());
    let listener = Listener::start(&pod, "qemu-system-x86", &path);
    let words = ["but QEMU (process ", &listens, &commands];
    failed(&pod.call("CHECK").run(&node), 104, &words);
    let shown = person(&["inspect", "default/vm", "net1"]);
    assert!(!shown.ok, "{shown:?}");
    told(&shown.out, &words);
    let json = person(&["inspect", "default/vm", "net1", "--json"]).json();
    assert_eq!(json["attachments"][0]["nic"]["vm"]["nic"], "left-over", "{json:#}");
    failed(&pod.del().run(&node), 11, &words);
    failed(&pod.add().run(&node), 11, &words);
    drop(listener);
    pod.del().run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

/// What another client has plugged at the NIC's socket by then is no such thing.
#[test]
fn a_nic_of_another_vm_of_the_pod_is_not_taken_for_a_socket_that_was_kept() {
    let (node, pod, _plane) = Node::with_plane();
    let path = format!("{INSIDE}/net1");
    let nic = format!(
        "<interface type='vhostuser'><mac address='02:00:00:00:00:01'/><source type='unix' path='{path}' mode='server'/>\
         <model type='virtio'/><alias name='ua-other'/></interface>"
    );
    let xml = support::libvirt::DOMAIN.replace("<devices>", &format!("<devices>{nic}"));
    let domains =
        [support::libvirt::domain("one", "1", support::libvirt::DOMAIN), support::libvirt::domain("two", "2", &xml)];
    let _double = Double::start(&pod, &json!({"domains": domains}));
    let _listener = Listener::start(&pod, "qemu-system-x86", &path);
    let answer = pod.add().set("domain", json!("one")).run(&node);
    failed(&answer, 100, &["The VM two has a NIC at the socket"]);
}

/// An attach whose answer never came is not one in which QEMU waits.
#[test]
fn a_connection_that_is_lost_in_an_attach_is_not_a_vm_that_stands_still() {
    let (node, pod, _plane) = Node::with_plane();
    for lie in ["close", "done-but-close"] {
        let double = Double::start(&pod, &json!({"lies": [{"at": "attach", "nth": 1, "lie": lie}]}));
        failed(&pod.add().run(&node), 11, &["not known whether libvirt plugs the NIC"]);
        pod.del().run(&node).succeeded();
        assert!(node.is_clean(&pod.uid));
        drop(double);
    }
}

#[test]
fn a_nic_whose_record_and_alias_are_lost_is_told_with_its_alias() {
    let (node, pod, double, _plane) = Node::with_vm();
    let own = json!({"cni": {"vhostuser-hotplug": {"alias": "ua-data"}}});
    pod.add().set("args", own).run(&node).succeeded();
    node.sh(&format!("rm -r {STATE}"));
    let del = pod.del().without("prevResult");
    failed(&del.run(&node), 11, &["has a NIC at the socket", "alias ua-data", "detach-device-alias"]);
    assert_eq!(double.count("detach-alias"), 0);
    // With the MAC that the ADD had, it is the plugin's.
    pod.del().run(&node).succeeded();
    assert_eq!(double.count("detach-alias"), 1);
    assert!(node.is_clean(&pod.uid));
}
