//! What the benchmarks share. Each takes it by its path, for examples have no library of their own.

pub mod bars;
pub mod crowd;
pub mod figures;
