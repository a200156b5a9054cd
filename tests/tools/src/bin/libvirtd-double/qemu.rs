//! QEMU's lies to whoever is its back end.

use std::io::{IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::script::Qemu;

/// GET_FEATURES, the first thing that QEMU asks.
const GET_FEATURES: u32 = 1;
/// SET_OWNER, which has no payload and no answer.
const SET_OWNER: u32 = 3;
/// SET_MEM_TABLE, which comes with descriptors.
const SET_MEM_TABLE: u32 = 5;

/// Tells the lie until the peer hangs up, or until there is no more of it; the connection stays.
pub fn tell(lie: Qemu, mut peer: &UnixStream) {
    let mut say = |words: &[u32]| peer.write_all(&bytes(words)).is_ok();
    match lie {
        Qemu::Honest | Qemu::Silent => true,
        Qemu::Huge => say(&[GET_FEATURES, 1, u32::MAX]),
        Qemu::Version => say(&[GET_FEATURES, 2, 0]),
        Qemu::Unknown => say(&[9999, 1, 0]),
        Qemu::Reply => say(&[GET_FEATURES, 5, 8, 0, 0]),
        // SET_PROTOCOL_FEATURES has 64 bits.
        Qemu::Size => say(&[16, 1, 4, 0]),
        Qemu::Half => say(&[GET_FEATURES, 1]),
        Qemu::Trickle => bytes(&[GET_FEATURES, 1, 0]).iter().all(|byte| {
            std::thread::sleep(Duration::from_secs(1));
            peer.write_all(&[*byte]).is_ok()
        }),
        Qemu::Flood => {
            let many = [SET_OWNER, 1, 0].repeat(1000);
            while say(&many) {}
            false
        }
        Qemu::Deaf => {
            let many = [GET_FEATURES, 1, 0].repeat(1000);
            while say(&many) {}
            false
        }
        Qemu::Gift => (0..100).all(|_| gift(peer)),
    };
    std::thread::sleep(Duration::from_secs(3600));
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A memory table with far more descriptors than it may have.
fn gift(peer: &UnixStream) -> bool {
    let null = std::fs::File::open("/dev/null").unwrap();
    let descriptors = [null.as_raw_fd(); 250];
    let (bytes, control) = (bytes(&[SET_MEM_TABLE, 1, 8, 0, 0]), [ControlMessage::ScmRights(&descriptors)]);
    sendmsg::<()>(peer.as_raw_fd(), &[IoSlice::new(&bytes)], &control, MsgFlags::empty(), None).is_ok()
}
