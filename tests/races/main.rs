//! A pod that swaps what is at the plugin's paths while it works: directories, links, sockets, fifos and files take each
//! other's place as fast as the machine lets them, during real calls of the real binary, on the node of `tests/node`. What is
//! outside the pod's tree, the canary, must never be touched. `RACE_SECONDS` says how long each race lasts.

mod canary;
mod race;
mod swap;
mod targets;
