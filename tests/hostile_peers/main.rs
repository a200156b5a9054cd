//! What becomes of a call whose peers lie: the pod's libvirtd, its QEMU, a data plane; and of one that is given hostile
//! names. The real binary on the node of `tests/node`. docs/lies.md is the summary.

mod crowds;
mod docs;
mod peers;
mod quoting;
mod row;
mod table;
mod time;
