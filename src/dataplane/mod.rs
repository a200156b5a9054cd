//! The data plane seen from outside: who listens and who is connected on a NIC's socket.

pub mod connected;
