//! The VM: what its domain's XML tells, our NIC in it, and the hot-plug itself.

pub mod attach;
pub mod detach;
pub mod domain;
pub mod error;
pub mod interface;
pub mod memory;
pub mod xml;
