//! `doctor`: is this node fit? Exit status 0 if nothing is wrong; there may be warnings.

use std::env;
use std::fmt::Write as _;
use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::Answer;
use super::node_args::{self, NodeArgs};
use super::screen::{clean, json};
use crate::node::NodePaths;
use crate::node::doctor::{self, Finding, Severity};

#[derive(Debug, Args)]
pub struct DoctorOptions {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The runtime's plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Where the data plane looks for sockets, if not where our configuration says
    #[arg(long, value_name = "DIR")]
    socket_base_dir: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    fit: bool,
    checks: &'a [Finding],
}

/// Examines the node.
pub fn run(options: &DoctorOptions) -> Answer {
    // If it may not, the first check says so.
    let entered = node_args::enter_host();
    let mut config = options.node.config();
    if let Some(directory) = &options.socket_base_dir {
        directory.clone_into(&mut config.socket_base_dir);
    }
    let paths = NodePaths::below(Path::new(""), &options.bin_dir, &options.node.conf_dir);
    let checks = doctor::examine(&paths, &config);
    let fit = doctor::is_fit(&checks);
    let text = if options.json { json(&Report { fit, checks: &checks }) } else { report(&checks, in_colour()) };
    let notes = entered.err().map_or(String::new(), |why| format!("vhostuser-hotplug: {why}\n"));
    Answer { text, notes, sound: fit }
}

/// Returns true if stdout is a terminal and the user hasn't refused colours (no-color.org).
fn in_colour() -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stdout().is_terminal() && !refused && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn report(checks: &[Finding], in_colour: bool) -> String {
    let width = checks.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { check, verdict, found, advice, why } in checks {
        let (word, colour) = match verdict {
            Severity::Ok => ("ok", 32),
            Severity::Warning => ("warning", 33),
            Severity::Wrong => ("WRONG", 31),
        };
        let (on, off) = if in_colour { (format!("\u{1b}[{colour}m"), "\u{1b}[0m") } else { (String::new(), "") };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{on}{word:<7}{off}  {check:<width$}  {}", clean(found));
        if let Some(advice) = advice {
            let _ = writeln!(text, "{:9}{:width$}  to do: {}", "", "", clean(advice));
            let _ = writeln!(text, "{:9}{:width$}  because {why}", "", "");
        }
    }
    text
}
