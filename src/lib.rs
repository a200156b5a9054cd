//! vhostuser-hotplug: a CNI plugin, chained after kube-ovn, that plugs a vhost-user NIC into the running VM of a pod.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod attachment;
pub mod cli;
pub mod cni;
pub mod commands;
pub mod config;
pub mod conflist;
pub mod dataplane;
pub mod deadline;
pub mod file;
pub mod libvirt;
pub mod limits;
pub mod logging;
pub mod node;
pub mod ovs;
pub mod pod;
pub mod privilege;
pub mod quote;
pub mod sys;
pub mod vm;
