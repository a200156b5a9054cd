//! System calls that fail: the disk is full, a file system has an error. The answer is an error in JSON, and what is left
//! is nothing, or what the next call completes or undoes.

use support::scene::{Scene, Told};
use support::strace::{fail, points};
use support::{Node, answer};

/// System calls on the host's files, and how they fail.
const FAULTS: [(&str, &[&str]); 4] = [
    (
        "EIO",
        &[
            "flock", "fsync", "mkdir", "mkdirat", "mount", "openat", "rename", "rmdir", "umount2", "unlink",
            "unlinkat", "write",
        ],
    ),
    ("ENOSPC", &["fsync", "mkdir", "mkdirat", "mount", "openat", "rename", "write"]),
    ("EPERM", &["mount", "setns", "umount2"]),
    ("ECONNRESET", &["connect", "sendto"]),
];

#[test]
fn an_add_whose_system_calls_fail_says_so_and_leaves_nothing_for_good() {
    at_every_step("ADD");
}

#[test]
fn a_del_whose_system_calls_fail_says_so_and_is_completed_by_the_next() {
    at_every_step("DEL");
}

fn at_every_step(command: &'static str) {
    let node = Node::new();
    let scene = Scene::new(&node);
    let (mut made, mut told) = (0, 0);
    if command == "DEL" {
        scene.run("ADD");
    }
    let found = points(scene.traced(command));
    scene.run("DEL");
    for (errno, calls) in FAULTS {
        let of_this = |name: &str, words: &str| calls.contains(&name) && !(name == "write" && words.starts_with("1,"));
        for point in found.iter().filter(|point| of_this(&point.call, &point.words)) {
            if command == "DEL" {
                scene.run("ADD");
            } else {
                scene.forget_the_node();
            }
            made += 1;
            let told_at = Told::at(format!("{command}, {errno} from {}({}", point.call, point.words));
            let answer = answer(fail(scene.traced(command), point, errno));
            if !answer.ok {
                told += 1;
                assert!(answer.code() > 0 && answer.text().len() > 20, "{command} {point:?}: {answer:?}");
            }
            if command == "ADD" && answer.ok {
                scene.is_whole();
            }
            // A NIC that is, or may be, there keeps what it needs; a lock that cannot be had is not ours to remove, and a
            // socket that cannot be removed stays for the DEL.
            let may_leave = scene.has_nic() || ["flock", "sendto", "unlinkat"].contains(&&point.call[..]);
            if command == "ADD" && !answer.ok && !may_leave {
                scene.is_clean();
            }
            scene.run("DEL");
            scene.is_clean();
            drop(told_at);
        }
    }
    println!("{command}: {told} of {made} faults were told, the others made no difference");
    assert!(told > 20, "only {told} of the faults were told");
}
