//! deploy/: what its files say holds for the binary and for install.sh.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use super::machine::BINARY;

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)).unwrap()
}

/// What a YAML document says, as JSON, which is easier to look into.
fn json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Boolean(is) => Value::from(*is),
        Yaml::Integer(number) => Value::from(*number),
        Yaml::String(text) => Value::from(text.as_str()),
        Yaml::Array(items) => items.iter().map(json).collect(),
        Yaml::Hash(items) => items.iter().map(|(key, value)| (key.as_str().unwrap().to_owned(), json(value))).collect(),
        Yaml::Null => Value::Null,
        other => panic!("{other:?}"),
    }
}

/// The DaemonSet's pod.
fn pod() -> Value {
    let documents = YamlLoader::load_from_str(&file("daemonset.yaml")).unwrap();
    let daemonset = json(&documents[0]);
    assert_eq!((&daemonset["apiVersion"], &daemonset["kind"]), (&"apps/v1".into(), &"DaemonSet".into()));
    let spec = &daemonset["spec"];
    assert_eq!(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]);
    spec["template"]["spec"].clone()
}

fn containers(pod: &Value) -> Vec<&Value> {
    let of = |key: &str| pod[key].as_array().unwrap().iter();
    of("initContainers").chain(of("containers")).collect()
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

#[test]
fn the_binary_knows_the_words_that_the_daemonset_gives_it() {
    let pod = pod();
    for container in containers(&pod) {
        let args = words(&container["args"]);
        // Asked for its help besides, clap still refuses what it does not know before it.
        let output = Command::new(BINARY).args(&args).arg("--help").output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let output = Command::new(BINARY).args(&args).arg("--no-such-option").output().unwrap();
        assert_eq!(output.status.code(), Some(2));
    }
    let probe = words(&pod["containers"][0]["readinessProbe"]["exec"]["command"]);
    assert_eq!(probe, ["/vhostuser-hotplug", "install", "--check"]);
    assert!(file("Containerfile").contains(&format!("COPY vhostuser-hotplug {}", probe[0])));
}

#[test]
fn what_it_mounts_is_where_the_binary_looks() {
    let help = Command::new(BINARY).args(["keep", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let pod = pod();
    for container in containers(&pod) {
        let mounts = container["volumeMounts"].as_array().unwrap();
        assert_eq!(mounts.len(), 2, "nothing else of the node is seen");
        for mount in mounts {
            let path = mount["mountPath"].as_str().unwrap();
            assert!(help.contains(&format!("[default: {path}]")), "{path}: {help}");
            let volumes = pod["volumes"].as_array().unwrap();
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
            assert_eq!(volume["hostPath"]["path"], path);
            assert_eq!(mount["mountPropagation"], Value::Null);
        }
    }
}

#[test]
fn no_container_has_more_power_than_its_directories_ask_for() {
    let pod = pod();
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!((&pod["hostPID"], &pod["hostIPC"]), (&Value::Null, &Value::Null));
    for container in containers(&pod) {
        let context = &container["securityContext"];
        assert_eq!(context["privileged"], false);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"], serde_json::json!({"drop": ["ALL"]}));
        assert!(container["image"].as_str().unwrap().ends_with(concat!(":", env!("CARGO_PKG_VERSION"))));
        assert!(container["resources"]["limits"]["memory"].is_string());
    }
}
