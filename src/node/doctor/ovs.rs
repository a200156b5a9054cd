//! What OVS says of itself: does it answer, does it have DPDK, and are its vhost-user ports sound?

use std::path::Path;
use std::time::Duration;

use super::{Check, Finding};
use crate::deadline::Deadline;
use crate::ovs::daemon::State;
use crate::ovs::database::{Interface, Snapshot};
use crate::ovs::{Ovs, port, rpc};
use crate::quote;

const DATABASE: Check = Check {
    name: "OVSDB",
    why: "the plugin asks OVS's database about a NIC's port: it says why no data plane connects, and whether OVN passes packets",
};

const SWITCH: Check = Check {
    name: "ovs-vswitchd",
    why: "a NIC is plugged only when OVS connects to it, which takes an ovs-vswitchd that runs, answers and has DPDK",
};

const PORTS: Check = Check {
    name: "vhost-user ports",
    why: "two ports with the same vhost-server-path break OVS, and it does not use a port that it could not make",
};

/// How long all queries may take together.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most ports that are named.
const NAMED_MAX: usize = 8;

pub fn examine(socket: &Path) -> Vec<Finding> {
    let (ovs, deadline) = (Ovs::new(socket), Deadline::after(PATIENCE));
    let shown = quote::value(&socket.to_string_lossy());
    let snapshot = ovs.snapshot(deadline);
    let found = match snapshot {
        Ok(snapshot) => DATABASE.ok(format!("{} answers at {shown}", snapshot.versions())),
        Err(rpc::Error::Absent) => {
            let found = format!("there is no socket {shown}, so OVS's ports are not checked");
            // Whether OVS runs is another check.
            return vec![DATABASE.ok(found)];
        }
        Err(rpc::Error::Deserted) => DATABASE.warning(format!("nothing listens at {shown}"), "start ovsdb-server"),
        Err(rpc::Error::Silent) => DATABASE.warning(
            format!("ovsdb-server does not answer at {shown}"),
            "ovsdb-server hangs or is stopped: restart it",
        ),
        Err(error) => {
            DATABASE.warning(format!("{shown}: {error}"), "check that the key \"ovsdb_socket\" names OVSDB's socket")
        }
    };
    let mut findings = vec![found, switch(&ovs, deadline)];
    findings.extend(snapshot.ok().map(ports));
    findings
}

fn switch(ovs: &Ovs<'_>, deadline: Deadline) -> Finding {
    let state = ovs.vswitchd(deadline);
    let without_dpdk = ovs.snapshot(deadline).ok().and_then(Snapshot::why_no_dpdk);
    match (state, without_dpdk) {
        (State::Answers(_), None) => SWITCH.ok(state.to_string()),
        (State::Answers(_), Some(why)) => {
            SWITCH.wrong("ovs-vswitchd runs without DPDK, so no vhost-user port works", why)
        }
        (State::Hangs(_), _) => SWITCH.wrong(state.to_string(), "kill and restart it; ovs-vswitchd.log may say why"),
        (State::Gone, _) => SWITCH.wrong(state.to_string(), "start it, or the OVS-DPDK pod"),
    }
}

fn ports(snapshot: &Snapshot) -> Finding {
    let count = snapshot.ports.len();
    let groups = snapshot.duplicates();
    if !groups.is_empty() {
        let advice = if groups.iter().any(|group| port::is_spelled_alike(group)) {
            "remove the stale port of each group (the one without iface-id, or of an earlier sandbox) with ovs-vsctl --no-wait \
             --with-iface del-port NAME, then restart ovs-vswitchd at once: otherwise it hangs or crashes"
        } else {
            "remove the stale port of each group (the one without iface-id, or of an earlier sandbox) with ovs-vsctl --with-iface \
             del-port NAME; their paths are spelled differently, so this is safe while OVS runs"
        };
        let groups: Vec<String> =
            groups.iter().take(NAMED_MAX).map(|group| named(group.iter().map(|port| port.name.as_str()))).collect();
        return PORTS.wrong(format!("ports with the same vhost-server-path: {}", groups.join("; ")), advice);
    }
    let failed: Vec<&Interface> =
        snapshot.ports.iter().filter(|port| port.error.is_some() || port.ofport == Some(-1)).collect();
    if let Some(first) = failed.first() {
        let error = first.error.as_deref().map_or_else(|| "ofport -1".to_owned(), quote::text);
        return PORTS.wrong(
            format!("ports in error: {} (the first: {error})", named(failed.iter().map(|port| port.name.as_str()))),
            "ovs-vsctl --columns=name,error find Interface ofport=-1; see ovs-vswitchd.log",
        );
    }
    let dropped: Vec<&Interface> = snapshot.ports.iter().filter(|port| snapshot.is_not_installed(port)).collect();
    if !dropped.is_empty() {
        return PORTS.warning(
            format!(
                "ports that OVN has not installed, so no packet passes: {}",
                named(dropped.iter().map(|port| port.name.as_str()))
            ),
            "check that ovn-controller runs on this node, and that the logical ports (external_ids:iface-id) exist",
        );
    }
    PORTS.ok(format!("{count}, each with its own path and none in error"))
}

/// Joins the names of ports, as many as fit on a line.
fn named<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names = names.map(quote::value);
    let first: Vec<String> = names.by_ref().take(NAMED_MAX).collect();
    format!("{}{}", first.join(", "), if names.next().is_some() { ", …" } else { "" })
}
