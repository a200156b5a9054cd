//! A daemon's end of a socket pair says the bytes; the connection makes of them what it can.

use std::io::Write;
use std::time::{Duration, Instant};

use super::*;
use crate::libvirt::procedures::LibraryVersion;

/// For what comes.
const SOON: Duration = Duration::from_secs(60);
/// For what ends by its deadline.
const SHORT: Duration = Duration::from_millis(100);
/// Header of the answer to the first call, LIB_VERSION, and 11.3.0.
const VERSION: [u8; 36] = [
    0, 0, 0, 36, 0x20, 0, 0x80, 0x86, 0, 0, 0, 1, 0, 0, 0, 157, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0xa7, 0xe4, 0x78,
];
/// REBOOT (319), which nothing here subscribes to, of callback 0; the payload is not looked at.
const REBOOT: [u8; 32] =
    [0, 0, 0, 32, 0x20, 0, 0x80, 0x86, 0, 0, 0, 1, 0, 0, 1, 63, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
const PING: [u8; 28] =
    [0, 0, 0, 28, 0x6b, 0x65, 0x65, 0x70, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];

/// DEVICE_REMOVED of callback 0, domain "vm".
fn removed() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 0x20, 0, 0x80, 0x86, 0, 0, 0, 1, 0, 0, 1, 77, 0, 0, 0, 2];
    bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, b'v', b'm', 0, 0]);
    bytes.extend_from_slice(&[9; 16]);
    bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 8, b'u', b'a', b'-', b'a', b'-', b'b', b'-', b'c']);
    let length = u32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// A connection, and the daemon's end of it.
fn pair() -> (Connection, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Connection::new(ours).unwrap(), theirs)
}

/// One call of a fresh connection whose daemon has said `bytes` and hung up.
fn hears(bytes: &[u8]) -> Result<u64, Error> {
    let (mut connection, mut theirs) = pair();
    theirs.write_all(bytes).unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    connection.call(&LibraryVersion, Deadline::after(SOON))
}

#[test]
fn an_answer_is_found_behind_pings_and_events() {
    let (mut connection, mut theirs) = pair();
    theirs.write_all(&[&PING[..], &removed(), &REBOOT, &VERSION].concat()).unwrap();
    assert_eq!(connection.call(&LibraryVersion, Deadline::after(SOON)).unwrap(), 11_003_000);
    theirs.set_read_timeout(Some(SOON)).unwrap();
    let mut sent = [0; 56];
    theirs.read_exact(&mut sent).unwrap();
    assert_eq!(sent[28..40], PING[..12]);
    assert_eq!(sent[43], 2, "a ping is answered with a pong");
    let arrival = connection.next_event(Deadline::after(Duration::ZERO)).unwrap().unwrap();
    assert_eq!(arrival.event.domain().name, "vm");
    assert!(connection.next_event(Deadline::after(Duration::ZERO)).unwrap().is_none());
}

#[test]
fn an_answer_cut_short_anywhere_is_a_disconnect() {
    for cut in 0..VERSION.len() {
        assert!(matches!(hears(&VERSION[..cut]), Err(Error::Disconnected { .. })), "cut at {cut}");
    }
    assert_eq!(hears(&VERSION).unwrap(), 11_003_000);
}

#[test]
fn an_answer_with_any_bit_of_its_header_wrong_is_none() {
    for at in 0..28 {
        for bit in 0..8 {
            let mut bytes = VERSION;
            bytes[at] ^= 1 << bit;
            let error = hears(&bytes).unwrap_err();
            let expected = match (at, bit) {
                // A longer frame than was sent, within the limit: it never comes whole.
                (1..4, _) if (29..=crate::libvirt::message::FRAME_MAX).contains(&length(&bytes)) => length(&bytes) > 36,
                _ => false,
            };
            match error {
                Error::Disconnected { .. } => assert!(expected, "byte {at}, bit {bit}"),
                Error::Protocol { .. } => assert!(!expected, "byte {at}, bit {bit}"),
                other => panic!("byte {at}, bit {bit}: {other}"),
            }
        }
    }
}

fn length(bytes: &[u8]) -> usize {
    u32::from_be_bytes(bytes[..4].try_into().unwrap()).try_into().unwrap()
}

#[test]
fn nothing_goes_on_a_connection_that_was_left_half_way() {
    let (mut connection, mut theirs) = pair();
    let begun = Instant::now();
    let error = connection.call(&LibraryVersion, Deadline::after(SHORT)).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }) && begun.elapsed() >= SHORT);
    theirs.write_all(&VERSION).unwrap();
    let error = connection.call(&LibraryVersion, Deadline::after(SOON)).unwrap_err();
    assert!(matches!(error, Error::Unusable { .. }), "{error}");
    assert!(error.to_string().contains("did not answer in time"), "{error}");
    assert!(matches!(connection.next_event(Deadline::after(SOON)), Err(Error::Unusable { .. })));
}

#[test]
fn nothing_is_sent_after_the_deadline() {
    let (mut connection, mut theirs) = pair();
    let error = connection.call(&LibraryVersion, Deadline::after(Duration::ZERO)).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }));
    theirs.set_nonblocking(true).unwrap();
    assert!(theirs.read(&mut [0; 1]).is_err());
    let mut second = VERSION;
    second[23] = 2;
    theirs.write_all(&second).unwrap();
    assert_eq!(connection.call(&LibraryVersion, Deadline::after(SOON)).unwrap(), 11_003_000);
}

#[test]
fn events_that_wait_are_bounded() {
    let (mut connection, mut theirs) = pair();
    let flood = std::thread::spawn(move || while theirs.write_all(&removed()).is_ok() {});
    let error = connection.call(&LibraryVersion, Deadline::after(SOON)).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    drop(connection);
    flood.join().unwrap();
}

#[test]
fn what_is_skipped_is_bounded() {
    let (mut connection, mut theirs) = pair();
    let flood = std::thread::spawn(move || while theirs.write_all(&REBOOT).is_ok() {});
    let error = connection.next_event(Deadline::after(SOON)).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    drop(connection);
    flood.join().unwrap();
}

#[test]
fn after_the_deadline_one_frame_is_looked_at_and_no_more() {
    let (mut connection, mut theirs) = pair();
    theirs.write_all(&[&REBOOT[..], &removed()].concat()).unwrap();
    let now = || Deadline::after(Duration::ZERO);
    assert!(connection.next_event(now()).unwrap().is_none(), "else a peer that never pauses is never told the time");
    assert!(connection.next_event(now()).unwrap().is_some());
}

#[test]
fn part_of_an_event_is_kept_for_the_next_wait() {
    let (mut connection, mut theirs) = pair();
    let bytes = removed();
    theirs.write_all(&bytes[..30]).unwrap();
    assert!(connection.next_event(Deadline::after(SHORT)).unwrap().is_none());
    theirs.write_all(&bytes[30..]).unwrap();
    assert!(connection.next_event(Deadline::after(SOON)).unwrap().is_some());
    theirs.write_all(&VERSION).unwrap();
    let error = connection.next_event(Deadline::after(SOON)).unwrap_err();
    assert!(error.to_string().contains("a Reply that nothing asked for"), "{error}");
}

#[test]
fn a_peer_that_does_not_read_cannot_hold_a_call() {
    let (mut connection, theirs) = pair();
    let domain = crate::libvirt::Domain { name: "x".repeat(4_000_000), uuid: [0; 16], id: 1 };
    let call = crate::libvirt::procedures::GetState { domain: &domain };
    let error = connection.call(&call, Deadline::after(SHORT)).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    drop(theirs);
}

#[test]
fn a_value_that_cannot_be_sent_spoils_nothing() {
    let (mut connection, mut theirs) = pair();
    let open = crate::libvirt::procedures::Open { uri: "a\0b", read_only: false };
    let error = connection.call(&open, Deadline::after(SOON)).unwrap_err();
    assert!(matches!(error, Error::Argument { .. }), "{error}");
    let mut second = VERSION;
    second[23] = 2;
    theirs.write_all(&second).unwrap();
    assert!(connection.call(&LibraryVersion, Deadline::after(SOON)).is_ok());
}
