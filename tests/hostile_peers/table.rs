//! Every lie of the table, each told to a call of the real binary.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use support::{DataPlane, Double, Node};

use super::peers;
use super::row::{PEAK_MAX, measured};

/// How many are told at a time: most of them wait.
const AT_A_TIME: usize = 4;

#[test]
fn every_lie_ends_in_time_with_bounded_memory_and_clear_words() {
    let (rows, node) = (peers::all(), Node::new());
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // One that fails is told of at once, and the others are told all the same.
                    if let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| row.tell(&node))) {
                        outcomes.lock().unwrap().push((row.lie, outcome));
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    println!("| lie | call | code | words | ms | KiB |\n|---|---|---|---|---|---|");
    for row in &rows {
        let Some((_, outcome)) = outcomes.iter().find(|(lie, _)| *lie == row.lie) else { continue };
        println!("| {} | {} | {} |", row.cells().join(" | "), outcome.took.as_millis(), outcome.peak);
    }
    let worst = outcomes.iter().map(|(_, outcome)| outcome.peak).max().unwrap();
    println!("worst peak: {worst} KiB of {PEAK_MAX}");
    assert_eq!(outcomes.len(), rows.len(), "some lies did not end as they have to");
}

/// Each peer sends hundreds with all that it says, and the process may have no more than some dozens.
#[test]
fn descriptors_that_come_along_are_not_kept() {
    let (node, pod) = Node::with_pod();
    let calls = ["auth-list", "open", "list", "xml", "attach", "persistent", "subscribe", "detach-alias"];
    let gifts = calls.map(|call| json!({"at": call, "lie": {"gift": 250}}));
    let attach = json!({"data_plane": "wait", "qemu": "gift"});
    let _double = Double::start(&pod, &json!({"lies": gifts, "attach": attach}));
    let _plane = DataPlane::with(&node, &pod, "net1", &["--lie", "gift"]);
    let add = pod.add().through(&["prlimit", "--nofile=48:48"]);
    let answer = add.run(&node);
    answer.succeeded();
    assert!(answer.log.contains("stand-in: 100 messages"), "{}", answer.log);
    add.command("DEL").run(&node).succeeded();
    assert!(node.is_clean(&pod.uid));
}

#[test]
fn an_honest_call_is_measured_too() {
    let (node, pod, _double, _plane) = Node::with_vm();
    let add = pod.add();
    for call in [add.clone(), add.command("DEL")] {
        let (answer, outcome) = measured(call, &node);
        answer.succeeded();
        println!("an honest call: {} ms, {} KiB", outcome.took.as_millis(), outcome.peak);
        assert!(outcome.peak > 500, "what is measured is the plugin");
    }
}
