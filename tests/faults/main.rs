//! What becomes of a call that is killed at any step, of one whose system calls fail, of many at once, of a libvirt that is
//! killed or hangs, and of records that another version wrote. On the node of `tests/node`, with libvirt's double.
//! docs/faults.md is the summary.

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

mod daemon;
mod errors;
mod event;
mod kernel;
mod kill;
mod many;
mod records;
mod scene;
mod signals;
mod stop;
mod strace;
