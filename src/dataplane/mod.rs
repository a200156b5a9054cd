//! The data plane: what it offers, whether it is connected, and how the VM is kept from waiting for it.
//!
//! QEMU, as the vhost-user server, waits in its main loop for a client that answers, and the VM hangs meanwhile. So the
//! plugin first asks the data plane for its [`capabilities`] ([`probe`]). While QEMU plugs the NIC, a stand-in answers
//! with them at once ([`standin`]). The kernel shows who is connected afterwards ([`crate::pod::unix_sockets`]), and
//! the [`guard`] disconnects a data plane that hangs.
//!
//! # Why this is not built on the crate `vhost`
//! rust-vmm's `vhost` (0.18.0 was examined) has front end and back end. Neither fits:
//! * Its back end refuses SET_VRING_ENABLE before SET_FEATURES, and QEMU 10.0 sends them in that order; it knows
//!   GET_STATUS and SET_STATUS by number alone and ends the connection without an answer, though OVS-DPDK offers the
//!   feature and QEMU then waits for the answer.
//! * It always offers REPLY_ACK, but QEMU must see exactly what the data plane can do.
//! * Neither end can be bounded in time: on a socket's receive timeout (`EAGAIN`) it tries again without end, so a peer
//!   that sends half a message blocks its thread for good.
//! * It adds 12 crates (among them a random number generator, a second `thiserror` and a second `bitflags`) for a dozen
//!   messages of a few words each.
//!
//! The rest is small: [`message`] is the framing, [`backend`] the answers. Descriptors that a peer passes never enter
//! this process: see [`message`].

#![allow(missing_docs, reason = "a field that its name explains needs no comment")]

pub mod access;
pub mod backend;
pub mod capabilities;
pub mod frontend;
pub mod guard;
pub mod message;
pub mod probe;
pub mod socket_path;
pub mod standin;
