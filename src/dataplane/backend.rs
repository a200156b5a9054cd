//! The answers of the stand-in's back end. It answers at once everything that QEMU may ask a NIC's back end, as a data
//! plane would that has not moved a packet yet.

use std::collections::BTreeMap;

use super::capabilities::{Capabilities, protocol};
use super::message::{self, LAST_REQUEST, Message, request};

/// Most rings whose base is stored. QEMU passes a ring's index in 8 bits where a descriptor goes with it.
const RING_LIMIT: u32 = 1024;

/// The state of a back end that moves no packets.
#[derive(Debug)]
pub struct BackEnd {
    capabilities: Capabilities,
    offered: u64,
    negotiated: u64,
    status: u64,
    started: bool,
    /// How often the handshake has reached the first ring.
    handshakes: u32,
    bases: BTreeMap<u32, u32>,
}

impl BackEnd {
    /// Creates a back end that offers what this data plane offers.
    #[must_use]
    pub fn new(capabilities: Capabilities) -> Self {
        Self {
            capabilities,
            offered: capabilities.stand_in(),
            negotiated: 0,
            status: 0,
            started: false,
            handshakes: 0,
            bases: BTreeMap::new(),
        }
    }

    /// Returns the answer to a message, if it needs one.
    ///
    /// A "get" request is always answered. A "set" request is answered only if the front end waits for it (REPLY_ACK,
    /// "Need reply"), with 0 for success.
    ///
    /// # Errors
    /// [`message::Error::Protocol`] for a request that was not offered or can't be answered. The caller must close the
    /// connection, so that the front end does not wait.
    ///
    /// [`message::Error::HandshakeRepeated`] if QEMU repeats its handshake on one connection. The caller must close it
    /// too. QEMU does so after it has refused a back end: its loop (`net_vhost_user_init`) sees the connection in the
    /// event handler that the first round left, and again when it sets the handler anew. Both times it installs a watch
    /// for the end of the connection and forgets the first one. After that connection QEMU 10.0 spins on a closed
    /// descriptor, and crashes once the NIC is unplugged and the descriptor is reused. If the connection ends during
    /// the second handshake, the first watch is removed with it, and the attach still succeeds.
    pub fn answer(&mut self, message: &Message) -> Result<Option<Message>, message::Error> {
        let word = |value: u64| Ok(Some(message.reply(&value.to_ne_bytes())));
        if message.is_reply || !(1..=LAST_REQUEST).contains(&message.request) {
            return Err(unexpected(message));
        }
        match message.request {
            request::GET_FEATURES => return word(self.capabilities.features),
            request::GET_PROTOCOL_FEATURES => return word(self.offered),
            request::GET_QUEUE_NUM => return word(self.capabilities.queues),
            request::GET_MAX_MEM_SLOTS => {
                return word(self.capabilities.memory_slots.ok_or_else(|| unexpected(message))?);
            }
            request::GET_STATUS => return word(self.status),
            // Always answered, once the log's memory comes as a descriptor.
            request::SET_LOG_BASE if self.negotiated & protocol::LOG_SHMFD != 0 => return word(0),
            request::GET_VRING_BASE => {
                let (ring, _) = message.ring().ok_or_else(|| unexpected(message))?;
                // Nothing was taken from the ring, so the base is unchanged.
                let base = self.bases.get(&ring).copied().unwrap_or_default();
                return Ok(Some(message.reply(&[ring.to_ne_bytes(), base.to_ne_bytes()].concat())));
            }
            // GET_CONFIG, CREATE_CRYPTO_SESSION, POSTCOPY_ADVISE, _LISTEN and _END, GET_INFLIGHT_FD, GET_SHARED_OBJECT,
            // SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE, GET_SHMEM_CONFIG: none of them was offered, and the front end
            // would wait for an answer of another form.
            24 | 26 | 28..=31 | 41..=44 => return Err(unexpected(message)),
            request::SET_PROTOCOL_FEATURES => {
                self.negotiated = message.word().ok_or_else(|| unexpected(message))? & self.offered;
            }
            request::SET_STATUS => self.status = message.word().ok_or_else(|| unexpected(message))? & 0xff,
            request::SET_VRING_BASE => {
                let (ring, base) = message.ring().ok_or_else(|| unexpected(message))?;
                if ring >= RING_LIMIT {
                    return Err(unexpected(message));
                }
                self.bases.insert(ring, base);
            }
            request::SET_FEATURES | request::SET_MEM_TABLE => self.started = true,
            request::SET_VRING_CALL if !self.started && is_of_first_ring(message) => {
                self.handshakes = self.handshakes.saturating_add(1);
                if self.handshakes > 1 {
                    return Err(message::Error::HandshakeRepeated);
                }
            }
            // Rings, eventfds, MTU, RARP…: nothing here uses them.
            _ => {}
        }
        if message.needs_reply && self.negotiated & protocol::REPLY_ACK != 0 {
            return word(0);
        }
        Ok(None)
    }

    /// Returns true if the guest's driver has begun to start the NIC. Only then QEMU sends the features that the guest
    /// took, and its memory (hw/virtio/vhost.c, `vhost_dev_start`).
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started
    }
}

/// Returns true if a message that may carry a descriptor is about ring 0. The ring is in the lower 8 bits.
fn is_of_first_ring(message: &Message) -> bool {
    message.word().is_some_and(|word| word & 0xff == 0)
}

fn unexpected(message: &Message) -> message::Error {
    let kind = if message.is_reply { "a reply to request" } else { "request" };
    message::Error::Protocol(format!(
        "{kind} {} of {} bytes, which it cannot send here",
        message.request,
        message.payload.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVS: Capabilities =
        Capabilities { features: 0xd7c6_6a7ca, protocol_features: 0x10cbf, queues: 128, memory_slots: None };

    fn asked(back_end: &mut BackEnd, request: u32, payload: &[u8], needs_reply: bool) -> Option<Vec<u8>> {
        let message = Message { request, is_reply: false, needs_reply, payload: payload.to_vec() };
        let answer = back_end.answer(&message).unwrap()?;
        assert!(answer.is_reply && !answer.needs_reply && answer.request == request);
        Some(answer.payload)
    }

    fn word(value: u64) -> Vec<u8> {
        value.to_ne_bytes().to_vec()
    }

    #[test]
    fn the_figures_are_the_data_planes() {
        let back_end = &mut BackEnd::new(OVS);
        for (request, value) in [(1, 0xd7c6_6a7ca), (15, 0x1001f), (17, 128), (40, 0)] {
            assert_eq!(asked(back_end, request, &[], false), Some(word(value)), "request {request}");
        }
    }

    #[test]
    fn a_status_is_given_back_as_it_was_set() {
        let back_end = &mut BackEnd::new(OVS);
        assert_eq!(asked(back_end, 39, &word(0xb), false), None);
        assert_eq!(asked(back_end, 40, &[], false), Some(word(0xb)));
    }

    #[test]
    fn setting_is_answered_where_that_was_agreed_and_asked_for() {
        let back_end = &mut BackEnd::new(OVS);
        assert_eq!(asked(back_end, 5, &[0; 8], true), None);
        // The message that agrees on it is itself answered.
        assert_eq!(asked(back_end, 16, &word(u64::MAX), true), Some(word(0)));
        for request in [2, 3, 5, 8, 9, 12, 18, 19, 20, 22, 23, 37, 39] {
            assert_eq!(asked(back_end, request, &[0; 8], true), Some(word(0)), "request {request}");
            assert_eq!(asked(back_end, request, &[0; 8], false), None, "request {request}");
        }
        assert_eq!(asked(back_end, 6, &[0; 16], false), Some(word(0)));
    }

    #[test]
    fn a_second_handshake_on_one_connection_is_not_gone_along_with() {
        let call = |ring: u64| Message::ask(request::SET_VRING_CALL, &word(ring | 1 << 8));
        let back_end = &mut BackEnd::new(OVS);
        for ring in [0, 1, 2, 3] {
            assert_eq!(back_end.answer(&call(ring)), Ok(None));
        }
        assert_eq!(back_end.answer(&call(0)), Err(message::Error::HandshakeRepeated));
        // A driver that starts the NIC sets its rings again, and a guest's reboot once more.
        let back_end = &mut BackEnd::new(OVS);
        assert_eq!(back_end.answer(&call(0)), Ok(None));
        assert_eq!(asked(back_end, request::SET_FEATURES, &word(0), false), None);
        for _ in 0..3 {
            assert_eq!(back_end.answer(&call(0)), Ok(None));
        }
    }

    #[test]
    fn a_ring_stands_where_it_was_set() {
        let back_end = &mut BackEnd::new(OVS);
        let ring = |index: u32, base: u32| [index.to_ne_bytes(), base.to_ne_bytes()].concat();
        assert_eq!(asked(back_end, 10, &ring(3, 0x8001), false), None);
        assert_eq!(asked(back_end, 11, &ring(3, 0), false), Some(ring(3, 0x8001)));
        assert_eq!(asked(back_end, 11, &ring(4, 0), false), Some(ring(4, 0)));
    }

    #[test]
    fn what_cannot_be_answered_ends_the_connection_and_never_panics() {
        let back_end = &mut BackEnd::new(OVS);
        for request in [0, 24, 26, 28, 29, 30, 31, 36, 41, 42, 43, 44, 45, u32::MAX] {
            assert!(back_end.answer(&Message::ask(request, &[])).is_err(), "request {request}");
        }
        for (request, size) in [(10, 4), (10, 9), (11, 0), (16, 4), (39, 1)] {
            assert!(back_end.answer(&Message::ask(request, &vec![0xff; size])).is_err(), "request {request}");
        }
        assert!(back_end.answer(&Message::ask(10, &[0xff; 8])).is_err(), "ring 4294967295");
        assert!(back_end.answer(&Message::ask(1, &[]).reply(&[0; 8])).is_err());
        for request in 0..64 {
            for size in [0, 1, 8, 12, 264, 4096] {
                let _ = back_end.answer(&Message::ask(request, &vec![0xff; size]));
            }
        }
    }
}
