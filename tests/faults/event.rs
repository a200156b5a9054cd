//! How soon the end of a NIC is noticed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use support::Node;
use support::scene::Scene;

/// From the moment that libvirt says that the guest has let go to the plugin's exit. It prints; what it may be on a busy
/// machine is nobody's promise, but a plugin that polled, once in a second, would never be as quick as the best.
#[test]
fn the_end_of_a_nic_is_noticed_by_its_event() {
    let node = Node::new();
    let scene = Scene::with(&node, &json!({"detach": {"after_ms": 120}}));
    let mut took = Vec::new();
    for _ in 0..20 {
        scene.run("ADD");
        scene.run("DEL");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let removed = *scene.double.times(&json!(333)).last().unwrap();
        took.push(now - Duration::from_micros(removed));
    }
    took.sort();
    let (best, median, worst) = (took[0], took[took.len() / 2], took[took.len() - 1]);
    println!("from DEVICE_REMOVED to the plugin's exit, {} times: {best:?}, {median:?}, {worst:?}", took.len());
    assert!(best < Duration::from_millis(500), "a poll, not the event: {took:?}");
    scene.is_clean();
}
