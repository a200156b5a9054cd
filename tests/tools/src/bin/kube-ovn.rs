//! A stand-in for kube-ovn's CNI binary: what it does to the node for a NIC, without its daemon, Kubernetes or OVN.
//!
//! It follows kube-ovn v1.13 to v1.16: the name of the OVS port (`generateNicName`), the port's columns
//! (`configureDpdkNic`), the two ways to name the socket, the shape of the result in every spec version, and its manners
//! (a DEL without CNI_NETNS does nothing, CHECK always succeeds). Like theirs under HostToContainer propagation, it
//! leaves no bind mount on the host.
//!
//! What the real one asks the API server is read from files under `/run/kube-ovn-standin/<namespace>/<pod>/`:
//! `pod.json` (`{"uid": "..."}`, must be there at ADD) and, optionally, `<ifname>.json` (`mac`, `ip`, `cidr`). Addresses not
//! given are derived from namespace, pod and interface name, always the same: 00:00:00:xx:xx:xx and 172.18.x.y/16.
//!
//! Own key for tests: `make_directory: true` makes the directory of the sockets without mounting anything on it, as
//! kube-ovn does when its mount fails or stays in its own container.

use std::env;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::{Value, json};

/// What the API server would know.
const STORE: &str = "/run/kube-ovn-standin";
/// Where kube-ovn makes directories, and the name OVS knows them by.
const SHARED: &str = "/run/openvswitch/vhost_sockets";
const SHARED_IN_OVS: &str = "/var/run/openvswitch/vhost_sockets";
/// With `vhost_user_socket_consumption: kubevirt` the volume always has this name, whatever the configuration says.
const KUBEVIRT_VOLUME: &str = "vhostuser-sockets";
const BRIDGE: &str = "br-int";
const GATEWAY: &str = "172.18.0.1";
const MTU: u32 = 1400;
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A CNI error object.
struct Failure {
    code: u32,
    msg: &'static str,
    details: String,
}

/// What the daemon refuses is told like this by the binary.
fn refused(details: impl Into<String>) -> Failure {
    Failure { code: 11, msg: "RPC failed", details: details.into() }
}

fn invalid(details: impl Into<String>) -> Failure {
    Failure { code: 7, msg: "Invalid Configuration", details: details.into() }
}

/// The network configuration and the environment of one call.
struct Call {
    config: Value,
    container: String,
    netns: String,
    ifname: String,
    pod: String,
    namespace: String,
}

struct Address {
    mac: String,
    ip: String,
    prefix: String,
}

fn main() -> ExitCode {
    let mut stdin = String::new();
    let config = match std::io::stdin().read_to_string(&mut stdin) {
        Ok(_) => serde_json::from_str(&stdin).unwrap_or(Value::Null),
        Err(_) => Value::Null,
    };
    let version = text(&config, "cniVersion").unwrap_or("0.1.0").to_owned();
    match run(config, &version) {
        Ok(reply) => {
            if let Some(reply) = reply {
                println!("{reply}");
            }
            ExitCode::SUCCESS
        }
        Err(Failure { code, msg, details }) => {
            println!("{}", json!({"cniVersion": version, "code": code, "msg": msg, "details": details}));
            ExitCode::FAILURE
        }
    }
}

fn run(config: Value, version: &str) -> Result<Option<Value>, Failure> {
    let command = variable("CNI_COMMAND");
    if command == "VERSION" {
        return Ok(Some(json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS})));
    }
    if !VERSIONS.contains(&version) {
        return Err(Failure { code: 1, msg: "incompatible CNI versions", details: format!("config is \"{version}\"") });
    }
    match command.as_str() {
        "ADD" => add(&Call::from_environment(config)?, version).map(Some),
        "DEL" => del(&Call::from_environment(config)?).map(|()| None),
        // kube-ovn registers neither; its CNI library takes that for success.
        "CHECK" | "STATUS" | "GC" => Ok(None),
        other => {
            Err(Failure { code: 4, msg: "invalid environment variables", details: format!("CNI_COMMAND {other:?}") })
        }
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str).filter(|value| !value.is_empty())
}

impl Call {
    fn from_environment(config: Value) -> Result<Self, Failure> {
        text(&config, "server_socket").ok_or_else(|| invalid("server_socket is required in cni.conf"))?;
        let args = variable("CNI_ARGS");
        let argument = |key: &str| {
            args.split(';')
                .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
                .ok_or_else(|| invalid(format!("{key} is required in CNI_ARGS")))
        };
        Ok(Self {
            pod: argument("K8S_POD_NAME")?,
            namespace: argument("K8S_POD_NAMESPACE")?,
            container: variable("CNI_CONTAINERID"),
            netns: variable("CNI_NETNS"),
            ifname: variable("CNI_IFNAME"),
            config,
        })
    }

    /// Where the pod's facts are kept.
    fn store(&self, file: &str) -> PathBuf {
        Path::new(STORE).join(&self.namespace).join(&self.pod).join(file)
    }

    /// The volume and the file in it, if this is a vhost-user NIC. An empty file name means the directory itself.
    fn socket(&self) -> Option<(&str, &str)> {
        if text(&self.config, "vhost_user_socket_consumption") == Some("kubevirt") {
            return Some((KUBEVIRT_VOLUME, &self.ifname));
        }
        let volume = text(&self.config, "vhost_user_socket_volume_name")?;
        Some((volume, text(&self.config, "vhost_user_socket_name").unwrap_or_default()))
    }

    /// What OVN would bind the port by.
    fn iface_id(&self) -> String {
        let base = format!("{}.{}", self.pod, self.namespace);
        match text(&self.config, "provider") {
            None | Some("ovn") => base,
            Some(provider) => format!("{base}.{provider}"),
        }
    }

    fn address(&self) -> Address {
        let seed = fnv1a(&format!("{}/{}/{}", self.namespace, self.pod, self.ifname));
        let [_, a, b, c] = seed.to_be_bytes();
        let given = read_json(&self.store(&format!("{}.json", self.ifname))).unwrap_or(Value::Null);
        let own = |key, otherwise: String| text(&given, key).map_or(otherwise, str::to_owned);
        let cidr = own("cidr", "172.18.0.0/16".to_owned());
        Address {
            mac: own("mac", format!("00:00:00:{a:02x}:{b:02x}:{c:02x}")),
            // Never the network's own address, its gateway or its broadcast address.
            ip: own("ip", format!("172.18.{}.{}", 1 + b % 250, 2 + c % 250)),
            prefix: cidr.rsplit('/').next().unwrap_or("16").to_owned(),
        }
    }
}

/// The host side's name: kube-ovn's `generateNicName`. It answers with a panic where this does with an error.
fn port_name(ifname: &str, container: &str) -> Result<String, Failure> {
    let impossible =
        || refused(format!("no port name can be made of interface {ifname:?} and container {container:?}"));
    if ifname == "eth0" {
        return Ok(format!("{}_h", container.get(..12).ok_or_else(impossible)?));
    }
    let short = match ifname.strip_prefix("pod") {
        Some(hash) if ifname.len() == 14 => hash.get(..7).ok_or_else(impossible)?,
        _ => ifname,
    };
    let kept = 12_usize.checked_sub(short.len()).and_then(|length| container.get(..length)).ok_or_else(impossible)?;
    Ok(format!("{kept}_{short}_h"))
}

fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

fn tool(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| refused(format!("{program} does not start: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(refused(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}

fn add(call: &Call, version: &str) -> Result<Value, Failure> {
    let pod = read_json(&call.store("pod.json"));
    let uid = pod
        .as_ref()
        .and_then(|pod| text(pod, "uid"))
        .ok_or_else(|| refused(format!("get pod {}/{} failed: not found", call.namespace, call.pod)))?;
    let port = port_name(&call.ifname, &call.container)?;
    let address = call.address();
    match call.socket() {
        Some((volume, file)) => {
            if call.config.get("make_directory") == Some(&Value::Bool(true)) {
                make_directory(&Path::new(SHARED).join(uid).join(volume))?;
            }
            let server = Path::new(SHARED_IN_OVS).join(uid).join(volume).join(file);
            let server = format!("options:vhost-server-path={}", server.display());
            add_port(call, &port, &address, &["type=dpdkvhostuserclient", &server])?;
        }
        None => add_veth(call, &port, &address)?,
    }
    Ok(result(call, version, &address))
}

/// As open as kube-ovn leaves it (umask 0, 0777), parents too.
fn make_directory(path: &Path) -> Result<(), Failure> {
    let failed = |error| refused(format!("cannot make {}: {error}", path.display()));
    fs::create_dir_all(path).map_err(failed)?;
    for directory in path.ancestors().take_while(|directory| *directory != Path::new(SHARED)) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).map_err(failed)?;
    }
    Ok(())
}

fn add_port(call: &Call, port: &str, address: &Address, columns: &[&str]) -> Result<(), Failure> {
    let iface_id = call.iface_id();
    // CleanDuplicatePort: another port of the same logical port (of an earlier sandbox) loses its claim.
    let claim = format!("external_ids:iface-id={iface_id}");
    let others = tool("ovs-vsctl", &["--data=bare", "--no-headings", "--columns=name", "find", "interface", &claim])?;
    for other in others.split_whitespace().filter(|other| *other != port) {
        tool("ovs-vsctl", &["--if-exists", "remove", "interface", other, "external_ids", "iface-id"])?;
    }
    let external_ids = [
        claim,
        format!("external_ids:pod_name={}", call.pod),
        format!("external_ids:pod_namespace={}", call.namespace),
        format!("external_ids:ip={}", address.ip),
        format!("external_ids:pod_netns={}", call.netns),
    ];
    let mut arguments = vec!["--timeout=30", "--may-exist", "add-port", BRIDGE, port, "--", "set", "interface", port];
    arguments.extend(columns);
    arguments.extend(external_ids.iter().map(String::as_str));
    tool("ovs-vsctl", &arguments).map(drop)
}

/// An ordinary NIC: a veth pair, one end in the pod, the other in the bridge.
fn add_veth(call: &Call, port: &str, address: &Address) -> Result<(), Failure> {
    // Left by an earlier ADD; that there is none is the usual case.
    let _absent = tool("ip", &["link", "delete", port]);
    let network = format!("--net={}", call.netns);
    let with_prefix = format!("{}/{}", address.ip, address.prefix);
    let ifname = call.ifname.as_str();
    tool("ip", &["link", "add", port, "type", "veth", "peer", "name", ifname, "netns", &call.netns])?;
    tool("ip", &["link", "set", port, "up"])?;
    for arguments in [
        ["link", "set", ifname, "address", &address.mac].as_slice(),
        ["address", "add", &with_prefix, "dev", ifname].as_slice(),
        ["link", "set", ifname, "up"].as_slice(),
    ] {
        tool("nsenter", &[[network.as_str(), "ip"].as_slice(), arguments].concat())?;
    }
    add_port(call, port, address, &[])
}

fn del(call: &Call) -> Result<(), Failure> {
    if call.netns.is_empty() {
        return Ok(());
    }
    let port = port_name(&call.ifname, &call.container)?;
    tool("ovs-vsctl", &["--timeout=30", "--if-exists", "--with-iface", "del-port", BRIDGE, &port])?;
    // A vhost-user NIC has no link, and an ordinary one goes with its network namespace.
    let _absent = tool("ip", &["link", "delete", &port]);
    Ok(())
}

/// The result as Go's CNI library prints it for each version.
fn result(call: &Call, version: &str, address: &Address) -> Value {
    let with_prefix = format!("{}/{}", address.ip, address.prefix);
    let default_route = call.ifname == "eth0";
    let routes = if default_route { json!([{"dst": "0.0.0.0/0", "gw": GATEWAY}]) } else { json!([]) };
    let mut interface = json!({"name": call.ifname, "mac": address.mac, "sandbox": call.netns});
    let mut ip = json!({"address": with_prefix, "interface": 0});
    match version {
        "0.1.0" | "0.2.0" => {
            let mut ip4 = json!({"ip": with_prefix});
            if default_route {
                ip4["gateway"] = json!(GATEWAY);
                ip4["routes"] = routes;
            }
            return json!({"cniVersion": version, "ip4": ip4, "dns": {}});
        }
        "0.3.0" | "0.3.1" | "0.4.0" => ip["version"] = json!("4"),
        _ => interface["mtu"] = json!(MTU),
    }
    if default_route {
        ip["gateway"] = json!(GATEWAY);
    }
    let mut result = json!({"cniVersion": version, "interfaces": [interface], "ips": [ip], "dns": {}});
    if default_route {
        result["routes"] = routes;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: &str = "4f3c2b1a09876543";

    fn name(ifname: &str) -> Option<String> {
        port_name(ifname, CONTAINER).ok()
    }

    #[test]
    fn ports_are_named_as_kube_ovn_names_them() {
        assert_eq!(name("eth0").as_deref(), Some("4f3c2b1a0987_h"));
        assert_eq!(name("net1").as_deref(), Some("4f3c2b1a_net1_h"));
        assert_eq!(name("pod59cc33fa39b").as_deref(), Some("4f3c2_59cc33f_h"));
        assert_eq!(name("twelve-chars").as_deref(), Some("_twelve-chars_h"));
    }

    #[test]
    fn names_kube_ovn_cannot_make_are_refused() {
        assert_eq!(name("thirteen-char"), None);
        assert_eq!(name("fourteen-chars"), None);
        assert_eq!(name("pod59cc33fa39bc"), None);
        assert!(port_name("net1", "short").is_err());
    }
}
