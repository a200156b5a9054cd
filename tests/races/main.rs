//! A pod that swaps what is at the plugin's paths while it works: directories, links, sockets, fifos and files take each
//! other's place as fast as the machine lets them, during real calls of the real binary, on the node of `tests/node`. What is
//! outside the pod's tree, the canary, must never be touched. `RACE_SECONDS` says how long each race lasts.

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

mod canary;
mod places;
mod race;
mod swap;
