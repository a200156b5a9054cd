//! One call of the plugin, as a runtime makes it, and its outcome, as a runtime sees it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::json::document;
use crate::results;
use crate::scene::Scene;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_vhostuser-hotplug");

/// Every version that the plugin speaks, and those that have certain features.
pub const ALL: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
pub const WITH_CHECK: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];
pub const WITH_GC: [&str; 1] = ["1.1.0"];

/// Which of the versions have this command.
pub fn versions_with(command: &str) -> &'static [&'static str] {
    match command {
        "CHECK" => &WITH_CHECK,
        "GC" | "STATUS" => &WITH_GC,
        _ => &ALL,
    }
}

/// Longest that a call with nothing to do may take; far more than it does, for a machine under load, and less than stdin or
/// a deadline is waited for.
const PATIENCE: Duration = Duration::from_secs(25);

/// A call: an environment, which holds nothing else, and a configuration.
#[derive(Clone)]
pub struct Call {
    env: BTreeMap<OsString, OsString>,
    /// The configuration's members as they are to stand there, in order.
    members: Vec<(String, String)>,
    /// What stdin is instead of the configuration.
    stdin: Option<Vec<u8>>,
    cwd: Option<std::path::PathBuf>,
}

impl Call {
    /// Nothing but the command.
    pub fn bare(command: &str) -> Self {
        let env = BTreeMap::from([("CNI_COMMAND".into(), command.into())]);
        Self { env, members: Vec::new(), stdin: None, cwd: None }
    }

    /// The call that libcni makes for the scene's container at this version, with the result of the plugin before.
    pub fn new(command: &str, version: &str, scene: &Scene) -> Self {
        let concerns_a_container = !matches!(command, "GC" | "STATUS");
        // libcni always exports all of them.
        let variable = |value: &str| if concerns_a_container { value.to_owned() } else { String::new() };
        let call = Self::bare(command)
            .env("CNI_PATH", "/opt/cni/bin")
            .env("CNI_CONTAINERID", variable("0123456789abcdef"))
            .env("CNI_NETNS", variable(scene.sandbox.netns().to_str().unwrap()))
            .env("CNI_IFNAME", variable("eth0"))
            .env("CNI_ARGS", variable(ARGS))
            .member("cniVersion", &quoted(version))
            .member("name", "\"kube-ovn\"")
            .member("type", "\"vhostuser-hotplug\"")
            .path_member("kubelet_dir", &scene.path("kubelet"))
            .path_member("socket_base_dir", &scene.path("sockets"))
            .path_member("state_dir", &scene.path("state"));
        let call = Self { cwd: Some(scene.path("cwd")), ..call };
        let gets_one = match command {
            "ADD" | "CHECK" => true,
            "DEL" => WITH_CHECK.contains(&version),
            _ => false,
        };
        if gets_one { call.member("prevResult", &results::usual(version)) } else { call }
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.into(), value.as_ref().to_owned());
        self
    }

    /// Unsets a variable.
    pub fn without_env(mut self, name: &str) -> Self {
        self.env.remove(OsStr::new(name));
        self
    }

    /// Unsets all variables.
    pub fn without_any_env(mut self) -> Self {
        self.env.clear();
        self
    }

    /// Sets a key of the configuration to this JSON, to the letter.
    pub fn member(mut self, key: &str, raw: &str) -> Self {
        match self.members.iter_mut().find(|(name, _)| name == key) {
            Some((_, value)) => *value = raw.to_owned(),
            None => self.members.push((key.to_owned(), raw.to_owned())),
        }
        self
    }

    fn path_member(self, key: &str, path: &Path) -> Self {
        self.member(key, &quoted(path.to_str().unwrap()))
    }

    /// Removes a key of the configuration.
    pub fn without(mut self, key: &str) -> Self {
        self.members.retain(|(name, _)| name != key);
        self
    }

    /// Puts this on stdin in place of the configuration.
    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = Some(bytes.as_ref().to_owned());
        self
    }

    /// What goes to stdin.
    pub fn input(&self) -> Vec<u8> {
        self.stdin.clone().unwrap_or_else(|| {
            let members: Vec<_> = self.members.iter().map(|(key, raw)| format!("{}:{raw}", quoted(key))).collect();
            format!("{{{}}}", members.join(",")).into_bytes()
        })
    }

    /// The process to be started, with its input not yet written.
    pub fn command(&self) -> Command {
        self.command_of(BINARY, &[])
    }

    /// The same for a program that starts the plugin.
    pub fn command_of(&self, program: &str, arguments: &[&OsStr]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&self.env);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Makes the call.
    pub fn run(&self) -> Outcome {
        self.run_as(self.command())
    }

    /// Makes the call with this process, and holds its end against what is true of every call (R1, R2, R3, R5).
    pub fn run_as(&self, mut command: Command) -> Outcome {
        let start = Instant::now();
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let input = self.input();
        // On a thread of its own, for a plugin that answers before it has read everything.
        let writer = thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
        let (stdout, stderr) = (collected(child.stdout.take()), collected(child.stderr.take()));
        let status = ended(&mut child, start);
        drop(writer.join().unwrap());
        let outcome = Outcome {
            call: format!("{:?} {}", self.env, String::from_utf8_lossy(&self.input())).chars().take(2000).collect(),
            status,
            stdout: stdout.join().unwrap(),
            stderr: stderr.join().unwrap(),
        };
        assert!(start.elapsed() < PATIENCE, "took {:?}: {outcome:?}", start.elapsed());
        assert!(matches!(status.code(), Some(0 | 1)), "exit status: {outcome:?}");
        assert!(!String::from_utf8_lossy(&outcome.stderr).contains("panicked"), "{outcome:?}");
        outcome
    }
}

/// All that comes out of this end of a pipe, if it is one.
fn collected(source: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        source.map(|mut source| source.read_to_end(&mut bytes)).transpose().unwrap();
        bytes
    })
}

/// How the process ended; one that hangs is ended here.
fn ended(child: &mut Child, start: Instant) -> ExitStatus {
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > 2 * PATIENCE {
            child.kill().unwrap();
            panic!("the plugin hung: {:?}", child.wait());
        }
        thread::sleep(Duration::from_micros(300));
    }
}

/// `text` as JSON.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// `CNI_ARGS` as containerd sends it.
pub const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-a;\
     K8S_POD_INFRA_CONTAINER_ID=0123456789abcdef;K8S_POD_UID=8f3a1c52-0b6e-4a7d-9c41-5a0f4de9b7c1";

/// How a call ended.
#[derive(Debug)]
pub struct Outcome {
    call: String,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// An error object that has been held against the specification.
#[derive(Debug)]
pub struct Refusal {
    pub version: String,
    pub code: u64,
    /// `msg` and `details`.
    pub text: String,
}

impl Outcome {
    /// Success; what was printed, to the letter.
    pub fn printed(self) -> String {
        assert!(self.status.success(), "should have succeeded: {self:?}");
        String::from_utf8(self.stdout).unwrap()
    }

    /// Success with one document.
    pub fn document(self) -> Value {
        document(self.printed().as_bytes())
    }

    /// Success without a word.
    pub fn silent(self) {
        assert!(self.status.success(), "should have succeeded: {self:?}");
        assert!(self.stdout.is_empty(), "should have printed nothing: {self:?}");
    }

    /// Failure, with an error object on stdout that is all that the specification demands of one (R3, R5).
    pub fn refusal(self) -> Refusal {
        assert!(!self.status.success(), "should have failed: {self:?}");
        let object = document(&self.stdout);
        let text = |key: &str| object[key].as_str().unwrap_or_else(|| panic!("no string {key}: {self:?}")).to_owned();
        let code = object["code"].as_u64().unwrap_or_else(|| panic!("no code: {self:?}"));
        let known = matches!(code, 1..=7 | 11 | 50 | 51 | 100..);
        assert!(known, "code {code} isn't one of the specification's: {self:?}");
        assert!(code != 199, "the plugin panicked: {self:?}");
        let (version, msg) = (text("cniVersion"), text("msg"));
        assert!(ALL.contains(&version.as_str()) && !msg.is_empty(), "{self:?}");
        Refusal { version, code, text: format!("{msg} {}", text("details")) }
    }

    /// Failure with one of these codes.
    pub fn refused(self, codes: &[u64]) -> Refusal {
        let call = self.call.clone();
        let refusal = self.refusal();
        assert!(codes.contains(&refusal.code), "code should be one of {codes:?}: {refusal:?}: {call}");
        refusal
    }
}
