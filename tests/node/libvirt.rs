//! libvirtd's double in a pod's container.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::node::{Pod, end, new_uid};

/// A running domain with two free ports, two vCPUs and shared memory.
pub const DOMAIN: &str = include_str!("../libvirt/domains/plain.xml");
pub const UNSHARED: &str = include_str!("../libvirt/domains/unshared.xml");
pub const PORTLESS: &str = include_str!("../libvirt/domains/portless.xml");

/// Where a container has its daemon's socket.
pub const SOCKET: &str = "/run/libvirt/libvirt-sock";

/// A program of the tests' own, built as an example beside them.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name);
    assert!(program.exists(), "{} is needed: run cargo build --examples", program.display());
    program
}

/// A double at work; it ends, and its files go, with this value.
pub struct Double {
    child: Child,
    directory: PathBuf,
}

/// A domain of a script.
pub fn domain(name: &str, digit: &str, xml: &str) -> Value {
    json!({"name": name, "uuid": format!("{}-2222-3333-4444-555555555555", digit.repeat(8)), "xml": xml})
}

impl Double {
    /// A double that listens in the pod's container; `changes` go over a script with one domain and a log.
    pub fn start(pod: &Pod<'_>, changes: &Value) -> Self {
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
        let mut child = start(&example("libvirtd-double"))
            .args([SOCKET.as_ref(), directory.join("script").as_os_str()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the double did not start");
        Self { child, directory }
    }

    /// The calls received so far, as (name, arguments).
    pub fn calls(&self) -> Vec<(String, Value)> {
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let call = |line: &str| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            (line["call"].as_str().unwrap().to_owned(), line["args"].take())
        };
        log.lines().map(call).collect()
    }

    /// How often it was called so.
    pub fn count(&self, name: &str) -> usize {
        self.calls().iter().filter(|(call, _)| call == name).count()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        end(&mut self.child);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
