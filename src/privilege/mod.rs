//! Privilege: what a call does not need is dropped before it has to do with a pod's files, libvirt or QEMU.
//!
//! The plugin is started as root. What is left to it is uid 0 with the few capabilities of [`Task::capabilities`], no way
//! to get others (an empty bounding set, no_new_privs), and the system calls of [`filter`]. Dropping is for good and for
//! the thread that does it, so it is done while there is no other: those that come later inherit it.
//!
//! Precedents: cloud-hypervisor's filters (vmm/src/seccomp_filters.rs, from which the crate `seccompiler` comes too), and
//! virtiofsd's list of capabilities to keep (src/main.rs).
//!
//! # What it is worth
//!
//! Code that a pod got to run in the plugin could start no program, load no module or BPF program, trace nobody, make no
//! connection but to unix sockets, no process and no namespace, and no memory both written and run. It would still be the
//! host's uid 0 in the host's mount namespace: it could write any file, reach any unix socket, and, while
//! [`Task::Mount`] lasts, bind any directory over another. That is root with detours, so none of this replaces the checks
//! on what comes from the pod.
//!
//! # What is not done
//!
//! - Landlock would keep writes to the few directories that are the plugin's business, but forbids mount(2) altogether,
//!   and `/proc/<pid>` of every process outside its domain, by which the pod's processes are known.
//! - A thread of its own for the talk with the pod, with less than the others: they share their memory, so that who has
//!   one has all.

pub mod filter;

use std::fmt;

use log::info;
use rustix::thread::{
    Capability, CapabilityFlags, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// What a call has yet to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// To make the share or to take it away, and all of [`Task::Talk`].
    Mount,
    /// To look at the pod's processes, to speak with its libvirt, its QEMU and its data plane, and to keep records.
    Talk,
}

impl Task {
    /// The capabilities that it takes, all others being dropped.
    #[must_use]
    pub fn capabilities(self) -> CapabilityFlags {
        // Sockets and directories of QEMU's and libvirt's users: connect(2) takes the right to write.
        let talk = CapabilityFlags::DAC_OVERRIDE
            // A socket in a directory that the pod has given to another user and made sticky; else its DEL, and with it
            // the pod's end, would fail for ever.
            | CapabilityFlags::FOWNER
            // /proc/<pid>/{root,ns,fd,mem,mountinfo,task/*/syscall} of other users' processes; pidfd_getfd(2).
            | CapabilityFlags::SYS_PTRACE;
        match self {
            Self::Talk => talk,
            // mount(2), umount2(2).
            Self::Mount => talk | CapabilityFlags::SYS_ADMIN,
        }
    }
}

/// Returns the names of the capabilities that a call takes and this process lacks.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    let has = capabilities(None).map(|now| now.effective).unwrap_or(CapabilityFlags::empty());
    let named = [
        (CapabilityFlags::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
        (CapabilityFlags::FOWNER, "CAP_FOWNER"),
        (CapabilityFlags::SYS_PTRACE, "CAP_SYS_PTRACE"),
        (CapabilityFlags::SYS_ADMIN, "CAP_SYS_ADMIN"),
    ];
    let needed = Task::Mount.capabilities();
    let lacks = |(flag, _): &(CapabilityFlags, _)| needed.contains(*flag) && !has.contains(*flag);
    named.into_iter().filter(lacks).map(|(_, name)| name).collect()
}

/// Something that could not be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotDropped {
    /// What it is, in the plural or as a mass.
    pub what: &'static str,
    /// Why it could not be.
    pub why: String,
}

/// Drops what is not needed for `task`. To be called once, while there is one thread.
///
/// What cannot be dropped is logged and kept, so that a call does not fail: a kernel may be without seccomp, and a runtime
/// in a container of its own may allow less than that already.
pub fn confine(task: Task) {
    tell(confined(task));
}

/// Drops more, once less is left to do.
pub fn narrow(task: Task) {
    tell(narrowed(task));
}

/// What a call would have to keep here. It is tried, on a thread that ends with it.
#[must_use]
pub fn tried() -> Vec<NotDropped> {
    // Capabilities, no_new_privs and filters are each thread's own; and as in a call, more is dropped after less.
    let dropped = || [confined(Task::Mount), narrowed(Task::Talk)].concat();
    let thread = std::thread::Builder::new().spawn(dropped).ok().and_then(|thread| thread.join().ok());
    thread.unwrap_or_else(|| vec![kept("anything", "no thread could be made to try it on")])
}

fn tell(all: Vec<NotDropped>) {
    for NotDropped { what, why } in all {
        info!("the plugin could not drop {what}, and goes on with them: {why}");
    }
}

fn confined(task: Task) -> Vec<NotDropped> {
    let mut all = Vec::new();
    // Takes CAP_SETPCAP, so first. What is not in this set can never be had by execve(2), whatever else is.
    for capability in ALL {
        if let Err(errno) = remove_capability_from_bounding_set(capability) {
            // The next would fail alike. EINVAL: older than the capability.
            if errno != rustix::io::Errno::INVAL {
                all.push(kept("the capability bounding set", errno));
                break;
            }
        }
    }
    if let Err(errno) = set_no_new_privs(true) {
        all.push(kept("the right to gain privileges", errno));
    }
    all.extend(narrowed(task));
    all
}

fn narrowed(task: Task) -> Vec<NotDropped> {
    let mut all = Vec::new();
    let keep = task.capabilities();
    let change = capabilities(None).and_then(|now| {
        let sets = CapabilitySets {
            effective: now.effective & keep,
            permitted: now.permitted & keep,
            // With it goes the ambient set, which is never more than this (capabilities(7)).
            inheritable: CapabilityFlags::empty(),
        };
        set_capabilities(None, sets)
    });
    if let Err(errno) = change {
        all.push(kept("capabilities", errno));
    }
    if let Err(error) = filter::install(task) {
        all.push(kept("system calls", error));
    }
    all
}

fn kept(what: &'static str, why: impl fmt::Display) -> NotDropped {
    NotDropped { what, why: why.to_string() }
}

/// All capabilities of Linux 5.9 and later.
#[rustfmt::skip]
const ALL: [Capability; 41] = {
    use Capability as C;
    [
        C::ChangeOwnership, C::DACOverride, C::DACReadSearch, C::FileOwner, C::FileSetID, C::Kill, C::SetGroupID,
        C::SetUserID, C::LinuxImmutable, C::NetBindService, C::NetBroadcast, C::NetAdmin, C::NetRaw, C::IPCLock,
        C::IPCOwner, C::SystemModule, C::SystemRawIO, C::SystemChangeRoot, C::SystemProcessTrace,
        C::SystemProcessAccounting, C::SystemAdmin, C::SystemBoot, C::SystemNice, C::SystemResource, C::SystemTime,
        C::SystemTTYConfig, C::MakeNode, C::Lease, C::AuditWrite, C::AuditControl, C::SetFileCapabilities,
        C::MACOverride, C::MACAdmin, C::SystemLog, C::WakeAlarm, C::BlockSuspend, C::AuditRead,
        C::PerformanceMonitoring, C::BerkeleyPacketFilters, C::CheckpointRestore, C::SetPermittedCapabilities,
    ]
};
