//! The plugin on a node: what becomes of lists that get its entry.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod lists;
mod machine;
