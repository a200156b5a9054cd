//! The client: one method for each libvirt call.
//!
//! After a timeout or a lost connection the daemon may still do what it was asked. Connect again and read the domain's
//! XML before concluding anything.

use std::fmt;
use std::os::unix::net::UnixStream;

use super::connection::Connection;
use super::devices::{Attach, Detach, DetachAlias};
use super::error::Error;
use super::events::{Arrival, Event, EventKind, Subscribe};
use super::jobs::{GetJobStats, Operation};
use super::procedures::{
    AuthList, AuthPolkit, AuthType, Call, Domain, DomainState, GetState, GetXml, IsPersistent, LibraryVersion,
    ListDomains, Open,
};
use crate::deadline::Deadline;

/// The hypervisor connection to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uri {
    /// `qemu:///system`: served by a daemon that runs as root. Such a daemon accepts `qemu:///session` too.
    System,
    /// `qemu:///session`: the only URI that a daemon of another user serves.
    Session,
}

impl Uri {
    /// Returns the URI as it is sent.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "qemu:///system",
            Self::Session => "qemu:///session",
        }
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a connection may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Full,
    /// Read-only: the daemon refuses every change. It is a flag of the open call, which every socket honours
    /// (`remoteDispatchConnectOpen`): a daemon of another user than root has no read-only socket.
    ReadOnly,
}

/// Selects the definition to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xml {
    Live,
    /// The one for the next start. For a transient domain libvirt returns a reduced live one.
    Persistent,
}

/// Selects the definition to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Live,
    /// The one for the next start.
    Config,
}

impl Scope {
    fn flags(self) -> u32 {
        match self {
            Self::Live => 1,
            Self::Config => 2,
        }
    }
}

/// An open hypervisor connection.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    subscriptions: Vec<Subscription>,
}

#[derive(Debug)]
struct Subscription {
    callback: i32,
    kind: EventKind,
    domain: [u8; 16],
}

impl Subscription {
    fn covers(&self, arrival: &Arrival) -> bool {
        self.callback == arrival.callback
            && self.kind == arrival.event.kind()
            && self.domain == arrival.event.domain().uuid
    }
}

impl Client {
    /// Authenticates on a stream that is connected to a daemon, and opens the first of `uris` that the daemon serves, for no
    /// more than `access`. A daemon that has just started answers only after it has probed its QEMU binaries, which can
    /// take minutes. libvirt allows another open on the same connection after a refused one.
    ///
    /// # Errors
    /// [`Error::Authentication`] if the daemon asks for anything but none or polkit; the last refusal if it serves none of
    /// the URIs; those of [`Connection::call`].
    pub fn open_any(
        stream: UnixStream,
        uris: &[Uri],
        access: Access,
        deadline: Deadline,
    ) -> Result<(Self, Uri), Error> {
        let mut connection = Connection::new(stream)?;
        authenticate(&mut connection, deadline)?;
        let mut refused = Error::Argument { doing: Open::DOING, what: "no URI was given".to_owned() };
        for uri in uris {
            match connection.call(&Open { uri: uri.as_str(), read_only: access == Access::ReadOnly }, deadline) {
                Ok(()) => return Ok((Self { connection, subscriptions: Vec::new() }, *uri)),
                // libvirt has no error number for the wrong URI (`virConnectValidateURIPath`, src/driver.c). Root's
                // daemon accepts both, any other only the session's, which comes last. So the last error is the one
                // that matters.
                Err(error @ Error::Refused(_)) if !error.is_authentication() => refused = error,
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }

    /// Returns the daemon's version, such as 11003000 for 11.3.0.
    ///
    /// # Errors
    /// Those of [`Connection::call`].
    pub fn library_version(&mut self, deadline: Deadline) -> Result<u64, Error> {
        self.connection.call(&LibraryVersion, deadline)
    }

    /// Returns the active domains (running or paused): at most 16384, and at most one frame.
    ///
    /// # Errors
    /// Those of [`Connection::call`].
    pub fn running_domains(&mut self, deadline: Deadline) -> Result<Vec<Domain>, Error> {
        self.connection.call(&ListDomains { flags: 1 }, deadline) // VIR_CONNECT_LIST_DOMAINS_ACTIVE
    }

    /// Returns all domains, including those that are not running, within the same bounds.
    ///
    /// # Errors
    /// Those of [`Connection::call`].
    pub fn domains(&mut self, deadline: Deadline) -> Result<Vec<Domain>, Error> {
        self.connection.call(&ListDomains { flags: 0 }, deadline)
    }

    /// Returns the state of a domain. libvirt answers at once, even while an attach hangs.
    ///
    /// # Errors
    /// A refusal with [`Error::is_no_domain`] if it no longer exists; those of [`Connection::call`].
    pub fn state(&mut self, domain: &Domain, deadline: Deadline) -> Result<DomainState, Error> {
        self.connection.call(&GetState { domain }, deadline)
    }

    /// Returns true if a domain is persistent.
    ///
    /// # Errors
    /// A refusal with [`Error::is_no_domain`] if it no longer exists; those of [`Connection::call`].
    pub fn is_persistent(&mut self, domain: &Domain, deadline: Deadline) -> Result<bool, Error> {
        self.connection.call(&IsPersistent { domain }, deadline)
    }

    /// Returns the XML of a domain, at most 4 MiB. libvirt 11.0 to 11.4 first waits up to 30 s for a running job.
    ///
    /// # Errors
    /// A refusal with [`Error::is_no_domain`] or [`Error::is_busy`]; those of [`Connection::call`].
    pub fn xml(&mut self, domain: &Domain, which: Xml, deadline: Deadline) -> Result<String, Error> {
        let flags = match which {
            Xml::Live => 0,
            Xml::Persistent => 2, // VIR_DOMAIN_XML_INACTIVE
        };
        self.connection.call(&GetXml { domain, flags }, deadline)
    }

    /// Returns the long job of a domain, if there is one. Until it ends, most calls that change the domain wait. This
    /// call itself waits up to 30 s for a running short job.
    ///
    /// # Errors
    /// A refusal with [`Error::is_busy`], or with [`Error::is_wrong_state`] while the domain is still migrating in;
    /// those of [`Connection::call`].
    pub fn operation(&mut self, domain: &Domain, deadline: Deadline) -> Result<Option<Operation>, Error> {
        self.connection.call(&GetJobStats { domain }, deadline)
    }

    /// Attaches the device that `xml` describes.
    ///
    /// # Errors
    /// Refusals with [`Error::is_wrong_state`], [`Error::is_busy`] and others; those of [`Connection::call`].
    pub fn attach(&mut self, domain: &Domain, xml: &str, scope: Scope, deadline: Deadline) -> Result<(), Error> {
        self.connection.call(&Attach { domain, xml, flags: scope.flags() }, deadline)
    }

    /// Asks the guest to release the device with this alias, and does not wait for it. The device is gone when
    /// [`EventKind::DeviceRemoved`] arrives or the XML no longer shows it.
    ///
    /// # Errors
    /// Refusals with [`Error::is_internal`] if there is no such device, if the guest has not answered an earlier
    /// request yet, or if QEMU does not forward it; with [`Error::is_busy`], and others; those of [`Connection::call`].
    pub fn detach_alias(
        &mut self,
        domain: &Domain,
        alias: &str,
        scope: Scope,
        deadline: Deadline,
    ) -> Result<(), Error> {
        self.connection.call(&DetachAlias { domain, alias, flags: scope.flags() }, deadline)
    }

    /// Detaches the device that `xml` describes. libvirt waits up to 5 s for the guest, then reports success with the
    /// device still there.
    ///
    /// # Errors
    /// As for [`Client::detach_alias`].
    pub fn detach_xml(&mut self, domain: &Domain, xml: &str, scope: Scope, deadline: Deadline) -> Result<(), Error> {
        self.connection.call(&Detach { domain, xml, flags: scope.flags() }, deadline)
    }

    /// Subscribes to a kind of event of a domain until the connection ends. Subscribe before you cause the event: past
    /// events are not repeated.
    ///
    /// # Errors
    /// A refusal with [`Error::is_unsupported`] before libvirt 1.2.2; one with code 8 for the same subscription twice;
    /// those of [`Connection::call`].
    pub fn subscribe(&mut self, kind: EventKind, domain: &Domain, deadline: Deadline) -> Result<(), Error> {
        let callback = self.connection.call(&Subscribe { kind, domain }, deadline)?;
        self.subscriptions.push(Subscription { callback, kind, domain: domain.uuid });
        Ok(())
    }

    /// Returns the next event of a subscription, queued or new; `None` at the deadline.
    ///
    /// # Errors
    /// Those of [`Connection::next_event`].
    pub fn next_event(&mut self, deadline: Deadline) -> Result<Option<Event>, Error> {
        while let Some(arrival) = self.connection.next_event(deadline)? {
            if self.subscriptions.iter().any(|subscription| subscription.covers(&arrival)) {
                return Ok(Some(arrival.event));
            }
            self.connection.skip("waiting for an event")?;
            // A stream of unwanted events must not outlast the deadline.
            if deadline.passed() {
                break;
            }
        }
        Ok(None)
    }

    /// Counts an event that the caller ignores. Their number is limited for each connection.
    ///
    /// # Errors
    /// [`Error::Protocol`] over the limit.
    pub fn skip(&mut self, doing: &'static str) -> Result<(), Error> {
        self.connection.skip(doing)
    }
}

/// Authenticates by one of the methods that a unix socket allows.
fn authenticate(connection: &mut Connection, deadline: Deadline) -> Result<(), Error> {
    let types = connection.call(&AuthList, deadline)?;
    if types.contains(&AuthType::None) {
        return Ok(());
    }
    if types.contains(&AuthType::Polkit) {
        return match connection.call(&AuthPolkit, deadline)? {
            true => Ok(()),
            false => Err(Error::Authentication("polkit did not complete the authentication at libvirt".to_owned())),
        };
    }
    Err(Error::Authentication(if types.contains(&AuthType::Sasl) {
        "libvirt asks for SASL (auth_unix_rw = \"sasl\" in the daemon's configuration), which is not supported: set \
         auth_unix_rw to \"none\" or \"polkit\""
            .to_owned()
    } else {
        format!(
            "libvirt asks for authentication of a kind that is not supported ({types:?} while {}): set auth_unix_rw \
             to \"none\" or \"polkit\"",
            AuthList::DOING
        )
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::super::xdr::Writer;
    use super::*;

    /// Builds a DEVICE_REMOVED message, as it is on the wire.
    fn removed(callback: i32, uuid: [u8; 16]) -> Vec<u8> {
        let mut writer = Writer::new();
        for word in [0x2000_8086, 1, 333, 2, 1, 0, callback] {
            writer.i32(word);
        }
        writer.string("vm").unwrap();
        writer.opaque(&uuid);
        writer.i32(1);
        writer.string("ua-a").unwrap();
        let bytes = writer.into_bytes();
        let length = u32::try_from(bytes.len() + 4).unwrap();
        [&length.to_be_bytes()[..], &bytes].concat()
    }

    #[test]
    fn only_what_was_subscribed_to_is_an_event() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let subscription = Subscription { callback: 3, kind: EventKind::DeviceRemoved, domain: [9; 16] };
        let mut client = Client { connection: Connection::new(ours).unwrap(), subscriptions: vec![subscription] };
        let foreign = [removed(2, [9; 16]), removed(3, [8; 16])].concat();
        theirs.write_all(&[&foreign[..], &removed(3, [9; 16])].concat()).unwrap();
        let now = || Deadline::after(Duration::ZERO);
        // After the deadline only one is handled at a time, so a flood of foreign events cannot prolong the wait.
        assert_eq!(client.next_event(now()).unwrap(), None);
        assert_eq!(client.next_event(now()).unwrap(), None);
        assert!(
            matches!(client.next_event(now()).unwrap(), Some(Event::DeviceRemoved { alias, .. }) if alias == "ua-a")
        );
    }
}
