//! Whether a VM stands still.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::lab::{Pod, holds, log, program};

/// How long is waited for what must come, before the test is given up.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A gap in the guest's clock that counts as none, in ms. A VM that waits for its data plane stands still for hundreds of
/// them, or for good. tests/bench/hotplug measures how short the gaps really are.
const LIMIT: f64 = 400.0;

/// A look at the guest's clock, every 2 ms for some seconds, beside a process that computes.
pub struct Watch {
    guest: Child,
    /// When it is over.
    ends: Instant,
}

impl Watch {
    /// Begins a watch of this many seconds.
    pub fn begin(pod: &Pod, seconds: u64) -> Self {
        let script = format!("gap-detector --spin {seconds} & gap-detector {seconds} || echo no gap-detector; wait");
        let guest = Command::new(program())
            .args(["guest", &pod.name, &script])
            .env("LAB_GUEST_TIMEOUT", (seconds + 60).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The detector runs by then, and the first of its gaps is its own start.
        std::thread::sleep(Duration::from_millis(300));
        Self { guest, ends: Instant::now() + Duration::from_secs(seconds) }
    }

    /// The longest gap, in ms.
    pub fn longest(self) -> f64 {
        let output = self.guest.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let json: Value = serde_json::from_str(text.trim()).unwrap_or_else(|error| {
            panic!("{error}: {text:?}; the lab must be up with LAB_GUEST_PROGRAMS naming gap-detector")
        });
        println!("{json}");
        assert!(json["looks"].as_u64().unwrap() > 100, "{json}");
        json["longest_ms"].as_f64().unwrap()
    }
}

/// Checks that the VM did not stand still in a watch. On a slow or busy machine, the gaps of the idle VM are left out of it.
pub fn assert_ran_on(pod: &Pod, longest: f64, what: &str) {
    if longest >= LIMIT {
        let noise = Watch::begin(pod, 10).longest();
        assert!(longest - noise < LIMIT, "{longest} ms {what}; {noise} ms with nothing done\n{}", log());
    }
}

/// Watches the VM while `act` is done. Where that took longer than the watch, `undo` is done, and `act` once more in a longer
/// watch. Returns what `act` returned, and the longest gap in ms.
pub fn watched<T>(pod: &Pod, act: impl Fn() -> T, undo: impl Fn()) -> (T, f64) {
    for seconds in [4, 20, 100] {
        let watch = Watch::begin(pod, seconds);
        let outcome = act();
        let fits = Instant::now() < watch.ends;
        let longest = watch.longest();
        if fits {
            return (outcome, longest);
        }
        undo();
    }
    panic!("what takes a second otherwise took longer than 100 s");
}

/// Waits until this holds.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether QEMU's monitor answers.
pub fn monitor_answers(pod: &Pod) -> bool {
    holds(&["virsh", &pod.name, "qemu-monitor-command", pod.fact("DOMAIN"), "--hmp", "info status"])
}
