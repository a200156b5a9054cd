//! A client for libvirt's remote protocol over a connected unix socket: synchronous, without threads, and made for a
//! daemon that is not trusted.
//!
//! It knows nothing of pods, CNI or vhost-user. Each module uses only those above it in this list:
//!
//! | module | what it does |
//! |---|---|
//! | `xdr` | XDR words, strings, options, with every bound checked |
//! | `message` | a frame: its length, its header, its kinds |
//! | `procedures` | the numbers, arguments and results of each call |
//! | `devices` | the calls that change a domain's devices |
//! | `jobs` | the call that returns a domain's long job |
//! | `events` | events and the subscription to them |
//! | `connection` | one socket, one call at a time, one deadline per call |
//! | `client` | one method for each call |
//!
//! # What a lying daemon can and cannot do
//! Every wait ends at the caller's [`Deadline`](crate::deadline::Deadline), however slowly data arrives. At most
//! [`FRAME_MAX`](message::FRAME_MAX) bytes of a frame are kept. Memory grows with the bytes that arrive, never with the
//! length that a header claims. Queued events are bounded in number and bytes, and so are skipped messages. File
//! descriptors are never accepted. The daemon's texts are quoted before they are logged.

#![allow(missing_docs, reason = "a field that its name explains needs no comment")]

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
