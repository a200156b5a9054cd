//! The plugin on a node: its binary where the runtime looks for plugins, and itself in kube-ovn's chain.
//!
//! First the binary, then the chain; the other way round to uninstall. So at no moment does a chain name a plugin that
//! is not there, which would keep every pod of the node from starting and from ending.

pub mod binary;
pub mod callers;
pub mod chain;
pub mod check;
pub mod doctor;
pub mod keep;
pub mod kube_ovn;
pub mod uninstall;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::conflist;
use crate::sys;

/// The plugin's name among others.
const NAME: &str = conflist::PLUGIN;

/// Where things are on the node.
#[derive(Clone, Debug)]
pub struct NodePaths {
    root: PathBuf,
    /// Where the runtime looks for plugins.
    pub bin_dir: PathBuf,
    /// Where it looks for lists.
    pub conf_dir: PathBuf,
}

impl NodePaths {
    /// These two, below `root`.
    #[must_use]
    pub fn below(root: &Path, bin_dir: &Path, conf_dir: &Path) -> Self {
        let root = Self { root: root.to_owned(), bin_dir: PathBuf::new(), conf_dir: PathBuf::new() };
        Self { bin_dir: root.place(bin_dir), conf_dir: root.place(conf_dir), ..root }
    }

    /// Where a path of the node is. As with make's DESTDIR, the root goes before absolute paths, and is nothing by default.
    #[must_use]
    pub fn place(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("/") {
            Ok(rest) if !self.is_this_machine() => self.root.join(rest),
            _ => path.to_owned(),
        }
    }

    /// Whether the node is this machine, and not a directory with one's files.
    #[must_use]
    pub fn is_this_machine(&self) -> bool {
        self.root.as_os_str().is_empty()
    }

    /// The installed binary.
    #[must_use]
    pub fn binary(&self) -> PathBuf {
        self.bin_dir.join(NAME)
    }
}

/// How the plugin gets into kube-ovn's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As it is in already; otherwise [`Mode::Conflist`].
    Auto,
    /// By a file in the directory of kube-ovn's network, which libcni 1.3 adds to the chain.
    DropIn,
    /// By an entry in kube-ovn's list, which every runtime reads.
    Conflist,
    /// Not at all: enough for NICs by NAD.
    None,
}

/// What was done, or would be.
#[derive(Debug, Default)]
pub struct Journal {
    dry: bool,
    lines: Vec<String>,
}

impl Journal {
    /// Nothing yet; with `dry`, nothing ever.
    #[must_use]
    pub fn new(dry: bool) -> Self {
        Self { dry, lines: Vec::new() }
    }

    /// Whether nothing is to be changed.
    #[must_use]
    pub fn is_dry(&self) -> bool {
        self.dry
    }

    /// What was done to a file, as a participle: "replaced".
    fn changed(&mut self, path: &Path, what: impl fmt::Display) {
        let would = if self.dry { "would be " } else { "" };
        self.say(path, format_args!("{would}{what}"));
    }

    /// How a file was found.
    fn say(&mut self, path: &Path, what: impl fmt::Display) {
        self.lines.push(format!("{}: {what}", path.display()));
    }

    /// The lines so far.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// Why the plugin could not be installed, or not removed.
#[derive(Debug)]
pub enum Error {
    /// A system call failed.
    System(sys::Error),
    /// A list could not be edited.
    List(PathBuf, conflist::file::Error),
    /// It must not be done, in words.
    Refused(String),
}

impl From<sys::Error> for Error {
    fn from(error: sys::Error) -> Self {
        Self::System(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(error) => write!(f, "{error}"),
            Self::List(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

/// Installs this very program, and puts it into the chain.
///
/// # Errors
/// See [`Error`]. What was done before stays, and is no harm: a binary that nobody calls.
pub fn install(places: &NodePaths, mode: Mode, journal: &mut Journal) -> Result<(), Error> {
    let _lock = binary::place(places, journal)?;
    chain::enter(places, mode, journal)
}
