//! Problems of a NIC's port in OVS, for ADD, CHECK, `inspect`, `list` and `doctor`.

use std::fmt;
use std::path::Path;

use super::database::{CLIENT, Interface, SERVER, Snapshot};
use super::path::SocketPath;
use crate::{quote, sys};

/// Where OVS makes the sockets of ports of type `dpdkvhostuser` if `vhost-sock-dir` is not set.
const SERVER_DIRECTORY: &str = "/var/run/openvswitch";

/// Most ports that a message names.
const NAMED_MAX: usize = 4;

/// A NIC whose port is checked.
#[derive(Clone, Copy, Debug)]
pub struct Nic<'a> {
    /// The socket's path as the data plane knows it.
    pub path: &'a Path,
    /// `CNI_CONTAINERID`: the sandbox.
    pub container_id: &'a str,
    pub ifname: &'a str,
    /// The pod's namespace and name, as in `default/vm`.
    pub pod: &'a str,
}

impl Nic<'_> {
    /// Returns the name that kube-ovn gives the NIC's port (`generateNicName`), if it can make one.
    #[must_use]
    pub fn port_name(&self) -> Option<String> {
        if self.ifname == "eth0" {
            return self.container_id.get(..12).map(|id| format!("{id}_h"));
        }
        let short = match self.ifname.strip_prefix("pod") {
            Some(hash) if self.ifname.len() == 14 => hash.get(..7)?,
            _ => self.ifname,
        };
        let id = self.container_id.get(..12_usize.checked_sub(short.len())?)?;
        Some(format!("{id}_{short}_h"))
    }

    fn owns(&self, port: &Interface) -> bool {
        self.port_name().is_some_and(|name| name == port.name)
    }
}

/// A port, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    pub path: String,
    /// Why it is considered stale, if it is.
    pub stale: Option<String>,
}

/// A problem of a NIC's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No port has the path.
    Missing {
        /// A port of the same pod and interface that has another path.
        elsewhere: Option<Port>,
        /// Whether OVS has no DPDK.
        without_dpdk: Option<String>,
    },
    /// Several ports have the path.
    Several {
        ports: Vec<Port>,
        /// The versions, such as "OVS 3.5.0, DPDK 24.11.8".
        versions: String,
    },
    /// OVS has no DPDK.
    WithoutDpdk { port: Port, why: String },
    /// OVS listens at the socket.
    Server { port: Port },
    /// OVS could not make the port.
    Failed {
        port: Port,
        /// OVS's message.
        error: String,
    },
    /// OVS has not made the port.
    NotMade { port: Port },
    /// OVN manages the port, but has not installed its flows or has removed them.
    NotInstalled { port: Port, iface_id: String },
}

impl Problem {
    /// Returns true if it matters even if a data plane is connected to the NIC, which may not be OVS.
    #[must_use]
    pub fn concerns_a_connected_nic(&self) -> bool {
        matches!(self, Self::Several { .. } | Self::NotInstalled { .. })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { elsewhere, without_dpdk } => {
                f.write_str("no port of OVS has this vhost-server-path")?;
                if let Some(Port { name, path, .. }) = elsewhere {
                    let (name, path) = (quote::value(name), quote::value(path));
                    write!(
                        f,
                        "; port {name}, of the same pod and interface, has {path}: a leftover of an earlier pod, or kube-ovn and the plugin are configured with different volumes or socket names"
                    )?;
                }
                without_dpdk.as_ref().map_or(Ok(()), |why| write!(f, "; {why}"))
            }
            Self::Several { ports, versions } => several(f, ports, versions),
            Self::WithoutDpdk { port, why } => write!(f, "OVS cannot use port {}: {why}", quote::value(&port.name)),
            Self::Server { port } => write!(
                f,
                "port {} has type {SERVER}, so OVS listens at the socket instead of QEMU: make it with type {CLIENT}",
                quote::value(&port.name)
            ),
            Self::Failed { port, error } => write!(
                f,
                "port {} is in error: OVS says {} (ovs-vsctl get Interface {0} error)",
                quote::value(&port.name),
                quote::text(error)
            ),
            Self::NotMade { port } => {
                write!(
                    f,
                    "OVS could not make port {} (its ofport is -1): see ovs-vswitchd.log",
                    quote::value(&port.name)
                )
            }
            Self::NotInstalled { port, iface_id } => write!(
                f,
                "OVN has not installed port {}, or has dropped it (iface-id {}; external_ids:ovn-installed is not set), so no \
                 packet passes: check that ovn-controller runs on this node, and that the logical port exists (kube-ovn removes it \
                 when the pod's networks annotation no longer has the NIC)",
                quote::value(&port.name),
                quote::value(iface_id)
            ),
        }
    }
}

/// Names ports that have one path, and how to fix that.
fn several(f: &mut fmt::Formatter<'_>, ports: &[Port], versions: &str) -> fmt::Result {
    write!(f, "{} ports of OVS have this vhost-server-path: ", ports.len())?;
    for (at, port) in ports.iter().take(NAMED_MAX).enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        write!(f, "{comma}{}", quote::value(&port.name))?;
        if let Some(why) = &port.stale {
            write!(f, " (stale: {why})")?;
        }
    }
    let stale = ports.iter().filter(|port| port.stale.is_some()).map(|port| for_a_shell(&port.name));
    let stale: Vec<&str> = stale.take(NAMED_MAX).collect();
    // The NIC's own port may be unknown.
    let which = if stale.is_empty() { "all but the NIC's own" } else { "the stale one" };
    let removal = |options: &str| {
        let names = if stale.is_empty() { &["NAME"] } else { &stale[..] };
        let each = names.iter().map(|name| format!("ovs-vsctl {options}--with-iface del-port {name}"));
        each.collect::<Vec<_>>().join(" && ")
    };
    if is_spelled_alike(ports) {
        // DPDK, lib/vhost/socket.c: the second registration restarts the first one, and leaves a reconnect entry that
        // outlives its socket. All releases up to 26.07 have this bug, whichever port is removed first.
        write!(
            f,
            "; OVS uses one of them, and breaks when one is removed while it runs ({versions}: it hangs or crashes at one of the next \
             connections). Remove {which} and restart ovs-vswitchd at once: {}, then restart the OVS-DPDK pod or \
             ovs-vswitchd; then unplug the NIC and plug it again",
            removal("--no-wait ")
        )
    } else {
        write!(
            f,
            "; the VM takes the first that connects. Remove {which}, which is safe while OVS runs: {}",
            removal("")
        )
    }
}

/// Returns a port's name if it is safe in a command that people copy, else "NAME". A pod's author chooses part of it.
fn for_a_shell(name: &str) -> &str {
    let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
    if is_plain { name } else { "NAME" }
}

/// Returns true if two ports have exactly the same path. DPDK considers other spellings as other sockets.
#[must_use]
pub fn is_spelled_alike(ports: &[Port]) -> bool {
    ports.iter().enumerate().any(|(at, one)| ports.iter().skip(at + 1).any(|other| one.path == other.path))
}

/// Returns the path of a port's socket.
fn socket_of<'a>(snapshot: &Snapshot, port: &'a Interface) -> Option<std::borrow::Cow<'a, Path>> {
    if port.kind == SERVER {
        let directory = snapshot.switch.other_config.get("vhost-sock-dir");
        // It may be relative to OVS's directory.
        let directory =
            directory.map_or_else(|| SERVER_DIRECTORY.into(), |below| Path::new(SERVER_DIRECTORY).join(below));
        return Some(directory.join(&port.name).into());
    }
    port.options.get("vhost-server-path").map(|path| Path::new(path).into())
}

/// Returns a port, for messages.
fn named(snapshot: &Snapshot, port: &Interface) -> Port {
    let path = socket_of(snapshot, port).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    Port { name: port.name.clone(), path, stale: None }
}

impl Snapshot {
    /// Returns the ports whose socket is at this path.
    #[must_use]
    pub fn ports_at(&self, path: &Path) -> Vec<&Interface> {
        let socket = SocketPath::new(path);
        self.ports.iter().filter(|port| socket_of(self, port).is_some_and(|other| socket.is_at(&other))).collect()
    }

    /// Returns the versions of OVS and DPDK, for messages.
    #[must_use]
    pub fn versions(&self) -> String {
        let ovs = self
            .switch
            .ovs_version
            .as_deref()
            .map_or_else(|| "OVS".to_owned(), |version| format!("OVS {}", quote::value(version)));
        match self.switch.dpdk_version.as_deref().map(|version| version.trim_start_matches("DPDK ")) {
            Some(version) => format!("{ovs}, DPDK {}", quote::value(version)),
            None => ovs,
        }
    }

    /// Returns why OVS has no DPDK, if it has none.
    #[must_use]
    pub fn why_no_dpdk(&self) -> Option<String> {
        if self.switch.dpdk_initialized {
            return None;
        }
        Some(match self.switch.other_config.get("dpdk-init") {
            Some("true" | "try") => {
                "DPDK is not initialized (dpdk_initialized is false) though other_config:dpdk-init asks for it: see \
                             ovs-vswitchd.log; OVS may lack huge pages or have been started before the key was set"
                    .to_owned()
            }
            _ => "OVS runs without DPDK: other_config:dpdk-init is not true (ovs-vsctl set Open_vSwitch . \
                  other_config:dpdk-init=true, then restart ovs-vswitchd)"
                .to_owned(),
        })
    }

    /// Returns the NIC's port, if exactly one has its path.
    #[must_use]
    pub fn port_of(&self, nic: &Nic<'_>) -> Option<&Interface> {
        match self.ports_at(nic.path)[..] {
            [port] => Some(port),
            _ => None,
        }
    }

    /// Returns true if kube-ovn made the NIC's port, so the data plane is OVS.
    #[must_use]
    pub fn is_kube_ovns(&self, nic: &Nic<'_>) -> bool {
        self.port_of(nic).is_some_and(|port| nic.owns(port))
    }

    /// Returns the problem of the NIC's port, if any.
    #[must_use]
    pub fn problem(&self, nic: &Nic<'_>) -> Option<Problem> {
        let found = self.ports_at(nic.path);
        let port = match found[..] {
            [] => return Some(self.missing(nic)),
            [port] => port,
            _ => return Some(self.several(nic, &found)),
        };
        let named = named(self, port);
        if port.kind == SERVER {
            return Some(Problem::Server { port: named });
        }
        if let Some(why) = self.why_no_dpdk() {
            return Some(Problem::WithoutDpdk { port: named, why });
        }
        if let Some(error) = port.error.clone() {
            return Some(Problem::Failed { port: named, error });
        }
        if port.ofport == Some(-1) {
            return Some(Problem::NotMade { port: named });
        }
        let iface_id = port.external_ids.get("iface-id").filter(|_| self.is_not_installed(port))?;
        Some(Problem::NotInstalled { port: named, iface_id: iface_id.to_owned() })
    }

    /// Returns whether OVN manages a port and has not installed it.
    #[must_use]
    pub fn is_not_installed(&self, port: &Interface) -> bool {
        let id = |key| port.external_ids.get(key);
        self.switch.has_ovn() && id("iface-id").is_some() && id("ovn-installed") != Some("true")
    }

    fn missing(&self, nic: &Nic<'_>) -> Problem {
        let same_nic = |port: &&Interface| {
            let path = port.options.get("vhost-server-path").map(Path::new);
            nic.owns(port)
                || path.is_some_and(|path| {
                    path.ends_with(nic.path.file_name().unwrap_or_default()) && self.is_of_same_pod(port, nic)
                })
        };
        let elsewhere = self.ports.iter().find(same_nic).map(|port| named(self, port));
        let without_dpdk = elsewhere.as_ref().and_then(|_| self.why_no_dpdk());
        Problem::Missing { elsewhere, without_dpdk }
    }

    /// Returns true if kube-ovn made a port for a pod with the NIC's pod name, or for the same VM. The uid may differ.
    fn is_of_same_pod(&self, port: &Interface, nic: &Nic<'_>) -> bool {
        let pod = |port: &Interface| {
            let (namespace, name) = (port.external_ids.get("pod_namespace")?, port.external_ids.get("pod_name")?);
            Some(format!("{namespace}/{name}"))
        };
        // For a KubeVirt VM the name is the VM's, as in the ports of the NIC's own sandbox.
        let is_own = |port: &&Interface| sandbox_of(&port.name).is_some_and(|id| nic.container_id.starts_with(id));
        let machine = self.ports.iter().find(is_own).and_then(pod);
        pod(port).is_some_and(|pod| pod == nic.pod || Some(pod) == machine)
    }

    fn several(&self, nic: &Nic<'_>, found: &[&Interface]) -> Problem {
        let has_id = |port: &Interface| port.external_ids.get("iface-id").is_some();
        let one_has_id = found.iter().any(|port| has_id(port));
        let own_is_there = found.iter().any(|port| nic.owns(port));
        let judged = |port: &&Interface| {
            let stale = if nic.owns(port) {
                None
            } else if let Some(netns) = dead_netns(port) {
                Some(format!("its sandbox is gone, {} does not exist", quote::value(netns)))
            } else if one_has_id && !has_id(port) {
                Some("it has no iface-id".to_owned())
            } else if own_is_there && sandbox_of(&port.name).is_some_and(|id| !nic.container_id.starts_with(id)) {
                Some("it is of another sandbox".to_owned())
            } else {
                None
            };
            Port { stale, ..named(self, port) }
        };
        Problem::Several { ports: found.iter().map(judged).collect(), versions: self.versions() }
    }

    /// Returns groups of ports that have the same path.
    #[must_use]
    pub fn duplicates(&self) -> Vec<Vec<Port>> {
        let mut groups: Vec<(SocketPath, Vec<Port>)> = Vec::new();
        for port in &self.ports {
            let Some(path) = socket_of(self, port) else { continue };
            match groups.iter_mut().find(|(socket, _)| socket.is_at(&path)) {
                Some((_, group)) => group.push(named(self, port)),
                None => groups.push((SocketPath::new(&path), vec![named(self, port)])),
            }
        }
        groups.into_iter().map(|(_, group)| group).filter(|group| group.len() > 1).collect()
    }
}

/// Returns the prefix of the sandbox's id in kube-ovn's name of a port, if it is long enough.
#[must_use]
pub fn sandbox_of(name: &str) -> Option<&str> {
    let (id, _) = name.strip_suffix("_h")?.split_once('_').or_else(|| Some((name.strip_suffix("_h")?, "")))?;
    (id.len() >= 4 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// Returns the network namespace of a port's sandbox, if it no longer exists.
#[must_use]
pub fn dead_netns(port: &Interface) -> Option<&str> {
    let netns = port.external_ids.get("pod_netns").filter(|netns| netns.starts_with('/'))?;
    is_gone(Path::new(netns)).then_some(netns)
}

/// Returns true if a network namespace certainly no longer exists. A path through a process' root isn't followed: the
/// pod's file systems may not answer.
#[must_use]
pub fn is_gone(netns: &Path) -> bool {
    sys::open_no_magiclinks(netns).is_err_and(|error| error.is_absent())
}

#[cfg(test)]
mod tests;
