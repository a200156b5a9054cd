//! Where things are on this node: as the plugin's own object in the runtime's configuration says, unless an option does.

use std::path::PathBuf;

use clap::Args;

use crate::config::Config;
use crate::conflist::conf_dir;
use crate::privilege::{self, Task};
use crate::sys;

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
    /// Returns the plugin's configuration on this node: the first valid one, else the defaults.
    pub fn config(&self) -> Config {
        let mut config = conf_dir::own_config(&self.conf_dir).unwrap_or_default();
        let options = [(&self.state_dir, &mut config.state_dir), (&self.kubelet_dir, &mut config.kubelet_dir)];
        for (option, value) in options {
            if let Some(directory) = option {
                directory.clone_into(value);
            }
        }
        config
    }
}

/// Enters the host's mount namespace, in which the node's paths are valid. Does nothing on the host.
///
/// # Errors
/// A sentence: mostly that only root may.
pub fn enter_host() -> Result<(), String> {
    let entered = sys::enter_host_mounts().map(drop);
    entered.map_err(|error| format!("cannot enter the host's mount namespace, which needs root: {error}"))
}

/// Enters it for a command that then only looks at pods, and drops what that doesn't need, as a CHECK does.
///
/// # Errors
/// Those of [`enter_host`].
pub fn enter_host_to_look() -> Result<(), String> {
    enter_host()?;
    privilege::confine(Task::Talk);
    Ok(())
}
