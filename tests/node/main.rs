//! The whole plugin on a node with pods, but without a VM: who the pod is, the share, order and idempotence, and the
//! conversation with libvirt's double. Needs root; touches nothing outside its own namespaces.

mod access;
mod attach;
mod busy;
mod cgroup;
mod cli;
mod detach;
mod device_info;
mod doctor;
mod gc;
mod hostile;
mod identity;
mod install;
mod keys;
mod left_over;
mod limits;
mod mtu;
mod multus;
mod order;
mod ovsdb;
mod privilege;
mod probe;
mod share;
mod shares;
mod spelling;
mod taken;
