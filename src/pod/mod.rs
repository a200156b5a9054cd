//! The pod seen from the host: who it is, its sandbox and processes, its directories, its libvirt daemon.
//!
//! Nearly everything here belongs to the tenant. Input is bounded and checked; no path that the pod can write is
//! followed by name.

#![allow(missing_docs, reason = "a field that its name explains needs no comment")]

pub mod cgroup;
pub mod daemon;
pub mod identity;
pub mod mounts;
pub mod netns;
pub mod poll;
pub mod process;
pub mod running;
pub mod socket_end;
pub mod unix_path;
pub mod unix_sockets;
pub mod volume;
pub mod waiting;
