//! The front end of the probe. It starts a device at a data plane, as QEMU does when a guest's driver starts its NIC.
//!
//! A connection that only asks does harm. DPDK's library reports a device to its application when two rings are ready
//! (lib/vhost/vhost_user.c, `virtio_is_ready`). Since 3.2, OVS takes a connection that ends before that for a guest
//! that refused the port's features (lib/netdev-dpdk.c, `destroy_connection`): it changes what the port offers and
//! registers the port anew, which stops OVS's main loop for a second. So the probe starts a complete device: the data
//! plane sees a guest that starts and stops.
//!
//! The data plane gets no memory of the pod. It gets a memfd of zeros that nobody can resize, rings without buffers,
//! and eventfds that nobody waits on. The plugin closes all of them before it returns.

use std::os::fd::{AsFd, BorrowedFd};

use super::capabilities::{Capabilities, F_PROTOCOL_FEATURES, protocol};
use super::message::{self, Connection, Message, request};
use crate::deadline::Deadline;
use crate::sys;

/// Size of the memory, in bytes: a huge page, which every back end can map. Only touched pages are allocated.
const MEMORY_SIZE: u64 = 2 << 20;

/// Where the memory begins in the front end's address space, which ring addresses use ("Ring addresses").
const MEMORY_BASE: u64 = 0x1000_0000;

/// One queue pair. With more, OVS would reconfigure the port for that many, and back when the probe ends (`new_device`,
/// `destroy_connection`).
const RINGS: u32 = 2;

/// Descriptors of a ring, as many as in QEMU.
const RING_SIZE: u32 = 256;

/// Bytes between the parts of a ring, and between rings: more than any part of [`RING_SIZE`] descriptors takes.
const PART_SIZE: u64 = 0x1000;

/// Virtio features that the probe takes if they are offered: those of a modern device, and those without which OVS
/// warns that a guest can't use segmentation offload (`new_device`).
const FEATURES: u64 = 1 << 1 // GUEST_CSUM
    | 1 << 7 // GUEST_TSO4
    | 1 << 8 // GUEST_TSO6
    | 1 << 15 // MRG_RXBUF
    | 1 << 32 // VERSION_1
    | F_PROTOCOL_FEATURES;

/// Starts a device with one queue pair at a data plane with these capabilities, on the connection on which it reported
/// them. Afterwards the data plane has its device, and the connection may end at any time.
///
/// # Errors
/// Any [`message::Error`]: [`message::Error::Refused`] if the data plane refuses a step, [`message::Error::Changed`] if
/// it now offers other features, [`message::Error::Io`] if no memory could be made.
pub fn start_device(
    connection: &mut Connection,
    capabilities: &Capabilities,
    deadline: Deadline,
) -> Result<(), message::Error> {
    let memory =
        sys::sealed_memory("vhostuser-hotplug", MEMORY_SIZE).map_err(|error| message::Error::Io(error.to_string()))?;
    let mut front_end = FrontEnd { connection, capabilities, deadline };
    front_end.connection.send(&Message::ask(request::SET_OWNER, &[]), deadline)?;
    front_end.set(request::SET_FEATURES, &words([capabilities.features & FEATURES]), &[])?;
    front_end.set_memory(memory.as_fd())?;
    for ring in 0..RINGS {
        front_end.set_up(ring)?;
    }
    if capabilities.features & F_PROTOCOL_FEATURES != 0 {
        for ring in 0..RINGS {
            front_end.set(request::SET_VRING_ENABLE, &ring_state(ring, 1), &[])?;
        }
    }
    // DPDK reports the device after it has acknowledged the last step, and before it handles another message.
    let now = front_end.connection.ask(request::GET_FEATURES, deadline)?;
    if now != capabilities.features {
        return Err(message::Error::Changed(capabilities.features, now));
    }
    Ok(())
}

struct FrontEnd<'a> {
    connection: &'a mut Connection,
    capabilities: &'a Capabilities,
    deadline: Deadline,
}

impl FrontEnd<'_> {
    /// Sends a "set" request, and waits for its acknowledgement if REPLY_ACK was negotiated.
    fn set(&mut self, request: u32, payload: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), message::Error> {
        let mut message = Message::ask(request, payload);
        message.needs_reply = self.capabilities.protocol_features & protocol::REPLY_ACK != 0;
        self.connection.send_with(&message, descriptors, self.deadline)?;
        if message.needs_reply && self.connection.answer_to(request, self.deadline)? != 0 {
            return Err(message::Error::Refused(request));
        }
        Ok(())
    }

    /// Sends the memory: as a table of one region, or as the first region if memory slots were negotiated.
    fn set_memory(&mut self, memory: BorrowedFd<'_>) -> Result<(), message::Error> {
        // Guest address, size, front end's address, offset in the file.
        let region = words([0, MEMORY_SIZE, MEMORY_BASE, 0]);
        if self.capabilities.memory_slots.is_some() {
            return self.set(request::ADD_MEM_REG, &[words([0]), region].concat(), &[memory]);
        }
        let regions = [1_u32, 0].map(u32::to_ne_bytes).concat();
        self.set(request::SET_MEM_TABLE, &[regions, region].concat(), &[memory])
    }

    fn set_up(&mut self, ring: u32) -> Result<(), message::Error> {
        let event = || sys::eventfd().map_err(|error| message::Error::Io(error.to_string()));
        let (kick, call) = (event()?, event()?);
        let index = words([u64::from(ring)]);
        self.set(request::SET_VRING_CALL, &index, &[call.as_fd()])?;
        self.set(request::SET_VRING_NUM, &ring_state(ring, RING_SIZE), &[])?;
        self.set(request::SET_VRING_BASE, &ring_state(ring, 0), &[])?;
        let descriptors = MEMORY_BASE + u64::from(ring) * 3 * PART_SIZE;
        let (available, used) = (descriptors + PART_SIZE, descriptors + 2 * PART_SIZE);
        // No flags, and no log.
        let address = [ring_state(ring, 0), words([descriptors, used, available, 0])].concat();
        self.set(request::SET_VRING_ADDR, &address, &[])?;
        self.set(request::SET_VRING_KICK, &index, &[kick.as_fd()])
    }
}

fn words<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.map(u64::to_ne_bytes).concat()
}

/// "A vring state description".
fn ring_state(ring: u32, number: u32) -> Vec<u8> {
    [ring, number].map(u32::to_ne_bytes).concat()
}

#[cfg(test)]
mod tests;
