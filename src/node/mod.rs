//! The plugin on a node: its binary where the runtime looks for plugins, and its entry in kube-ovn's chain.
//!
//! [`mod@install`] puts the binary in place first and enters the chain then; [`uninstall`] goes the other way round. So no
//! chain ever names a plugin that isn't there, which would keep every pod of the node from starting and from ending.
//! [`keep`] repairs what others undo, [`check`] and [`doctor`] only look.

pub mod binary;
pub mod callers;
pub mod chain;
pub mod change_log;
pub mod check;
pub mod default_network;
pub mod doctor;
pub mod error;
pub mod install;
pub mod keep;
pub mod paths;
pub mod uninstall;

pub use change_log::ChangeLog;
pub use error::Error;
pub use install::{Mode, install};
pub use paths::NodePaths;

use crate::conflist::PLUGIN;
