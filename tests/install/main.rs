//! The plugin on a node: what becomes of lists that get its entry, install.sh, an installer that is killed at any step or
//! not alone, and the keeper in a container's root. Each test has a root directory of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod crash;
mod deploy;
mod keeper;
mod lists;
mod machine;
mod script;
#[path = "../faults/signals.rs"]
#[allow(dead_code, reason = "shared with the group tests/faults, which uses the rest")]
mod signals;
#[path = "../faults/strace.rs"]
mod strace;
mod together;
mod uninstall;
