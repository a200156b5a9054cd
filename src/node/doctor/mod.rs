//! Whether this node is fit for the plugin: a list of findings, each with what to do and why it matters.
//!
//! Whatever can be tried is tried rather than read from a version or a flag: a seccomp filter, a container without a
//! capability and an old kernel all show in the same place. Nothing is changed.

mod dataplane;
mod directories;
mod host;
mod ovs;
mod runtime;

use std::path::PathBuf;

use serde::Serialize;

use crate::config::Config;
use crate::pod::process::{self, Process};
use crate::sys;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it must be.
    Ok,
    /// The plugin works, but not all of it, or an operator will miss something.
    Warning,
    /// The plugin will fail.
    Wrong,
}

/// What one check found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The check's name.
    pub check: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; nothing if all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// Why it matters.
    pub why: &'static str,
}

/// The node, and where things are on it.
#[derive(Clone, Debug)]
pub struct Node {
    /// The runtime's network configurations.
    pub conf_dir: PathBuf,
    /// The runtime's plugins.
    pub bin_dir: PathBuf,
    /// The plugin's own configuration here.
    pub config: Config,
}

/// All checks, in the order in which one would mend things. This process is in the host's mount namespace, if it may.
#[must_use]
pub fn examine(node: &Node) -> Vec<Finding> {
    let mut findings = host::examine();
    findings.extend(directories::examine(node));
    findings.extend(dataplane::examine(&node.config.socket_base_dir));
    findings.extend(ovs::examine(&node.config.ovsdb_socket));
    findings.extend(runtime::examine(node));
    findings
}

/// Whether nothing is wrong; there may be warnings.
#[must_use]
pub fn is_fit(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.verdict != Verdict::Wrong)
}

/// The processes of the node with a name that fits, as the kernel cuts it at 15 bytes; without those that have ended and
/// wait to be reaped.
fn processes(fits: impl Fn(&str) -> bool) -> impl Iterator<Item = Process> {
    let is_it = move |process: &Process| {
        let read = |name: &str| sys::read_text(&process.path(name), 64 << 10).unwrap_or_default();
        fits(read("comm").trim_end()) && !read("status").lines().any(|line| line.starts_with("State:\tZ"))
    };
    let pids = process::pids().into_iter().flatten();
    pids.filter_map(|pid| Process::open(pid).ok()).filter(is_it)
}

/// A check: its name, and why it matters.
struct Check {
    name: &'static str,
    why: &'static str,
}

impl Check {
    fn ok(&self, found: impl Into<String>) -> Finding {
        Finding { check: self.name, verdict: Verdict::Ok, found: found.into(), advice: None, why: self.why }
    }

    fn warning(&self, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Warning, advice: Some(advice.into()), ..self.ok(found) }
    }

    fn wrong(&self, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Wrong, advice: Some(advice.into()), ..self.ok(found) }
    }
}
