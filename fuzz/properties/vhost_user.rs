//! Vhost-user messages, as QEMU sends them to the stand-in and as a data plane answers the probe.
//!
//! The bytes are all that the peer sends. Nothing may wait, answers are answers to what was asked, no figure is believed that
//! QEMU could not bear, and a device is started only if each step was acknowledged.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vhostuser_hotplug::dataplane::backend::BackEnd;
use vhostuser_hotplug::dataplane::capabilities::Capabilities;
use vhostuser_hotplug::dataplane::frontend;
use vhostuser_hotplug::dataplane::message::{self, Connection, LAST_REQUEST, PAYLOAD_LIMIT};
use vhostuser_hotplug::deadline::Deadline;

use super::said;

/// As much as a socket takes at once.
const MOST: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_millis(100);
const HANG: Duration = Duration::from_secs(20);

/// OVS 3.1 with DPDK 22.11.
const OVS: Capabilities =
    Capabilities { features: 0xd7c6_6a7ca, protocol_features: 0x10cbf, queues: 128, memory_slots: None };

pub fn holds(bytes: &[u8]) {
    let bytes = bytes.get(..MOST).unwrap_or(bytes);
    let begun = Instant::now();
    let figures = as_data_plane(bytes).unwrap_or(OVS);
    as_qemu(bytes, figures);
    assert!(begun.elapsed() < HANG, "{:?} for {} bytes", begun.elapsed(), bytes.len());
}

fn line(peer_says: &[u8]) -> (UnixStream, Connection) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    theirs.write_all(peer_says).expect("a socket takes 64 KiB");
    theirs.shutdown(Shutdown::Write).expect("a socket can be closed half");
    (theirs, Connection::new(ours).expect("a line"))
}

fn as_data_plane(bytes: &[u8]) -> Option<Capabilities> {
    let (_peer, mut line) = line(bytes);
    match Capabilities::learn(&mut line, Deadline::after(PATIENCE)) {
        Ok(figures) => {
            assert!((1..=32_768).contains(&figures.queues), "{figures}");
            assert!(figures.memory_slots.is_none_or(|slots| (1..=32_768).contains(&slots)), "{figures}");
            assert_eq!(figures.stand_in() & !figures.protocol_features, 0, "{figures}");
            said(&figures);
            if let Err(error) = frontend::start_device(&mut line, &figures, Deadline::after(PATIENCE)) {
                said(&error);
                assert_ne!(error, message::Error::Silent, "nobody was waited for");
            }
            Some(figures)
        }
        Err(error) => {
            said(&error);
            assert_ne!(error, message::Error::Silent, "nobody was waited for");
            None
        }
    }
}

fn as_qemu(bytes: &[u8], figures: Capabilities) {
    let (peer, mut line) = line(bytes);
    let mut back_end = BackEnd::new(figures);
    let mut answers = Vec::new();
    let error = loop {
        let message = match line.receive(Deadline::after(PATIENCE)) {
            Ok(message) => message,
            Err(error) => break error,
        };
        assert!(message.payload.len() <= PAYLOAD_LIMIT);
        match back_end.answer(&message) {
            Ok(None) => {}
            Ok(Some(answer)) => {
                assert!(answer.is_reply && !answer.needs_reply && answer.request == message.request);
                assert!(answer.payload.len() == 8 && (1..=LAST_REQUEST).contains(&answer.request));
                // As many as a socket takes: nobody reads them meanwhile.
                if answers.len() < 64 {
                    line.send(&answer, Deadline::after(PATIENCE)).expect("the peer's side is open");
                    answers.push(answer);
                }
            }
            Err(error) => break error,
        }
    };
    said(&error);
    drop(line);
    // What was answered arrives as that.
    let mut peer = Connection::new(peer).expect("a line");
    for answer in answers {
        match peer.receive(Deadline::after(HANG)) {
            Ok(arrived) => assert_eq!(arrived, answer),
            // Bytes of the peer's that nobody read.
            Err(message::Error::Closed) => break,
            Err(error) => panic!("{error}"),
        }
    }
}
