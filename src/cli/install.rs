//! `install`: this program into the runtime's directory of plugins, and the plugin into kube-ovn's chain. install.sh
//! hands its words on to it.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::Answer;
use crate::node::check::check;
use crate::node::keep::{self, OnEnd};
use crate::node::uninstall::uninstall;
use crate::node::{self, Error, Journal, NodePaths};

/// Where the node has things, and how the plugin gets into the chain.
#[derive(Debug, Args)]
pub struct Where {
    /// Where the runtime looks for plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Where it looks for network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// How the plugin gets into kube-ovn's chain
    #[arg(long, value_enum, default_value = "auto")]
    mode: Mode,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// As it is in already; otherwise conflist
    Auto,
    /// By a file in <conf-dir>/<network>, which runtimes with libcni 1.3 read (containerd 2.1)
    Dropin,
    /// By an entry in kube-ovn's conflist
    Conflist,
    /// Not at all: enough for NICs by NAD
    None,
}

/// What to do instead of installing.
#[derive(Debug, Args)]
pub struct What {
    /// Print what is installed and what is wrong with it; exit status 0 only if it is sound
    #[arg(long)]
    check: bool,
    /// Take the plugin out of the chain, and its binary away once no sandbox can call it any more
    #[arg(long, conflicts_with = "check")]
    uninstall: bool,
    /// Print what would be done, and do nothing
    #[arg(long, conflicts_with = "check")]
    dry_run: bool,
    /// To uninstall: the plugin's records, if not where our configuration says or said
    #[arg(long, value_name = "DIR", requires = "uninstall")]
    state_dir: Option<PathBuf>,
    /// To uninstall: kubelet's directory, likewise
    #[arg(long, value_name = "DIR", requires = "uninstall")]
    kubelet_dir: Option<PathBuf>,
}

/// What to do at the end.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum AtEnd {
    /// Leave all as it is: another keeper follows
    Stay,
    /// Take the plugin out of the chain
    Leave,
}

impl Where {
    fn places(&self) -> NodePaths {
        let root = std::env::var_os("DESTDIR").unwrap_or_default();
        NodePaths::below(Path::new(&root), &self.bin_dir, &self.conf_dir)
    }

    fn mode(&self) -> node::Mode {
        match self.mode {
            Mode::Auto => node::Mode::Auto,
            Mode::Dropin => node::Mode::DropIn,
            Mode::Conflist => node::Mode::Conflist,
            Mode::None => node::Mode::None,
        }
    }
}

/// Installs, uninstalls or looks.
pub fn run(place: &Where, what: &What) -> Answer {
    let places = place.places();
    if what.check {
        let findings = check(&places, place.mode());
        let line = |finding: &node::check::Finding| {
            format!("{} {}\n", if finding.sound { "ok:   " } else { "wrong:" }, finding.text)
        };
        return Answer::of(findings.iter().map(line).collect(), findings.iter().all(|finding| finding.sound));
    }
    let mut journal = Journal::new(what.dry_run);
    let outcome = if what.uninstall {
        uninstall(&places, what.state_dir.as_deref(), what.kubelet_dir.as_deref(), &mut journal)
    } else {
        node::install(&places, place.mode(), &mut journal)
    };
    answer(&journal, outcome)
}

/// Keeps it installed until it is told to end.
pub fn keep(place: &Where, at_end: AtEnd) -> Answer {
    let on_end = match at_end {
        AtEnd::Stay => OnEnd::Stay,
        AtEnd::Leave => OnEnd::Leave,
    };
    answer(&Journal::default(), keep::keep(&place.places(), place.mode(), on_end))
}

fn answer(journal: &Journal, outcome: Result<(), Error>) -> Answer {
    let mut lines = journal.lines().to_vec();
    let sound = outcome.is_ok();
    lines.extend(outcome.err().map(|error| error.to_string()));
    Answer::of(lines.iter().map(|line| format!("{line}\n")).collect(), sound)
}
