//! The whole plugin on a node with pods, but without a VM: who the pod is, the share, order and idempotence, and the
//! conversation with libvirt's double. Needs root; touches nothing outside its own namespaces.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod access;
mod attach;
mod busy;
mod cgroup;
#[allow(dead_code, reason = "shared with other groups, which use the rest")]
mod dataplane;
mod detach;
mod doctor;
mod gc;
mod hostile;
mod identity;
mod install;
mod keys;
mod left_over;
#[allow(dead_code, reason = "shared with other groups, which use the rest")]
mod libvirt;
#[allow(dead_code, reason = "shared with other groups, which use the rest")]
mod limited;
mod limits;
mod mtu;
mod multus;
mod node;
mod order;
mod ovsdb;
mod people;
mod privilege;
mod probe;
mod share;
mod shares;
#[path = "../faults/signals.rs"]
#[allow(dead_code, reason = "shared with the group tests/faults, which uses the rest")]
mod signals;
mod spelling;
mod taken;
mod told;
