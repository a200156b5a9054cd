//! The calls: their numbers, arguments and replies, and the checks of a reply.
//!
//! Numbers and layouts: `src/remote/remote_protocol.x` of libvirt; the newest call used here is from libvirt 4.4.0.

use super::xdr::{self, Reader, Writer};

/// Most domains in one reply (`REMOTE_DOMAIN_LIST_MAX`).
pub const DOMAINS_MAX: usize = 16_384;
/// Smallest domain on the wire: an empty name, a UUID, an id.
const DOMAIN_SIZE_MIN: usize = 24;
/// Most authentication types in one reply (`REMOTE_AUTH_TYPE_LIST_MAX`).
const AUTH_TYPES_MAX: usize = 20;

/// One procedure of the remote program.
pub trait Call {
    const PROCEDURE: i32;
    /// What the caller is doing, for messages: it follows "while".
    const DOING: &'static str;
    type Reply;

    /// Writes the arguments.
    ///
    /// # Errors
    /// If an argument can't be sent.
    fn encode(&self, writer: &mut Writer) -> Result<(), xdr::Error>;

    /// Reads and checks the reply. The caller checks that nothing follows it.
    ///
    /// # Errors
    /// If the reply is invalid.
    fn decode(reader: &mut Reader<'_>) -> Result<Self::Reply, xdr::Error>;
}

/// A domain (`remote_nonnull_domain`). Calls find it only by its UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name. The peer chose it: quote it with [`quote::value`](crate::quote::value) before logging.
    pub name: String,
    pub uuid: [u8; 16],
    /// Its number while it runs, else -1. A restarted domain has the same UUID and another id.
    pub id: i32,
}

impl Domain {
    /// Returns true if it is running or paused.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.id >= 0
    }

    /// Returns its UUID as 32 hexadecimal digits.
    #[must_use]
    pub fn uuid_digits(&self) -> String {
        self.uuid.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn encode(&self, writer: &mut Writer) -> Result<(), xdr::Error> {
        writer.string(&self.name)?;
        writer.opaque(&self.uuid);
        writer.i32(self.id);
        Ok(())
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, xdr::Error> {
        let domain = Self { name: reader.string()?.to_owned(), uuid: reader.opaque()?, id: reader.i32()? };
        if domain.id < -1 {
            return Err(xdr::Error::Impossible { what: "domain id", value: domain.id.into() });
        }
        Ok(domain)
    }
}

/// The state of a domain (`virDomainState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainState {
    NoState,
    Running,
    Blocked,
    /// Its vCPUs are stopped; the process is there.
    Paused,
    ShuttingDown,
    ShutOff,
    Crashed,
    /// The guest has suspended itself.
    Suspended,
    Other(i32),
}

impl From<i32> for DomainState {
    fn from(word: i32) -> Self {
        match word {
            0 => Self::NoState,
            1 => Self::Running,
            2 => Self::Blocked,
            3 => Self::Paused,
            4 => Self::ShuttingDown,
            5 => Self::ShutOff,
            6 => Self::Crashed,
            7 => Self::Suspended,
            other => Self::Other(other),
        }
    }
}

/// An authentication method (`remote_auth_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthType {
    None,
    Sasl,
    /// polkit, by the uid and pid of the socket's peer.
    Polkit,
    Other(i32),
}

/// Asks for the authentication methods. It must be the first call: with polkit configured, it is this call that admits
/// root (`remoteDispatchAuthList`).
pub struct AuthList;

impl Call for AuthList {
    const PROCEDURE: i32 = 66;
    const DOING: &'static str = "asking how to authenticate";
    type Reply = Vec<AuthType>;

    fn encode(&self, _: &mut Writer) -> Result<(), xdr::Error> {
        Ok(())
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self::Reply, xdr::Error> {
        reader.array(AUTH_TYPES_MAX, 4, |r| {
            Ok(match r.i32()? {
                0 => AuthType::None,
                1 => AuthType::Sasl,
                2 => AuthType::Polkit,
                other => AuthType::Other(other),
            })
        })
    }
}

/// Authenticates with polkit. The reply is true if authentication is complete.
pub struct AuthPolkit;

impl Call for AuthPolkit {
    const PROCEDURE: i32 = 70;
    const DOING: &'static str = "authenticating with polkit";
    type Reply = bool;

    fn encode(&self, _: &mut Writer) -> Result<(), xdr::Error> {
        Ok(())
    }

    fn decode(reader: &mut Reader<'_>) -> Result<bool, xdr::Error> {
        reader.bool()
    }
}

/// Opens the hypervisor connection, once per socket. It may be repeated after a refusal.
pub struct Open<'a> {
    /// The URI, without transport and query.
    pub uri: &'a str,
    /// Opens it read-only: the daemon then refuses every change (`VIR_CONNECT_RO`).
    pub read_only: bool,
}

impl Call for Open<'_> {
    const PROCEDURE: i32 = 1;
    const DOING: &'static str = "opening the hypervisor connection";
    type Reply = ();

    fn encode(&self, writer: &mut Writer) -> Result<(), xdr::Error> {
        writer.some_string(self.uri)?;
        writer.u32(u32::from(self.read_only));
        Ok(())
    }

    fn decode(_: &mut Reader<'_>) -> Result<(), xdr::Error> {
        Ok(())
    }
}

/// Asks for the daemon's version: major × 1,000,000 + minor × 1,000 + release.
pub struct LibraryVersion;

impl Call for LibraryVersion {
    const PROCEDURE: i32 = 157;
    const DOING: &'static str = "asking for its version";
    type Reply = u64;

    fn encode(&self, _: &mut Writer) -> Result<(), xdr::Error> {
        Ok(())
    }

    fn decode(reader: &mut Reader<'_>) -> Result<u64, xdr::Error> {
        reader.u64()
    }
}

/// Lists domains (since libvirt 0.9.13).
pub struct ListDomains {
    /// `virConnectListAllDomainsFlags`: 0 for all, 1 for the active ones.
    pub flags: u32,
}

impl Call for ListDomains {
    const PROCEDURE: i32 = 273;
    const DOING: &'static str = "listing the domains";
    type Reply = Vec<Domain>;

    fn encode(&self, writer: &mut Writer) -> Result<(), xdr::Error> {
        writer.i32(1); // the domains, not their count alone
        writer.u32(self.flags);
        Ok(())
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Vec<Domain>, xdr::Error> {
        let domains = reader.array(DOMAINS_MAX, DOMAIN_SIZE_MIN, Domain::decode)?;
        let count = reader.u32()?;
        if usize::try_from(count) != Ok(domains.len()) {
            return Err(xdr::Error::Impossible { what: "number of domains", value: count.into() });
        }
        Ok(domains)
    }
}

/// Asks for the state of a domain. The daemon needs no job for it, so it answers at once even while an attach hangs.
pub struct GetState<'a> {
    pub domain: &'a Domain,
}

impl Call for GetState<'_> {
    const PROCEDURE: i32 = 212;
    const DOING: &'static str = "asking for the state of a domain";
    type Reply = DomainState;

    fn encode(&self, writer: &mut Writer) -> Result<(), xdr::Error> {
        self.domain.encode(writer)?;
        writer.u32(0);
        Ok(())
    }

    fn decode(reader: &mut Reader<'_>) -> Result<DomainState, xdr::Error> {
        let state = reader.i32()?.into();
        reader.i32()?; // the reason, a number whose meaning depends on the state
        Ok(state)
    }
}

/// Asks if a domain is persistent.
pub struct IsPersistent<'a> {
    pub domain: &'a Domain,
}

impl Call for IsPersistent<'_> {
    const PROCEDURE: i32 = 151;
    const DOING: &'static str = "asking whether a domain is persistent";
    type Reply = bool;

    fn encode(&self, writer: &mut Writer) -> Result<(), xdr::Error> {
        self.domain.encode(writer)
    }

    fn decode(reader: &mut Reader<'_>) -> Result<bool, xdr::Error> {
        reader.bool()
    }
}

/// Asks for the XML of a domain.
pub struct GetXml<'a> {
    pub domain: &'a Domain,
    /// `virDomainXMLFlags`: 0 for the live XML, 2 for the persistent one.
    pub flags: u32,
}

impl Call for GetXml<'_> {
    const PROCEDURE: i32 = 14;
    const DOING: &'static str = "asking for the XML of a domain";
    type Reply = String;

    fn encode(&self, writer: &mut Writer) -> Result<(), xdr::Error> {
        self.domain.encode(writer)?;
        writer.u32(self.flags);
        Ok(())
    }

    fn decode(reader: &mut Reader<'_>) -> Result<String, xdr::Error> {
        reader.string().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests;
