//! What a real OVS says of a NIC's port, as ADD, CHECK, `inspect`, `list` and `doctor` tell it. OVN's part is played by hand.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::lab::{Answer, Pod, call, holds, lab, log};

/// The NIC of these tests.
const NIC: &str = "net1";

/// OVS as the lab started it, however the test ends.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        for cont in ["ovs-cont", "ovsdb-cont"] {
            let _ = holds(&[cont]);
        }
        if !holds(&["ovs", "--timeout=5", "get", "open_vswitch", ".", "external_ids"]) {
            lab(&["ovsdb-start"]);
        }
        lab(&["ovs", "--no-wait", "set", "open_vswitch", ".", "other_config:dpdk-init=true"]);
        lab(&["ovs", "--no-wait", "remove", "open_vswitch", ".", "external_ids", "ovn-remote"]);
        for port in ports() {
            lab(&["ovs", "--no-wait", "--with-iface", "del-port", &port]);
        }
        // A process that has met two ports with one path is of no use any more.
        let _ = holds(&["ovs-kill"]);
        lab(&["ovs-start"]);
    }
}

/// All vhost-user ports.
fn ports() -> Vec<String> {
    let found = lab(&["ovs", "--bare", "--columns=name", "find", "interface", "type=dpdkvhostuserclient"]);
    found.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The path of a socket in the pod's share as OVS knows it.
fn path(pod: &Pod, socket: &str) -> String {
    format!("/var/run/openvswitch/vhost_sockets/{}/vhostuser-sockets/{socket}", pod.fact("POD_UID"))
}

/// Makes a vhost-user port, with columns of the test's own.
fn make_port(name: &str, path: &str, columns: &[&str]) {
    let server = format!("options:vhost-server-path={path}");
    let make = ["ovs", "--timeout=10", "add-port", "br-int", name, "--", "set", "interface", name];
    lab(&[&make[..], &["type=dpdkvhostuserclient", &server], columns].concat());
}

/// The name that kube-ovn gives the NIC's port.
fn own_port(pod: &Pod) -> String {
    format!("{}_{NIC}_h", &pod.fact("CID")[..12 - NIC.len()])
}

fn keys(more: &Value) -> Value {
    let mut keys = json!({"attach_timeout": 4});
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    keys
}

/// A command of the plugin's: what it printed, whatever its exit status.
fn person(words: &[&str]) -> String {
    let plugin = ["exec", "/opt/cni/bin/vhostuser-hotplug"];
    let script = r#""$@" || true"#;
    lab(&[&["exec", "sh", "-c", script, "sh"], &plugin[1..], words].concat())
}

fn said(answer: &Answer) -> String {
    assert_eq!(answer.code(), 11, "{answer:#?}");
    answer.json["msg"].as_str().unwrap().to_owned()
}

fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}\n{}", log());
    }
}

/// Makes sure that the same words are in what ADD, CHECK and `inspect` say of a NIC that is plugged.
fn told_of_a_plugged_nic(pod: &Pod, words: &[&str]) {
    let check = pod.call("check", NIC, &keys(&json!({})));
    assert_eq!(check.code(), 104, "{check:#?}");
    has(check.json["msg"].as_str().unwrap(), &[words, &["data plane: "]].concat());
    has(&person(&["inspect", &format!("{}/{}", pod.fact("NAMESPACE"), pod.name)]), words);
    has(&said(&again(pod)), words);
}

/// The plugin's ADD, without kube-ovn's.
fn again(pod: &Pod) -> Answer {
    let mac = lab(&["virsh", &pod.name, "domiflist", pod.fact("DOMAIN")]);
    let mac =
        mac.split_whitespace().find(|word| word.matches(':').count() == 5).unwrap_or("00:00:00:0a:0b:0c").to_owned();
    let result = json!({"cniVersion": "1.0.0", "interfaces": [{"name": NIC, "mac": mac, "sandbox": "/x"}], "ips": []});
    pod.call_plugin_alone("add", NIC, &keys(&json!({})), &result)
}

fn until_connected(pod: &Pod) {
    let end = Instant::now() + Duration::from_secs(60);
    while !pod.call("check", NIC, &keys(&json!({}))).ok {
        assert!(Instant::now() < end, "OVS does not come back: {}", log());
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn untouched(pod: &Pod) {
    assert!(!pod.xml().contains("<interface"), "the VM was touched: {}", log());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn why_no_data_plane_is_connected_is_told_in_ovs_own_words() {
    let _ovs = Restored;
    let pod = Pod::new(&[]);
    let nic = pod.add(NIC).nic();
    pod.ping(&nic);
    let own = own_port(&pod);

    lab(&["ovs-pause"]);
    told_of_a_plugged_nic(&pod, &["ovs-vswitchd (process ", "does not answer", &own]);
    has(&person(&["doctor"]), &["ovs-vswitchd (process ", "does not answer"]);
    lab(&["ovs-cont"]);

    lab(&["ovs-kill"]);
    told_of_a_plugged_nic(&pod, &["ovs-vswitchd does not run", &own]);
    has(&person(&["doctor"]), &["ovs-vswitchd does not run"]);

    lab(&["ovs", "--no-wait", "set", "open_vswitch", ".", "other_config:dpdk-init=false"]);
    lab(&["ovs-start"]);
    told_of_a_plugged_nic(&pod, &["OVS runs without DPDK", "dpdk-init", &own]);
    has(&person(&["doctor"]), &["runs without DPDK", "ports in error", &own]);
    lab(&["ovs", "--no-wait", "set", "open_vswitch", ".", "other_config:dpdk-init=true"]);
    lab(&["ovs-kill"]);
    lab(&["ovs-start"]);
    until_connected(&pod);

    // Without its database OVS goes on, and so does the NIC.
    lab(&["ovsdb-pause"]);
    pod.call("check", NIC, &keys(&json!({}))).succeeded();
    has(&person(&["doctor"]), &["ovsdb-server does not answer"]);
    lab(&["ovsdb-cont"]);
    lab(&["ovsdb-kill"]);
    pod.call("check", NIC, &keys(&json!({}))).succeeded();
    has(&person(&["doctor"]), &["nothing listens at /run/openvswitch/db.sock"]);
    lab(&["ovsdb-start"]);

    lab(&["ovs", "--timeout=10", "--with-iface", "del-port", &own]);
    let other = path(&pod, NIC).replace(pod.fact("POD_UID"), "22222222-0000-4000-8000-000000000000");
    make_port(&own, &other, &[]);
    // As a sentence of its own it begins with a capital.
    told_of_a_plugged_nic(&pod, &["o port of OVS has this vhost-server-path", &own, &other]);
    lab(&["ovs", "--timeout=10", "--with-iface", "del-port", &own]);
    pod.del(NIC).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_port_that_cannot_work_is_told_before_the_vm_is_touched() {
    let _ovs = Restored;
    let pod = Pod::new(&[]);
    // Nothing but a leftover of the pod that was there before.
    let own = own_port(&pod);
    let pod_ids = [
        format!("external_ids:pod_name={}", pod.name),
        format!("external_ids:pod_namespace={}", pod.fact("NAMESPACE")),
    ];
    let ids: Vec<&str> = pod_ids.iter().map(String::as_str).collect();
    let other = path(&pod, NIC).replace(pod.fact("POD_UID"), "22222222-0000-4000-8000-000000000000");
    make_port(&own, &other, &ids);
    has(&said(&again(&pod)), &["No data plane connected", "port of OVS has this vhost-server-path", &own, &other]);
    untouched(&pod);
    lab(&["ovs", "--timeout=10", "--with-iface", "del-port", &own]);

    // OVS keeps what it said of a port until it configures it anew.
    pod.call("add", NIC, &keys(&json!({"attach": "never"}))).succeeded();
    lab(&["ovs", "--no-wait", "set", "interface", &own, r#"error="could not add network device""#]);
    has(&said(&again(&pod)), &["VM was left as it is", &own, "is in error", "could not add network device"]);
    untouched(&pod);
    has(&person(&["doctor"]), &["ports in error", &own, "could not add network device"]);
    lab(&["ovs", "--no-wait", "clear", "interface", &own, "error"]);

    // A database that hangs or is gone is no reason to fail.
    for (begin, end) in [("ovsdb-pause", "ovsdb-cont"), ("ovsdb-kill", "ovsdb-start")] {
        lab(&[begin]);
        let answer = again(&pod);
        lab(&[end]);
        answer.succeeded();
        pod.call_plugin_alone("del", NIC, &keys(&json!({})), &Value::Null);
    }
    pod.del(NIC).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn two_ports_with_one_path_are_refused_and_the_way_out_leads_to_success() {
    let _ovs = Restored;
    let pod = Pod::new(&[]);
    let own = own_port(&pod);
    let dead =
        ["external_ids:pod_netns=/run/netns/of-before", "external_ids:pod_name=x", "external_ids:pod_namespace=x"];

    // Of an earlier sandbox, with the very same path: OVS is broken from now on.
    make_port("0dead0d_net1_h", &path(&pod, NIC), &dead);
    let words = said(&pod.add(NIC));
    has(&words, &["VM was left as it is", "0dead0d_net1_h (stale: its sandbox is gone", &own, "restart ovs-vswitchd"]);
    untouched(&pod);
    assert!(ports().contains(&"0dead0d_net1_h".to_owned()), "it was removed while OVS ran");
    has(&person(&["doctor"]), &["ports with the same vhost-server-path", "0dead0d_net1_h", &own]);
    // As the message says.
    lab(&["ovs", "--no-wait", "--with-iface", "del-port", "0dead0d_net1_h"]);
    lab(&["ovs-kill"]);
    lab(&["ovs-start"]);
    pod.del(NIC).succeeded();
    let nic = pod.add(NIC).nic();
    pod.ping(&nic);

    // The same path in other words, beside a NIC that works.
    let spelled = path(&pod, NIC).replace("/var/run/openvswitch/", "/run//openvswitch/./");
    make_port("twin", &spelled, &[]);
    let check = pod.call("check", NIC, &keys(&json!({})));
    assert_eq!(check.code(), 104, "{check:#?}");
    has(
        check.json["msg"].as_str().unwrap(),
        &["data plane: 2 ports", "twin (stale: it has no iface-id)", &own, "safe while OVS runs"],
    );
    has(&person(&["inspect", &format!("{}/{}", pod.fact("NAMESPACE"), pod.name)]), &["twin (stale", &own]);
    has(&person(&["list"]), &["cut off"]);
    has(&said(&again(&pod)), &["twin (stale", &own]);
    lab(&["ovs", "--timeout=10", "--with-iface", "del-port", "twin"]);
    until_connected(&pod);
    pod.del(NIC).succeeded();

    // So spelled, a port of a dead sandbox is removed, and the same ADD goes on.
    make_port("0dead0d_net1_h", &spelled, &dead);
    let nic = pod.add(NIC).nic();
    pod.ping(&nic);
    assert_eq!(ports(), [own]);
    pod.del(NIC).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_port_of_a_dead_sandbox_goes_before_the_next_one_gets_its_path() {
    let _ovs = Restored;
    let pod = Pod::new(&[]);
    let (names, namespace) = (format!("external_ids:pod_name={}", pod.name), pod.fact("NAMESPACE"));
    let namespace = format!("external_ids:pod_namespace={namespace}");
    let leave = |netns: &str, name: &str| {
        let netns = format!("external_ids:pod_netns={netns}");
        make_port(name, &path(&pod, NIC), &[&names, &namespace, &netns]);
    };
    // After a reset of the node, the first ADD of the new sandbox is the primary network's.
    leave("/run/netns/of-before", "0dead0d_net1_h");
    pod.call_plugin_alone(
        "add",
        "eth0",
        &json!({"attach": "never"}),
        &json!({"cniVersion": "1.0.0", "interfaces": []}),
    )
    .succeeded();
    assert_eq!(ports(), Vec::<String>::new(), "{}", log());
    let nic = pod.add(NIC).nic();
    pod.ping(&nic);
    pod.del(NIC).succeeded();

    // One whose namespace is there may be in use.
    leave("/proc/1/ns/net", "0dead0d_net1_h");
    pod.call_plugin_alone("del", "eth0", &json!({}), &Value::Null).succeeded();
    pod.call_plugin_alone(
        "add",
        "eth0",
        &json!({"attach": "never"}),
        &json!({"cniVersion": "1.0.0", "interfaces": []}),
    )
    .succeeded();
    assert_eq!(ports(), ["0dead0d_net1_h"], "{}", log());
    lab(&["ovs", "--timeout=10", "--with-iface", "del-port", "0dead0d_net1_h"]);

    // kube-ovn does nothing in a DEL without CNI_NETNS.
    leave("/run/netns/of-before", &own_port(&pod));
    let conflist = json!({"cniVersion": "1.0.0", "name": "dpdk1", "type": "vhostuser-hotplug"});
    let environment = [
        "CNI_COMMAND=DEL".to_owned(),
        format!("CNI_CONTAINERID={}", pod.fact("CID")),
        format!("CNI_IFNAME={NIC}"),
        "CNI_PATH=/opt/cni/bin".to_owned(),
        format!("CNI_ARGS=K8S_POD_UID={};K8S_POD_NAME={}", pod.fact("POD_UID"), pod.name),
    ];
    let words: Vec<&str> = ["exec", "env"].into_iter().chain(environment.iter().map(String::as_str)).collect();
    let answer = call(&[&words[..], &["/opt/cni/bin/vhostuser-hotplug"]].concat(), &[], &conflist.to_string());
    answer.succeeded();
    assert_eq!(ports(), Vec::<String>::new(), "{}", log());
    pod.call_plugin_alone("del", "eth0", &json!({}), &Value::Null).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_port_that_ovn_has_not_installed_is_no_success_and_one_that_it_dropped_shows() {
    let _ovs = Restored;
    let pod = Pod::new(&[]);
    let own = own_port(&pod);
    lab(&["ovs", "set", "open_vswitch", ".", "external_ids:ovn-remote=unix:/run/ovn/none.sock"]);
    has(
        &said(&pod.call("add", NIC, &keys(&json!({})))),
        &["VM was left as it is", "OVN has not installed port", &own, "iface-id"],
    );
    untouched(&pod);
    pod.del(NIC).succeeded();

    // OVN does so while ADD waits; or before it asks, if the machine is slow.
    pod.call("add", NIC, &keys(&json!({"attach": "never"}))).succeeded();
    let install = format!("sleep 1; ovs-vsctl set interface {own} external_ids:ovn-installed=true");
    std::thread::scope(|scope| {
        scope.spawn(|| lab(&["exec", "sh", "-c", &install]));
        again_long(&pod).succeeded();
    });
    pod.call("check", NIC, &keys(&json!({}))).succeeded();

    lab(&["ovs", "remove", "interface", &own, "external_ids", "ovn-installed"]);
    told_of_a_plugged_nic(&pod, &["OVN has not installed port", "or has dropped it", &own]);
    has(&person(&["list"]), &["cut off"]);
    has(&person(&["doctor"]), &["OVN has not installed", &own]);
    // A port that OVN does not manage.
    lab(&["ovs", "remove", "interface", &own, "external_ids", "iface-id"]);
    pod.call("check", NIC, &keys(&json!({}))).succeeded();
    pod.del(NIC).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

/// The plugin's ADD, without kube-ovn's, with the default deadline.
fn again_long(pod: &Pod) -> Answer {
    let result = json!({"cniVersion": "1.0.0", "interfaces": [{"name": NIC, "mac": "00:00:00:0a:0b:0c", "sandbox": "/x"}], "ips": []});
    pod.call_plugin_alone("add", NIC, &json!({}), &result)
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn an_ovs_that_is_not_root_is_let_in() {
    let _ovs = Restored;
    let pod = Pod::new(&[]);
    let nic = pod.add(NIC).nic();
    pod.ping(&nic);
    lab(&["ovs-stop"]);
    let start = format!("LAB_OVS_USER=nobody:nogroup exec {} ovs-start", super::lab::program());
    assert!(std::process::Command::new("sh").args(["-c", &start]).status().unwrap().success());
    let words = ["may not write to QEMU's socket", "uid 65534", &own_port(&pod)];
    let check = pod.call("check", NIC, &keys(&json!({})));
    assert_eq!(check.code(), 104, "{check:#?}");
    has(check.json["msg"].as_str().unwrap(), &words);
    has(&person(&["inspect", &format!("{}/{}", pod.fact("NAMESPACE"), pod.name)]), &words);
    again(&pod).succeeded();
    pod.ping(&nic);
    pod.del(NIC).succeeded();
    let nic = pod.add(NIC).nic();
    pod.ping(&nic);
    pod.del(NIC).succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn without_any_ovs_another_data_plane_misses_nothing() {
    let _ovs = Restored;
    let pod = Pod::new(&[]);
    lab(&["ovs-stop"]);
    lab(&["ovsdb-kill"]);
    lab(&["exec", "sh", "-c", "rm -f /run/openvswitch/db.sock /run/openvswitch/*.ctl"]);
    let result = json!({"cniVersion": "1.0.0", "interfaces": [{"name": NIC, "mac": "00:00:00:0a:0b:0c", "sandbox": "/x"}], "ips": []});
    let call = |command, keys: &Value| pod.call_plugin_alone(command, NIC, keys, &result);
    // testpmd starts on a share that is there.
    call("add", &json!({"attach": "never"})).succeeded();
    lab(&["testpmd", &path(&pod, NIC)]);
    let before = lab(&["log"]).len();
    call("add", &json!({})).succeeded();
    assert!(!lab(&["log"])[before..].contains("OVS"), "{}", log());
    call("check", &json!({})).succeeded();
    has(&person(&["inspect", &format!("{}/{}", pod.fact("NAMESPACE"), pod.name)]), &["Data plane:  connected"]);
    has(&person(&["doctor"]), &["there is no socket /run/openvswitch/db.sock"]);
    lab(&["testpmd-kill"]);
    let gone = call("check", &json!({}));
    assert_eq!(gone.code(), 104, "{gone:#?}");
    has(gone.json["msg"].as_str().unwrap(), &["data plane: nobody is connected"]);
    call("del", &json!({})).succeeded();
    lab(&["ovsdb-start"]);
    lab(&["ovs-start"]);
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}
