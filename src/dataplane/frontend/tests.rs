use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::*;

const OVS: Capabilities =
    Capabilities { features: 0xd7c6_6a7cb, protocol_features: 0x10cbf, queues: 128, memory_slots: None };

/// A message as a back end receives it.
struct Received {
    request: u32,
    needs_reply: bool,
    payload: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

fn receive(peer: &UnixStream) -> Option<Received> {
    let mut header = [0; 12];
    let mut space = [0; rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(peer, &mut [IoSliceMut::new(&mut header)], &mut control, RecvFlags::WAITALL).ok()?;
    if message.bytes < header.len() {
        return None;
    }
    let descriptors = control.drain().flat_map(|control| match control {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    let descriptors = descriptors.collect();
    let word = |at: usize| u32::from_ne_bytes(*header[at..].first_chunk().unwrap());
    let mut payload = vec![0; usize::try_from(word(8)).unwrap()];
    (&*peer).read_exact(&mut payload).unwrap();
    Some(Received { request: word(0), needs_reply: word(4) & 8 != 0, payload, descriptors })
}

/// Lets a back end with these answers have a device started; what came of it, and all that the back end received.
fn start(
    capabilities: Capabilities,
    deadline: Deadline,
    answer: impl Fn(&Received) -> Option<u64> + Send + 'static,
) -> (Result<(), message::Error>, Vec<Received>) {
    let (peer, own) = UnixStream::pair().unwrap();
    let back_end: JoinHandle<Vec<Received>> = thread::spawn(move || {
        let mut connection = Connection::new(peer.try_clone().unwrap()).unwrap();
        peer.set_nonblocking(false).unwrap();
        let mut all = Vec::new();
        while let Some(received) = receive(&peer) {
            let reply = Message::ask(received.request, &[]);
            let word = answer(&received);
            all.push(received);
            match word {
                Some(HANG_UP) => break,
                Some(word) => connection.send(&reply.reply(&word.to_ne_bytes()), soon()).unwrap(),
                None => {}
            }
        }
        all
    });
    let mut connection = Connection::new(own).unwrap();
    let outcome = start_device(&mut connection, &capabilities, deadline);
    drop(connection);
    (outcome, back_end.join().unwrap())
}

const HANG_UP: u64 = u64::MAX;

fn within(millis: u64) -> Deadline {
    Deadline::after(Duration::from_millis(millis))
}

/// For what does not end by its deadline.
fn soon() -> Deadline {
    within(60_000)
}

/// A data plane that takes every step.
fn willing(received: &Received) -> Option<u64> {
    match received.request {
        request::GET_FEATURES => Some(OVS.features),
        _ => received.needs_reply.then_some(0),
    }
}

fn requests(all: &[Received]) -> Vec<u32> {
    all.iter().map(|received| received.request).collect()
}

fn word(received: &Received, index: usize) -> u64 {
    u64::from_ne_bytes(*received.payload[index * 8..].first_chunk().unwrap())
}

#[test]
fn a_device_is_started_step_by_step_and_each_is_acknowledged() {
    let (outcome, all) = start(OVS, soon(), willing);
    assert_eq!(outcome, Ok(()));
    let expected = [3, 2, 5, 13, 8, 10, 9, 12, 13, 8, 10, 9, 12, 18, 18, 1];
    assert_eq!(requests(&all), expected);
    let acknowledged = |received: &&Received| received.needs_reply;
    assert_eq!(all.iter().filter(acknowledged).count(), expected.len() - 2, "all but SET_OWNER and GET_FEATURES");
    let taken = word(&all[1], 0);
    assert_eq!(
        (taken & !OVS.features, taken & 1 << 32, taken & F_PROTOCOL_FEATURES),
        (0, 1 << 32, F_PROTOCOL_FEATURES)
    );
}

#[test]
fn the_data_plane_gets_memory_of_nobodys_and_rings_within_it() {
    let (_, all) = start(OVS, soon(), willing);
    let descriptors: Vec<usize> = all.iter().map(|received| received.descriptors.len()).collect();
    assert_eq!(descriptors, [0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0]);
    let table = &all[2];
    assert_eq!([0, 1, 2, 3, 4].map(|index| word(table, index)), [1, 0, MEMORY_SIZE, MEMORY_BASE, 0]);
    let memory = File::from(table.descriptors[0].try_clone().unwrap());
    assert_eq!(memory.metadata().unwrap().size(), MEMORY_SIZE);
    let mut bytes = vec![1; usize::try_from(MEMORY_SIZE).unwrap()];
    memory.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0), "something of the plugin's is in it");
    assert!(memory.set_len(0).is_err(), "who maps it could be killed by its end");
    // Descriptor table, used ring, available ring: what 256 descriptors take, none over another.
    let sizes = [(1, 16 * 256), (2, 6 + 8 * 256), (3, 6 + 2 * 256)];
    let addresses = all.iter().filter(|received| received.request == 9);
    let mut parts: Vec<(u64, u64)> =
        addresses.flat_map(|ring| sizes.map(|(index, size)| (word(ring, index), size))).collect();
    parts.sort_unstable();
    assert_eq!(parts.len(), 6);
    assert!(parts.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{parts:x?}");
    assert!(parts[0].0 >= MEMORY_BASE && parts[5].0 + parts[5].1 <= MEMORY_BASE + MEMORY_SIZE, "{parts:x?}");
}

#[test]
fn a_data_plane_without_protocol_features_is_not_asked_for_more() {
    let old = Capabilities { features: 1 << 32, protocol_features: 0, queues: 1, memory_slots: None };
    let (outcome, all) = start(old, soon(), |received| (received.request == request::GET_FEATURES).then_some(1 << 32));
    assert_eq!(outcome, Ok(()));
    assert_eq!(requests(&all), [3, 2, 5, 13, 8, 10, 9, 12, 13, 8, 10, 9, 12, 1]);
    assert!(all.iter().all(|received| !received.needs_reply));
}

#[test]
fn memory_is_added_where_slots_were_agreed() {
    let (outcome, all) = start(Capabilities { memory_slots: Some(8), ..OVS }, soon(), willing);
    assert_eq!((outcome, all[2].request, all[2].descriptors.len()), (Ok(()), request::ADD_MEM_REG, 1));
    assert_eq!([0, 1, 2, 3, 4].map(|index| word(&all[2], index)), [0, 0, MEMORY_SIZE, MEMORY_BASE, 0]);
}

#[test]
fn a_refusal_names_the_step_and_ends_it() {
    let (outcome, all) = start(OVS, soon(), |received| match received.request {
        request::SET_VRING_ADDR => Some(1),
        _ => willing(received),
    });
    assert_eq!((outcome, all.last().unwrap().request), (Err(message::Error::Refused(9)), 9));
}

#[test]
fn other_features_in_the_end_are_told() {
    let (outcome, _) = start(OVS, soon(), |received| match received.request {
        request::GET_FEATURES => Some(1 << 32),
        _ => willing(received),
    });
    assert_eq!(outcome, Err(message::Error::Changed(OVS.features, 1 << 32)));
}

#[test]
fn hanging_up_and_silence_end_it() {
    for step in [2, 5, 13, 8, 10, 9, 12, 18, 1] {
        let (outcome, all) =
            start(
                OVS,
                soon(),
                move |received| if received.request == step { Some(HANG_UP) } else { willing(received) },
            );
        assert_eq!((outcome, all.last().unwrap().request), (Err(message::Error::Closed), step));
    }
    let (outcome, _) = start(OVS, within(100), |_| None);
    assert_eq!(outcome, Err(message::Error::Silent));
}
