//! The places that are raced for: each directory and name of a pod's, or writable for a pod's neighbours, that the plugin uses.

use std::path::{Path, PathBuf};

use serde_json::json;
use support::libvirt::SOCKET;
use support::{Call, Double, INSIDE, KUBELET, Node, Pod, SOCKETS, VOLUME};

use super::canary::{CANARY, on};
use super::race::Race;
use super::swap::{Guise, Swap};

/// Where the race for libvirt's socket has it.
const DEEP: &str = "/run/libvirt/deep/libvirt-sock";

/// A path of the container's as one of the test's own.
fn inside(pod: &Pod, path: impl AsRef<Path>) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", pod.machine_pid(), path.as_ref().display()))
}

fn as_it_is(call: Call) -> Call {
    call
}

fn links<const N: usize>(to: [&str; N]) -> impl Iterator<Item = Guise> {
    to.map(|to| Guise::Link(to.to_owned())).into_iter()
}

fn volumes(pod: &Pod) -> String {
    format!("{KUBELET}/pods/{}/volumes/kubernetes.io~empty-dir", pod.uid)
}

#[test]
fn the_volume() {
    let (node, pod, _plane) = Node::with_plane();
    let links = links([CANARY, "../../../../../canary", "/proc/1/root/run/canary", "/"]);
    let guises = links.chain([Guise::Fifo, Guise::File, Guise::Directory, Guise::Socket, Guise::Nothing]).collect();
    let swaps = vec![Swap::new(on(&node, volumes(&pod)), VOLUME, guises)];
    let daemon = || Some(Double::start(&pod, &json!({})));
    // What calls that found another directory there have mounted.
    let heal = || free_of_mounts(&node);
    let race =
        Race { name: "the volume", node: &node, pod: &pod, swaps, configured: as_it_is, daemon: &daemon, heal: &heal };
    race.run();
}

#[test]
fn the_nics_socket() {
    let (node, pod, _plane) = Node::with_plane();
    // Not by the way of /proc/1: the daemon itself, which is root here, would follow it.
    let links = links(["/run/canary/net1", "../../../../../../canary/net1", CANARY, "net1"]);
    let guises = links.chain([Guise::Fifo, Guise::File, Guise::Directory, Guise::Socket, Guise::Nothing]).collect();
    let swaps = vec![Swap::new(on(&node, volumes(&pod)).join(VOLUME), "net1", guises)];
    let daemon = || Some(Double::start(&pod, &json!({})));
    let race = Race {
        name: "the NIC's socket",
        node: &node,
        pod: &pod,
        swaps,
        configured: as_it_is,
        daemon: &daemon,
        heal: &|| {},
    };
    race.run();
}

#[test]
fn libvirts_socket() {
    let (node, pod, _plane) = Node::with_plane();
    let deep = inside(&pod, DEEP);
    std::fs::create_dir(deep.parent().unwrap()).unwrap();
    // The daemon makes its socket beside, and it is moved to its place, whatever is there.
    let deep_directory = on_fd(deep.parent().unwrap());
    let daemon = || {
        let double = Double::start(&pod, &json!({}));
        let target = deep_directory.join("libvirt-sock");
        while std::fs::rename(inside(&pod, SOCKET), &target).is_err() {}
        Some(double)
    };
    let ways =
        ["/run/canary", "../canary", "../../run/canary", "/proc/1/root/run/canary", "/proc/self/root/run/canary"];
    let to_sockets = ways.map(|way| Guise::Link(format!("{way}/libvirt-sock")));
    let (parent, directory) = (deep.parent().unwrap().parent().unwrap(), deep.parent().unwrap());
    let others = || [Guise::Fifo, Guise::File, Guise::Directory, Guise::Socket, Guise::Nothing];
    let swaps = vec![
        Swap::new(parent.to_owned(), "deep", links(ways).chain(others()).collect()),
        Swap::new(directory.to_owned(), "libvirt-sock", to_sockets.into_iter().chain(others()).collect()),
    ];
    let configured = |call: Call| call.set("libvirt_sockets", json!([DEEP]));
    let race =
        Race { name: "libvirt's socket", node: &node, pod: &pod, swaps, configured, daemon: &daemon, heal: &|| {} };
    race.run();
}

/// A path to a directory that stays with it, whatever its name.
fn on_fd(path: &Path) -> PathBuf {
    use std::os::fd::IntoRawFd;
    // Open as long as the test.
    PathBuf::from(format!("/proc/self/fd/{}", std::fs::File::open(path).unwrap().into_raw_fd()))
}

#[test]
fn the_share() {
    let (node, pod) = Node::with_pod();
    // As kube-ovn leaves it.
    node.sh(&format!("mkdir -p {SOCKETS}/{} && chmod -R 0777 {SOCKETS}", pod.uid));
    let ways = [CANARY, "../../canary", "/proc/1/root/run/canary"];
    let others = || [Guise::Fifo, Guise::File, Guise::Directory, Guise::Nothing];
    let to_volumes = ways.map(|way| Guise::Link(format!("{way}/{VOLUME}")));
    let swaps = vec![
        Swap::in_passing(on(&node, SOCKETS), &pod.uid, links(ways).chain(others()).collect()),
        Swap::in_passing(on(&node, SOCKETS).join(&pod.uid), VOLUME, to_volumes.into_iter().chain(others()).collect()),
    ];
    let heal = || free_of_mounts(&node);
    let configured = |call: Call| call.set("attach", json!("never"));
    let race = Race { name: "the share", node: &node, pod: &pod, swaps, configured, daemon: &|| None, heal: &heal };
    race.run();
}

/// Unmounts and removes all that is where the shares are.
fn free_of_mounts(node: &Node) {
    node.sh(&format!(
        "while p=$(grep -m1 -o ' {SOCKETS}/[^ ]*' /proc/self/mountinfo); do umount -l $p; done; rm -rf {SOCKETS}"
    ));
}

#[test]
fn the_mount_in_the_container() {
    let (node, pod, _plane) = Node::with_plane();
    let parent = Path::new(INSIDE).parent().unwrap();
    let (directory, name) = (parent.parent().unwrap(), parent.file_name().unwrap().to_str().unwrap());
    // Not by the way of /proc/1: the daemon itself, which is root here, would follow it.
    let guises =
        links([CANARY, "canary", "../run/canary"]).chain([Guise::Fifo, Guise::Directory, Guise::Nothing]).collect();
    let swaps = vec![Swap::new(inside(&pod, directory), name, guises)];
    let daemon = || Some(Double::start(&pod, &json!({})));
    let race = Race {
        name: "the mount in the container",
        node: &node,
        pod: &pod,
        swaps,
        configured: as_it_is,
        daemon: &daemon,
        heal: &|| {},
    };
    race.run();
}
