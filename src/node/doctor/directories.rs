//! Directories and the installed binary.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Check, Finding, NodePaths, Severity};
use crate::attachment::record::Store;
use crate::attachment::share::{self, SUN_PATH};
use crate::config::Config;
use crate::node::binary;
use crate::pod::identity::{self, PodUid};
use crate::pod::process::{self, Process};
use crate::sys::{self, Walk};

const KUBELET: Check = Check {
    name: "kubelet_dir",
    why: "the plugin looks for a pod's volume there; if it finds none, it does nothing for the pod",
};

const BASE: Check = Check {
    name: "socket_base_dir",
    why: "the data plane opens the NICs' sockets there, by paths of at most 107 bytes",
};

const STATE: Check =
    Check { name: "state_dir", why: "DEL follows the records there, so only root may write or read them" };

const BINARY: Check = Check { name: "binary", why: "the runtime runs it as root for every pod of the node" };

/// Most pods whose directories are checked.
const POD_LIMIT: usize = 4096;

/// Length of a pod's uid, in bytes.
const UID_LENGTH: usize = 36;

/// Longest name of an interface, and so of a socket that is named after it.
const IFNAME_MAX: usize = 15;

pub fn examine(paths: &NodePaths, config: &Config) -> Vec<Finding> {
    vec![kubelet(&config.kubelet_dir), base(config), states(&config.state_dir), binary_of(paths)]
}

fn kubelet(directory: &Path) -> Finding {
    let pods = directory.join("pods");
    let shown = pods.display();
    if let Some((pid, root)) = kubelets_root(directory) {
        let found = format!("{} is not the directory of kubelet (process {pid}), which is {root}", directory.display());
        return KUBELET.wrong(found, format!("set the key \"kubelet_dir\" to {root}"));
    }
    if !pods.is_dir() {
        return KUBELET.wrong(
            format!("{shown} is not there"),
            "set the key \"kubelet_dir\" to kubelet's --root-dir, or start kubelet",
        );
    }
    match homeless_pod(&pods) {
        Some(uid) => KUBELET.wrong(
            format!("{shown} has none of the pods that run on this node, such as {uid}"),
            "set the key \"kubelet_dir\" to kubelet's --root-dir: this directory belongs to another kubelet, or is stale",
        ),
        None => KUBELET.ok(format!("{shown} is there")),
    }
}

/// Returns the pid of the running kubelet and its directory, if that is another one than this.
fn kubelets_root(directory: &Path) -> Option<(i32, String)> {
    let process = super::processes(|name| name == "kubelet").next()?;
    let root = process.option("--root-dir").or_else(|| process.option("-root-dir"));
    let root = root.unwrap_or_else(|| Config::default().kubelet_dir.display().to_string());
    // Compares the directories themselves: one path may be a link, and kubelet may run in a container.
    let theirs = process.root().and_then(|at| sys::open_below(at.as_fd(), Path::new(&root), Walk::Rooted)).ok();
    let object = |handle: OwnedFd| sys::object(handle.as_fd()).ok();
    let same =
        theirs.and_then(object).is_some_and(|theirs| sys::open_handle(directory).ok().and_then(object) == Some(theirs));
    (!same).then(|| (process.pid(), root))
}

/// Returns one of the running pods, known from the cgroups of the node's processes, if none of them has a directory in `pods`.
/// Leaves out the pod that this process itself is in.
fn homeless_pod(pods: &Path) -> Option<PodUid> {
    let of = |pid: i32| identity::of_process(&Process::open(pid).ok()?);
    let own = [i32::try_from(std::process::id()).ok(), Some(1)].map(|pid| pid.and_then(of));
    let all: BTreeSet<PodUid> = process::pids().ok()?.filter_map(of).collect();
    let others: Vec<PodUid> = all.into_iter().filter(|uid| !own.contains(&Some(uid.clone()))).collect();
    let is_there = |uid: &PodUid| pods.join(uid.as_str()).is_dir();
    others.iter().find(|_| !others.iter().any(is_there)).cloned()
}

fn base(config: &Config) -> Finding {
    let directory = &config.socket_base_dir;
    let shown = directory.display();
    // A pod's uid and the names of volume and socket follow.
    let parts = [share::data_plane_path(directory).as_os_str().len(), UID_LENGTH, config.volume_name.len(), IFNAME_MAX];
    let longest = parts.into_iter().fold(3_usize, usize::saturating_add);
    if longest > SUN_PATH {
        let found = format!("{shown} is too long: a socket's path there can have {longest} bytes");
        return BASE.wrong(
            found,
            "choose a shorter \"socket_base_dir\", which must be the same as kube-ovn's, or a shorter volume name",
        );
    }
    for part in directory.ancestors() {
        let metadata = match part.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return BASE.wrong(format!("{}: {error}", part.display()), "it must be a directory"),
        };
        if !metadata.is_dir() {
            return BASE.wrong(format!("{} is not a directory", part.display()), "remove what is there");
        }
        if metadata.mode() & 0o001 == 0 {
            let advice = format!("chmod o+x {}", part.display());
            return BASE.warning(format!("{} can be entered by root and few others only", part.display()), advice);
        }
    }
    if let Some(found) = loose(directory) {
        let advice =
            format!("chown root {shown} {shown}/* && chmod go-w {shown} {shown}/*; only root needs to write there");
        return BASE.warning(format!("{found}: who may write there can lead OVS to another pod's sockets"), advice);
    }
    let yet = if directory.is_dir() { "is there" } else { "is not there yet: the first ADD makes it" };
    BASE.ok(format!("{shown} {yet}"))
}

/// Checks all state directories of the node. Returns the first finding that isn't ok, else that of the configured one.
fn states(configured: &Path) -> Finding {
    let mut all: Vec<Finding> = Store::new(configured).directories().iter().map(|directory| state(directory)).collect();
    let first_wrong = all.iter().position(|finding| finding.verdict != Severity::Ok).unwrap_or_default();
    all.swap_remove(first_wrong)
}

/// Returns which directory others than root may rename in: the base directory or a pod's directory there. A sticky bit protects
/// root's files from others.
fn loose(base: &Path) -> Option<String> {
    let below = std::fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_loose = |path: PathBuf| {
        let found = path.symlink_metadata().ok().filter(Metadata::is_dir)?;
        let mode = found.mode() & 0o7777;
        let is_open = mode & 0o022 != 0 && mode & 0o1000 == 0;
        let shown = path.display();
        (found.uid() != 0 || is_open).then(|| format!("{shown} is owned by uid {} with mode {mode:04o}", found.uid()))
    };
    std::iter::once(base.to_owned()).chain(below.take(POD_LIMIT)).find_map(is_loose)
}

fn state(directory: &Path) -> Finding {
    let shown = directory.display();
    let metadata = match directory.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return STATE.ok(format!("{shown} is not there yet: the first ADD makes it"));
        }
        Err(error) => return STATE.wrong(format!("{shown}: {error}"), "run doctor as root"),
    };
    let mode = metadata.mode() & 0o7777;
    if !metadata.is_dir() {
        return STATE.wrong(format!("{shown} is not a directory"), "remove what is there");
    }
    if metadata.uid() != 0 || mode & 0o077 != 0 {
        let found = format!("{shown} is owned by uid {} with mode {mode:04o}", metadata.uid());
        return STATE.wrong(found, format!("chown root {shown} && chmod 0700 {shown}"));
    }
    STATE.ok(format!("{shown} is root's alone"))
}

fn binary_of(paths: &NodePaths) -> Finding {
    let path = paths.binary();
    let shown = path.display();
    let install = "install it: install.sh --bin-dir sets the directory";
    let this = env!("CARGO_PKG_VERSION");
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return BINARY.wrong(format!("{shown}: {error}"), install),
    };
    if !binary::is_executable(&path) {
        let mode = metadata.mode() & 0o7777;
        return BINARY.wrong(format!("{shown} cannot be executed by all (mode {mode:04o})"), install);
    }
    if let Some(who) = binary::writable_by_others(&path) {
        return BINARY.wrong(format!("{shown} is {who}"), format!("chown root {shown} && chmod 0755 {shown}"));
    }
    if is_this_one(&metadata) {
        return BINARY.ok(format!("{shown} is this one, version {this}"));
    }
    match binary::version(&path) {
        Ok(version) if version == this => BINARY.ok(format!("{shown} is of this version, {this}")),
        Ok(version) => BINARY.wrong(
            format!("{shown} is version {version:?}, and this is {this:?}"),
            "install this version, or run doctor of the installed one",
        ),
        Err(why) => BINARY.wrong(format!("{shown} {why}"), install),
    }
}

fn is_this_one(installed: &Metadata) -> bool {
    let running = Path::new("/proc/self/exe").metadata();
    running.is_ok_and(|running| (running.dev(), running.ino()) == (installed.dev(), installed.ino()))
}
