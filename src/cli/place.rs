//! Where things are on this node: as our own object in the runtime's configuration says, unless an option does.

use std::path::PathBuf;

use clap::Args;

use crate::config::Config;
use crate::conflist::conf_dir;
use crate::privilege::{self, Task};
use crate::sys;

/// The options that say where.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The runtime's network configurations, among which ours says where all else is
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub conf_dir: PathBuf,
    /// The plugin's records, if not where our configuration says
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// kubelet's directory, if not where our configuration says
    #[arg(long, value_name = "DIR")]
    pub kubelet_dir: Option<PathBuf>,
}

impl NodeArgs {
    /// The configuration of this node: the first of ours that is sound, or else the defaults.
    pub fn config(&self) -> Config {
        let mut config = conf_dir::ours(&self.conf_dir).unwrap_or_default();
        let options = [(&self.state_dir, &mut config.state_dir), (&self.kubelet_dir, &mut config.kubelet_dir)];
        for (option, value) in options {
            if let Some(directory) = option {
                directory.clone_into(value);
            }
        }
        config
    }
}

/// Moves into the host's mount namespace, where the paths mean what they say. On the host nothing moves.
///
/// # Errors
/// In words: mostly that only root may.
pub fn enter_host() -> Result<(), String> {
    let entered = sys::enter_host_mounts().map(drop);
    entered.map_err(|error| format!("the host's mount namespace cannot be entered, which takes root: {error}"))
}

/// The same, for a command that then only looks at pods: what that doesn't take is dropped, as in a CHECK.
///
/// # Errors
/// Those of [`enter_host`].
pub fn enter_host_to_look() -> Result<(), String> {
    enter_host()?;
    privilege::confine(Task::Talk);
    Ok(())
}
