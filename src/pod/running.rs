//! What runs of a pod: its sandbox and its processes.

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

/// Most connections at a NIC's socket that are looked at; a NIC has two at most, for a moment.
const END_LIMIT: usize = 64;

/// What lives of a pod.
pub struct RunningPod {
    /// Its network namespace.
    pub sandbox: Sandbox,
    /// Those processes in it that are in the pod's cgroup, or where that has none, all; never none.
    pub processes: Vec<Process>,
    /// All others in it, once they were needed.
    others: OnceLock<Vec<Process>>,
    /// What paths mean to them, likewise.
    views: OnceLock<Arc<Views>>,
}

impl RunningPod {
    /// What lives of a pod in its sandbox. `None` if nothing does.
    ///
    /// # Errors
    /// That of listing `/proc`.
    pub fn of(uid: &PodUid, sandbox: Sandbox) -> Result<Option<Self>, sys::Error> {
        match Self::of_cgroup(sandbox, cgroup::processes(uid)) {
            Ok(running) => Ok(Some(running)),
            Err(sandbox) => Self::in_sandbox(sandbox),
        }
    }

    /// Looks for a pod's processes: by its cgroup; in the namespace that the call names, in the one that was recorded; and
    /// by the cgroups of every process. `None` if the pod has none, so that no VM of it can run.
    ///
    /// A path may have come to name another's namespace since it was recorded: the host's, another pod's, or one whose
    /// processes bear no pod's mark. The last is believed only where no process bears this pod's.
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

    /// Of the processes in the pod's cgroup those that live in the sandbox; the sandbox back if none does.
    fn of_cgroup(sandbox: Sandbox, mut processes: Vec<Process>) -> Result<Self, Sandbox> {
        processes.retain(|process| sandbox.holds(process));
        if processes.is_empty() {
            Err(sandbox)
        } else {
            Ok(Self { sandbox, processes, others: OnceLock::new(), views: OnceLock::new() })
        }
    }

    /// All processes that live in the sandbox.
    fn in_sandbox(sandbox: Sandbox) -> Result<Option<Self>, sys::Error> {
        let processes = sandbox.processes()?;
        let none = OnceLock::from(Vec::new());
        Ok((!processes.is_empty()).then_some(Self { sandbox, processes, others: none, views: OnceLock::new() }))
    }

    /// The path of a unix socket, which a process of the pod may spell otherwise.
    pub fn path(&self, text: &str) -> UnixPath {
        UnixPath::new(text, self.views.get_or_init(|| Arc::new(Views::of(&self.processes))))
    }

    /// Returns what `look` makes of the first unix socket of the pod's network namespace that it makes anything of. There is none
    /// where all the pod's processes have ended.
    ///
    /// # Errors
    /// Those of reading the kernel's list.
    pub fn find_socket<T>(&self, mut look: impl FnMut(Socket<'_>) -> Option<T>) -> Result<Option<T>, sys::Error> {
        // They all live in the one namespace: what fails for a process that lives would fail for all.
        let lists = self.processes.iter().map(|process| unix_sockets::find(&process.path("net/unix"), &mut look));
        let mut answers = lists.skip_while(|list| list.as_ref().is_err_and(sys::Error::is_absent));
        answers.next().unwrap_or(Ok(None))
    }

    /// Whether a process of the pod listens on the unix socket that it bound to this path, or to one that may be the same.
    ///
    /// # Errors
    /// That of listing the pod's sockets.
    pub fn listens(&self, path: &str) -> Result<bool, sys::Error> {
        let path = self.path(path);
        let found = self.find_socket(|socket| (socket.listens && path.may_be(socket.path)).then_some(()));
        Ok(found?.is_some())
    }

    /// The same; what cannot be known may be so.
    pub fn may_listen(&self, path: &str) -> bool {
        self.listens(path).unwrap_or(true)
    }

    /// The process that listens on the unix socket that it bound to this path, if it can be seen.
    pub fn listener(&self, path: &str) -> Option<&Process> {
        let path = self.path(path);
        let mut found = OfPath::default();
        self.find_socket(|socket| found.add(|other| path.is(other), &socket)).ok()?;
        self.everyone().find(|process| process.descriptors(&found.listeners).is_ok_and(|found| !found.is_empty()))
    }

    /// Where the pod's containers have a location mounted, as far as can be seen by the deadline.
    pub fn mount_points(&self, location: &Location, deadline: Deadline) -> BTreeSet<PathBuf> {
        let views = process::of_each_container(&self.processes).take_while(|_| !deadline.passed());
        views.filter_map(|process| process.mount_point(location).ok().flatten()).collect()
    }

    /// The connections that processes of the pod have accepted on the unix socket that they bound to this path: their
    /// ends. Clients are looked for in the host's network namespace, this process' own; in the pod's; and
    /// in that of `data_plane`, if it is known who that is. A pod may have as many processes and connections as it is
    /// allowed: those are looked at until the deadline, and 64 of these.
    pub fn accepted(&self, path: &str, data_plane: Option<&Process>, deadline: Deadline) -> Vec<SocketEnd> {
        let path = self.path(path);
        let is_path = |other: &[u8]| path.is(other);
        let mut others = OfPath::default();
        let own = PathBuf::from("/proc/self/net/unix");
        for list in [Some(own), data_plane.map(|process| process.path("net/unix"))].into_iter().flatten() {
            // What cannot be listed is looked for in the others.
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
        // The list is read once more: QEMU may have closed its socket meanwhile.
        if found.is_empty() && self.may_listen(&path) {
            // Whoever listens still is elsewhere: a libvirt that sees the host's cgroups puts QEMU into one outside the pod's.
            found = ends(self.others());
        }
        found.retain(|end| sockets.contains(&end.inode) && end.is_bound_to(|name| path.is(name)));
        found
    }

    /// All processes that live in the sandbox: those in the pod's cgroup first. A libvirt that sees the host's cgroups puts QEMU
    /// into one outside the pod's.
    pub fn everyone(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().chain(std::iter::once_with(|| self.others()).flatten())
    }

    /// Whether no VM of the pod is left: none of its processes sees the volume any more, as QEMU must to have a socket in it. A
    /// sandbox's own process does not. `false` where that cannot be known by the deadline.
    pub fn has_no_vm(&self, volume: &Volume, deadline: Deadline) -> bool {
        self.sees(&[volume], deadline, |_| true) == Some(false)
    }

    /// Returns true if a container of the pod has one of these volumes mounted: it runs, and isn't the sandbox's own.
    /// `None` where that can't be known by the deadline.
    pub fn has_a_volume(&self, uid: &PodUid, volumes: &[&Volume], deadline: Deadline) -> Option<bool> {
        // A container that is being made, or a process of the host's, still sees what the data plane is shown.
        let is_share =
            |mount: &Mount| volumes.iter().any(|volume| identity::is_share(&mount.point, uid, volume.name()));
        self.sees(volumes, deadline, |mount| !is_share(mount))
    }

    /// Whether a process of the pod sees one of these volumes through a mount that `counts`. `None` where that can't be
    /// known by the deadline. The processes in the pod's cgroup come first, and answer in most cases.
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

    /// The processes in the sandbox that are not in the pod's cgroup, which takes a look at every process of the node.
    fn others(&self) -> &[Process] {
        self.others.get_or_init(|| {
            let known: BTreeSet<i32> = self.processes.iter().map(Process::pid).collect();
            let mut all = self.sandbox.processes().unwrap_or_default();
            all.retain(|process| !known.contains(&process.pid()));
            all
        })
    }
}
