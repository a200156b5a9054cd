//! Many pods that start and end at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::Options;
use crate::contenders::{NOOP, OURS, call};
use crate::measure::{Call, cpu, millis, spent};
use crate::scene::Scene;
use tools::figures::Sorted;

/// What the pods' starts and ends took with one plugin in the chain: milliseconds.
pub struct Burden {
    pub name: &'static str,
    pub wall: f64,
    pub cpu: f64,
    /// Of each call.
    pub calls: Sorted,
}

/// ADD and DEL of every pod, as many at once as asked; three times for each contender, in turns, and the one in the middle.
pub fn run(options: &Options, scene: &Scene) -> Vec<Burden> {
    let contenders =
        [(NOOP, options.noop.clone()), (OURS, options.plugin.clone()), ("tuning", options.peers.join("tuning"))];
    let mut rounds: Vec<Vec<Burden>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..3 {
        for ((name, program), rounds) in contenders.iter().zip(&mut rounds) {
            let calls = ["ADD", "DEL"].map(|verb| call(name, program, verb, scene, 0));
            rounds.push(burden(name, &calls, options));
        }
    }
    let middle = |mut rounds: Vec<Burden>| {
        rounds.sort_by(|a, b| a.cpu.total_cmp(&b.cpu));
        rounds.swap_remove(1)
    };
    rounds.into_iter().map(middle).collect()
}

fn burden(name: &'static str, calls: &[Call; 2], options: &Options) -> Burden {
    let next = AtomicUsize::new(0);
    let times = Mutex::new(Vec::new());
    let before = spent();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..options.parallel {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < options.pods {
                    let took = calls.each_ref().map(Call::timed);
                    times.lock().expect("no thread panicked").extend(took);
                }
            });
        }
    });
    let wall = millis(began.elapsed());
    let cpu = millis(cpu(&spent()).saturating_sub(cpu(&before)));
    Burden { name, wall, cpu, calls: Sorted::new(times.into_inner().expect("no thread panicked")) }
}
