//! Logs go to syslog, and to stderr where that takes none; they never hold up a call for long.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};

use crate::plugin::Call;
use crate::scene::{Scene, in_new_namespaces};

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
        let start = Instant::now();
        let outcome = Call::new("ADD", "1.0.0", &scene).member("name", "\"-\"").run();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert!(String::from_utf8_lossy(&outcome.stderr).contains("name"), "{outcome:?}");
        outcome.refused(&[7]);
        drop(log.recv(&mut [0; 16]));
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
