//! A race: attackers on one side, calls of the plugin on the other, and the canary between them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Answer, Call, Double, Node, Pod};

use super::canary::Canary;
use super::swap::{Dice, Swap, Weather};

/// What ADD and DEL may take as a whole, in seconds.
const TIMEOUT: u64 = 2;

/// What they may really take: an ADD may spend 10 s more on taking a NIC back, and the machine is busy.
const LIMIT: Duration = Duration::from_secs(TIMEOUT + 10 + 30);

/// Fewest swaps and calls that make a race, and how much longer than asked one goes on for them on a busy machine.
const SWAPS_MIN: u64 = 20;
const CALLS_MIN: u64 = 4;
const OVERTIME: Duration = Duration::from_secs(240);

/// The code of what is treated as an attack.
const ATTACK: u64 = 103;

/// The calls of one round.
const ROUNDS: [&[&str]; 5] = [
    &["ADD", "DEL"],
    &["ADD", "CHECK", "DEL"],
    &["ADD", "ADD", "CHECK", "GC"],
    &["ADD", "DEL", "DEL"],
    &["DEL", "ADD", "GC", "DEL"],
];

/// How long attackers rest at most between two swaps, in microseconds: from a storm to a breeze, in which calls get
/// through.
const RESTS: [u64; 5] = [60, 200, 1_000, 10_000, 100_000];

/// What is raced for.
pub struct Race<'a> {
    pub name: &'static str,
    pub node: &'a Node,
    pub pod: &'a Pod,
    pub swaps: Vec<Swap>,
    /// Changes the configuration of all calls.
    pub configured: fn(Call) -> Call,
    /// A daemon, anew: one whose NIC's socket was lost in the storm has no future.
    pub daemon: &'a dyn Fn() -> Option<Double>,
    /// What is left to put right when the storm is over.
    pub heal: &'a dyn Fn(),
}

/// What came of the calls.
#[derive(Default)]
struct Tally {
    calls: u64,
    successes: u64,
    errors: BTreeMap<u64, u64>,
    /// The first of each code, in words.
    words: BTreeMap<u64, String>,
    slowest: Duration,
}

impl Tally {
    fn add(&mut self, answer: &Answer, took: Duration) {
        self.calls += 1;
        self.slowest = self.slowest.max(took);
        if answer.ok {
            self.successes += 1;
        } else {
            *self.errors.entry(answer.code()).or_default() += 1;
            self.words.entry(answer.code()).or_insert_with(|| answer.text());
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = self.errors.get(&ATTACK).copied().unwrap_or_default();
        let others: u64 = self.errors.iter().filter(|(code, _)| **code != ATTACK).map(|(_, count)| count).sum();
        write!(
            f,
            "{} calls; refused as an attack {refused}, other errors {others} {:?}, successes {}; slowest call {:?}",
            self.calls, self.errors, self.successes, self.slowest
        )?;
        self.words.iter().try_for_each(|(code, words)| write!(f, "\n  {code}: {words}"))
    }
}

impl Race<'_> {
    /// Races for as long as `RACE_SECONDS` says, by default shortly. In the end all is as if nothing had been.
    pub fn run(&self) {
        let seconds = std::env::var("RACE_SECONDS").map_or(4, |text| text.parse().expect("RACE_SECONDS is a number"));
        let canary = Canary::new(self.node);
        let weather = Weather::default();
        let mut tally = Tally::default();
        std::thread::scope(|scope| {
            // Whatever ends the calls ends the storm: else a failed race would never end.
            let _calm = Calm(&weather);
            for swap in &self.swaps {
                scope.spawn(|| swap.storm(&weather));
            }
            let end = Instant::now() + Duration::from_secs(seconds);
            self.calls(end, &weather, &canary, &mut tally);
        });
        let swaps = weather.swaps.load(Ordering::SeqCst);
        println!("race for {} ({seconds} s): {swaps} swaps; {tally}", self.name);
        assert!(swaps >= SWAPS_MIN && tally.calls >= CALLS_MIN, "that was no race");

        (self.heal)();
        self.swaps.iter().for_each(Swap::heal);
        let _daemon = (self.daemon)();
        for command in ["DEL", "ADD", "CHECK", "DEL"] {
            self.call(command)
                .set("attach_timeout", json!(60))
                .set("detach_timeout", json!(60))
                .run(self.node)
                .succeeded();
        }
        assert!(self.node.is_clean(&self.pod.uid), "{}", self.node.left(&self.pod.uid));
        canary.lives();
    }

    fn calls(&self, end: Instant, weather: &Weather, canary: &Canary, tally: &mut Tally) {
        let mut dice = Dice::new();
        let mut daemon = (self.daemon)();
        let is_short = |calls| calls < CALLS_MIN || weather.swaps.load(Ordering::SeqCst) < SWAPS_MIN;
        while Instant::now() < end || (is_short(tally.calls) && Instant::now() < end + OVERTIME) {
            weather.rest.store(RESTS[dice.roll(RESTS.len())], Ordering::Relaxed);
            let mut is_lost = false;
            for command in ROUNDS[dice.roll(ROUNDS.len())] {
                let begun = Instant::now();
                let answer = self.call(command).run(self.node);
                let took = begun.elapsed();
                tally.add(&answer, took);
                assert!(took < LIMIT, "{command} took {took:?}: {answer:?}");
                assert!(answer.ok || (answer.code() != 199 && !answer.text().trim().is_empty()), "{answer:?}");
                is_lost = !answer.ok && *command != "CHECK";
                canary.lives();
            }
            if is_lost {
                drop(daemon.take());
                daemon = (self.daemon)();
            }
        }
    }

    fn call(&self, command: &'static str) -> Call {
        let call = self.pod.call(command);
        let call = call.set("attach_timeout", json!(TIMEOUT)).set("detach_timeout", json!(TIMEOUT));
        let call = (self.configured)(call);
        if command == "GC" { call.gc() } else { call }
    }
}

/// Ends the storm when it is dropped.
struct Calm<'a>(&'a Weather);

impl Drop for Calm<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}
