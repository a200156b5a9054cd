use super::super::message::{Message, request};
use super::super::socket_path::scratch::Scratch;
use super::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::Instant;

const OVS: Capabilities =
    Capabilities { features: 0xd7c6_6a7ca, protocol_features: 0x10cbf, queues: 128, memory_slots: None };

/// Far longer than any step of a test, so that a slow or busy machine gets the same result.
const PATIENT: Patience = Patience {
    message: ENDLESS,
    quiet: Duration::from_secs(1),
    until_quiet: Duration::from_secs(60),
    driver: Duration::from_secs(20),
};

/// What waits for this long has not ended by itself.
const ENDLESS: Duration = Duration::from_secs(1200);

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Runs a stand-in for this QEMU while a NIC is plugged.
fn with<T>(scratch: &Scratch, qemu: impl FnOnce() -> T) -> (T, Served) {
    let plug = || Ok::<T, ()>(qemu());
    let (plugged, served) = during(scratch.socket_path(), OVS, soon(), || BTreeSet::from([7]), plug).unwrap();
    (plugged.unwrap(), served)
}

#[test]
fn qemus_handshake_is_answered_as_it_comes() {
    let scratch = Scratch::new("standin-handshake");
    let (outcome, served) = with(&scratch, || {
        let listener = UnixListener::bind(&scratch.path).unwrap();
        let mut line = Connection::new(listener.accept().unwrap().0).unwrap();
        let mut seen = Vec::new();
        for asked in [request::GET_FEATURES, request::GET_PROTOCOL_FEATURES] {
            seen.push(line.ask(asked, soon()).unwrap());
        }
        line.send(&Message::ask(request::SET_PROTOCOL_FEATURES, &0x1001f_u64.to_ne_bytes()), soon()).unwrap();
        seen.push(line.ask(request::GET_QUEUE_NUM, soon()).unwrap());
        // SET_OWNER, rings and their eventfds, memory: nothing to wait for.
        for (asked, size) in [(3, 0), (13, 8), (14, 8), (18, 8), (2, 8), (5, 264), (8, 8), (10, 8), (9, 40)] {
            line.send(&Message::ask(asked, &vec![0; size]), soon()).unwrap();
        }
        let mut enable = Message::ask(18, &[0; 8]);
        enable.needs_reply = true;
        line.send(&enable, soon()).unwrap();
        seen.push(line.receive(soon()).unwrap().word().unwrap());
        seen.push(line.ask(request::GET_STATUS, soon()).unwrap());
        (seen, line)
    });
    assert_eq!(outcome.0, [0xd7c6_6a7ca, 0x1001f, 128, 0, 0]);
    assert_eq!(served, Served { requests: 15, accepted: BTreeSet::from([7]), error: None, widened: false });
}

#[test]
fn it_stays_until_the_nic_is_plugged_and_goes_then() {
    let scratch = Scratch::new("standin-goes");
    let (mut stream, served) = with(&scratch, || {
        let listener = UnixListener::bind(&scratch.path).unwrap();
        let stream = listener.accept().unwrap().0;
        let mut line = Connection::new(stream.try_clone().unwrap()).unwrap();
        line.ask(request::GET_FEATURES, soon()).unwrap();
        thread::sleep(Duration::from_millis(100));
        line.ask(request::GET_FEATURES, soon()).unwrap();
        stream
    });
    assert_eq!((served.requests, served.error), (2, None));
    stream.set_nonblocking(false).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_handshake_that_the_end_of_plugging_meets_is_answered_to_its_end() {
    let scratch = Scratch::new("standin-amid");
    let plug = || {
        let listener = UnixListener::bind(&scratch.path).unwrap();
        let mut line = Connection::new(listener.accept().unwrap().0).unwrap();
        line.ask(request::GET_FEATURES, soon()).unwrap();
        line.send(&Message::ask(request::SET_FEATURES, &[0; 8]), soon()).unwrap();
        Ok::<_, ()>(thread::spawn(move || {
            (0..200).take_while(|_| line.ask(request::GET_STATUS, soon()).is_ok()).count()
        }))
    };
    let (qemu, served) = during_with(scratch.socket_path(), OVS, (soon(), PATIENT), BTreeSet::new, plug).unwrap();
    assert_eq!((qemu.unwrap().join().unwrap(), served.requests), (200, 202));
}

/// How long the stand-in stays from QEMU's last messages on, which these are, and from the end of plugging, which comes
/// `later` and has this outcome.
fn stays(name: &str, patience: Patience, outcome: Result<(), ()>, last: &[u32], later: Duration) -> [Duration; 2] {
    let scratch = Scratch::new(name);
    let mut ended = None;
    let plug = || {
        let listener = UnixListener::bind(&scratch.path).unwrap();
        let mut line = Connection::new(listener.accept().unwrap().0).unwrap();
        for asked in last {
            line.send(&Message::ask(*asked, &[0; 8]), soon()).unwrap();
        }
        let sent = Instant::now();
        // It has them all.
        line.ask(request::GET_STATUS, soon()).unwrap();
        thread::sleep(later);
        ended = Some((line, [sent, Instant::now()]));
        outcome
    };
    let (_, served) = during_with(scratch.socket_path(), OVS, (soon(), patience), BTreeSet::new, plug).unwrap();
    assert_eq!((served.requests, served.error), (u32::try_from(last.len()).unwrap() + 1, None));
    ended.unwrap().1.map(|moment| moment.elapsed())
}

#[test]
fn a_nic_that_no_driver_starts_is_released_after_a_while() {
    let [_, end] = stays("standin-unstarted", PATIENCE, Ok(()), &[3, 13, 18], Duration::ZERO);
    assert!(end >= PATIENCE.driver, "{end:?}");
    // A driver is waited for no longer than a quarter of the time that is left.
    let endless = Patience { driver: ENDLESS, ..PATIENCE };
    let scratch = Scratch::new("standin-no-time");
    let begun = Instant::now();
    let deadline = Deadline::after(Duration::from_millis(400));
    let plug = || {
        let listener = UnixListener::bind(&scratch.path).unwrap();
        let mut line = Connection::new(listener.accept().unwrap().0).unwrap();
        line.ask(request::GET_FEATURES, soon()).unwrap();
        Ok::<_, ()>(line)
    };
    let (line, _) = during_with(scratch.socket_path(), OVS, (deadline, endless), BTreeSet::new, plug).unwrap();
    assert!(begun.elapsed() < ENDLESS / 5);
    line.unwrap();
}

#[test]
fn a_driver_that_starts_the_nic_is_served_until_it_is_done() {
    let scratch = Scratch::new("standin-driver");
    let mut driver = None;
    let plug = || {
        let listener = UnixListener::bind(&scratch.path).unwrap();
        let mut line = Connection::new(listener.accept().unwrap().0).unwrap();
        line.ask(request::GET_FEATURES, soon()).unwrap();
        driver = Some(thread::spawn(move || {
            // SET_VRING_ENABLE: the driver has chosen its features, and takes a while more before it starts the NIC.
            thread::sleep(Duration::from_millis(50));
            line.send(&Message::ask(18, &[0; 8]), soon()).unwrap();
            thread::sleep(PATIENT.quiet * 2);
            line.send(&Message::ask(request::SET_FEATURES, &[0; 8]), soon()).unwrap();
            let status = line.ask(request::GET_STATUS, soon()).unwrap();
            (line, status)
        }));
        Ok::<(), ()>(())
    };
    let (_, served) = during_with(scratch.socket_path(), OVS, (soon(), PATIENT), BTreeSet::new, plug).unwrap();
    assert_eq!(driver.unwrap().join().unwrap().1, 0);
    assert_eq!((served.requests, served.error), (4, None));
}

#[test]
fn what_may_be_under_way_still_is_waited_for() {
    for begins in [request::SET_FEATURES, request::SET_MEM_TABLE] {
        assert!(stays("standin-started", PATIENCE, Ok(()), &[begins], Duration::ZERO)[0] >= PATIENCE.quiet);
    }
    // It goes on in QEMU, or is being undone there.
    assert!(stays("standin-failed", PATIENCE, Err(()), &[3], Duration::ZERO)[0] >= PATIENCE.quiet);
}

#[test]
fn quiet_before_the_end_of_plugging_need_not_be_waited_for_again() {
    let [_, end] = stays("standin-quiet", PATIENT, Ok(()), &[request::SET_FEATURES], PATIENT.quiet * 2);
    assert!(end < PATIENT.quiet, "{end:?}");
}

#[test]
fn it_ends_if_qemu_never_listens_or_never_takes_the_connection() {
    let scratch = Scratch::new("standin-unserved");
    let (_, served) = with(&scratch, || thread::sleep(Duration::from_millis(20)));
    assert_eq!(served, Served::default());
    let (_listener, served) = with(&scratch, || {
        let listener = UnixListener::bind(&scratch.path).unwrap();
        thread::sleep(Duration::from_millis(20));
        listener
    });
    assert_eq!(served, Served::default());
}

#[test]
fn a_connection_that_qemu_gave_up_is_made_again() {
    let scratch = Scratch::new("standin-again");
    let ((features, _line), served) = with(&scratch, || {
        let listener = UnixListener::bind(&scratch.path).unwrap();
        drop(listener.accept().unwrap());
        let mut line = Connection::new(listener.accept().unwrap().0).unwrap();
        (line.ask(request::GET_FEATURES, soon()).unwrap(), line)
    });
    assert_eq!((features, served.requests, served.error, served.widened), (0xd7c6_6a7ca, 1, None, false));
}

#[test]
fn one_that_qemu_refuses_comes_back_with_more() {
    let scratch = Scratch::new("standin-refused");
    let (slots, served) = with(&scratch, || {
        let listener = UnixListener::bind(&scratch.path).unwrap();
        let mut first = Connection::new(listener.accept().unwrap().0).unwrap();
        first.ask(request::GET_FEATURES, soon()).unwrap();
        drop(first);
        let mut line = Connection::new(listener.accept().unwrap().0).unwrap();
        line.ask(request::GET_FEATURES, soon()).unwrap();
        let slots = line.ask(request::GET_MAX_MEM_SLOTS, soon()).unwrap();
        (slots, line)
    });
    assert_eq!((slots.0, served.requests, served.widened), (509, 3, true));
}

#[test]
fn only_a_qemu_that_waits_is_freed() {
    let scratch = Scratch::new("standin-free");
    let own = i32::try_from(std::process::id()).unwrap();
    let listener = UnixListener::bind(&scratch.path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let freed = AtomicBool::new(false);
    for waits in [vec![], vec![1]] {
        let idle = || thread::sleep(LOOK_FOR_WAITING * 5);
        let ((), served) = free(scratch.socket_path(), || waits.clone(), &freed, soon(), idle).unwrap();
        assert_eq!((served.requests, freed.load(Ordering::Acquire)), (0, false));
    }
    // One that is no longer waiting was connected to by nobody else.
    while listener.accept().is_ok() {}
    listener.set_nonblocking(false).unwrap();
    let serve = || Connection::new(listener.accept().unwrap().0).unwrap().ask(request::GET_QUEUE_NUM, soon()).unwrap();
    let (queues, served) = free(scratch.socket_path(), || vec![1, own], &freed, soon(), serve).unwrap();
    assert_eq!((queues, served.requests, freed.into_inner()), (1024, 1, true));
}

#[test]
fn a_hostile_qemu_ends_its_connections_and_nothing_else() {
    let nonsense: [&[u32]; 5] = [&[1, 1, u32::MAX], &[1, 0, 0], &[0, 1, 0], &[u32::MAX, 9, 0], &[24, 1, 12, 0, 0, 0]];
    for words in nonsense {
        let scratch = Scratch::new("standin-hostile");
        let (closed, served) = with(&scratch, || {
            // It listens no more: a second connection's end would be told instead.
            let (mut stream, _) = UnixListener::bind(&scratch.path).unwrap().accept().unwrap();
            stream.write_all(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream.read(&mut [0])
        });
        // ECONNRESET where bytes of ours were not read.
        assert!(closed.is_err() || closed.is_ok_and(|read| read == 0));
        assert!(matches!(served.error, Some(message::Error::Protocol(_))), "{words:?}: {served:?}");
    }
}

/// A QEMU that sends half a message. The stand-in must not wait for the rest without end.
fn half_a_message(name: &str, deadline: Duration, patience: Patience) {
    let scratch = Scratch::new(name);
    let plug = || {
        let listener = UnixListener::bind(&scratch.path).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&[1, 0, 0]).unwrap();
        Ok::<_, ()>(stream)
    };
    let timing = (Deadline::after(deadline), patience);
    let begun = Instant::now();
    let (stream, served) = during_with(scratch.socket_path(), OVS, timing, BTreeSet::new, plug).unwrap();
    assert!(begun.elapsed() < ENDLESS / 2);
    assert_eq!(served.error, Some(message::Error::Silent));
    stream.unwrap();
}

#[test]
fn half_a_message_holds_it_no_longer_than_a_message_may_take() {
    half_a_message("standin-half", ENDLESS, PATIENCE);
}

#[test]
fn half_a_message_does_not_outlast_the_deadline() {
    half_a_message("standin-deadline", Duration::from_millis(100), PATIENT);
}

#[test]
fn a_flood_is_bounded() {
    let scratch = Scratch::new("standin-flood");
    let ((), served) = with(&scratch, || {
        let listener = UnixListener::bind(&scratch.path).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let many: Vec<u8> = [3_u32, 1, 0].map(u32::to_ne_bytes).concat().repeat(1000);
        while stream.write_all(&many).is_ok() {}
    });
    assert_eq!(served.requests, MESSAGE_LIMIT + 1);
    assert!(matches!(served.error, Some(message::Error::Protocol(_))));
}

#[test]
fn a_link_at_the_name_is_not_followed() {
    let scratch = Scratch::new("standin-link");
    let other = scratch.path.with_file_name("other");
    let listener = UnixListener::bind(&other).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::os::unix::fs::symlink(&other, &scratch.path).unwrap();
    let ((), served) = with(&scratch, || thread::sleep(Duration::from_secs(1)));
    assert!(listener.accept().is_err());
    assert!(matches!(served.error, Some(message::Error::Io(_))));
}
