use super::*;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

fn pair() -> (UnixStream, Connection) {
    let (peer, own) = UnixStream::pair().unwrap();
    (peer, Connection::new(own).unwrap())
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// For what ends by its deadline.
fn shortly() -> Deadline {
    Deadline::after(Duration::from_millis(50))
}

#[test]
fn what_is_sent_arrives_as_it_was() {
    let (peer, mut own) = pair();
    let mut peer = Connection::new(peer).unwrap();
    let mut message = Message::ask(request::SET_STATUS, &7_u64.to_ne_bytes());
    message.needs_reply = true;
    own.send(&message, soon()).unwrap();
    let seen = peer.receive(soon()).unwrap();
    assert_eq!((&seen, seen.word()), (&message, Some(7)));
    peer.send(&seen.reply(&0_u64.to_ne_bytes()), soon()).unwrap();
    let answer = own.receive(soon()).unwrap();
    assert!(answer.is_reply && !answer.needs_reply);
}

#[test]
fn the_bytes_are_the_specifications() {
    let (mut peer, mut own) = pair();
    own.send(&Message::ask(request::GET_FEATURES, &[]), soon()).unwrap();
    let mut bytes = [0; 12];
    peer.read_exact(&mut bytes).unwrap();
    let words = [1_u32, 1, 0].map(u32::to_ne_bytes).concat();
    assert_eq!(bytes.as_slice(), words);
}

#[test]
fn a_payload_of_another_size_is_no_word_and_no_ring() {
    for size in [0, 7, 9, 16] {
        let message = Message::ask(1, &vec![0; size]);
        assert_eq!((message.word(), message.ring()), (None, None));
    }
}

#[test]
fn oversized_truncated_and_foreign_messages_are_faults() {
    let cases: [(&[u32], Error); 3] = [
        (&[1, 1, 4097], Error::Protocol("a message of 4097 bytes, of which 4096 would be taken".to_owned())),
        (&[1, 2, 0], Error::Protocol("a message of version 2".to_owned())),
        (&[1, 1, 8, 0], Error::Closed),
    ];
    for (words, error) in cases {
        let (mut peer, mut own) = pair();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        peer.write_all(&bytes).unwrap();
        drop(peer);
        assert_eq!(own.receive(soon()), Err(error));
    }
}

#[test]
fn silence_and_slow_bytes_end_at_the_deadline() {
    let (peer, mut own) = pair();
    let begun = Instant::now();
    assert_eq!(own.receive(shortly()), Err(Error::Silent));
    let slow = std::thread::spawn(move || {
        let mut peer = peer;
        while peer.write_all(&[1]).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(own.receive(shortly()), Err(Error::Silent));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    drop(own);
    slow.join().unwrap();
}

#[test]
fn a_peer_that_takes_nothing_ends_at_the_deadline() {
    let (_peer, mut own) = pair();
    let big = Message::ask(1, &[0; PAYLOAD_LIMIT]);
    let error = std::iter::repeat_with(|| own.send(&big, shortly())).find_map(Result::err);
    assert_eq!(error, Some(Error::Silent));
}

#[test]
fn no_descriptor_of_a_peer_enters_the_process() {
    // A file that no parallel test has open, so that its descriptors can be recognised.
    let path = std::env::temp_dir().join(format!("vhu-message-{}", std::process::id()));
    let file = std::fs::File::create(&path).unwrap();
    let open = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        links.filter(|link| std::fs::read_link(link.path()).is_ok_and(|to| to == path)).count()
    };
    let before = open();
    let (peer, mut own) = pair();
    let mut message = Message::ask(5, &[0; 8]);
    message.needs_reply = true;
    let descriptors = [file.as_raw_fd(); 250];
    for _ in 0..20 {
        let bytes = message.bytes();
        let (iov, control) = ([IoSlice::new(&bytes)], [ControlMessage::ScmRights(&descriptors)]);
        sendmsg::<()>(peer.as_raw_fd(), &iov, &control, MsgFlags::empty(), None).unwrap();
        assert_eq!(own.receive(soon()).unwrap(), message);
    }
    assert_eq!((before, open()), (1, 1));
    std::fs::remove_file(path).unwrap();
}
