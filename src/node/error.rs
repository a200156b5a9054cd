//! Why the plugin could not be installed or removed.

use std::path::PathBuf;

use crate::{conflist, sys};

/// Why the plugin could not be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    System(#[from] sys::Error),
    /// A list could not be read or edited.
    #[error("{}: {source}", path.display())]
    List {
        /// The list's file.
        path: PathBuf,
        /// What is wrong with it.
        source: conflist::file::Error,
    },
    /// The node's state forbids it; the sentence says why and what to do.
    #[error("{0}")]
    Refused(String),
}
