//! `doctor`: is this node fit? Exit status 0 if nothing is wrong; there may be warnings.

use std::env;
use std::fmt::Write as _;
use std::io::{IsTerminal, stdout};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Answer;
use super::place::{self, NodeArgs};
use super::screen::{clean, json};
use crate::node::doctor::{self, Finding, Node, Verdict};

/// The options of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
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
    place: NodeArgs,
}

#[derive(Serialize)]
struct Findings<'a> {
    fit: bool,
    checks: &'a [Finding],
}

/// Examines the node.
pub fn run(asked: &Doctor) -> Answer {
    // Who may not is told so by the first check.
    let entered = place::enter_host();
    let mut config = asked.place.config();
    if let Some(directory) = &asked.socket_base_dir {
        directory.clone_into(&mut config.socket_base_dir);
    }
    let node = Node { conf_dir: asked.place.conf_dir.clone(), bin_dir: asked.bin_dir.clone(), config };
    let checks = doctor::examine(&node);
    let fit = doctor::is_fit(&checks);
    let text = if asked.json { json(&Findings { fit, checks: &checks }) } else { told(&checks, in_colour()) };
    let notes = entered.err().map_or(String::new(), |why| format!("vhostuser-hotplug: {why}\n"));
    Answer { text, notes, sound: fit }
}

/// Colours are for terminals, and for who has not refused them (no-color.org).
fn in_colour() -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stdout().is_terminal() && !refused && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn told(checks: &[Finding], in_colour: bool) -> String {
    let width = checks.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { check, verdict, found, advice, why } in checks {
        let (word, colour) = match verdict {
            Verdict::Ok => ("ok", 32),
            Verdict::Warning => ("warning", 33),
            Verdict::Wrong => ("WRONG", 31),
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
