//! What becomes of a call that is killed at any step, of one whose system calls fail, of many at once, of a libvirt that is
//! killed or hangs, and of records that another version wrote. On the node of `tests/node`, with libvirt's double.
//! docs/faults.md is the summary.

mod daemon;
mod errors;
mod event;
mod kernel;
mod kill;
mod many;
mod records;
mod stop;
