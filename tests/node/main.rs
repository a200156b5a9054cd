//! The whole plugin on a node with pods, but without a VM: who the pod is, the share, order and idempotence, and the
//! conversation with libvirt's double. Needs root; touches nothing outside its own namespaces.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod attach;
mod dataplane;
mod detach;
mod gc;
mod identity;
mod libvirt;
mod node;
mod share;
