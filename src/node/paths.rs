//! Where things are on the node.

use std::path::{Path, PathBuf};

use super::PLUGIN;

/// Where things are on the node.
#[derive(Clone, Debug)]
pub struct NodePaths {
    root: PathBuf,
    /// The runtime's directory of plugins.
    pub bin_dir: PathBuf,
    /// The runtime's directory of network configurations.
    pub conf_dir: PathBuf,
}

impl NodePaths {
    /// Puts `root` before both directories, as [`NodePaths::place`] does.
    #[must_use]
    pub fn below(root: &Path, bin_dir: &Path, conf_dir: &Path) -> Self {
        let root = Self { root: root.to_owned(), bin_dir: PathBuf::new(), conf_dir: PathBuf::new() };
        Self { bin_dir: root.place(bin_dir), conf_dir: root.place(conf_dir), ..root }
    }

    /// Returns where a path of the node is. As with make's DESTDIR, the root is put before absolute paths; it is empty by
    /// default.
    #[must_use]
    pub fn place(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("/") {
            Ok(rest) if !self.is_this_machine() => self.root.join(rest),
            _ => path.to_owned(),
        }
    }

    /// Returns true if the node is this machine, and not a directory with a machine's files.
    #[must_use]
    pub fn is_this_machine(&self) -> bool {
        self.root.as_os_str().is_empty()
    }

    /// Returns the path of the installed binary.
    #[must_use]
    pub fn binary(&self) -> PathBuf {
        self.bin_dir.join(PLUGIN)
    }
}
