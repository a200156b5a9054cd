//! A running pod: its sandbox and its processes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::cgroup;
use super::identity::{self, PodUid};
use super::mounts::{Location, Mount};
use super::netns::Sandbox;
use super::process::{self, Process};
use super::socket_end::SocketEnd;
use super::unix_path::{UnixPath, Views};
use super::unix_sockets::{self, OfPath, Socket};
use super::volume::Volume;
use crate::deadline::Deadline;
use crate::sys;

/// Most connections at a NIC's socket that are examined; a NIC has at most two, for a moment.
const END_LIMIT: usize = 64;

/// A running pod.
pub struct RunningPod {
    pub sandbox: Sandbox,
    /// The processes in it that are in the pod's cgroup, or all if that has none; never empty.
    pub processes: Vec<Process>,
    /// All other processes in it, read when needed.
    others: OnceLock<Vec<Process>>,
    /// How the processes see paths, read when needed.
    views: OnceLock<Arc<Views>>,
}

impl RunningPod {
    /// Returns the running pod of a sandbox; `None` if nothing runs.
    ///
    /// # Errors
    /// That of listing `/proc`.
    pub fn of(uid: &PodUid, sandbox: Sandbox) -> Result<Option<Self>, sys::Error> {
        match Self::of_cgroup(sandbox, cgroup::processes(uid)) {
            Ok(running) => Ok(Some(running)),
            Err(sandbox) => Self::in_sandbox(sandbox),
        }
    }

    /// Finds a pod's processes: by its cgroup, in the namespace that the call names, in the recorded one, and by the
    /// cgroups of every process. `None` if the pod has none, so it has no running VM.
    ///
    /// A recorded path may now name another namespace: the host's, another pod's, or one whose processes name no pod.
    /// The last is accepted only if no process names this pod.
    pub fn find(uid: &PodUid, named: Option<&Path>, recorded: Option<&Path>) -> Option<Self> {
        let by_path = || [named, recorded].into_iter().flatten().filter_map(|path| Sandbox::open(path).ok());
        let marked = cgroup::processes(uid);
        let home = |sandbox: &Sandbox| !sandbox.is_hosts() && marked.iter().any(|process| sandbox.holds(process));
        let by_process = marked.iter().filter_map(|process| Sandbox::of(process).ok());
        if let Some(sandbox) = by_path().chain(by_process).find(home) {
            return Self::of_cgroup(sandbox, marked).ok();
        }
        let in_sandbox = |sandbox: Sandbox| match sandbox.is_hosts() {
            true => None,
            false => Self::in_sandbox(sandbox).ok().flatten(),
        };
        let mut unmarked = None;
        for running in by_path().filter_map(in_sandbox) {
            let marks: BTreeSet<PodUid> = running.processes.iter().filter_map(identity::of_process).collect();
            match marks.first() {
                Some(mark) if marks.len() == 1 && mark == uid => return Some(running),
                None => unmarked = unmarked.or(Some(running)),
                Some(_) => {}
            }
        }
        let by_cgroup = identity::processes_of(uid).unwrap_or_default();
        let by_cgroup = by_cgroup.iter().filter_map(|process| Sandbox::of(process).ok());
        by_cgroup.filter_map(in_sandbox).next().or(unmarked)
    }

    /// Keeps the processes that are in the sandbox. Returns the sandbox if there are none.
    fn of_cgroup(sandbox: Sandbox, mut processes: Vec<Process>) -> Result<Self, Sandbox> {
        processes.retain(|process| sandbox.holds(process));
        if processes.is_empty() {
            Err(sandbox)
        } else {
            Ok(Self { sandbox, processes, others: OnceLock::new(), views: OnceLock::new() })
        }
    }

    /// Returns all processes in the sandbox.
    fn in_sandbox(sandbox: Sandbox) -> Result<Option<Self>, sys::Error> {
        let processes = sandbox.processes()?;
        let none = OnceLock::from(Vec::new());
        Ok((!processes.is_empty()).then_some(Self { sandbox, processes, others: none, views: OnceLock::new() }))
    }

    /// Returns a unix socket's path, which processes of the pod may spell differently.
    pub fn path(&self, text: &str) -> UnixPath {
        UnixPath::new(text, self.views.get_or_init(|| Arc::new(Views::of(&self.processes))))
    }

    /// Calls `look` for each unix socket of the pod's network namespace, and returns its first result. There are none
    /// if all the pod's processes have ended.
    ///
    /// # Errors
    /// Those of reading the kernel's list.
    pub fn find_socket<T>(&self, mut look: impl FnMut(Socket<'_>) -> Option<T>) -> Result<Option<T>, sys::Error> {
        // All processes are in one namespace, so another one is tried only if this one has ended.
        let lists = self.processes.iter().map(|process| unix_sockets::find(&process.path("net/unix"), &mut look));
        let mut answers = lists.skip_while(|list| list.as_ref().is_err_and(sys::Error::is_absent));
        answers.next().unwrap_or(Ok(None))
    }

    /// Returns true if a process of the pod listens on a unix socket at this path, or at one that may be the same.
    ///
    /// # Errors
    /// That of listing the pod's sockets.
    pub fn listens(&self, path: &str) -> Result<bool, sys::Error> {
        let path = self.path(path);
        let found = self.find_socket(|socket| (socket.listens && path.may_be(socket.path)).then_some(()));
        Ok(found?.is_some())
    }

    /// As [`Self::listens`]; true if unknown.
    pub fn may_listen(&self, path: &str) -> bool {
        self.listens(path).unwrap_or(true)
    }

    /// Returns the process that listens on the unix socket at this path, if it is visible.
    pub fn listener(&self, path: &str) -> Option<&Process> {
        let path = self.path(path);
        let mut found = OfPath::default();
        self.find_socket(|socket| found.add(|other| path.is(other), &socket)).ok()?;
        self.everyone().find(|process| process.descriptors(&found.listeners).is_ok_and(|found| !found.is_empty()))
    }

    /// Returns the mount points of a location in the pod's containers, as far as they are found by the deadline.
    pub fn mount_points(&self, location: &Location, deadline: Deadline) -> BTreeSet<PathBuf> {
        let views = process::of_each_container(&self.processes).take_while(|_| !deadline.passed());
        views.filter_map(|process| process.mount_point(location).ok().flatten()).collect()
    }

    /// Returns the pod's ends of the connections that its processes have accepted on the unix socket at this path.
    /// Clients are looked for in the network namespaces of the host (this process'), of the pod, and of `data_plane` if
    /// given. It examines processes until the deadline, and at most 64 connections.
    pub fn accepted(&self, path: &str, data_plane: Option<&Process>, deadline: Deadline) -> Vec<SocketEnd> {
        let path = self.path(path);
        let is_path = |other: &[u8]| path.is(other);
        let mut others = OfPath::default();
        let own = PathBuf::from("/proc/self/net/unix");
        for list in [Some(own), data_plane.map(|process| process.path("net/unix"))].into_iter().flatten() {
            // If one list can't be read, use the others.
            let _ = unix_sockets::find(&list, |socket| others.add(is_path, &socket));
        }
        let mut pods = OfPath::default();
        let _ = self.find_socket(|socket| pods.add(is_path, &socket));
        let sockets = &others.accepted | &pods.accepted;
        if sockets.is_empty() {
            return Vec::new();
        }
        let with_listeners = &sockets | &pods.listeners;
        let of = |process: &Process| {
            let (pid, proc) = (process.pid(), process.path(""));
            let found = process.descriptors(&with_listeners).unwrap_or_default();
            found.into_iter().map(move |(inode, descriptor)| SocketEnd { pid, proc: proc.clone(), descriptor, inode })
        };
        let ends = |processes: &[Process]| -> Vec<SocketEnd> {
            processes.iter().take_while(|_| !deadline.passed()).flat_map(of).take(END_LIMIT).collect()
        };
        let mut found = ends(&self.processes);
        // Reads the list again: QEMU may have closed its socket meanwhile.
        if found.is_empty() && self.may_listen(&path) {
            // The listener is outside the pod's cgroup: a libvirt that sees the host's cgroups puts QEMU there.
            found = ends(self.others());
        }
        found.retain(|end| sockets.contains(&end.inode) && end.is_bound_to(|name| path.is(name)));
        found
    }

    /// Returns all processes in the sandbox, those in the pod's cgroup first. A libvirt that sees the host's cgroups
    /// puts QEMU outside the pod's.
    pub fn everyone(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().chain(std::iter::once_with(|| self.others()).flatten())
    }

    /// Returns true if the pod has no VM: no process sees the volume, which QEMU needs for its socket. The sandbox's
    /// own process never sees it. False if that is unknown at the deadline.
    pub fn has_no_vm(&self, volume: &Volume, deadline: Deadline) -> bool {
        self.sees(&[volume], deadline, |_| true) == Some(false)
    }

    /// Returns true if a container of the pod (other than the sandbox's own) has one of these volumes mounted. `None`
    /// if that is unknown at the deadline.
    pub fn has_a_volume(&self, uid: &PodUid, volumes: &[&Volume], deadline: Deadline) -> Option<bool> {
        // A container that is being made, or a process of the host, still sees the shares.
        let is_share =
            |mount: &Mount| volumes.iter().any(|volume| identity::is_share(&mount.point, uid, volume.name()));
        self.sees(volumes, deadline, |mount| !is_share(mount))
    }

    /// Returns true if a process of the pod sees one of these volumes through a mount that `counts`. `None` if that is
    /// unknown at the deadline. The processes in the pod's cgroup are checked first, and mostly suffice.
    fn sees(&self, volumes: &[&Volume], deadline: Deadline, counts: impl Fn(&Mount) -> bool) -> Option<bool> {
        let locations = volumes.iter().map(|volume| volume.location()).collect::<Result<Vec<_>, _>>().ok()?;
        let (mut looked_at, mut is_unknown) = (BTreeSet::new(), false);
        let mut sees = |process: &Process| {
            let found = process.namespace("mnt").and_then(|namespace| match looked_at.insert(namespace) {
                true => {
                    process.find_mount(|mount| (locations.contains(&mount.location()) && counts(&mount)).then_some(()))
                }
                false => Ok(None),
            });
            is_unknown |= found.as_ref().is_err_and(|error| !error.is_absent());
            found.is_ok_and(|found| found.is_some())
        };
        if self.processes.iter().take_while(|_| !deadline.passed()).any(&mut sees) {
            return Some(true);
        }
        let others = self.sandbox.processes().ok()?;
        if others.iter().take_while(|_| !deadline.passed()).any(&mut sees) {
            return Some(true);
        }
        (!is_unknown && !deadline.passed() && others.len() < process::most()).then_some(false)
    }

    /// Returns the processes in the sandbox outside the pod's cgroup. This reads every process of the node.
    fn others(&self) -> &[Process] {
        self.others.get_or_init(|| {
            let known: BTreeSet<i32> = self.processes.iter().map(Process::pid).collect();
            let mut all = self.sandbox.processes().unwrap_or_default();
            all.retain(|process| !known.contains(&process.pid()));
            all
        })
    }
}
