//! libvirtd's double in a pod's container.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use vhostuser_hotplug::deadline::Deadline;
use vhostuser_hotplug::libvirt::{Access, Client, Uri, Xml};

use crate::node::{children, end, new_uid};
use crate::patience::until;
use crate::signals::program;
use crate::{Pod, tool};

/// A running domain with two free ports, two vCPUs and shared memory.
pub const DOMAIN: &str = include_str!("../../libvirt/domains/plain.xml");
pub const UNSHARED: &str = include_str!("../../libvirt/domains/unshared.xml");
pub const PORTLESS: &str = include_str!("../../libvirt/domains/portless.xml");

/// Where a container has its daemon's socket.
pub const SOCKET: &str = "/run/libvirt/libvirt-sock";

/// A double at work; it ends, and its files go, with this value.
pub struct Double {
    /// Its starter, nsenter(1).
    pub child: Child,
    /// libvirtd's pid, as the machine sees it, and its QEMUs'.
    pub libvirtd: u32,
    qemus: Vec<u32>,
    directory: PathBuf,
}

/// A domain of a script.
pub fn domain(name: &str, digit: &str, xml: &str) -> Value {
    json!({"name": name, "uuid": format!("{}-2222-3333-4444-555555555555", digit.repeat(8)), "xml": xml})
}

impl Double {
    /// A double that listens in the pod's container; `changes` go over a script with one domain and a log.
    pub fn start(pod: &Pod, changes: &Value) -> Self {
        // An earlier double, killed, has left its socket's file.
        pod.command("rm").args(["-f", SOCKET]).status().unwrap();
        Self::through(&mut |program| pod.command(program), changes)
    }

    /// The same, started by any means.
    pub fn through(start: &mut dyn FnMut(&PathBuf) -> std::process::Command, changes: &Value) -> Self {
        let directory = std::env::temp_dir().join(format!("vhu-node-double-{}", new_uid()));
        std::fs::create_dir(&directory).unwrap();
        let mut script = json!({
            "log": directory.join("log"),
            "domains": [domain("ns_vm", "1", DOMAIN)],
            "attach": {"data_plane": "handshake"},
        });
        for (key, value) in changes.as_object().unwrap() {
            script[key] = value.clone();
        }
        std::fs::write(directory.join("script"), script.to_string()).unwrap();
        let mut child = start(&tool("libvirtd-double"))
            .args([SOCKET.as_ref(), directory.join("script").as_os_str()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the double did not start");
        let libvirtd = program(child.id());
        Self { child, libvirtd, qemus: children(libvirtd), directory }
    }

    /// The calls received so far, as (name, arguments).
    pub fn calls(&self) -> Vec<(String, Value)> {
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let call = |line: &str| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            Some((line["call"].as_str()?.to_owned(), line["args"].take()))
        };
        log.lines().filter_map(call).collect()
    }

    /// When each call of this name was received and each event of this number (a procedure's) sent, in microseconds since
    /// 1970.
    pub fn times(&self, of: &Value) -> Vec<u64> {
        self.log()
            .into_iter()
            .filter(|line| line["call"] == *of || line["event"] == *of)
            .map(|line| line["t_us"].as_u64().unwrap())
            .collect()
    }

    /// The lines of its log so far.
    pub fn log(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        // The last line may be half written.
        let whole = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Whether the VM stands still: QEMU's main loop waits for a back end to come, or for one's answer.
    pub fn vm_waits(&self) -> bool {
        let said: Vec<_> = self.log().into_iter().filter(|line| line["vm"].is_string()).collect();
        said.last().is_some_and(|line| line["vm"] == "waits")
    }

    /// The first domain's QEMU, as the machine sees it.
    pub fn qemu(&self) -> u32 {
        self.qemus[0]
    }

    /// How often it was called so.
    pub fn count(&self, name: &str) -> usize {
        self.calls().iter().filter(|(call, _)| call == name).count()
    }
}

/// A client of the pod's daemon, for a look at what the plugin made of the domain.
pub fn client(pod: &Pod) -> Client {
    let stream = UnixStream::connect(format!("/proc/{}/root{SOCKET}", pod.machine_pid())).unwrap();
    Client::open_any(stream, &[Uri::System], Access::Full, soon()).unwrap().0
}

/// The aliases of the NICs that the pod's first domain has.
pub fn nics(pod: &Pod, which: Xml) -> Vec<String> {
    let mut client = client(pod);
    let domain = client.domains(soon()).unwrap().remove(0);
    let xml = client.xml(&domain, which, soon()).unwrap();
    let alias =
        |nic: &str| nic.split("<alias name='").nth(1).map_or("", |rest| rest.split('\'').next().unwrap()).to_owned();
    xml.split("<interface").skip(1).map(|rest| alias(rest.split("</interface>").next().unwrap())).collect()
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

impl Drop for Double {
    fn drop(&mut self) {
        end(&mut self.child);
        // They go with libvirtd, a moment later; whoever comes next is to find nobody at a NIC's socket.
        let is_gone =
            |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        until("QEMU ends", || self.qemus.iter().all(is_gone));
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
