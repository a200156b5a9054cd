//! The files of conflist/, read and used as they stand.

use serde_json::{Value, json};
use yaml_rust2::{Yaml, YamlLoader};

use super::containerd::Containerd;
use super::lab::{Answer, Conflist, Pod, call, lab};

const NAD: &str = include_str!("../../conflist/nad.yaml");
const POD: &str = include_str!("../../conflist/pod.yaml");
const PLUG: &str = include_str!("../../conflist/plug.yaml");
const HOTPLUG: &str = include_str!("../../conflist/hotplug.conflist");
const PRIMARY: &str = include_str!("../../conflist/01-kube-ovn.conflist");
/// Where it is for the node, which sees the machine's files.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conflist/plug.sh");

fn yaml(text: &str) -> Vec<Yaml> {
    YamlLoader::load_from_str(text).unwrap()
}

fn text(value: &Yaml) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value:?}"))
}

/// The NetworkAttachmentDefinition's configuration, as the dynamic networks controller sends it.
fn network(namespace: &str, name: &str) -> Value {
    let documents = yaml(NAD);
    let metadata = |document: &Yaml| {
        (text(&document["metadata"]["namespace"]) == namespace, text(&document["metadata"]["name"]) == name)
    };
    let mut definitions =
        documents.iter().filter(|document| document["kind"].as_str() == Some("NetworkAttachmentDefinition"));
    let definition =
        definitions.find(|document| metadata(document) == (true, true)).expect("a definition of that name");
    serde_json::from_str(text(&definition["spec"]["config"])).unwrap()
}

/// What plug.yaml adds to the pod's annotations.
fn elements() -> Vec<Value> {
    let patch = yaml(PLUG).remove(0);
    serde_json::from_str(text(&patch["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"])).unwrap()
}

#[test]
fn the_examples_fit_each_other() {
    let pod = yaml(POD).remove(0);
    let volume = &pod["spec"]["volumes"][0];
    let mount = &pod["spec"]["containers"][0]["volumeMounts"][0];
    assert!(volume["emptyDir"].as_hash().is_some());
    assert_eq!(text(&volume["name"]), text(&mount["name"]));
    assert!(text(&mount["mountPath"]).len() + "/pod59cc33fa39b".len() <= 107, "a unix socket's path");

    for element in elements() {
        let (namespace, name) = (element["namespace"].as_str().unwrap(), element["name"].as_str().unwrap());
        assert!(element["interface"].as_str().unwrap().len() <= 12 && namespace == text(&pod["metadata"]["namespace"]));
        let list = network(namespace, name);
        assert_eq!(list, serde_json::from_str::<Value>(HOTPLUG).unwrap(), "one network, in two shapes");
        let provider = format!("{name}.{namespace}.ovn");
        let (kube_ovn, ours) = (&list["plugins"][0], &list["plugins"][1]);
        assert_eq!(kube_ovn["provider"], provider);
        for key in ["vhost_user_socket_volume_name", "vhost_user_socket_consumption"] {
            assert!(kube_ovn[key].is_string() && kube_ovn[key] == ours[key], "{key}");
        }
        assert_eq!(ours["vhost_user_socket_volume_name"], text(&volume["name"]));
        let subnet = yaml(NAD).into_iter().find(|document| document["kind"].as_str() == Some("Subnet")).unwrap();
        assert_eq!(text(&subnet["spec"]["provider"]), provider);
    }
}

/// The dynamic networks controller's call of thick Multus for an element of the annotation.
fn delegate(command: &str, pod: &Pod, element: &Value) -> Answer {
    let mut list = network(element["namespace"].as_str().unwrap(), element["name"].as_str().unwrap());
    // What the NIC alone asks for goes into each plugin's object, and on the way out is not sent.
    if command == "add" {
        for plugin in list["plugins"].as_array_mut().unwrap() {
            plugin["args"] = json!({"cni": element["cni-args"]});
        }
    }
    let conflist = Conflist::new(&list);
    let args = format!(
        "IgnoreUnknown=true;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID=;K8S_POD_UID={}",
        pod.fact("NAMESPACE"),
        pod.name,
        pod.fact("POD_UID")
    );
    let variables = [
        ("CNI_CONTAINERID", pod.fact("CID")),
        ("CNI_NETNS", pod.fact("NETNS")),
        ("CNI_IFNAME", element["interface"].as_str().unwrap()),
        ("CNI_ARGS", &args),
    ];
    call(&["multus", command, conflist.path()], &variables, "")
}

/// plug.sh, as a controller runs it.
fn script(command: &str, pod: &Pod, ifname: &str) -> Answer {
    let name = format!("{}/{}", pod.fact("NAMESPACE"), pod.name);
    let netns = format!("/proc/{}/ns/net", pod.fact("PID"));
    call(&["exec", SCRIPT, command, &name, ifname, pod.fact("CID"), &netns], &[], "")
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn the_examples_plug_ping_and_unplug_as_they_stand() {
    let description = yaml(POD).remove(0);
    let name = text(&description["metadata"]["name"]);
    let sockets = text(&description["spec"]["containers"][0]["volumeMounts"][0]["mountPath"]);
    let _containerd = Containerd::start("1", &[("01-kube-ovn.conflist", PRIMARY)]);
    let pod = Pod::named(name, &["--cri", "--sockets", sockets]);
    let xml = || lab(&["virsh", &pod.name, "dumpxml", pod.fact("DOMAIN")]);

    for element in elements() {
        let nic = delegate("add", &pod, &element).nic();
        let wanted = format!("path='{sockets}/{}'", element["interface"].as_str().unwrap());
        assert!(xml().contains(&wanted) && xml().contains("queues='2'"), "{}", xml());
        pod.ping(&nic);
        delegate("add", &pod, &element).succeeded();
        delegate("check", &pod, &element).succeeded();
        delegate("del", &pod, &element).succeeded();
        assert!(!pod.guest_has(&nic));
        delegate("del", &pod, &element).succeeded();
    }

    let nic = script("add", &pod, "pod59cc33fa39b").nic();
    pod.ping(&nic);
    script("add", &pod, "pod59cc33fa39b").succeeded();
    script("del", &pod, "pod59cc33fa39b").succeeded();
    assert!(!pod.guest_has(&nic));
    script("del", &pod, "pod59cc33fa39b").succeeded();

    // No VM runs: nothing of the attempt is left, kube-ovn's port neither.
    lab(&["vm", &pod.name, "destroy"]);
    let answer = script("add", &pod, "net2");
    assert!(!answer.ok && answer.words.contains("\"code\":11"), "{answer:?}");
    let ports = lab(&["ovs", "--bare", "--columns=name", "find", "interface", "type=dpdkvhostuserclient"]);
    assert_eq!(ports, "", "{answer:?}");
}
