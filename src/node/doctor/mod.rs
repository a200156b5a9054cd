//! `doctor`: is this node fit for the plugin? Returns findings, each with what to do and why it matters. Changes nothing.
//!
//! Whatever can be tried is tried, and not read from a version or a flag: a seccomp filter, a container without a capability
//! and an old kernel all show in the same place.

mod dataplane;
mod directories;
mod host;
mod ovs;
mod runtime;

use serde::Serialize;

use super::NodePaths;
use crate::config::Config;
use crate::pod::process::{self, Process};
use crate::sys;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    /// The plugin works, but something of it doesn't, or an operator misses a message.
    Warning,
    /// The plugin will fail.
    Wrong,
}

/// What one check found. The field names are those of the JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub verdict: Severity,
    pub found: String,
    /// What to do; `None` if all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    pub why: &'static str,
}

/// Makes all checks, in the order in which one would fix things. Call it in the host's mount namespace; `config` is the
/// plugin's configuration on this node.
#[must_use]
pub fn examine(paths: &NodePaths, config: &Config) -> Vec<Finding> {
    let mut findings = host::examine();
    findings.extend(directories::examine(paths, config));
    findings.extend(dataplane::examine(&config.socket_base_dir));
    findings.extend(ovs::examine(&config.ovsdb_socket));
    findings.extend(runtime::examine(paths));
    findings
}

/// Returns true if nothing is wrong; there may be warnings.
#[must_use]
pub fn is_fit(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.verdict != Severity::Wrong)
}

/// Returns the node's processes whose name fits; the kernel cuts names at 15 bytes. Leaves out zombies.
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
        Finding { check: self.name, verdict: Severity::Ok, found: found.into(), advice: None, why: self.why }
    }

    fn warning(&self, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { verdict: Severity::Warning, advice: Some(advice.into()), ..self.ok(found) }
    }

    fn wrong(&self, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { verdict: Severity::Wrong, advice: Some(advice.into()), ..self.ok(found) }
    }
}
