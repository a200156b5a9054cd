//! A double of a data plane: connects to a path as DPDK's client does, and answers there as OVS-DPDK does.
//!
//! `dataplane-double PATH [--features X] [--protocol-features X] [--queues N] [--slots N] [--round MS] [--silent | --close]`
//! tries the path every second (or so many milliseconds), and at once when a connection ends, until it is killed. It prints a line for each connection when
//! that ends: how many messages came, and which was the last. With `--silent` it connects and never answers; with
//! `--close` it hangs up at once. Numbers may be hexadecimal (0x…). Its wire code is its own, so that it shares no mistake
//! with the plugin. It is a process of its own because the plugin asks the kernel whose process connects.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "usage: dataplane-double PATH [--features X] [--protocol-features X] [--queues N] [--slots N] [--round MS] [--silent | --close]";

/// What DPDK's thread for clients that are not connected sleeps between two rounds (lib/vhost/socket.c).
const ROUND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answer,
    Silent,
    Close,
}

struct Double {
    path: PathBuf,
    features: u64,
    protocol_features: u64,
    queues: u64,
    slots: u64,
    manner: Manner,
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2)
}

fn number(text: Option<String>) -> u64 {
    let text = text.unwrap_or_else(|| usage());
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|_| usage())
}

fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().filter(|path| !path.starts_with("--")).unwrap_or_else(|| usage());
    // What OVS 3.1 with DPDK 22.11 says of a dpdkvhostuserclient port.
    let mut round = ROUND;
    let mut double = Double {
        path: path.into(),
        features: 0xd_7c66_a7ca,
        protocol_features: 0x1_0cbf,
        queues: 128,
        slots: 8,
        manner: Manner::Answer,
    };
    while let Some(option) = args.next() {
        match option.as_str() {
            "--features" => double.features = number(args.next()),
            "--protocol-features" => double.protocol_features = number(args.next()),
            "--queues" => double.queues = number(args.next()),
            "--slots" => double.slots = number(args.next()),
            "--round" => round = Duration::from_millis(number(args.next())),
            "--silent" => double.manner = Manner::Silent,
            "--close" => double.manner = Manner::Close,
            _ => usage(),
        }
    }
    loop {
        let mut served = false;
        if let Ok(stream) = UnixStream::connect(&double.path) {
            served = double.serve(stream);
        }
        // At once after a connection that was one, as DPDK does.
        if !served {
            std::thread::sleep(round);
        }
    }
}

impl Double {
    /// Serves a connection until it ends; whether a message came.
    fn serve(&self, mut stream: UnixStream) -> bool {
        let (mut messages, mut last) = (0, 0);
        if self.manner != Manner::Close {
            let mut state = State::default();
            while let Some((request, flags, payload)) = receive(&mut stream) {
                (messages, last) = (messages + 1, request);
                let answer = self.answer(&mut state, request, flags, &payload);
                if self.manner == Manner::Answer
                    && let Some(answer) = answer
                    && stream.write_all(&message(request, &answer)).is_err()
                {
                    break;
                }
            }
        }
        println!("connection: {messages} messages, the last was {last}");
        messages > 0
    }

    fn answer(&self, state: &mut State, request: u32, flags: u32, payload: &[u8]) -> Option<Vec<u8>> {
        let word = |value: u64| Some(value.to_ne_bytes().to_vec());
        let given = payload.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)).unwrap_or_default();
        match request {
            1 => return word(self.features),
            15 => return word(self.protocol_features),
            17 => return word(self.queues),
            36 => return word(self.slots),
            40 => return word(state.status),
            11 => return Some(payload.to_vec()),
            6 => return word(0),
            16 => state.protocol_features = given,
            39 => state.status = given,
            _ => {}
        }
        // NEED_REPLY, where REPLY_ACK was agreed on.
        (flags & 8 != 0 && state.protocol_features & 8 != 0).then(|| 0_u64.to_ne_bytes().to_vec())
    }
}

#[derive(Default)]
struct State {
    protocol_features: u64,
    status: u64,
}

fn receive(stream: &mut UnixStream) -> Option<(u32, u32, Vec<u8>)> {
    let mut words = [[0; 4]; 3];
    for word in &mut words {
        stream.read_exact(word).ok()?;
    }
    let [request, flags, size] = words.map(u32::from_ne_bytes);
    let mut payload = vec![0; usize::try_from(size).ok().filter(|size| *size <= 4096)?];
    stream.read_exact(&mut payload).ok()?;
    Some((request, flags, payload))
}

fn message(request: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).expect("a few bytes");
    // Version 1, a reply.
    let mut bytes: Vec<u8> = [request, 5, size].iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend_from_slice(payload);
    bytes
}
