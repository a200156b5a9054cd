//! The protocol with the container runtime: CNI specification 0.1.0 to 1.1.0, seen from a chained plugin.
//!
//! A call is the environment, the configuration on stdin, and a verb; its answer is at most one JSON document on stdout
//! and an exit status ([`serve()`]). Nothing here knows of pods or virtual machines: it could be a crate.
//!
//! # What is used of crate `cni-plugin`, and what is not
//!
//! - [`cni_plugin::Command`] parses the four verbs that it knows, exactly as the specification spells them; GC and
//!   STATUS, which came with 1.1.0, are added in [`command`].
//! - [`cni_plugin::macaddr::MacAddr`] reads MAC addresses of either case and separator ([`mac`] prints them).
//!
//! The rest of it can't be used by a plugin that has to stand in kube-ovn's chain:
//!
//! - `Cni::load` accepts 0.4.0 and any 1.x alone, so kube-ovn's own 0.3.1 configuration would fail for every pod of the
//!   node; it refuses container ids with a capital letter, takes an empty variable for a value, and fails the whole
//!   configuration over a key that it need not understand (`"ipam": {}`, `"args": null`).
//! - `SuccessReply` loses fields of a result that it doesn't know (`ips[].version`, `mtu`, `socketPath`, …), refuses an
//!   interface without `sandbox`, and re-spells MAC and IPv6 addresses. Here a result stays the text that it came as
//!   ([`PrevResult`]).
//! - `VersionReply` lists the supported versions in random order; `ErrorReply` carries a `semver` 0.11 version, which
//!   would be a dependency for the sake of one string; `reply()` exits with the error's code, which for 256 is success,
//!   and doesn't notice a result that could not be written.
//! - `logger` writes files into the working directory; `delegation` isn't needed.

pub mod command;
pub mod error;
pub mod json;
pub mod mac;
pub mod names;
pub mod netconf;
pub mod prev_result;
pub mod reply;
pub mod request;
pub mod serve;
pub mod version;

pub use command::Command;
pub use error::Error;
pub use netconf::{Attachment, NetConf};
pub use prev_result::{Interface, PrevResult, Socket};
pub use request::{Args, Request};
pub use serve::{end_at, serve};
pub use version::Version;
