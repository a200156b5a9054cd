//! The binary into the runtime's directory of plugins, then the plugin into kube-ovn's chain.

use clap::ValueEnum;

use super::{ChangeLog, Error, NodePaths, binary, chain};

/// How the plugin gets into kube-ovn's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// As it is in already; otherwise conflist
    Auto,
    /// By a file in CONF_DIR/NETWORK, which runtimes with libcni 1.3 read (containerd 2.1)
    #[value(name = "dropin")]
    DropIn,
    /// By an entry in kube-ovn's conflist
    Conflist,
    /// Not at all: enough for NICs by NAD
    None,
}

/// Installs this very program and puts the plugin into the chain.
///
/// # Errors
/// See [`Error`]. What was done before stays and does no harm: nothing calls the binary.
pub fn install(paths: &NodePaths, mode: Mode, log: &mut ChangeLog) -> Result<(), Error> {
    let _lock = binary::place(paths, log)?;
    chain::enter(paths, mode, log)
}
