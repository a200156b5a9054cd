//! Every lie ends as the right kind of error, within the deadline.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vhostuser_hotplug::deadline::Deadline;
use vhostuser_hotplug::libvirt::{Error, Event, EventKind, Scope, Xml};

use crate::harness::{Double, kind, nic, open, plain, soon};

/// The deadline of a whole job, where a lie makes it end that way.
const SPAN: Duration = Duration::from_millis(700);
/// And where a lie ends it long before.
const LONG: Duration = Duration::from_secs(60);
/// What a busy machine may add. What has no end is told from that by it.
const MARGIN: Duration = Duration::from_secs(30);

/// Each call once, all under one deadline.
fn job(double: &Double, stream: UnixStream, deadline: Deadline) -> Result<(), Error> {
    let mut client = open(stream, deadline)?;
    client.library_version(deadline)?;
    let domains = client.running_domains(deadline)?;
    let domain = domains.into_iter().find(|domain| domain.name == "ns_plain").expect("a list that is taken has it");
    client.state(&domain, deadline)?;
    client.is_persistent(&domain, deadline)?;
    client.xml(&domain, Xml::Live, deadline)?;
    client.operation(&domain, deadline)?;
    client.subscribe(EventKind::DeviceRemoved, &domain, deadline)?;
    let xml = nic("ua-nic", &double.dir.join("nic"));
    client.attach(&domain, &xml, Scope::Live, deadline)?;
    client.detach_alias(&domain, "ua-nic", Scope::Live, deadline)?;
    client.next_event(deadline)?.ok_or(Error::TimedOut { doing: "waiting for the test's event" })?;
    Ok(())
}

/// Runs the job against a lie; how it ended, and when.
fn ends(at: &str, lie: &Value, span: Duration) -> (Result<(), Error>, Duration) {
    let double = Double::lying(at, lie);
    let begun = Instant::now();
    (job(&double, double.connect(), Deadline::after(span)), begun.elapsed())
}

#[track_caller]
fn expect(at: &str, lie: &Value, expected: &str) -> Error {
    let span = if expected == "timed out" { SPAN } else { LONG };
    let (result, took) = ends(at, lie, span);
    assert!(took < span + MARGIN, "{lie} at {at} held the job for {took:?}");
    let error = result.err().unwrap_or_else(|| panic!("{lie} at {at} was believed"));
    assert_eq!(kind(&error), expected, "{lie} at {at}: {error}");
    error
}

/// The calls of a job, in order.
const CALLS: [&str; 11] = [
    "auth-list",
    "open",
    "version",
    "list",
    "state",
    "persistent",
    "xml",
    "job",
    "subscribe",
    "attach",
    "detach-alias",
];

#[test]
fn without_a_lie_the_job_is_done() {
    let double = Double::start(&json!({}));
    job(&double, double.connect(), soon()).unwrap();
    assert_eq!(double.call_names()[1..12], CALLS);
}

#[test]
fn a_header_that_is_not_the_answers_is_a_breach_at_every_call() {
    for at in CALLS {
        for lie in [
            json!({"program": 0x2000_8087}),
            json!({"version": 2}),
            json!({"procedure": 999}),
            json!({"serial": 77}),
            json!({"status": 2}),
            json!({"status": 9}),
            json!({"type": 0}),
            json!({"type": 3}),
            json!({"type": 5}),
            json!({"type": 9}),
            json!("unsolicited"),
        ] {
            expect(at, &lie, "protocol");
        }
    }
}

#[test]
fn a_length_that_cannot_be_is_a_breach() {
    for length in [0u32, 3, 4, 27, 4_259_869, 33_554_436, 33_554_437, 0x7fff_ffff, 0xffff_ffff] {
        expect("connect", &json!({"length": length}), "protocol");
        expect("xml", &json!({"length": length}), "protocol");
    }
}

#[test]
fn a_payload_that_is_not_the_answers_is_a_breach_at_every_call() {
    for at in CALLS {
        for lie in [json!({"garbage": 37}), json!({"garbage": 400}), json!({"long-payload": 4})] {
            expect(at, &lie, "protocol");
        }
    }
    for (at, whole) in [("version", 8), ("state", 8), ("subscribe", 4), ("list", 112), ("job", 8)] {
        for count in 0..whole {
            expect(at, &json!({"short-payload": count}), "protocol");
        }
    }
}

#[test]
fn a_count_or_a_size_beyond_the_frame_is_a_breach() {
    for word in [0x0000_1000u32, 0x0030_0000, 0x0040_0001, 0x7fff_ffff, 0xffff_ffff] {
        for at in ["auth-list", "list", "xml"] {
            expect(at, &json!({"first-word": word}), "protocol");
        }
    }
}

#[test]
fn text_that_is_not_text_is_a_breach() {
    for (lie, words) in [("padding", "padding is not zero"), ("not-utf8", "not UTF-8")] {
        let error = expect("xml", &json!(lie), "protocol");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_connection_that_ends_is_a_disconnect() {
    for at in CALLS {
        for lie in [json!("close"), json!("done-but-close"), json!({"cut-at": 3}), json!({"cut-at": 27})] {
            let error = expect(at, &lie, "disconnected");
            assert!(error.is_retryable());
        }
    }
    expect("connect", &json!("close"), "disconnected");
    expect("xml", &json!({"cut-at": 500}), "disconnected");
    expect("xml", &json!("exit"), "disconnected");
}

#[test]
fn silence_ends_at_the_deadline() {
    for at in ["connect", "auth-list", "open", "xml", "attach"] {
        let error = expect(at, &json!("silence"), "timed out");
        assert!(error.is_retryable());
    }
}

#[test]
fn a_trickle_does_not_stretch_the_deadline() {
    for at in ["auth-list", "xml"] {
        expect(at, &json!({"trickle": 200}), "timed out");
    }
    expect("list", &json!({"delay": 4000}), "timed out");
    expect("xml", &json!({"claim": 4_000_000}), "timed out");
}

#[test]
fn a_flood_does_not_stretch_the_deadline() {
    for at in ["connect", "auth-list", "xml", "subscribe", "attach"] {
        expect(at, &json!({"event-flood": 0}), "protocol");
        expect(at, &json!("unknown-event-flood"), "protocol");
        // Of pings, the double does not read the answers, so either they stop fitting or they become too many. Of what is
        // big, a fast machine takes too many in time.
        for lie in ["ping-flood", "big-unknown-flood"] {
            let (result, took) = ends(at, &json!(lie), SPAN);
            let error = result.unwrap_err();
            assert!(["protocol", "timed out"].contains(&kind(&error)), "{lie} at {at}: {error}");
            assert!(took < SPAN + MARGIN);
        }
    }
}

#[test]
fn traffic_that_stays_within_bounds_does_not_stretch_the_deadline() {
    for at in ["connect", "auth-list", "xml", "attach"] {
        expect(at, &json!({"event-drizzle": 3}), "timed out");
        expect(at, &json!({"ping-drizzle": 20}), "timed out");
        expect(at, &json!("big-flood"), "protocol");
    }
}

/// Waits for an event where the double, after an honest answer, says something else.
fn waits(lie: &Value, span: Duration) -> Result<Option<Event>, Error> {
    let double = Double::lying("subscribe", &json!({"answer-then": lie}));
    let mut client = double.client();
    let domain = plain(&mut client);
    client.subscribe(EventKind::DeviceRemoved, &domain, soon()).unwrap();
    let begun = Instant::now();
    let result = client.next_event(Deadline::after(span));
    assert!(begun.elapsed() < span + MARGIN, "{lie} held the wait for {:?}", begun.elapsed());
    result
}

#[test]
fn a_wait_for_an_event_is_as_safe_as_a_call() {
    // Floods: of a subscription's number but another domain, of a number nobody has, of other events, of pings.
    let foreign = json!({"foreign-flood": "11111111-2222-3333-4444-555555555555"});
    for lie in [json!({"event-flood": 0}), foreign, json!("unknown-event-flood")] {
        assert_eq!(kind(&waits(&lie, LONG).unwrap_err()), "protocol", "{lie}");
    }
    let error = waits(&json!("ping-flood"), SPAN).unwrap_err();
    assert!(["protocol", "timed out"].contains(&kind(&error)), "{error}");
    // So much in each that a machine may come to the deadline first, or to the bound on their number.
    for lie in [json!("big-flood"), json!("big-unknown-flood")] {
        match waits(&lie, SPAN) {
            Ok(heard) => assert_eq!(heard, None, "{lie}"),
            Err(error) => assert_eq!(kind(&error), "protocol", "{lie}"),
        }
    }
    for lie in [json!({"event-drizzle": 2}), json!({"ping-drizzle": 20}), json!("silence"), json!({"trickle": 200})] {
        assert_eq!(waits(&lie, SPAN).unwrap(), None, "{lie}");
    }
    for lie in [json!("twice"), json!({"type": 4}), json!({"type": 9}), json!({"length": 9}), json!({"length": 0})] {
        assert_eq!(kind(&waits(&lie, LONG).unwrap_err()), "protocol", "{lie}");
    }
    for lie in [json!("close"), json!("exit"), json!({"cut-at": 9})] {
        assert_eq!(kind(&waits(&lie, LONG).unwrap_err()), "disconnected", "{lie}");
    }
}

#[test]
fn pings_are_answered_and_the_job_goes_on() {
    let double = Double::lying("xml", &json!({"pings": 50}));
    job(&double, double.connect(), soon()).unwrap();
}

#[test]
fn an_answer_that_comes_twice_ends_the_next_call() {
    for at in ["version", "xml", "attach"] {
        expect(at, &json!("twice"), "protocol");
    }
}

#[test]
fn descriptors_are_never_taken() {
    let null = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        all.filter(|fd| std::fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to.ends_with("null"))).count()
    };
    let before = null();
    let double = Double::start(&json!({"lies": CALLS.map(|at| json!({"at": at, "lie": {"gift": 20}}))}));
    let mut client = double.client();
    for _ in 0..5 {
        client.library_version(soon()).unwrap();
    }
    let after = null();
    drop(client);
    // Other tests of this process may open /dev/null for a moment; a hundred and more would be the gifts.
    assert!(after < before + 20, "{before} before, {after} after");
    job(&double, double.connect(), soon()).unwrap();
}

#[test]
fn an_error_without_words_or_with_hostile_ones_is_told_safely() {
    let error = |message: Value, repeat: u32| {
        expect("attach", &json!({"error": {"code": 1, "domain": 10, "message": message, "repeat": repeat}}), "refused")
    };
    let mute = error(Value::Null, 1);
    assert_eq!(mute.refusal().unwrap().message, None);
    assert!(mute.to_string().contains("does not say why"));
    let hostile = error(json!("all is well\n\u{1b}[2Jlevel=info \u{202e}gpj"), 1).to_string();
    assert!(!hostile.chars().any(|c| c.is_control() || c == '\u{202e}'), "{hostile:?}");
    let huge = error(json!("more "), 400_000);
    assert!(huge.to_string().len() < 1024);
    // Three copies of the message are in an error; what does not fit into a frame is a breach.
    expect("attach", &json!({"error": {"code": 1, "domain": 10, "message": "x", "repeat": 4_194_304}}), "protocol");
}

#[test]
fn a_poisoned_connection_says_so() {
    let double = Double::start(&json!({"lies": [{"at": "version", "nth": 1, "lie": {"serial": 9}}]}));
    let mut client = double.client();
    client.library_version(soon()).unwrap_err();
    let error = client.library_version(soon()).unwrap_err();
    assert_eq!(kind(&error), "unusable");
    assert!(error.to_string().contains("broke its protocol"), "{error}");
    // A new connection is as good as ever.
    assert!(double.client().library_version(soon()).is_ok());
}

#[test]
fn what_was_done_without_an_answer_is_seen_on_a_new_connection() {
    let double = Double::lying("attach", &json!("done-but-close"));
    let mut client = double.client();
    let domain = plain(&mut client);
    let xml = nic("ua-nic", &double.dir.join("nic"));
    let error = client.attach(&domain, &xml, Scope::Live, soon()).unwrap_err();
    assert_eq!(kind(&error), "disconnected");
    assert!(double.client().xml(&domain, Xml::Live, soon()).unwrap().contains("ua-nic"));
}
