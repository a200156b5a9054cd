//! What the tests have in common.

use std::process::Output;

pub const BINARY: &str = env!("CARGO_BIN_EXE_vhostuser-hotplug");

/// kube-ovn's list as every release from 1.10 to 1.16 ships it.
pub const SHIPPED: &str = include_str!("lists/shipped.conflist");

/// The same with the plugin.
pub const CHAINED: &str = include_str!("lists/shipped.expected");

/// Whether it succeeded, and all that it said.
pub fn told(output: Output) -> (bool, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}
