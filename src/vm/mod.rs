//! The VM: its domain's XML, the plugin's NIC in it, and the hot-plug.

#![allow(missing_docs, reason = "a field that its name explains needs no comment")]

pub mod attach;
pub mod detach;
pub mod domain;
pub mod error;
pub mod interface;
pub mod memory;
pub mod xml;
