//! Logs go to syslog, and to stderr where that takes none; they never hold up a call for long.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::plugin::Call;
use crate::scene::{Scene, in_new_namespaces};
use support::fields::parse;

/// Runs `act` with a /dev that holds a log socket and nothing else.
fn with_log<T: Send>(act: impl FnOnce(&UnixDatagram) -> T + Send) -> T {
    in_new_namespaces(|| {
        mount(Some("tmpfs"), "/dev", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let log = UnixDatagram::bind("/dev/log").unwrap();
        log.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        act(&log)
    })
}

fn received(log: &UnixDatagram) -> Option<String> {
    let mut record = [0; 16 << 10];
    let length = log.recv(&mut record).ok()?;
    Some(String::from_utf8(record[..length].to_vec()).unwrap())
}

#[test]
fn a_failure_is_one_record_in_the_systems_log() {
    let scene = Scene::new();
    with_log(|log| {
        let outcome = Call::new("ADD", "1.0.0", &scene).member("name", "\"a\\nb\\u001b[2J\"").run();
        assert_eq!(String::from_utf8_lossy(&outcome.stderr), "");
        outcome.refused(&[7]);
        let record = received(log).expect("a record");
        // 3 (daemon) * 8 + 3 (err)
        assert!(record.starts_with("<27>") && record.contains(" vhostuser-hotplug["), "{record}");
        assert!(!record.contains(char::is_control), "could forge another record: {record:?}");
        assert_eq!(received(log), None);
    });
}

#[test]
fn a_log_that_is_full_costs_little_and_the_record_goes_to_stderr() {
    let scene = Scene::new();
    with_log(|log| {
        let flood = UnixDatagram::unbound().unwrap();
        flood.set_nonblocking(true).unwrap();
        flood.connect("/dev/log").unwrap();
        let full = (0..100_000).find_map(|_| flood.send(b"flood").err()).expect("the log should fill up");
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        let outcome = Call::new("ADD", "1.0.0", &scene).member("name", "\"-\"").run();
        assert!(String::from_utf8_lossy(&outcome.stderr).contains("name"), "{outcome:?}");
        outcome.refused(&[7]);
        drop(log.recv(&mut [0; 16]));
    });
}

#[test]
fn a_log_that_takes_its_time_costs_little_however_much_there_is_to_tell() {
    let scene = Scene::new();
    // A DEL tells of each wrong key and goes on.
    let keys = ["attach", "queues", "model", "rx_queue_size", "tx_queue_size", "libvirt_uri", "domain", "log_level"];
    let keys = keys.iter().chain(&["libvirt_sockets", "attach_timeout", "detach_timeout", "vhost_user_socket_name"]);
    let call = keys.fold(Call::new("DEL", "1.0.0", &scene), |call, key| call.member(key, "7.5"));
    with_log(|log| {
        let flood = UnixDatagram::unbound().unwrap();
        flood.set_nonblocking(true).unwrap();
        flood.connect("/dev/log").unwrap();
        while flood.send(b"flood").is_ok() {}
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Always in time for the next record, and never sooner.
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    drop(log.recv(&mut [0; 16]));
                    std::thread::sleep(Duration::from_millis(200));
                }
            });
            let outcome = call.run();
            is_over.store(true, Ordering::Relaxed);
            // How many the log got is a matter of time; by its patience with each alone it would have got them all.
            assert!(outcome.stderr.contains(&b'\n'), "the rest goes to stderr: {outcome:?}");
            outcome.silent();
        });
    });
}

#[test]
fn names_forge_neither_a_record_nor_a_field_of_one() {
    let scene = Scene::new();
    let texts = [
        "a uid=FORGED",
        "a: done in 0 ms",
        "\" uid=FORGED: x \"",
        "\\\" uid=FORGED \\",
        "a\n<27>Jan  1 00:00:00 x[1]: FORGED",
        "\u{1b}[2J\u{202e}\u{7}",
        "",
        "%s%n",
        "é",
    ];
    with_log(|log| {
        // A call that has ended has told all that it tells.
        log.set_nonblocking(true).unwrap();
        for text in texts.iter().map(|text| (*text).to_owned()).chain(["x y".repeat(10_000)]) {
            let args = format!("K8S_POD_NAMESPACE={text};K8S_POD_NAME={text};K8S_POD_UID={text}");
            let netns = format!("/nowhere/{text}");
            let call = Call::new("ADD", "1.0.0", &scene).env("CNI_ARGS", &args).env("CNI_NETNS", &netns);
            call.run().refused(&[4]);
            let mut heads = Vec::new();
            while let Some(record) = received(log) {
                assert!(!record.contains(char::is_control) && record.len() < 8100, "{record:?}");
                let (_, message) = record.split_once("]: ").unwrap();
                heads.push(parse(message).unwrap_or_else(|| panic!("not a record: {message}")));
            }
            // An empty one is none, and one with a second "=" is no pair to libcni either.
            let pod = |text: &str| if text.is_empty() || text.contains('=') { "-".to_owned() } else { text.to_owned() };
            let expected = [
                ("containerid", "0123456789abcdef".to_owned()),
                ("ifname", "eth0".to_owned()),
                ("netns", netns),
                ("pod", format!("{0}/{0}", pod(&text))),
                ("uid", pod(&text)),
            ];
            assert!(!heads.is_empty());
            for head in heads {
                assert_eq!(head.command, "ADD");
                assert_eq!(head.fields.len(), expected.len(), "{head:?}");
                for ((key, value), (expected_key, whole)) in head.fields.iter().zip(&expected) {
                    assert_eq!(key, expected_key);
                    let is_cut =
                        value.strip_suffix('…').is_some_and(|part| part.len() > 300 && whole.starts_with(part));
                    assert!(value == whole || is_cut, "{key} is {value:?}, and was {whole:?}");
                }
            }
        }
    });
}

#[test]
fn without_syslog_a_failure_is_told_on_stderr() {
    let scene = Scene::new();
    in_new_namespaces(|| {
        mount(Some("tmpfs"), "/dev", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let outcome = Call::new("ADD", "1.0.0", &scene).member("name", "\"-\"").run();
        assert!(String::from_utf8_lossy(&outcome.stderr).starts_with("vhostuser-hotplug: ERROR: "), "{outcome:?}");
        outcome.refused(&[7]);
    });
}
