//! The host: capabilities, system calls, namespaces, log.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerPidfd;

use super::{Check, Finding};
use crate::limits::{self, Limit};
use crate::privilege;
use crate::sys::{self, Walk};

const RIGHTS: Check = Check {
    name: "rights",
    why: "the plugin mounts a pod's volume so that no link in it leads the data plane astray, enters namespaces, and looks at \
          the processes and files of pods: that needs root with these capabilities on the host",
};

const OPENAT2: Check =
    Check { name: "openat2", why: "paths that a pod controls are opened with it, so that none leads out of the pod" };

const PIDFD_GETFD: Check = Check {
    name: "pidfd_getfd",
    why: "with it the plugin disconnects a hung data plane from QEMU, so that the VM goes on; and hands QEMU over to its data \
          plane",
};

const PEERPIDFD: Check = Check {
    name: "SO_PEERPIDFD",
    why: "it proves that the process that answers on libvirt's socket is the one that listened there, even where pids are reused \
          quickly",
};

const CONFINEMENT: Check = Check {
    name: "confinement",
    why: "the plugin drops the capabilities and system calls that it does not need before it deals with a pod; if it cannot drop \
          one, it goes on with it, and a pod that finds a fault in the plugin could use it",
};

const LIMITS: Check = Check {
    name: "limits",
    why: "the VM stands still during an attach while the caller's cgroup throttles the plugin, and a plugin killed for want of \
          memory leaves the attach half done; so calls that deal with a pod leave that cgroup",
};

const NETWORK: Check = Check {
    name: "network namespace",
    why: "the plugin looks for the data plane's connections in its own network namespace, which must be the host's",
};

const SYSLOG: Check = Check {
    name: "syslog",
    why: "the plugin logs there; without it a line goes to stderr, which most runtimes drop when the call succeeds",
};

/// The process name of thick Multus.
const MULTUS: &str = "multus-daemon";

/// syslog(3).
const LOG: &str = "/dev/log";

pub fn examine() -> Vec<Finding> {
    vec![rights(), openat2(), pidfd_getfd(), peerpidfd(), confinement(), limits(), network(), syslog()]
}

fn rights() -> Finding {
    if !nix::unistd::geteuid().is_root() {
        return RIGHTS
            .wrong("not root", "run it as root, as the runtime runs the plugin; the findings below may be wrong");
    }
    let missing = privilege::missing();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return RIGHTS.wrong(format!("root, but without {missing}"), format!("give {missing}"));
    }
    let own = sys::open_file(Path::new("/proc/self/ns/net")).and_then(|file| sys::in_netns(file.as_fd(), || ()));
    let refused = own.err().or_else(|| sys::open_file(Path::new("/proc/1/ns/net")).err());
    let advice =
        "give CAP_SYS_ADMIN and CAP_SYS_PTRACE; look for a seccomp filter or a security module that forbids the call";
    if let Some(error) = refused {
        return RIGHTS.wrong(format!("root, but not allowed: {error}"), advice);
    }
    match sys::try_restrictions(Path::new("/run")) {
        Ok(true) => RIGHTS.ok("root; may mount, enter namespaces and look at other processes"),
        Ok(false) => RIGHTS.warning(
            "root, but this kernel has no mounts that follow no links (nosymfollow)",
            "the kernel should be Linux 5.10 or later: else a link in a pod's volume can lead the data plane to another socket of \
             the host",
        ),
        Err(error) => RIGHTS.wrong(format!("root, but a volume could not be mounted: {error}"), advice),
    }
}

/// Returns what to do about a refused call.
fn cause(errno: Errno, since: &str) -> String {
    match errno {
        Errno::ENOSYS | Errno::ENOPROTOOPT => format!("the kernel must be Linux {since} or later"),
        _ => "look for a seccomp filter or a security module that forbids the call".to_owned(),
    }
}

fn openat2() -> Finding {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let tried = sys::open_handle(Path::new("/"))
        .and_then(|root| sys::open_below(root.as_fd(), Path::new("proc/self"), Walk::Rooted));
    match tried {
        Ok(_) => OPENAT2.ok(format!("works (Linux {release})")),
        Err(error) => OPENAT2.wrong(format!("{error} (Linux {release})"), cause(error.errno(), "5.6")),
    }
}

/// Tries it on process 1, which is no descendant of this one: the kernel applies the same rules as to a pod's process.
fn pidfd_getfd() -> Finding {
    match sys::duplicate(1, || true, 0) {
        Ok(_) => PIDFD_GETFD.ok("works"),
        // It may look, and process 1 does not have this descriptor.
        Err(error) if error.errno() == Errno::EBADF => PIDFD_GETFD.ok("works"),
        Err(error) => {
            let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
            let advice = match (error.errno(), scope.trim()) {
                (Errno::EPERM, "3") => {
                    "kernel.yama.ptrace_scope is 3: set it to 2 or less, which takes a reboot".to_owned()
                }
                (Errno::EPERM, _) => format!("give CAP_SYS_PTRACE; {}", cause(error.errno(), "5.6")),
                (errno, _) => cause(errno, "5.6"),
            };
            PIDFD_GETFD.wrong(error.to_string(), advice)
        }
    }
}

fn peerpidfd() -> Finding {
    let tried = UnixStream::pair().map_err(|_| Errno::EMFILE).and_then(|(one, _)| getsockopt(&one, PeerPidfd));
    match tried {
        Ok(_) => PEERPIDFD.ok("works"),
        Err(errno) => PEERPIDFD.warning(errno.desc(), cause(errno, "6.5")),
    }
}

fn confinement() -> Finding {
    let mut all = privilege::tried();
    // It is tried twice, as in a call.
    all.sort_by_key(|kept| kept.what);
    all.dedup_by_key(|kept| kept.what);
    if all.is_empty() {
        return CONFINEMENT.ok("capabilities and system calls are dropped");
    }
    let found: Vec<String> = all.iter().map(|kept| format!("{} cannot be dropped: {}", kept.what, kept.why)).collect();
    let advice = "dropping system calls needs a kernel with CONFIG_SECCOMP_FILTER (then /proc/sys/kernel/seccomp/actions_avail is \
                  there), dropping capabilities needs root with CAP_SETPCAP; a seccomp filter around this program may forbid both";
    CONFINEMENT.warning(found.join("; "), advice)
}

/// Leaves the limits of this process, as a call does, and names those of Multus, which starts plugins in its own cgroup.
fn limits() -> Finding {
    let (kept, left): (Vec<Limit>, Vec<Limit>) = limits::leave().into_iter().partition(|limit| limit.kept.is_some());
    let mut why: Vec<String> = kept.iter().map(Limit::to_string).collect();
    why.extend(limits::obstacles().iter().map(|obstacle| format!("cannot leave any cgroup: {obstacle}")));
    let caller = super::processes(|name| name == MULTUS).next().map(|process| process.cgroups().unwrap_or_default());
    let of_caller = caller.map(|table| limits::of_table(&table)).unwrap_or_default();
    if why.is_empty() {
        let found = match (of_caller.is_empty(), left.is_empty()) {
            (false, _) => format!("those of Multus can be left: {}", of_caller.join("; ")),
            (true, false) => {
                format!(
                    "can be left, as this process has: {}",
                    left.into_iter().map(|limit| limit.what).collect::<Vec<_>>().join("; ")
                )
            }
            (true, true) => "none on this process, and any can be left".to_owned(),
        };
        return LIMITS.ok(found);
    }
    why.extend(of_caller.iter().map(|limit| format!("Multus is in {limit}")));
    let advice = "the host's /sys/fs/cgroup must be mounted writable, and no security module may forbid writing to \
                  cgroup.procs and tasks in it; else remove the limits of what starts plugins (Multus' DaemonSet)";
    LIMITS.warning(why.join("; "), advice)
}

fn network() -> Finding {
    let object = |path| File::open(path).ok().and_then(|file| sys::object(file.as_fd()).ok());
    match (object("/proc/self/ns/net"), object("/proc/1/ns/net")) {
        (Some(own), Some(host)) if own == host => NETWORK.ok("the host's"),
        (Some(_), Some(_)) => {
            let advice = "in a container: hostNetwork: true. If the runtime calls the plugin on the host, only what doctor, \
                          list and inspect report of the data plane is wrong";
            NETWORK.warning("another one than that of process 1", advice)
        }
        _ => NETWORK.warning("cannot be read", "run doctor as root"),
    }
}

fn syslog() -> Finding {
    let connected = UnixDatagram::unbound().and_then(|socket| socket.connect(LOG));
    match connected {
        Ok(()) => SYSLOG.ok(format!("{LOG} takes records")),
        Err(error) => SYSLOG.warning(format!("{LOG}: {error}"), "run journald or a syslog daemon on the host"),
    }
}
