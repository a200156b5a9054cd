//! How long a VM stood still, seen from inside: runs in the guest.
//!
//! `gap-detector SECONDS` sleeps 2 ms again and again and looks at CLOCK_MONOTONIC each time. It prints a line of JSON: how
//! often it looked, the longest time between two looks, and all times of 20 ms or more, in ms. `gap-detector --spin SECONDS`
//! is the load beside it: a process that computes and never sleeps.

use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(2);
const REMARKABLE: f64 = 20.0;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (spin, seconds) = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--spin", seconds] => (true, seconds.parse()),
        [seconds] => (false, seconds.parse()),
        _ => (false, "".parse()),
    };
    let Ok(span) = seconds.map(Duration::from_secs_f64) else {
        eprintln!("usage: gap-detector [--spin] SECONDS");
        std::process::exit(2);
    };
    let begun = Instant::now();
    if spin {
        let mut sum = 0_u64;
        while begun.elapsed() < span {
            sum = (0..10_000).fold(sum, |sum, number| std::hint::black_box(sum.wrapping_add(number)));
        }
        return;
    }
    // Ahead of the load: the gaps are to be the VM's, not the guest's scheduler's.
    let _ = rustix::process::setpriority_process(None, -20);
    let (mut last, mut looks, mut longest, mut remarkable) = (begun, 0_u64, 0.0_f64, Vec::new());
    while begun.elapsed() < span {
        std::thread::sleep(STEP);
        let now = Instant::now();
        let gap = now.duration_since(last).as_secs_f64() * 1000.0;
        (last, looks, longest) = (now, looks + 1, longest.max(gap));
        if gap >= REMARKABLE {
            remarkable.push(format!("{gap:.1}"));
        }
    }
    println!("{{\"looks\": {looks}, \"longest_ms\": {longest:.2}, \"gaps_ms\": [{}]}}", remarkable.join(", "));
}
