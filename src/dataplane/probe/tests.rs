use super::super::backend::BackEnd;
use super::super::message::Message;
use super::super::socket_path::scratch::Scratch;
use super::*;
use std::io::{Read, Write};
use std::thread::{self, JoinHandle};

const OVS: Capabilities =
    Capabilities { features: 0xd7c6_6a7ca, protocol_features: 0x1001f, queues: 128, memory_slots: None };

fn within(millis: u64) -> Deadline {
    Deadline::after(Duration::from_millis(millis))
}

/// Connects to the path as soon as somebody listens there, and calls `act` with the connection.
fn client(path: &Path, act: impl FnOnce(UnixStream) + Send + 'static) -> JoinHandle<()> {
    let path = path.to_owned();
    thread::spawn(move || act(connect(&path)))
}

fn connect(path: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// One connection of a data plane.
#[derive(Clone, Copy)]
struct Visit {
    capabilities: Capabilities,
    /// How long it comes after the one before.
    pause: Duration,
    /// After how many answers it hangs up.
    answers: usize,
}

impl Visit {
    /// One that comes at once, and answers until it is hung up on.
    fn of(capabilities: Capabilities) -> Self {
        Self { capabilities, pause: Duration::ZERO, answers: usize::MAX }
    }
}

/// A data plane that connects so often; whether a device was started on each connection.
fn visits(path: &Path, visits: &[Visit]) -> JoinHandle<Vec<bool>> {
    let (path, visits) = (path.to_owned(), visits.to_vec());
    let visit = move |Visit { capabilities, pause, answers }| {
        thread::sleep(pause);
        let (mut connection, mut back_end) = (Connection::new(connect(&path)).unwrap(), BackEnd::new(capabilities));
        let mut given = 0;
        while let Ok(message) = connection.receive(within(60_000)) {
            let Some(answer) = back_end.answer(&message).unwrap() else { continue };
            connection.send(&answer, within(60_000)).unwrap();
            given += 1;
            if given == answers {
                break;
            }
        }
        back_end.is_started()
    };
    thread::spawn(move || visits.into_iter().map(visit).collect())
}

/// The same, with these offers.
fn data_plane(path: &Path, offers: &[Capabilities]) -> JoinHandle<Vec<bool>> {
    visits(path, &offers.iter().copied().map(Visit::of).collect::<Vec<_>>())
}

#[test]
fn a_data_plane_is_probed_and_nothing_is_left_at_the_name() {
    let scratch = Scratch::new("probe-probed");
    let data_plane = data_plane(&scratch.path, &[OVS, OVS]);
    let mut probed = probe(scratch.socket_path(), |_| true, || true, within(60_000)).unwrap();
    assert_eq!((probed.capabilities, &probed.only_asked), (OVS, &None));
    assert!(!scratch.path.exists());
    probed.ask_again(within(60_000)).unwrap();
    drop(probed);
    assert_eq!(data_plane.join().unwrap(), [true, false], "the connection that is kept has no device");
}

#[test]
fn a_device_is_started_on_each_connection_that_may_be_to_a_port_set_up_anew() {
    let cases = [
        // It does not come at once.
        (vec![Visit::of(OVS), Visit { pause: AT_ONCE * 2, ..Visit::of(OVS) }], vec![true, true]),
        // The one that came at once has ended.
        (vec![Visit::of(OVS), Visit { answers: 2, ..Visit::of(OVS) }, Visit::of(OVS)], vec![true, false, true]),
    ];
    for (connections, started) in cases {
        let scratch = Scratch::new("probe-anew");
        let data_plane = visits(&scratch.path, &connections);
        let probed = probe(scratch.socket_path(), |_| true, || true, within(60_000)).unwrap();
        assert_eq!((probed.capabilities, &probed.only_asked), (OVS, &None));
        drop(probed);
        assert_eq!(data_plane.join().unwrap(), started);
    }
}

#[test]
fn no_device_is_started_on_a_connection_that_ends_at_once_after_a_fault() {
    let scratch = Scratch::new("probe-quiet");
    // Features, protocol features, queues.
    let closed = Visit { answers: 3, ..Visit::of(OVS) };
    let connections = [Visit { answers: 1, ..closed }, closed, closed, closed, Visit::of(OVS), Visit::of(OVS)];
    let data_plane = visits(&scratch.path, &connections);
    let probed = probe(scratch.socket_path(), |_| true, || true, within(60_000)).unwrap();
    assert_eq!(&probed.only_asked, &None, "nothing was declined");
    drop(probed);
    assert_eq!(data_plane.join().unwrap(), [false, false, false, false, true, false]);
}

#[test]
fn nobody_is_waited_for_until_the_deadline() {
    let scratch = Scratch::new("probe-nobody");
    let begun = Instant::now();
    let error = probe(scratch.socket_path(), |_| true, || true, within(60)).unwrap_err();
    assert!(matches!(error, Error::Nobody { refused: 0, .. }), "{error}");
    assert!(error.to_string().contains(scratch.path.to_str().unwrap()));
    assert!((60..30_000).contains(&begun.elapsed().as_millis()) && !scratch.path.exists());
}

#[test]
fn the_pods_own_processes_are_refused() {
    let scratch = Scratch::new("probe-refused");
    let own = i32::try_from(std::process::id()).unwrap();
    let tenant = data_plane(&scratch.path, &[OVS]);
    let error = probe(scratch.socket_path(), |pid| pid != own, || true, within(2000)).unwrap_err();
    assert!(matches!(error, Error::Nobody { refused: 1, .. }), "{error}");
    tenant.join().unwrap();
}

#[test]
fn after_one_that_hangs_up_another_is_taken() {
    let scratch = Scratch::new("probe-second");
    let path = scratch.path.clone();
    let both = client(&path.clone(), move |stream| {
        drop(stream);
        data_plane(&path, &[OVS, OVS]).join().unwrap();
    });
    assert_eq!(probe(scratch.socket_path(), |_| true, || true, within(60_000)).unwrap().capabilities, OVS);
    both.join().unwrap();
}

#[test]
fn an_offer_counts_when_it_comes_again() {
    let other = Capabilities { features: OVS.features ^ 1 << 13, ..OVS };
    let scratch = Scratch::new("probe-changes");
    let flips = data_plane(&scratch.path, &[other, OVS, OVS]);
    assert_eq!(probe(scratch.socket_path(), |_| true, || true, within(60_000)).unwrap().capabilities, OVS);
    flips.join().unwrap();
    let one = data_plane(&scratch.path, &[OVS]);
    let error = probe(scratch.socket_path(), |_| true, || true, within(3000)).unwrap_err();
    assert!(matches!(error, Error::Gone { .. }), "{error}");
    one.join().unwrap();
    let never_the_same = data_plane(&scratch.path, &[OVS, other]);
    let error = probe(scratch.socket_path(), |_| true, || true, within(3000)).unwrap_err();
    let told = message::Error::Changed(OVS.features, other.features);
    assert!(matches!(&error, Error::Answer { error: found, .. } if *found == told), "{error}");
    never_the_same.join().unwrap();
}

/// A data plane that connects as often as it is let, and meets this request so: with an answer, or by hanging up.
fn stubborn(path: &Path, at: u32, meets: fn(&Message) -> Option<Message>) -> JoinHandle<()> {
    let path = path.to_owned();
    thread::spawn(move || {
        for _ in 0..=TRIES {
            let (mut connection, mut back_end) = (Connection::new(connect(&path)).unwrap(), BackEnd::new(OVS));
            while let Ok(message) = connection.receive(within(60_000)) {
                let answer = if message.request == at {
                    let Some(answer) = meets(&message) else { break };
                    Some(answer)
                } else {
                    back_end.answer(&message).unwrap()
                };
                answer.map_or(Ok(()), |answer| connection.send(&answer, within(60_000))).unwrap();
            }
        }
    })
}

#[test]
fn a_data_plane_that_starts_no_device_is_only_asked() {
    type Meets = fn(&Message) -> Option<Message>;
    let refuses: Meets = |message| Some(message.reply(&1_u64.to_ne_bytes()));
    let hangs_up: Meets = |_| None;
    for step in [2, 5, 13, 8, 10, 9, 12, 18] {
        for (meets, told) in [(refuses, message::Error::Refused(step)), (hangs_up, message::Error::Closed)] {
            let scratch = Scratch::new("probe-declined");
            let data_plane = stubborn(&scratch.path, step, meets);
            let probed = probe(scratch.socket_path(), |_| true, || true, within(60_000)).unwrap();
            assert_eq!((probed.capabilities, &probed.only_asked), (OVS, &Some(told)), "request {step}");
            assert!(!scratch.path.exists());
            drop(probed);
            data_plane.join().unwrap();
        }
    }
}

#[test]
fn silence_slow_bytes_and_nonsense_are_faults() {
    let slow = |mut stream: UnixStream| {
        // The head of an answer, a byte at a time.
        let head = [1_u32, 5, 8].map(u32::to_ne_bytes).concat();
        let _ = head.iter().try_for_each(|byte| {
            thread::sleep(Duration::from_millis(500));
            stream.write_all(&[*byte])
        });
    };
    let liar = |mut stream: UnixStream| {
        let words = [17_u32, 5, 8, 0, 0].map(u32::to_ne_bytes).concat();
        let _ = stream.write_all(&words);
        thread::sleep(Duration::from_millis(50));
    };
    // Until it is hung up on.
    let silent = |mut stream: UnixStream| drop(stream.read_to_end(&mut Vec::new()));
    let mut errors = Vec::new();
    let acts: [Box<dyn FnOnce(UnixStream) + Send>; 3] = [Box::new(slow), Box::new(liar), Box::new(silent)];
    for act in acts {
        let scratch = Scratch::new("probe-error");
        let data_plane = client(&scratch.path, act);
        match probe(scratch.socket_path(), |_| true, || true, within(2000)) {
            Err(Error::Answer { error, .. }) => errors.push(error),
            other => panic!("{other:?}"),
        }
        assert!(!scratch.path.exists());
        data_plane.join().unwrap();
    }
    assert!(
        matches!(errors.as_slice(), [message::Error::Silent, message::Error::Protocol(_), message::Error::Silent]),
        "{errors:?}"
    );
}

#[test]
fn a_left_over_socket_is_removed_and_anything_else_is_untrusted() {
    let scratch = Scratch::new("probe-left-over");
    drop(UnixListener::bind(&scratch.path).unwrap());
    let error = probe(scratch.socket_path(), |_| true, || true, within(20)).unwrap_err();
    assert!(matches!(error, Error::Nobody { .. }) && !scratch.path.exists(), "{error}");
    std::fs::write(&scratch.path, "").unwrap();
    assert!(probe(scratch.socket_path(), |_| true, || true, within(20)).unwrap_err().is_untrusted());
    std::fs::remove_file(&scratch.path).unwrap();
    std::os::unix::fs::symlink("/dev/null", &scratch.path).unwrap();
    assert!(probe(scratch.socket_path(), |_| true, || true, within(20)).unwrap_err().is_untrusted());
}
