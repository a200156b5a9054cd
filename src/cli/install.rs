//! `install` and `keep`: this program into the runtime's directory of plugins, and the plugin into kube-ovn's chain.
//! install.sh passes its arguments on to `install`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Answer;
use crate::node::check::check;
use crate::node::keep::{self, AtEnd};
use crate::node::uninstall::uninstall;
use crate::node::{ChangeLog, Error, Mode, NodePaths, install};

/// The node's directories, and how the plugin gets into the chain.
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

impl Where {
    fn paths(&self) -> NodePaths {
        let root = std::env::var_os("DESTDIR").unwrap_or_default();
        NodePaths::below(Path::new(&root), &self.bin_dir, &self.conf_dir)
    }
}

/// Installs, uninstalls or checks.
pub fn run(node: &Where, what: &What) -> Answer {
    let paths = node.paths();
    if what.check {
        let items = check(&paths, node.mode);
        let lines =
            items.iter().map(|item| format!("{} {}\n", if item.sound { "ok:   " } else { "wrong:" }, item.text));
        return Answer::of(lines.collect(), items.iter().all(|item| item.sound));
    }
    let mut log = ChangeLog::new(what.dry_run);
    let outcome = if what.uninstall {
        uninstall(&paths, what.state_dir.as_deref(), what.kubelet_dir.as_deref(), &mut log)
    } else {
        install(&paths, node.mode, &mut log)
    };
    answer(&log, outcome)
}

/// Keeps the plugin installed until a signal ends it.
pub fn keep(node: &Where, at_end: AtEnd) -> Answer {
    answer(&ChangeLog::default(), keep::keep(&node.paths(), node.mode, at_end))
}

fn answer(log: &ChangeLog, outcome: Result<(), Error>) -> Answer {
    let mut lines = log.lines().to_vec();
    let sound = outcome.is_ok();
    lines.extend(outcome.err().map(|error| error.to_string()));
    Answer::of(lines.iter().map(|line| format!("{line}\n")).collect(), sound)
}
