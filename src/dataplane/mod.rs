//! The data plane seen from outside: who it is, what it offers, whether it is connected; and how the VM is kept from
//! waiting for it.
//!
//! QEMU, as the vhost-user server, waits in its main loop for a client that answers, and the VM stands still meanwhile.
//! So the data plane is asked for its [`capabilities`] before ([`probe`]), and a stand-in that answers with them at once serves
//! QEMU while it plugs the NIC ([`standin`]). Whoever is connected afterwards is told by the kernel ([`crate::pod::unix_sockets`]), and one
//! that hangs then is cut off ([`guard`]).
//!
//! # Why this is not built on the crate `vhost`
//! The protocol's front end and back end are both in rust-vmm's `vhost` (looked at: 0.18.0). Neither serves here:
//! * Its back end refuses SET_VRING_ENABLE before SET_FEATURES, and QEMU 10.0 sends them in that order; it knows
//!   GET_STATUS and SET_STATUS by number alone and ends the connection without an answer, though OVS-DPDK offers the
//!   feature and QEMU then waits for the answer.
//! * It always offers REPLY_ACK, whatever it is told to offer, and QEMU must be told exactly what the data plane can do.
//! * Neither end can be bounded in time: a socket's receive timeout (`EAGAIN`) is taken for a reason to try again, without
//!   end, so that a peer that sends half a message keeps its thread for good.
//! * It brings 12 crates that are not in the tree (a random number generator, a second `thiserror` and a second `bitflags`
//!   among them) for a dozen messages of a few words each.
//!
//! What is left to write is small: [`message`] is the framing, [`backend`] the answers. No descriptor that a peer passes
//! ever enters this process: see [`message`].

pub mod access;
pub mod backend;
pub mod capabilities;
pub mod frontend;
pub mod guard;
pub mod message;
pub mod probe;
pub mod socket_path;
pub mod standin;
