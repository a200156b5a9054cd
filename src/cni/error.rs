//! The error object of the protocol.

use std::fmt;

use serde::Serialize;

use super::Version;
use crate::quote;

/// The codes that this plugin answers with.
///
/// 1 to 99 mean what the specification says and nothing else; from 100 on they are the plugin's own.
pub mod code {
    /// The configuration's `cniVersion` isn't one that this plugin, or the command, knows.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// An environment variable is missing or invalid; the message names it.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Input or output failed.
    pub const IO: u32 = 5;
    /// The configuration isn't the JSON that it should be.
    pub const DECODING: u32 = 6;
    /// A value of the configuration is wrong; the message names key and value.
    pub const INVALID_CONFIG: u32 = 7;
    /// It may succeed later: the runtime should try again.
    pub const TRY_AGAIN: u32 = 11;
    /// A different NIC already uses this name, alias, MAC address or socket.
    pub const CONFLICT: u32 = 100;
    /// The pod has no such emptyDir volume.
    pub const NO_VOLUME: u32 = 101;
    /// libvirt refused.
    pub const LIBVIRT: u32 = 102;
    /// The pod's files aren't what they must be, which is treated as an attack.
    pub const UNTRUSTED_FILES: u32 = 103;
    /// CHECK found that something that should be there isn't.
    pub const CHECK: u32 = 104;
    /// A defect of this plugin: it met a state that it takes for impossible.
    pub const INTERNAL: u32 = 199;
}

/// Longest `msg` that is printed, in bytes.
const MSG_MAX: usize = 4 << 10;
/// Longest `details` that are printed, in bytes.
const DETAILS_MAX: usize = 16 << 10;

/// Why a call failed, as the runtime and the operator get to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// One of [`code`].
    pub code: u32,
    /// A sentence that an operator can act on.
    pub msg: String,
    /// What lies behind it, such as the words of the system or of libvirt; may be empty.
    pub details: String,
}

/// The error as it is printed: section 5, "Error", of the specification.
#[derive(Serialize)]
struct Printed<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    details: &'a str,
}

impl Error {
    /// An error with this code and message, and no details.
    #[must_use]
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// [`code::INCOMPATIBLE_VERSION`].
    #[must_use]
    pub fn incompatible_version(msg: impl Into<String>) -> Self {
        Self::new(code::INCOMPATIBLE_VERSION, msg)
    }

    /// [`code::INVALID_ENVIRONMENT`]; the message must name the variables.
    #[must_use]
    pub fn invalid_environment(msg: impl Into<String>) -> Self {
        Self::new(code::INVALID_ENVIRONMENT, msg)
    }

    /// [`code::IO`].
    #[must_use]
    pub fn io(msg: impl Into<String>) -> Self {
        Self::new(code::IO, msg)
    }

    /// [`code::DECODING`].
    #[must_use]
    pub fn decoding(msg: impl Into<String>) -> Self {
        Self::new(code::DECODING, msg)
    }

    /// [`code::INVALID_CONFIG`]; the message must name the key and its value.
    #[must_use]
    pub fn invalid_config(msg: impl Into<String>) -> Self {
        Self::new(code::INVALID_CONFIG, msg)
    }

    /// [`code::TRY_AGAIN`].
    #[must_use]
    pub fn try_again(msg: impl Into<String>) -> Self {
        Self::new(code::TRY_AGAIN, msg)
    }

    /// [`code::CONFLICT`].
    #[must_use]
    pub fn conflict(msg: impl Into<String>) -> Self {
        Self::new(code::CONFLICT, msg)
    }

    /// [`code::NO_VOLUME`].
    #[must_use]
    pub fn no_volume(msg: impl Into<String>) -> Self {
        Self::new(code::NO_VOLUME, msg)
    }

    /// [`code::LIBVIRT`]; libvirt's own words belong into the details.
    #[must_use]
    pub fn libvirt(msg: impl Into<String>) -> Self {
        Self::new(code::LIBVIRT, msg)
    }

    /// [`code::UNTRUSTED_FILES`].
    #[must_use]
    pub fn untrusted_files(msg: impl Into<String>) -> Self {
        Self::new(code::UNTRUSTED_FILES, msg)
    }

    /// [`code::CHECK`].
    #[must_use]
    pub fn check(msg: impl Into<String>) -> Self {
        Self::new(code::CHECK, msg)
    }

    /// [`code::INTERNAL`].
    #[must_use]
    pub fn internal(msg: impl Into<String>) -> Self {
        Self::new(code::INTERNAL, msg)
    }

    /// The same error with these details.
    #[must_use]
    pub fn with_details(mut self, details: impl fmt::Display) -> Self {
        self.details = details.to_string();
        self
    }

    /// The error object of protocol version `version`: one line of JSON, of bounded length.
    #[must_use]
    pub fn to_json(&self, version: Version) -> String {
        // They end on an operator's terminal, by way of kubelet's events.
        let msg = quote::line(&self.msg, MSG_MAX);
        let details = quote::line(&self.details, DETAILS_MAX);
        let printed = Printed { cni_version: version.as_str(), code: self.code, msg: &msg, details: &details };
        // Strings and one number always serialise; should that ever change, an empty answer is still a failure.
        serde_json::to_string(&printed).unwrap_or_default()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.msg, self.code)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_the_four_keys_of_the_specification() {
        let error = Error::try_again("No VM \"yet\".").with_details("line\nbreak");
        assert_eq!(
            error.to_json(Version::V0_3_1),
            r#"{"cniVersion":"0.3.1","code":11,"msg":"No VM \"yet\".","details":"line\\nbreak"}"#
        );
    }

    #[test]
    fn an_endless_message_is_cut() {
        let json = Error::io("é".repeat(100_000)).with_details("x".repeat(100_000)).to_json(Version::NEWEST);
        assert!(json.len() < MSG_MAX + DETAILS_MAX + 200, "{}", json.len());
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
    }
}
