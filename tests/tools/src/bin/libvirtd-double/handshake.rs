//! The front end's part of vhost-user's handshake, in the order and with the demands of QEMU 10.0: `vhost_user_start` in
//! net/vhost-user.c calls `vhost_net_init` for each queue pair, that `vhost_dev_init` (hw/virtio/vhost.c), and that
//! `vhost_user_backend_init` (hw/virtio/vhost-user.c).

use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::machine::any_file;
use crate::script::Wants;

const GET_FEATURES: u32 = 1;
const SET_OWNER: u32 = 3;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const GET_QUEUE_NUM: u32 = 17;
const SET_VRING_ENABLE: u32 = 18;
const SET_BACKEND_REQ_FD: u32 = 21;
const GET_MAX_MEM_SLOTS: u32 = 36;

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const F_PROTOCOL_FEATURES: u64 = 1 << 30;
const F_MQ: u64 = 1;
const F_REPLY_ACK: u64 = 1 << 3;
const F_BACKEND_REQ: u64 = 1 << 5;
const F_CONFIG: u64 = 1 << 9;
const F_CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
/// `VHOST_USER_PROTOCOL_FEATURE_MASK`: what QEMU 10.0 knows, bits 0 to 19 (`VHOST_USER_PROTOCOL_F_MAX`).
const KNOWN: u64 = (1 << 20) - 1;

/// `VHOST_MEMORY_BASELINE_NREGIONS`: the slots of a back end that has not said otherwise.
const BASELINE_SLOTS: u64 = 8;
/// `VHOST_USER_MAX_RAM_SLOTS` on x86-64.
const MOST_SLOTS: u64 = 512;

/// What QEMU remembers of a NIC's back ends, from one connection to the next (`VhostUserState`).
#[derive(Default)]
pub struct Memory {
    slots: u64,
    /// Whether SET_VRING_ENABLE means something to the back end that is connected.
    has_protocol: bool,
}

/// Speaks with a back end as QEMU does when one has connected; why QEMU hangs up on it, if it does. There is no time limit.
pub fn begin(
    peer: &UnixStream,
    queues: u64,
    wants: &Wants,
    memory: &mut Memory,
    in_the_midst: impl Fn(),
) -> Result<(), String> {
    for pair in 0..queues {
        let features = ask(peer, GET_FEATURES)?;
        in_the_midst();
        let (mut most_queues, mut protocol) = (1, 0);
        memory.has_protocol = features & F_PROTOCOL_FEATURES != 0;
        if memory.has_protocol {
            protocol = ask(peer, GET_PROTOCOL_FEATURES)? & KNOWN & !F_CONFIG;
            say(peer, SET_PROTOCOL_FEATURES, 1, &protocol.to_ne_bytes(), false)?;
            // A request for the whole device, made for its first queue pair only (vhost_user_per_device_request).
            if protocol & F_MQ != 0 && pair == 0 {
                most_queues = ask(peer, GET_QUEUE_NUM)?;
            }
            memory.slots = if protocol & F_CONFIGURE_MEM_SLOTS == 0 {
                BASELINE_SLOTS
            } else {
                let slots = ask(peer, GET_MAX_MEM_SLOTS)?;
                if slots < memory.slots {
                    return Err(format!(
                        "The backend specified a max ram slots limit of {slots}, when the prior validated limit was {}",
                        memory.slots
                    ));
                }
                slots.min(MOST_SLOTS)
            };
        }
        if pair == 0 && protocol & F_BACKEND_REQ != 0 {
            // vhost_setup_backend_channel.
            let needs_reply = if protocol & F_REPLY_ACK != 0 { 8 } else { 0 };
            say(peer, SET_BACKEND_REQ_FD, 1 | needs_reply, &[], true)?;
            if needs_reply != 0 && hear(peer, SET_BACKEND_REQ_FD)? != 0 {
                return Err("the back end refused SET_BACKEND_REQ_FD".to_owned());
            }
        }
        if pair == 0 {
            say(peer, SET_OWNER, 1, &[], false)?;
        }
        let features = ask(peer, GET_FEATURES)?;
        for ring in [2 * pair, 2 * pair + 1] {
            say(peer, SET_VRING_CALL, 1, &ring.to_ne_bytes(), true)?;
            say(peer, SET_VRING_ERR, 1, &ring.to_ne_bytes(), true)?;
        }
        if wants.memory_slots > memory.slots {
            return Err(format!(
                "vhost backend memory slots limit ({}) is less than current number of used ({}) and reserved (0) memory slots",
                memory.slots, wants.memory_slots
            ));
        }
        // Whatever else a QEMU may miss.
        if wants.features & !features != 0 || wants.protocol_features & !protocol != 0 {
            return Err(format!("the back end lacks features: it has {features:#x} and {protocol:#x}"));
        }
        if pair == 0 && queues > most_queues {
            return Err(format!("you are asking more queues than supported: {most_queues}"));
        }
    }
    Ok(())
}

/// Says that the first queue pair is in use, as virtio-net does when the device is realized (`virtio_net_set_queue_pairs`).
pub fn enable(peer: &UnixStream, memory: &Memory) {
    for ring in [0_u32, 1].into_iter().filter(|_| memory.has_protocol) {
        // A back end that has gone is found by the main loop.
        let _ = say(peer, SET_VRING_ENABLE, 1, &[ring, 1].map(u32::to_ne_bytes).concat(), false);
    }
}

fn gone(error: std::io::Error) -> String {
    format!("Failed to read or write msg header: {error}")
}

/// Sends a message, with a descriptor where it has one. Its words are the machine's own.
fn say(mut peer: &UnixStream, request: u32, flags: u32, payload: &[u8], descriptor: bool) -> Result<(), String> {
    let size = u32::try_from(payload.len()).unwrap();
    let bytes = [&[request, flags, size].map(u32::to_ne_bytes).concat()[..], payload].concat();
    if !descriptor {
        return peer.write_all(&bytes).map_err(gone);
    }
    let file = any_file();
    let descriptors = [file.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&descriptors)];
    let sent = sendmsg::<()>(peer.as_raw_fd(), &[IoSlice::new(&bytes)], &control, MsgFlags::MSG_NOSIGNAL, None);
    sent.map(drop).map_err(|errno| gone(errno.into()))
}

/// A question without a payload, whose answer is a number.
fn ask(peer: &UnixStream, request: u32) -> Result<u64, String> {
    say(peer, request, 1, &[], false)?;
    hear(peer, request)
}

fn hear(mut peer: &UnixStream, request: u32) -> Result<u64, String> {
    let mut reply = [0; 20];
    peer.read_exact(&mut reply).map_err(gone)?;
    let (head, number) = reply.split_first_chunk::<12>().ok_or("too short")?;
    if head[..] != [request, 5, 8].map(u32::to_ne_bytes).concat() {
        return Err("Received unexpected msg type, or bad msg size.".to_owned());
    }
    Ok(u64::from_ne_bytes(number.try_into().unwrap()))
}
