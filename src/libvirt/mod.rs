//! A client of its own for libvirt's remote protocol over a connected unix socket: synchronous, without threads, and
//! made for a daemon that is not trusted.
//!
//! It knows libvirt and nothing else: no pods, no CNI, no vhost-user. Each layer rests on the one above it in this list:
//!
//! | room | what it holds |
//! |---|---|
//! | `xdr` | XDR words, strings, options, with every bound checked |
//! | `message` | a frame: its length, its header, its kinds |
//! | `procedures` | the numbers, arguments and results of each call |
//! | `devices` | those of them that change a domain's devices |
//! | `jobs` | the one that tells what a domain is busy with |
//! | `events` | what the daemon says without being asked |
//! | `connection` | one socket, one call at a time, one deadline per call |
//! | `client` | the calls as a caller wants them |
//!
//! # What a lying daemon can and cannot do
//! Every wait ends at the caller's [`Deadline`](crate::deadline::Deadline), whatever trickles in meanwhile. At most
//! [`FRAME_MAX`](message::FRAME_MAX) bytes of a frame are kept, and memory grows with the bytes that arrive, never with
//! what a length claims. Events that wait to be read are bounded in number and bytes, and so is everything that is
//! skipped. File descriptors are never accepted. What the daemon says in words is made fit for a log first.

pub mod client;
pub mod connection;
pub mod devices;
pub mod error;
pub mod events;
pub mod jobs;
pub mod message;
pub mod procedures;
pub mod xdr;

pub use client::{Access, Client, Scope, Uri, Xml};
pub use error::Error;
pub use events::{Event, EventKind};
pub use jobs::Operation;
pub use procedures::{Domain, DomainState};
