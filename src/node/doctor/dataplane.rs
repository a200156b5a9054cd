//! OVS-DPDK: does it run where its connections are seen, and does it see what the plugin mounts?

use std::os::fd::AsFd;
use std::path::Path;

use super::{Check, Finding};
use crate::attachment::share;
use crate::pod::mounts::{self, Mount};
use crate::pod::process::Process;
use crate::sys::{self, Walk};

const OVS: Check = Check {
    name: "OVS-DPDK",
    why: "a NIC is plugged only when the data plane connects to it, and that is seen in the host's network namespace",
};

const PROPAGATION: Check = Check {
    name: "propagation",
    why: "a mount that the plugin makes on the host must reach OVS's container, or OVS looks into an empty directory",
};

const VIEW: Check = Check {
    name: "OVS's view",
    why: "OVS gets a path below socket_base_dir, which must show it the same directory as here",
};

/// How the name of its process begins: "ovs-vswitchd", "ovs-vswitchd-dpdk".
const PROCESS: &str = "ovs-vswitchd";

pub fn examine(base: &Path) -> Vec<Finding> {
    let ovs = find();
    // A directory that is not there yet will be made in the mount of its parent.
    let there = base.ancestors().find(|part| part.is_dir()).map(Path::to_owned);
    let is_early = there.as_deref().is_none_or(|there| there == Path::new("/") || there == Path::new("/run"));
    let mut findings = vec![running(ovs.as_ref())];
    let Some(there) = there.filter(|_| !is_early) else {
        let found = format!("{} is not there yet", base.display());
        findings.push(VIEW.warning(found, "start OVS, and run doctor again"));
        return findings;
    };
    let shares_all =
        ovs.as_ref().is_some_and(|ovs| ovs.process.namespace("mnt").is_ok_and(|own| Some(own) == host_mounts()));
    findings.push(propagation(&there, shares_all));
    if let Some(ovs) = ovs {
        findings.push(view(&ovs.process, &there, shares_all));
    }
    findings
}

struct Ovs {
    process: Process,
    in_host_network: bool,
    huge_pages: Option<u64>,
}

/// Finds the process that is most likely the node's OVS-DPDK: in the host's network, with huge pages. Any pod may have a process
/// of this name, which then only misleads the reader.
fn find() -> Option<Ovs> {
    let host = Process::open(1).and_then(|first| first.namespace("net")).ok();
    let all = super::processes(|name| name.starts_with(PROCESS)).map(|process| {
        let in_host_network = process.namespace("net").is_ok_and(|own| Some(own) == host);
        Ovs { huge_pages: huge_pages(&process), in_host_network, process }
    });
    all.max_by_key(|ovs| (ovs.in_host_network, ovs.huge_pages, std::cmp::Reverse(ovs.process.pid())))
}

/// Returns the kilobytes of huge pages that a process has mapped (proc(5), `HugetlbPages`).
fn huge_pages(process: &Process) -> Option<u64> {
    let status = sys::read_text(&process.path("status"), 64 << 10).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("HugetlbPages:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn host_mounts() -> Option<(u64, u64)> {
    Process::open(1).and_then(|first| first.namespace("mnt")).ok()
}

fn running(ovs: Option<&Ovs>) -> Finding {
    let Some(ovs) = ovs else {
        let advice = "start it; with kube-ovn the node needs the label ovn.kubernetes.io/ovs_dp_type=userspace";
        return OVS.wrong(format!("no process {PROCESS} runs"), advice);
    };
    let pid = ovs.process.pid();
    if !ovs.in_host_network {
        return OVS.wrong(
            format!("process {pid} is not in the host's network namespace"),
            "run it with hostNetwork, as kube-ovn does",
        );
    }
    if ovs.huge_pages == Some(0) {
        let advice = "DPDK has most likely not started: ovs-vsctl get Open_vSwitch . dpdk_initialized";
        return OVS.warning(format!("process {pid} runs, but has no huge pages"), advice);
    }
    OVS.ok(format!("process {pid} runs in the host's network namespace"))
}

fn propagation(there: &Path, shares_all: bool) -> Finding {
    if shares_all {
        return PROPAGATION.ok("not needed: OVS has the host's own mounts");
    }
    let mount = sys::open_handle(there).and_then(|handle| mount_of(&handle, Path::new("/proc/self")));
    match mount {
        Ok(Some(mount)) if mount.is_shared => PROPAGATION.ok(format!("{} is shared", mount.point.display())),
        Ok(Some(mount)) => {
            let point = mount.point.display();
            PROPAGATION.wrong(
                format!("{point} is not shared, so mounts below it stay on the host"),
                format!("mount --make-rshared {point}"),
            )
        }
        Ok(None) => {
            PROPAGATION.warning(format!("cannot find the mount of {}", there.display()), "run doctor on the host")
        }
        Err(error) => PROPAGATION.warning(error.to_string(), "run doctor as root"),
    }
}

fn view(ovs: &Process, there: &Path, shares_all: bool) -> Finding {
    if shares_all {
        return VIEW.ok("the host's");
    }
    let path = share::data_plane_path(there);
    let shown = path.display();
    let looked = ovs.root().and_then(|root| sys::open_below(root.as_fd(), &path, Walk::Rooted));
    let seen = looked.and_then(|handle| {
        let same = sys::object(handle.as_fd())? == sys::object(sys::open_handle(there)?.as_fd())?;
        Ok((same, mount_of(&handle, &ovs.path(""))?))
    });
    let advice = "mount the host's directory into OVS's container, with mountPropagation: HostToContainer";
    match seen {
        Ok((false, _)) => VIEW.wrong(format!("{shown} in its container is another directory than on the host"), advice),
        Ok((true, Some(mount))) if !mount.is_slave && !mount.is_shared => {
            VIEW.wrong(format!("{shown} in its container receives no mounts of the host"), advice)
        }
        Ok((true, _)) => VIEW.ok(format!("{shown} in its container is the host's, and receives its mounts")),
        Err(error) => VIEW.wrong(format!("its container does not show {shown}: {error}"), advice),
    }
}

/// Finds the mount that a handle is on, in the table of a process that has the mount.
fn mount_of(handle: &impl AsFd, proc: &Path) -> Result<Option<Mount>, sys::Error> {
    let id = sys::mount_id(handle.as_fd())?;
    mounts::by_id(proc, id)
}
