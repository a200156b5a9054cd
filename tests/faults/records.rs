//! Records of other versions of the plugin, as they lie on a node whose plugin is exchanged between ADD and DEL.

use serde_json::{Value, json};
use support::scene::Scene;
use support::{INSIDE, Node, STATE};

/// What the first version of format 1 wrote, to the letter. Not to be changed: it is what nodes have.
const FORMAT_1: &str = r#"{"format":1,"network":"kube-ovn","container_id":"4f3c2b1a09876543","ifname":"net1","uid":"@UID@","pod":"default/vm","netns":"@NETNS@","volume":"vhostuser-sockets","socket_base_dir":"/run/openvswitch/vhost_sockets","nic":{"alias":"ua-net1","mac":"00:00:00:24:65:f4","path":"/run/vm/sockets/net1","socket":"net1","domain":"11111111222233334444555555555555","attached":true},"created":1763888000}"#;

fn path(scene: &Scene) -> String {
    format!("{STATE}/pods/{}/net1@4f3c2b1a09876543.json", scene.pod.uid)
}

/// What another version would have written of this pod's attachment, `change`d.
fn put(scene: &Scene, change: impl FnOnce(&mut Value)) {
    let text = FORMAT_1.replace("@UID@", &scene.pod.uid).replace("@NETNS@", &scene.pod.netns());
    let mut record: Value = serde_json::from_str(&text).unwrap();
    change(&mut record);
    scene.node.sh(&format!("echo '{record}' > {}", path(scene)));
}

#[test]
fn a_record_of_the_first_version_is_undone_by_this_one() {
    let node = Node::new();
    let scene = Scene::new(&node);
    scene.run("ADD");
    assert_eq!(INSIDE, "/run/vm/sockets", "as the fixture says");
    put(&scene, |_| ());
    scene.run("CHECK");
    // Without anything that the record does not tell.
    scene.call("DEL").netns("").args("").without("prevResult").run(&node).succeeded();
    scene.is_clean();
}

#[test]
fn fields_that_are_not_known_are_passed_over() {
    let node = Node::new();
    let scene = Scene::new(&node);
    scene.run("ADD");
    put(&scene, |record| {
        record["later"] = json!({"a": [1, null]});
        record["nic"]["later"] = json!(4);
    });
    scene.run("CHECK");
    scene.run("ADD");
    scene.is_whole();
    scene.call("DEL").netns("").args("").without("prevResult").run(&node).succeeded();
    scene.is_clean();
}

#[test]
fn a_record_of_a_newer_format_is_told_of_and_blocks_nothing() {
    let node = Node::new();
    let scene = Scene::new(&node);
    for command in ["ADD", "DEL"] {
        scene.run("ADD");
        put(&scene, |record| {
            record["format"] = json!(2);
            record["nic"] = json!("in a way that only its own version knows");
        });
        let answer = scene.call(command).run(&node);
        answer.succeeded();
        assert!(answer.log.contains("newer than this plugin"), "{}", answer.log);
        if command == "ADD" {
            scene.is_whole();
            scene.run("DEL");
        }
        scene.is_clean();
    }
}

#[test]
fn a_record_that_is_broken_is_told_of_and_blocks_nothing() {
    let node = Node::new();
    let scene = Scene::new(&node);
    for broken in ["", "{", "{\"format\":1}", "[]", "\\0\\0\\0\\0"] {
        scene.run("ADD");
        node.sh(&format!("printf '{broken}' > {}", path(&scene)));
        let answer = scene.call("DEL").run(&node);
        answer.succeeded();
        assert!(answer.log.contains("is broken"), "{broken:?}: {}", answer.log);
        scene.is_clean();
    }
}
