//! A whole conversation: the bytes are all that the daemon ever says, and the client goes through everything that the
//! plugin does with it.
//!
//! Whatever the daemon says, each step ends by itself (the daemon's side is closed after the last byte, so that nothing but
//! a defect can make it wait), errors are short, and what the client sends are whole frames of its own making.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vhostuser_hotplug::deadline::Deadline;
use vhostuser_hotplug::libvirt::message::{
    FRAME_MIN, Frame, KEEPALIVE_PONG, KEEPALIVE_PROGRAM, Kind, LENGTH_SIZE, REMOTE_PROGRAM, frame_length,
};
use vhostuser_hotplug::libvirt::{Access, Client, Domain, Error, EventKind, Scope, Uri, Xml};
use vhostuser_hotplug::vm::domain::Description;

use super::said;

/// As much as a socket takes at once, so that all of it is there before the client starts.
const MOST: usize = 64 << 10;
/// The deadline of the conversation, for the one wait that there is: until the daemon reads what fills its socket.
const PATIENCE: Duration = Duration::from_millis(100);
/// How late the conversation may end on a machine that is busy, before that counts as a hang.
const HANG: Duration = Duration::from_secs(20);

pub fn holds(bytes: &[u8]) {
    let bytes = bytes.get(..MOST).unwrap_or(bytes);
    calls_made(bytes);
    // Once more with the answers' numbers put right, since few inputs count as the client does.
    let renumbered = renumbered(bytes);
    if renumbered != bytes {
        calls_made(&renumbered);
    }
}

/// Has the whole conversation; how many calls the daemon's words were good for.
pub fn calls_made(daemon_says: &[u8]) -> u32 {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    theirs.write_all(daemon_says).expect("a socket takes 64 KiB");
    theirs.shutdown(Shutdown::Write).expect("a socket can be closed half");
    let begun = Instant::now();
    if let Err(error) = story(ours, Deadline::after(PATIENCE)) {
        said(&error);
        let _ = (error.is_retryable(), error.is_authentication());
    }
    assert!(begun.elapsed() < HANG, "{:?} for {} bytes", begun.elapsed(), daemon_says.len());
    let mut sent = Vec::new();
    theirs.read_to_end(&mut sent).or_else(reset).expect("what was sent can be read");
    sent_is_sound(&sent)
}

/// Bytes of the daemon's that nobody read make the kernel say so.
fn reset(error: std::io::Error) -> std::io::Result<usize> {
    if error.kind() == std::io::ErrorKind::ConnectionReset { Ok(0) } else { Err(error) }
}

/// What the plugin asks a daemon, in its order; it goes on after a refusal, and also after a failure, which must be
/// harmless.
fn story(stream: UnixStream, deadline: Deadline) -> Result<(), Error> {
    let (mut client, _) = Client::open_any(stream, &[Uri::System, Uri::Session], Access::Full, deadline)?;
    let mut first = None;
    let mut note = |error: Error| first = first.take().or(Some(error));
    let _ = client.library_version(deadline).map_err(&mut note);
    let domains = client.running_domains(deadline).map_err(&mut note).unwrap_or_default();
    let domain = domains.into_iter().next();
    let domain = domain.unwrap_or(Domain { name: "vm".to_owned(), uuid: [9; 16], id: 1 });
    for kind in [EventKind::DeviceRemoved, EventKind::DeviceRemovalFailed, EventKind::Lifecycle] {
        let _ = client.subscribe(kind, &domain, deadline).map_err(&mut note);
    }
    let _ = client.state(&domain, deadline).map_err(&mut note);
    let _ = client.is_persistent(&domain, deadline).map_err(&mut note);
    if let Ok(xml) = client.xml(&domain, Xml::Live, deadline).map_err(&mut note) {
        let _ = Description::parse(&xml).map_err(|error| said(&error));
    }
    let nic = "<interface type='vhostuser'/>";
    let _ = client.attach(&domain, nic, Scope::Live, deadline).map_err(&mut note);
    let _ = client.detach_alias(&domain, "ua-net1", Scope::Live, deadline).map_err(&mut note);
    let _ = client.detach_xml(&domain, nic, Scope::Live, deadline).map_err(&mut note);
    let mut events = 0;
    while let Ok(Some(event)) = client.next_event(deadline).map_err(&mut note) {
        assert_eq!(event.domain().uuid, domain.uuid);
        events += 1;
        assert!(events <= MOST, "more events than bytes");
    }
    first.map_or(Ok(()), Err)
}

/// Whole frames, calls numbered one after the other; the last one may be cut where the deadline passed. How many calls.
fn sent_is_sound(mut sent: &[u8]) -> u32 {
    let mut last = 0;
    while let Some(word) = sent.first_chunk::<LENGTH_SIZE>() {
        let length = frame_length(*word).expect("a length");
        let Some((one, rest)) = sent.split_at_checked(length) else { break };
        let header = Frame::parse(one.to_vec()).expect("a frame").header;
        match header.kind {
            Kind::Call => {
                assert_eq!((header.program, header.serial), (REMOTE_PROGRAM, last + 1));
                last = header.serial;
            }
            Kind::Message => {
                assert_eq!((header.program, header.procedure), (KEEPALIVE_PROGRAM, KEEPALIVE_PONG));
            }
            other => panic!("a {other:?} was sent"),
        }
        sent = rest;
    }
    last
}

/// The same frames with the answers numbered 1, 2, 3….
pub fn renumbered(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let (mut at, mut serial) = (0, 0_u32);
    while let Some(length) = bytes[at..].first_chunk::<LENGTH_SIZE>().and_then(|word| frame_length(*word).ok())
        && let Some(one) = bytes.get_mut(at..at + length)
    {
        if one[16..20] == [0, 0, 0, 1] {
            serial += 1;
            one[20..24].copy_from_slice(&serial.to_be_bytes());
        }
        at += length;
    }
    assert!(at <= bytes.len() && FRAME_MIN == 28);
    bytes
}
