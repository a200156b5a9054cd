//! How soon OVS's main loop answers: its control socket, asked without pause.
//!
//! `ovs-appctl` sends one JSON-RPC request to this socket (lib/unixctl.c) and prints the reply. Here the same request is
//! sent over a connection that stays open, so that what is timed is the main loop, and not the start of a program.

use std::io::{BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const DIRECTORY: &str = "/var/run/openvswitch";

/// How long after an answer the next request is sent.
const PAUSE: Duration = Duration::from_millis(3);

/// How long an answer is waited for: longer than OVS is ever kept busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks OVS in a thread, until it is stopped.
pub struct Pulse {
    asking: JoinHandle<Vec<(Instant, Instant)>>,
    ends: Arc<AtomicBool>,
}

impl Pulse {
    /// Starts to ask the OVS of this node.
    pub fn start() -> Self {
        let pid = std::fs::read_to_string(format!("{DIRECTORY}/ovs-vswitchd.pid")).expect("OVS's pid");
        let path = format!("{DIRECTORY}/ovs-vswitchd-dpdk.{}.ctl", pid.trim());
        let stream = UnixStream::connect(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let ends = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ends);
        Self { asking: std::thread::spawn(move || ask(stream, &until)), ends }
    }

    /// Stops; all answers.
    pub fn stop(self) -> Answers {
        self.ends.store(true, Ordering::Relaxed);
        Answers(self.asking.join().expect("OVS answered"))
    }
}

/// When each request was sent and answered.
fn ask(mut stream: UnixStream, ends: &AtomicBool) -> Vec<(Instant, Instant)> {
    let reader = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut replies = serde_json::Deserializer::from_reader(reader).into_iter::<Value>();
    let mut times = Vec::new();
    while !ends.load(Ordering::Relaxed) {
        let sent = Instant::now();
        let request = json!({"id": times.len(), "method": "version", "params": []});
        stream.write_all(request.to_string().as_bytes()).expect("OVS reads its control socket");
        let reply = replies.next().expect("OVS keeps its control socket open").expect("OVS answers in time");
        assert!(reply["error"].is_null() && reply["id"] == request["id"], "{reply}");
        times.push((sent, Instant::now()));
        std::thread::sleep(PAUSE);
    }
    times
}

/// When each request was sent and answered.
#[derive(Default)]
pub struct Answers(Vec<(Instant, Instant)>);

impl Answers {
    /// The slowest answer that was waited for in this time, in ms, also if the wait began before or ended after it.
    pub fn slowest(&self, from: Instant, to: Instant) -> Option<f64> {
        let within = self.0.iter().filter(|(sent, answered)| *sent <= to && *answered >= from);
        within.map(|(sent, answered)| (*answered - *sent).as_secs_f64() * 1000.0).max_by(f64::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_all_the_time_that_it_was_waited_for() {
        let begin = Instant::now();
        let at = |millis: u64| begin + Duration::from_millis(millis);
        let answers = Answers(vec![(at(0), at(1)), (at(4), at(1004)), (at(1007), at(1009))]);
        assert_eq!(answers.slowest(at(2), at(3)), None);
        assert_eq!(answers.slowest(at(500), at(600)), Some(1000.0));
        assert_eq!(answers.slowest(at(1008), at(2000)), Some(2.0));
    }
}
