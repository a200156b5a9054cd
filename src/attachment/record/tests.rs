//! Records and locks on disk.

use std::path::Path;
use std::time::Duration;

use super::store::of_pod;
use super::*;
use crate::config::STATE_DIR;
use crate::deadline::Deadline;

const UID: &str = "0b2fd2c3-1b3e-4c0a-8f5e-6a1d3f2e9c77";

fn store(test: &str) -> (Store, PodUid) {
    let root = std::env::temp_dir().join(format!("vhu-record-{}-{test}", std::process::id()));
    (Store::below(&root, Path::new(STATE_DIR)), PodUid::parse(UID).unwrap())
}

fn record(container_id: &str, ifname: &str) -> Record {
    Record {
        format: FORMAT,
        network: "net".into(),
        container_id: container_id.into(),
        ifname: ifname.into(),
        uid: UID.into(),
        pod: "ns/pod".into(),
        netns: "/run/netns/x".into(),
        volume: "vhostuser-sockets".into(),
        socket_base_dir: "/run/x".into(),
        started: false,
        nic: None,
        device_info: None,
        keys: None,
        created: 1,
    }
}

#[test]
fn a_record_is_found_by_its_attachment_alone() {
    let (store, uid) = store("find");
    let long = "a".repeat(300);
    for (id, ifname) in [("c1", "net1"), ("c1", "net2"), ("c2", "net1"), (&long, "eth0")] {
        store.write(&uid, &record(id, ifname)).unwrap();
    }
    assert_eq!(store.of_pod(&uid).len(), 4);
    assert_eq!(store.find(&uid, "c1", "net2"), Some(record("c1", "net2")));
    assert_eq!(store.find_anywhere(&long, "eth0"), Some(record(&long, "eth0")));
    assert_eq!(store.find_anywhere(&long[..299], "eth0"), None, "another id with the same file name");
    for (id, ifname) in [("c1", "net1"), ("c1", "net2"), ("c2", "net1"), (&long, "eth0"), ("c9", "x")] {
        store.remove(&uid, id, ifname).unwrap();
    }
    assert!(store.pods().is_empty(), "the last record takes the pod's directory with it");
    std::fs::remove_dir_all(store.root).unwrap();
}

#[test]
fn what_cannot_be_read_does_not_block() {
    let (store, uid) = store("broken");
    store.write(&uid, &record("c1", "net1")).unwrap();
    let directory = of_pod(&store.usual, &uid);
    std::fs::write(directory.join("a@b.json"), "{").unwrap();
    std::fs::write(directory.join("c@d.json"), r#"{"format":99}"#).unwrap();
    let mut newer = record("c3", "net3");
    newer.format = FORMAT + 1;
    store.write(&uid, &newer).unwrap();
    assert_eq!(store.of_pod(&uid), [record("c1", "net1")]);
    let all: Vec<_> = store.all().unwrap().into_iter().map(|one| one.map_err(|unreadable| unreadable.why)).collect();
    assert!(
        matches!(&all[..], [Err(a), Err(b), Ok(_), Err(c)] if a.contains("broken") && b.contains("99") && c.contains("2")),
        "{all:?}"
    );
    std::fs::remove_dir_all(store.root).unwrap();
}

#[test]
fn a_record_of_an_earlier_version_is_read_and_one_of_a_later_keeps_its_form() {
    let text = |record: &Record| serde_json::to_string(record).unwrap();
    let (fresh, started) = (record("c1", "net1"), Record { started: true, ..record("c1", "net1") });
    assert!(!text(&fresh).contains("started"), "as an earlier version writes it");
    for record in [fresh, started] {
        assert_eq!(record.format, 1, "an earlier version reads it");
        assert_eq!(Record::parse(text(&record).as_bytes()), Ok(record));
    }
    let later = text(&record("c1", "net1")).replacen('{', r#"{"of a later version":[1],"#, 1);
    assert_eq!(Record::parse(later.as_bytes()), Ok(record("c1", "net1")));
}

#[test]
fn a_record_that_could_not_be_read_again_is_not_written() {
    let (store, uid) = store("long");
    let mut long = record("c1", "net1");
    let spare = RECORD_LIMIT - serde_json::to_vec(&long).unwrap().len();
    long.pod.push_str(&"x".repeat(spare + 1));
    assert!(matches!(store.write(&uid, &long), Err(Error::System(error)) if error.errno() == nix::errno::Errno::EFBIG));
    assert!(!store.knows(&uid), "nothing is left of it");
    long.pod.pop();
    store.write(&uid, &long).unwrap();
    assert_eq!(store.find(&uid, "c1", "net1"), Some(long));
    std::fs::remove_dir_all(store.root).unwrap();
}

#[test]
fn the_lock_is_one_at_a_time_and_waits_no_longer_than_the_deadline() {
    let (store, uid) = store("lock");
    let held = store.lock(&uid, Deadline::after(Duration::from_secs(60))).unwrap();
    let error = store.lock(&uid, Deadline::after(Duration::from_millis(20))).unwrap_err();
    assert!(matches!(error, Error::LockTimedOut(_)), "{error}");
    held.retire();
    drop(store.lock(&uid, Deadline::after(Duration::from_secs(60))).unwrap());
    std::fs::remove_dir_all(store.root).unwrap();
}

#[test]
fn a_retired_lock_is_not_shared_with_its_successor() {
    let (store, uid) = store("retire");
    let busy = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let lock = store.lock(&uid, Deadline::after(Duration::from_secs(120))).unwrap();
                    assert_eq!(busy.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    busy.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    lock.retire();
                }
            });
        }
    });
    std::fs::remove_dir_all(store.root).unwrap();
}

#[test]
fn what_is_wrong_with_a_record_is_told_in_a_few_words() {
    let problem = Record::parse(format!("\"{}\"", "x\\n".repeat(10_000)).as_bytes()).unwrap_err();
    assert!(problem.starts_with("is broken: ") && problem.len() < 400, "{problem:.500}");
}
