//! The pod seen from the host: who it is, its sandbox and processes, its directories, its libvirt daemon.
//!
//! Nearly everything in this room belongs to the tenant. What is read here is compared, bounded and checked; no path
//! the pod can write is followed by name.

pub mod cgroup;
pub mod daemon;
pub mod identity;
pub mod mounts;
pub mod netns;
pub mod process;
pub mod unix_path;
pub mod volume;
