//! What the benchmarks share.

pub mod bars;
pub mod crowd;
pub mod figures;
