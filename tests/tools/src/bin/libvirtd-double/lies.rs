//! How a lie is told.

use std::io::{IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::script::Lie;
use crate::wire::{Head, KEEPALIVE, Out, Refusal};
use crate::world::Writer;

/// How much a flood writes at once.
const BURST: usize = 65_536;

/// Says `lie` in place of the honest `head` and `payload`; false when the connection is over.
pub fn tell(lie: &Lie, head: Head, payload: &[u8], writer: &Writer) -> bool {
    let mut stream = writer.lock().unwrap();
    let honest = head.frame(payload);
    let mut say = |bytes: &[u8]| stream.write_all(bytes).is_ok();
    match lie {
        Lie::CutAt(count) => {
            say(honest.get(..*count).unwrap_or(&honest));
            // Before another thread can send an event.
            let _ = stream.shutdown(std::net::Shutdown::Both);
            false
        }
        Lie::ShortPayload(count) => say(&head.frame(payload.get(..*count).unwrap_or(payload))),
        Lie::LongPayload(count) => say(&head.frame(&[payload, &vec![0; *count]].concat())),
        Lie::Length(value) => say(&[&value.to_be_bytes()[..], &honest[4..]].concat()),
        Lie::Program(program) => say(&Head { program: *program, ..head }.frame(payload)),
        Lie::Version(version) => say(&Head { version: *version, ..head }.frame(payload)),
        Lie::Procedure(procedure) => say(&Head { procedure: *procedure, ..head }.frame(payload)),
        Lie::Type(kind) => say(&Head { kind: *kind, ..head }.frame(payload)),
        Lie::Serial(serial) => say(&Head { serial: *serial, ..head }.frame(payload)),
        Lie::Status(status) => say(&Head { status: *status, ..head }.frame(payload)),
        Lie::Garbage(count) => say(&head.frame(&garbage(*count))),
        Lie::FirstWord(word) => {
            say(&head.frame(&[&word.to_be_bytes()[..], payload.get(4..).unwrap_or_default()].concat()))
        }
        // A string of one byte, whose padding is made other than zero, or a byte that UTF-8 never has.
        Lie::Padding => say(&head.frame(&[0, 0, 0, 1, b'x', 0, 0, 1])),
        Lie::NotUtf8 => say(&head.frame(&[0, 0, 0, 1, 0xff, 0, 0, 0])),
        Lie::Nul => say(&head.frame(&[0, 0, 0, 3, b'x', 0, b'x', 0])),
        // After the domain's id comes their count.
        Lie::LastId(id) => say(&head.frame(&overwritten(payload, 8, &id.to_be_bytes()))),
        Lie::OtherUuid => say(&head.frame(&overwritten(payload, 24, &NOBODY))),
        Lie::EventFlood(callback) => flood(&mut stream, &removed(*callback)),
        Lie::ForeignFlood(uuid) => flood(&mut stream, &event(333, 5, crate::world::uuid(uuid), "ua-nic")),
        Lie::OwnFlood(uuid) => flood(&mut stream, &event(333, 0, crate::world::uuid(uuid), "ua-other")),
        Lie::BigFlood => flood(&mut stream, &event(333, 0, NOBODY, &"x".repeat(524_288))),
        Lie::BigUnknownFlood => flood(&mut stream, &event(319, 0, NOBODY, &"x".repeat(524_288))),
        Lie::UnknownEventFlood => flood(&mut stream, &Head::event(319).frame(&Out::default().word(0).0)),
        Lie::PingFlood => flood(&mut stream, &ping()),
        Lie::EventDrizzle(millis) => drizzle(&mut stream, &removed(0), *millis),
        Lie::PingDrizzle(millis) => drizzle(&mut stream, &ping(), *millis),
        Lie::AnswerThen(lie) => {
            let said = say(&honest);
            drop(stream);
            said && tell(lie, head, payload, writer)
        }
        Lie::Pings(count) => (0..*count).all(|_| say(&ping())) && say(&honest),
        Lie::Trickle(millis) => honest.iter().all(|byte| {
            pause(*millis);
            say(&[*byte])
        }),
        Lie::Claim(length) => {
            say(&[&length.to_be_bytes()[..], &honest[4..28], &length.saturating_sub(64).to_be_bytes()].concat());
            drop(stream);
            silence()
        }
        Lie::Endless(length) => {
            say(&[&length.to_be_bytes()[..], &honest[4..28], &length.saturating_sub(64).to_be_bytes()].concat());
            flood(&mut stream, b"x")
        }
        Lie::Silence => {
            drop(stream);
            silence()
        }
        Lie::Close | Lie::DoneButClose => false,
        Lie::Exit => {
            crate::monitor::end_all();
            std::process::exit(0)
        }
        Lie::Stop => {
            raise(Signal::SIGSTOP).expect("a process may stop itself");
            true
        }
        Lie::Gift(count) => gift(&stream, &honest, *count),
        Lie::Unsolicited => say(&Head { serial: head.serial.wrapping_add(100), ..head }.frame(payload)) && say(&honest),
        Lie::Twice => say(&honest) && say(&honest),
        Lie::Delay(millis) => {
            pause(*millis);
            say(&honest)
        }
        Lie::Error { code, domain, message, repeat } => {
            let message = message.as_ref().map(|message| message.repeat(*repeat));
            let refusal = Refusal { code: *code, domain: *domain, message, errno: None };
            say(&Head { status: 1, ..head }.frame(&refusal.payload()))
        }
    }
}

fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// Says nothing more; what the client says meanwhile is left unread.
fn silence() -> bool {
    pause(u64::from(u32::MAX));
    false
}

/// Says the same until the client hangs up.
fn flood(stream: &mut UnixStream, frame: &[u8]) -> bool {
    let burst = frame.repeat((BURST / frame.len()).max(1));
    while stream.write_all(&burst).is_ok() {}
    false
}

/// Says the same at intervals until the client hangs up.
fn drizzle(stream: &mut UnixStream, frame: &[u8], millis: u64) -> bool {
    while stream.write_all(frame).is_ok() {
        pause(millis);
    }
    false
}

/// Bytes that look random and are the same each time.
fn garbage(count: usize) -> Vec<u8> {
    let mut seed: u32 = 0x2545_f491;
    (0..count)
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            seed.to_be_bytes()[1]
        })
        .collect()
}

/// The payload with other bytes so far from its end.
fn overwritten(payload: &[u8], from_end: usize, bytes: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let at = payload.len() - from_end;
    payload[at..at + bytes.len()].copy_from_slice(bytes);
    payload
}

fn ping() -> Vec<u8> {
    Head { program: KEEPALIVE, version: 1, procedure: 1, kind: 2, serial: 0, status: 0 }.frame(&[])
}

/// The UUID of no domain.
const NOBODY: [u8; 16] = [0xee; 16];

fn removed(callback: i32) -> Vec<u8> {
    event(333, callback, NOBODY, "ua-nothing")
}

fn event(procedure: i32, callback: i32, uuid: [u8; 16], alias: &str) -> Vec<u8> {
    let payload = Out::default().word(callback).text("nobody").raw(&uuid).word(7).text(alias);
    Head::event(procedure).frame(&payload.0)
}

/// Sends `bytes` with `count` descriptors of /dev/null.
fn gift(stream: &UnixStream, bytes: &[u8], count: usize) -> bool {
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = vec![null.as_raw_fd(); count];
    let message = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], &message, MsgFlags::empty(), None)
        .is_ok_and(|sent| sent == bytes.len())
}
