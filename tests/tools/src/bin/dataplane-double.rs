//! A double of a data plane: connects to a path as DPDK's client does, and answers there as OVS-DPDK does.
//!
//! `dataplane-double PATH [--features X] [--protocol-features X] [--queues N] [--slots N] [--round MS] [--stop N] [--register-anew FEATURES [--stale N]] [--refuse REQUEST] [--silent | --close | --lie LIE]`
//! tries the path every second (or so many milliseconds), and at once when a connection ends, until it is killed. It prints a line for each connection when
//! that ends: how many messages came, which was the last, and what came along: of each file its size, whether it is all zeros, and
//! its seals (fcntl(2), `F_GET_SEALS`). With `--silent` it connects and never answers; with
//! `--close` it hangs up at once, with `--lie` it tells one of the lies of [`LIES`]. With `--stop` it stops itself (SIGSTOP)
//! when its N-th connection is there. With `--register-anew` it does as OVS 3.2 and later with userspace TSO: after a connection
//! that ends before its device is started, it offers the other features, and tries again at its next round only. With `--stale`
//! it is in that state from the beginning on (it offers the other features), and connects at once before it changes them, as DPDK
//! does, for as long as it takes to answer N messages. With
//! `--refuse` it refuses that request where an acknowledgement is asked for, and hangs up where not. Numbers may be hexadecimal (0x…). Its wire code is its own, so that it shares no mistake
//! with the plugin. It is a process of its own because the plugin asks the kernel whose process connects.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::fs::fcntl_get_seals;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

const USAGE: &str = "usage: dataplane-double PATH [--features X] [--protocol-features X] [--queues N] [--slots N] [--round MS] [--stop N] [--register-anew FEATURES [--stale N]] [--refuse REQUEST] [--silent | --close | --lie LIE]";

/// How the first question, or where it says so another, can be answered instead.
const LIES: [&str; 13] = [
    "huge",     // with a payload of 4 GiB, it claims
    "oversize", // with a payload of one byte too many
    "version",  // in version 2
    "question", // with a question
    "other",    // as if another had been asked
    "short",    // with half of a word
    "long",     // with two words
    "half",     // with half of a header, and then nothing
    "trickle",  // with a byte each second
    "flood",    // for ever
    "gift",     // with 250 descriptors, as all the others
    "doze",     // as it should be, and nothing once a device is to be started
    "sleep",    // as it should be, and nothing once the second connection has answered five questions
];

/// What DPDK's thread for clients that are not connected sleeps between two rounds (lib/vhost/socket.c).
const ROUND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answer,
    Silent,
    Close,
    Lie(&'static str),
}

struct Double {
    path: PathBuf,
    features: u64,
    protocol_features: u64,
    queues: u64,
    slots: u64,
    manner: Manner,
    /// What it offers after a guest that failed (OVS's "workaround"), if it does such things.
    other_features: Option<u64>,
    /// A request that it refuses; 0 for none.
    refused: u64,
    /// How many messages it answers at most, on a connection that comes before it offers other features.
    stale: Option<u64>,
}

/// What came of a connection.
struct End {
    /// Whether a message came.
    served: bool,
    /// Whether a device was started.
    started: bool,
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
    let (mut round, mut stop) = (ROUND, 0);
    let mut double = Double {
        path: path.into(),
        features: 0xd_7c66_a7ca,
        protocol_features: 0x1_0cbf,
        queues: 128,
        slots: 8,
        manner: Manner::Answer,
        other_features: None,
        refused: 0,
        stale: None,
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
            "--lie" => {
                let asked = args.next().unwrap_or_else(|| usage());
                let lie = LIES.into_iter().find(|lie| *lie == asked);
                double.manner = Manner::Lie(lie.unwrap_or_else(|| usage()));
            }
            "--register-anew" => double.other_features = Some(number(args.next())),
            "--stale" => double.stale = Some(number(args.next())),
            "--refuse" => double.refused = number(args.next()),
            "--stop" => stop = number(args.next()),
            _ => usage(),
        }
    }
    let mut connections = 0;
    // As OVS's virtio_features_state: whether a guest has failed, and whether one has taken what is offered.
    let (mut workaround, mut negotiated) = (double.stale.is_some(), false);
    if let Some(other) = double.other_features.filter(|_| workaround) {
        double.other_features = Some(std::mem::replace(&mut double.features, other));
    }
    loop {
        let mut at_once = false;
        if let Some(stream) = double.connect() {
            connections += 1;
            if connections == stop {
                raise(Signal::SIGSTOP).expect("a process may stop itself");
            }
            let end = double.serve(stream, connections, u64::MAX);
            negotiated |= end.started;
            // At once after a connection that was one, as DPDK does.
            at_once = end.served;
            if let Some(other) = double.other_features.filter(|_| workaround || !negotiated) {
                if let Some(most) = double.stale {
                    connections += 1;
                    double.connect().map(|stream| double.serve(stream, connections, most));
                }
                double.other_features = Some(std::mem::replace(&mut double.features, other));
                (at_once, workaround, negotiated) = (false, !workaround, false);
            }
        }
        if !at_once {
            std::thread::sleep(round);
        }
    }
}

impl Double {
    fn connect(&self) -> Option<UnixStream> {
        UnixStream::connect(&self.path).ok()
    }

    /// Serves a connection until it ends, or so many messages were answered.
    fn serve(&self, mut stream: UnixStream, connection: u64, most: u64) -> End {
        let (mut messages, mut last, mut started) = (0, 0, false);
        let mut handed = String::new();
        if self.manner != Manner::Close {
            let mut state = State::default();
            while let Some((request, flags, payload, descriptors)) = receive(&mut stream) {
                descriptors.into_iter().for_each(|descriptor| handed += &described(request, descriptor));
                (messages, last) = (messages + 1, request);
                // DPDK waits for two rings.
                started |= request == 18 && payload == [1_u32, 1].map(u32::to_ne_bytes).concat();
                let Some(answer) = self.answer(&mut state, request, flags, &payload) else { continue };
                let said = match self.manner {
                    Manner::Answer => stream.write_all(&message(request, &answer)).is_ok(),
                    Manner::Lie(lie) => tell(lie, &mut stream, connection, messages, &message(request, &answer)),
                    Manner::Silent | Manner::Close => true,
                };
                if !said || u64::from(messages) >= most {
                    break;
                }
            }
        }
        println!("connection: {messages} messages, the last was {last}{handed}");
        End { served: messages > 0, started }
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
        let refused = u64::from(u64::from(request) == self.refused);
        (flags & 8 != 0 && state.protocol_features & 8 != 0).then(|| refused.to_ne_bytes().to_vec())
    }
}

/// Says a lie in place of this answer to the n-th message of a connection; whether the connection goes on.
fn tell(lie: &str, stream: &mut UnixStream, connection: u64, nth: u32, honest: &[u8]) -> bool {
    let head = |request: u32, flags: u32, size: u32| [request, flags, size].map(u32::to_ne_bytes).concat();
    let pause = || std::thread::sleep(Duration::from_secs(1));
    match lie {
        "huge" => stream.write_all(&head(1, 5, u32::MAX)).is_ok(),
        "oversize" => stream.write_all(&head(1, 5, 4097)).is_ok(),
        "version" => stream.write_all(&[head(1, 6, 8), vec![0; 8]].concat()).is_ok(),
        "question" => stream.write_all(&head(1, 1, 0)).is_ok(),
        "other" => stream.write_all(&[head(17, 5, 8), vec![0; 8]].concat()).is_ok(),
        "short" => stream.write_all(&[head(1, 5, 4), vec![0; 4]].concat()).is_ok(),
        "long" => stream.write_all(&[head(1, 5, 16), vec![0; 16]].concat()).is_ok(),
        "half" => stream.write_all(&honest[..6]).is_ok(),
        "trickle" => honest.iter().all(|byte| {
            pause();
            stream.write_all(&[*byte]).is_ok()
        }),
        "flood" => {
            let many = honest.repeat(1000);
            while stream.write_all(&many).is_ok() {}
            false
        }
        "gift" => gift(stream, honest),
        // Features, protocol features, their choice, queues.
        "doze" => nth > 4 || stream.write_all(honest).is_ok(),
        // And features again.
        "sleep" => connection > 1 && nth > 5 || stream.write_all(honest).is_ok(),
        _ => unreachable!("one of the list"),
    }
}

/// Sends an answer with descriptors of /dev/null, as many as the kernel lets pass.
fn gift(stream: &UnixStream, bytes: &[u8]) -> bool {
    let null = std::fs::File::open("/dev/null").expect("/dev/null is there");
    let descriptors = [null.as_raw_fd(); 250];
    let control = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::empty(), None).is_ok()
}

#[derive(Default)]
struct State {
    protocol_features: u64,
    status: u64,
}

fn receive(stream: &mut UnixStream) -> Option<(u32, u32, Vec<u8>, Vec<OwnedFd>)> {
    let mut header = [0; 12];
    let mut space = [0; rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(&*stream, &mut [IoSliceMut::new(&mut header)], &mut control, RecvFlags::WAITALL).ok()?;
    if received.bytes < header.len() {
        return None;
    }
    let descriptors = control.drain().flat_map(|control| match control {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    let descriptors = descriptors.collect();
    let word = |at: usize| u32::from_ne_bytes(*header[at..].first_chunk().expect("three words"));
    let mut payload = vec![0; usize::try_from(word(8)).ok().filter(|size| *size <= 4096)?];
    stream.read_exact(&mut payload).ok()?;
    Some((word(0), word(4), payload, descriptors))
}

/// What came with this request.
fn described(request: u32, descriptor: OwnedFd) -> String {
    let file = File::from(descriptor);
    let size = file.metadata().map_or(0, |metadata| metadata.size());
    let Ok(seals) = fcntl_get_seals(&file) else { return format!("; {request}: no memory") };
    let mut bytes = vec![1; usize::try_from(size).expect("less than all memory")];
    let zeros = file.read_exact_at(&mut bytes, 0).is_ok() && bytes.iter().all(|byte| *byte == 0);
    format!("; {request}: {size} bytes, zeros {zeros}, seals {seals:?}")
}

fn message(request: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).expect("a few bytes");
    // Version 1, a reply.
    let mut bytes: Vec<u8> = [request, 5, size].iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend_from_slice(payload);
    bytes
}
