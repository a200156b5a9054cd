//! The VM: what its domain's XML tells, our NIC in it, and the hot-plug itself.

pub mod domain;
pub mod interface;
pub mod xml;
