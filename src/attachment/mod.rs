//! The life of an attachment: one NIC of one pod, and the share that its socket needs.
//!
//! ```text
//!              ADD                   ADD                    ADD
//!  ┌────────┐ record  ┌──────────┐ bind mount ┌────────┐ attach  ┌──────────┐
//!  │ absent ├────────►│ recorded ├───────────►│ shared ├────────►│ plugging │
//!  └────────┘         └──────────┘            └────────┘         └────┬─────┘
//!      ▲                                        ▲    ▲                │ libvirt has it, a data
//!      │ record, socket and share removed       │    │                │ plane is connected
//!      │                                        │    │ undo           ▼
//!  ┌───┴────┐ DEVICE_REMOVED,  ┌─────────┐      │    │           ┌──────────┐
//!  │  gone  │◄─────────────────┤ leaving │◄─────┼────┴───────────┤ attached │
//!  └────────┘ socket unused    └─────────┘ DEL, GC, failed ADD   └────┬─────┘
//!                                               │                     │ the VM ends
//!                                               └─────────────────────┘
//! ```
//!
//! * absent: no record, and nothing of the attachment on the node.
//! * recorded ([`record`], [`ledger`]): the record is written before anything that it describes exists, so that a DEL, a GC
//!   or the next ADD finds whatever a killed call left.
//! * shared ([`share`]): the data plane sees the pod's volume. Other attachments of the pod may use the same share
//!   ([`shares`]).
//! * plugging ([`plug`], [`link`], [`handover`]): libvirt works on the attach. An ADD that ends here leaves an attach whose
//!   end nobody has seen; [`unfinished`] settles it before anything else is done ([`earlier`], [`unplug`]).
//! * attached: the domain has the NIC and a data plane is connected to it. [`nic_state`] is the one judge of this.
//! * leaving ([`unplug`], [`release`]; [`attempt`] in a failed ADD): the guest was asked to release the NIC, and hasn't yet.
//!   The share stays.
//! * gone ([`undo`]): the guest, QEMU and libvirt have released it, and the socket, the share and the record are removed,
//!   in this order. kube-ovn then removes the port.
//!
//! [`sweep`] takes pods that ended without a DEL from any of these states to gone. A [`context`] is what all of them are
//! given: the pod, its records, the configuration, the log and the deadline.
#![allow(missing_docs, reason = "a field that its name explains needs no comment")]

pub mod attempt;
pub mod context;
pub mod device_info;
pub mod earlier;
pub mod errors;
pub mod failure;
pub mod fit;
pub mod handover;
pub mod hypervisor;
pub mod identify;
pub mod journal;
pub mod ledger;
pub mod link;
pub mod mtu;
pub mod nic_spec;
pub mod nic_state;
pub mod nic_to_detach;
pub mod plug;
pub mod ports;
pub mod record;
pub mod release;
pub mod rescue;
pub mod share;
pub mod shares;
pub mod state;
pub mod sweep;
pub mod undo;
pub mod unfinished;
pub mod unplug;
