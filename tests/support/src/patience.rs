//! How long tests wait on a machine that is busy with others.

use std::process::{Child, Output};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What a busy machine may add to a deadline. What is told from a call in time by this is one that has no end, or one whose
/// deadline is as much longer.
pub const MARGIN: Duration = Duration::from_secs(30);

/// How long is waited for what must come, before the test is given up: longer than any deadline in these tests.
const PATIENCE: Duration = Duration::from_secs(900);

/// Waits until something holds.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for this: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a program wrote, and how it ended. One that never does is named; it ends with its node.
pub fn output(child: Child) -> Output {
    let name = std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap_or_default();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let ended = receiver.recv_timeout(PATIENCE);
    let name = String::from_utf8_lossy(&name).replace('\0', " ");
    ended.unwrap_or_else(|_| panic!("this has not ended within {PATIENCE:?}: {name}")).unwrap()
}
