//! The commands of the protocol.

use std::fmt;

use super::Version;

/// A command that works on a network configuration; VERSION, which needs none, is answered apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach a container to the network, or apply this plugin's part of it.
    Add,
    /// Undo an ADD.
    Del,
    /// Is what ADD made still there?
    Check,
    /// Undo every ADD whose attachment isn't listed as valid.
    Gc,
    /// Is the plugin ready for ADD?
    Status,
}

impl Command {
    /// The first version of the specification that has it.
    #[must_use]
    pub fn since(self) -> Version {
        match self {
            Self::Add | Self::Del => Version::V0_1_0,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        })
    }
}

/// What `CNI_COMMAND` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Which versions does the plugin speak?
    Version,
    /// Anything that works on a configuration.
    Call(Command),
}
