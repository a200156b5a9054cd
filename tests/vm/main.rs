//! The plugin in the lab: a real OVS-DPDK, libvirtd, QEMU and guest kernel, called through a real libcni or containerd.
//!
//! `tests/run` brings the lab up and runs these one after another; alone: `tests/lab/lab up`, `tests/lab/lab cni-install …`,
//! then `LAB=tests/lab/lab cargo test --test vm -- --ignored --test-threads=1`.

mod cli;
mod containerd;
mod dataplane;
mod examples;
mod faults;
mod freeze;
mod guest;
mod install;
mod lab;
mod leaving;
mod libcni;
mod life;
mod limits;
mod memory;
mod migrate;
mod native;
mod order;
mod ovs;
mod plug;
mod refuse;
mod spelling;
mod stop;
mod stuck;
mod testpmd;
mod watch;
