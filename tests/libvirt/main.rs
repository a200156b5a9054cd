//! The libvirt client against a double of libvirtd that is honest or lies on order, and against the real one.

mod harness;
mod job;
mod lies;
mod memory;
mod real;
mod refusals;
