//! Errors of the client, and what a caller may conclude from them.
//!
//! A refusal is identified by its number only. Its message depends on the daemon's locale and release. Where the number
//! says too little, read the domain's XML.

use std::io;

use super::xdr::{self, Reader};
use crate::quote;

/// Longest message of a daemon, in characters; the rest is cut off.
pub const MESSAGE_MAX: usize = 512;

/// Error numbers of libvirt (`virErrorNumber` in `include/libvirt/virterror.h`).
mod code {
    pub const INTERNAL_ERROR: i32 = 1;
    pub const NO_SUPPORT: i32 = 3;
    pub const RPC: i32 = 39;
    pub const NO_DOMAIN: i32 = 42;
    pub const AUTH_FAILED: i32 = 45;
    pub const OPERATION_INVALID: i32 = 55;
    pub const OPERATION_TIMEOUT: i32 = 68;
    pub const AUTH_CANCELLED: i32 = 79;
    pub const OPERATION_UNSUPPORTED: i32 = 84;
    pub const AUTH_UNAVAILABLE: i32 = 94;
    pub const DEVICE_MISSING: i32 = 99;
}

/// An error of the client. `doing` reads after "while", such as "asking for the XML of a domain".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("libvirt did not answer in time while {doing}")]
    TimedOut { doing: &'static str },
    #[error("libvirt closed the connection while {doing}")]
    Disconnected { doing: &'static str },
    #[error("the socket to libvirt failed while {doing}: {source}")]
    Io { doing: &'static str, source: io::Error },
    #[error("libvirt broke its protocol while {doing}: {what}")]
    Protocol { doing: &'static str, what: String },
    #[error("nothing was asked of libvirt while {doing}: {what}")]
    Argument { doing: &'static str, what: String },
    #[error("the connection to libvirt is of no use for {doing} any more, since earlier {because}")]
    Unusable { doing: &'static str, because: String },
    #[error("{0}")]
    Authentication(String),
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
}

/// An error as the daemon reports it (`remote_error` in `remote_protocol.x`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("libvirt refused while {doing}: {} (libvirt error {code}, domain {domain})", self.quoted())]
pub struct Refusal {
    pub doing: &'static str,
    /// libvirt's error number (`virErrorNumber`).
    pub code: i32,
    /// The part of libvirt that raised it (`virErrorDomain`). Don't rely on it.
    pub domain: i32,
    /// The message's first 512 characters. The peer chose it: quote it with [`quote::text`] before logging.
    pub message: Option<String>,
    /// The first of the two numbers that go with the error: errno for error 38, else mostly -1.
    pub number: i32,
}

impl Refusal {
    /// Returns the message in quotes, for a log.
    fn quoted(&self) -> String {
        self.message.as_deref().map_or("it does not say why".to_owned(), quote::text)
    }

    /// Reads a `remote_error`.
    ///
    /// # Errors
    /// If it is not one.
    pub fn decode(doing: &'static str, reader: &mut Reader<'_>) -> Result<Self, xdr::Error> {
        let (code, domain) = (reader.i32()?, reader.i32()?);
        let message = reader.option(Reader::string)?.map(|text| text.chars().take(MESSAGE_MAX).collect());
        reader.i32()?; // level: warning or error
        // The domain and, below, the network of the error. libvirt sets neither for the calls made here.
        reader.option(|r| Ok((r.string()?, r.opaque::<16>()?, r.i32()?)))?;
        for _ in 0..3 {
            reader.option(Reader::string)?; // the message's parts, which the message holds already
        }
        let number = reader.i32()?;
        reader.i32()?;
        reader.option(|r| Ok((r.string()?, r.opaque::<16>()?)))?;
        Ok(Self { doing, code, domain, message, number })
    }
}

impl Error {
    /// Returns true if the same call may succeed later: the daemon was away, slow or busy.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Disconnected { .. } | Self::Io { .. } | Self::Unusable { .. } => true,
            Self::Refused(_) => self.is_busy(),
            Self::Protocol { .. } | Self::Argument { .. } | Self::Authentication(_) => false,
        }
    }

    /// Returns the daemon's error, if it answered with one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    fn code_is(&self, code: i32) -> bool {
        self.refusal().is_some_and(|refusal| refusal.code == code)
    }

    /// Returns true if the domain does not exist (42).
    #[must_use]
    pub fn is_no_domain(&self) -> bool {
        self.code_is(code::NO_DOMAIN)
    }

    /// Returns true if the domain is not running, or not persistent, and the call needs it to be (55).
    #[must_use]
    pub fn is_wrong_state(&self) -> bool {
        self.code_is(code::OPERATION_INVALID)
    }

    /// Returns true if libvirt does not support the call in this situation (84), such as job statistics of a domain
    /// that is migrating in.
    #[must_use]
    pub fn is_not_for_now(&self) -> bool {
        self.code_is(code::OPERATION_UNSUPPORTED)
    }

    /// Returns true if the device to detach is not there (99). A detach by alias returns [`Error::is_internal`]
    /// instead.
    #[must_use]
    pub fn is_device_missing(&self) -> bool {
        self.code_is(code::DEVICE_MISSING)
    }

    /// Returns true for libvirt's internal error (1), which has many reasons: QEMU refused a command, for instance, or
    /// a detach by alias found no such device.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.code_is(code::INTERNAL_ERROR)
    }

    /// Returns true if another operation held the domain for libvirt's own 30 s (68).
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.code_is(code::OPERATION_TIMEOUT)
    }

    /// Returns true if the daemon does not know the procedure (39), or its driver does not support it (3).
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.code_is(code::RPC) || self.code_is(code::NO_SUPPORT)
    }

    /// Returns true if the daemon does not admit this caller.
    #[must_use]
    pub fn is_authentication(&self) -> bool {
        let codes = [code::AUTH_FAILED, code::AUTH_CANCELLED, code::AUTH_UNAVAILABLE];
        matches!(self, Self::Authentication(_)) || codes.into_iter().any(|code| self.code_is(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what libvirt 11.3 sends for a lookup of an unknown domain, to the last byte.
    fn no_domain() -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 42, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 6];
        bytes.extend_from_slice(b"gone x\0\0");
        bytes.extend_from_slice(&[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4]);
        bytes.extend_from_slice(b"%1$s");
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[0xff; 8]);
        bytes.extend_from_slice(&[0, 0, 0, 0]);
        bytes
    }

    fn refused(code: i32, message: &str) -> Error {
        let refusal = Refusal { doing: "testing", code, domain: 10, message: Some(message.into()), number: -1 };
        Error::Refused(Box::new(refusal))
    }

    #[test]
    fn an_error_is_read_to_its_last_byte() {
        let bytes = no_domain();
        let mut reader = Reader::new(&bytes);
        let refusal = Refusal::decode("looking", &mut reader).unwrap();
        assert_eq!(reader.finish(), Ok(()));
        assert_eq!((refusal.code, refusal.domain, refusal.number), (42, 10, -1));
        assert_eq!(refusal.message.as_deref(), Some("gone x"));
        for cut in 0..bytes.len() {
            assert!(Refusal::decode("looking", &mut Reader::new(&bytes[..cut])).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn an_error_about_a_domain_and_a_network_is_read_too() {
        let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, b'v', 0, 0, 0];
        bytes.extend_from_slice(&[7; 16]);
        bytes.extend_from_slice(&[0xff; 4]);
        bytes.extend_from_slice(&[0; 12 + 8]);
        bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[7; 16]);
        let mut reader = Reader::new(&bytes);
        let refusal = Refusal::decode("testing", &mut reader).unwrap();
        assert_eq!(reader.finish(), Ok(()));
        assert_eq!(refusal.message, None);
        assert!(refusal.to_string().contains("it does not say why"));
    }

    #[test]
    fn what_a_daemon_says_stands_in_quotes() {
        let told = refused(1, "no\n\u{1b}[2J\", level=\"info").to_string();
        assert!(told.contains(r#": "no\n\u{1b}[2J\", level=\"info" (libvirt error 1"#), "{told}");
    }

    #[test]
    fn each_refusal_is_known_by_its_number_in_any_language() {
        type Question = fn(&Error) -> bool;
        let table: [(i32, &str, Question); 10] = [
            (42, "Domain not found", Error::is_no_domain),
            (55, "Requested operation is not valid: domain is not running", Error::is_wrong_state),
            (99, "device not found: no device found at address", Error::is_device_missing),
            (1, "internal error: no device found with alias ua-x", Error::is_internal),
            (68, "Timed out during operation: cannot acquire state change lock", Error::is_busy),
            (39, "unknown procedure: 392", Error::is_unsupported),
            (3, "this function is not supported by the connection driver", Error::is_unsupported),
            (45, "authentication failed: access denied by policy", Error::is_authentication),
            (79, "authentication cancelled", Error::is_authentication),
            (94, "authentication unavailable", Error::is_authentication),
        ];
        let questions: Vec<Question> = table.iter().map(|row| row.2).collect();
        for (code, message, question) in table {
            let other: Vec<i32> = (0..200).filter(|other| question(&refused(*other, message))).collect();
            assert!(other.contains(&code), "{message}");
            for text in [message, "その操作は実行できません", ""] {
                let error = refused(code, text);
                assert!(question(&error) && !question(&Error::TimedOut { doing: "testing" }), "{text}");
                let differs = |other: &&Question| !std::ptr::fn_addr_eq(**other, question) && other(&error);
                assert_eq!(questions.iter().filter(differs).count(), 0, "{text} is taken for something else too");
            }
        }
    }

    #[test]
    fn only_what_time_can_heal_is_retryable() {
        assert!(Error::TimedOut { doing: "testing" }.is_retryable());
        assert!(refused(68, "busy").is_retryable());
        assert!(!refused(67, "non unique alias").is_retryable());
        assert!(!Error::Protocol { doing: "testing", what: String::new() }.is_retryable());
    }
}
