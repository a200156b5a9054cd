//! What becomes of a call whose peers lie: the pod's libvirtd, its QEMU, a data plane; and of one that is given hostile
//! names. The real binary on the node of `tests/node`. docs/lies.md is the summary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[path = "../node/dataplane.rs"]
#[allow(dead_code, reason = "shared with the group tests/node, which uses the rest")]
mod dataplane;
#[path = "../node/libvirt.rs"]
#[allow(dead_code, reason = "shared with the group tests/node, which uses the rest")]
mod libvirt;
#[path = "../node/node.rs"]
#[allow(dead_code, reason = "shared with the group tests/node, which uses the rest")]
mod node;
#[path = "../faults/signals.rs"]
#[allow(dead_code, reason = "shared with the group tests/faults, which uses the rest")]
mod signals;

mod crowds;
mod docs;
mod fields;
mod peers;
mod quoting;
mod row;
mod table;
mod time;
