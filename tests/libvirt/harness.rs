//! Starts a double and connects to it.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::tool;
use vhostuser_hotplug::deadline::Deadline;
use vhostuser_hotplug::libvirt::{Access, Client, Domain, Error, Uri};

/// Shared memory, two root ports, one of them with the alias `ua-port`.
pub const PLAIN: &str = include_str!("domains/plain.xml");
/// Memory that is not shared.
pub const UNSHARED: &str = include_str!("domains/unshared.xml");
/// No root port.
pub const PORTLESS: &str = include_str!("domains/portless.xml");
/// As `PLAIN`, defined and not running.
pub const STORED: &str = include_str!("domains/stored.xml");

const STORED_UUID: &str = "44444444-2222-3333-4444-555555555555";

/// Long enough for whatever works, on a busy machine.
pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

/// A double at work. It ends, and its files go, with this value.
pub struct Double {
    child: Child,
    /// A directory of its own.
    pub dir: PathBuf,
}

impl Double {
    /// Starts one whose script is `changes` over the usual: the domains of `domains/` and a log.
    pub fn start(changes: &Value) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let dir = std::env::temp_dir().join(format!("vhu-double-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).expect("a directory can be made");
        let domain = |name: &str, digit: &str, id: u32, xml: &str| {
            let uuid = format!("{}-2222-3333-4444-555555555555", digit.repeat(8));
            json!({"name": name, "uuid": uuid, "id": id, "state": 3, "xml": xml})
        };
        let mut script = json!({
            "log": dir.join("log"),
            "until_eof": true,
            "domains": [
                domain("ns_plain", "1", 1, PLAIN),
                domain("ns_unshared", "2", 2, UNSHARED),
                domain("ns_portless", "3", 3, PORTLESS),
                {"name": "ns_stored", "uuid": STORED_UUID, "id": -1, "state": 5, "xml": STORED, "stored": STORED},
            ],
        });
        for (key, value) in changes.as_object().expect("changes are an object") {
            script[key] = value.clone();
        }
        std::fs::write(dir.join("script"), script.to_string()).expect("the script can be written");
        let mut child = Command::new(tool("libvirtd-double"))
            .args([dir.join("socket"), dir.join("script")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the double did not start");
        Self { child, dir }
    }

    /// One lie at one kind of call, each time it is made.
    pub fn lying(at: &str, lie: &Value) -> Self {
        Self::start(&json!({"lies": [{"at": at, "lie": lie}]}))
    }

    /// A fresh connection.
    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.join("socket")).expect("the double listens")
    }

    /// An open client.
    pub fn client(&self) -> Client {
        open(self.connect(), soon()).expect("an honest double opens")
    }

    /// The calls received so far, as (name, arguments).
    pub fn calls(&self) -> Vec<(String, Value)> {
        let log = std::fs::read_to_string(self.dir.join("log")).expect("the double has a log");
        let line = |line: &str| {
            let mut line: Value = serde_json::from_str(line).expect("a line is JSON");
            // Lines without a call tell of events.
            Some((line["call"].as_str()?.to_owned(), line["args"].take()))
        };
        log.lines().filter_map(line).collect()
    }

    /// The names of the calls received so far.
    pub fn call_names(&self) -> Vec<String> {
        self.calls().into_iter().map(|(name, _)| name).collect()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        // Either may have happened already; nothing depends on it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Our interface.
pub fn nic(alias: &str, path: &Path) -> String {
    format!(
        "<interface type='vhostuser'><mac address='00:00:00:24:65:f4'/><source type='unix' path='{}' mode='server'/>\
         <model type='virtio-non-transitional'/><driver name='vhost' queues='4'/><alias name='{alias}'/></interface>",
        path.display()
    )
}

/// Opens `qemu:///system`, with all rights.
pub fn open(stream: UnixStream, deadline: Deadline) -> Result<Client, Error> {
    Client::open_any(stream, &[Uri::System], Access::Full, deadline).map(|(client, _)| client)
}

/// The domain with a name.
pub fn named(client: &mut Client, name: &str) -> Domain {
    let domains = client.domains(soon()).expect("the domains are listed");
    domains.into_iter().find(|domain| domain.name == name).expect("the domain is there")
}

/// The domain `ns_plain`.
pub fn plain(client: &mut Client) -> Domain {
    named(client, "ns_plain")
}

/// The variant's name, for tables.
pub fn kind(error: &Error) -> &'static str {
    match error {
        Error::TimedOut { .. } => "timed out",
        Error::Disconnected { .. } => "disconnected",
        Error::Io { .. } => "io",
        Error::Protocol { .. } => "protocol",
        Error::Argument { .. } => "argument",
        Error::Unusable { .. } => "unusable",
        Error::Authentication(_) => "authentication",
        Error::Refused(_) => "refused",
    }
}
