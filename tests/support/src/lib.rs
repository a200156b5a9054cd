//! What the test groups share: a node of namespaces, pods on it, calls of the real binary, and doubles of the pods' peers.

pub mod call;
pub mod dataplane;
pub mod fields;
pub mod libvirt;
pub mod limited;
pub mod node;
pub mod patience;
pub mod pod;
pub mod scene;
pub mod signals;
pub mod strace;

use std::path::PathBuf;
use std::sync::OnceLock;

pub use call::{Answer, Call, answer};
pub use dataplane::DataPlane;
pub use libvirt::Double;
pub use node::{INSIDE, KUBELET, Node, SOCKETS, STATE, Told, VOLUME, children, end, new_uid, told};
pub use pod::Pod;

/// Returns the path of the plugin, which `cargo test` builds.
pub fn plugin() -> &'static str {
    static PLUGIN: OnceLock<PathBuf> = OnceLock::new();
    PLUGIN.get_or_init(|| built("vhostuser-hotplug", "cargo build")).to_str().unwrap()
}

/// Returns the path of a program of tests/tools.
pub fn tool(name: &str) -> PathBuf {
    built(name, "cargo build --workspace --bins")
}

/// Finds a program of this profile: a test is in its directory `deps`, a tool beside the program.
fn built(name: &str, command: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let mut directory = own.parent().unwrap();
    if directory.ends_with("deps") {
        directory = directory.parent().unwrap();
    }
    let program = directory.join(name);
    assert!(program.exists(), "{} does not exist: run `{command}`", program.display());
    program
}
