//! Events that the daemon sends after a subscription.
//!
//! These are the calls with callback numbers (316 and its messages, since libvirt 1.2.2), not their predecessors.

use super::procedures::{Call, Domain};
use super::xdr::{self, Reader, Writer};

/// What can be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The domain starts, stops, pauses, …
    Lifecycle,
    DeviceAdded,
    /// The guest has released a device and QEMU has removed it. A domain that dies sends none of these.
    DeviceRemoved,
    /// The guest refused to release a device. QEMU never sends this for a PCI device on x86.
    DeviceRemovalFailed,
}

impl EventKind {
    const ALL: [Self; 4] = [Self::Lifecycle, Self::DeviceAdded, Self::DeviceRemoved, Self::DeviceRemovalFailed];

    /// Returns the number to subscribe with (`virDomainEventID`).
    fn id(self) -> i32 {
        match self {
            Self::Lifecycle => 0,
            Self::DeviceRemoved => 15,
            Self::DeviceAdded => 19,
            Self::DeviceRemovalFailed => 22,
        }
    }

    /// Returns the procedure number of its messages.
    fn procedure(self) -> i32 {
        match self {
            Self::Lifecycle => 318,
            Self::DeviceRemoved => 333,
            Self::DeviceAdded => 354,
            Self::DeviceRemovalFailed => 367,
        }
    }

    /// Returns the kind whose messages have this procedure number; `None` if nothing here subscribes to it.
    #[must_use]
    pub fn of_procedure(procedure: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.procedure() == procedure)
    }
}

/// What became of a domain (`virDomainEventType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was defined or redefined.
    Defined,
    /// Its definition was removed.
    Undefined,
    Started,
    /// Its vCPUs stopped.
    Suspended,
    Resumed,
    /// It is gone, whatever the reason.
    Stopped,
    /// It is about to stop.
    Shutdown,
    /// The guest suspended itself.
    GuestSuspended,
    /// It crashed; the process may still be there.
    Crashed,
    Other(i32),
}

impl From<i32> for Change {
    fn from(word: i32) -> Self {
        match word {
            0 => Self::Defined,
            1 => Self::Undefined,
            2 => Self::Started,
            3 => Self::Suspended,
            4 => Self::Resumed,
            5 => Self::Stopped,
            6 => Self::Shutdown,
            7 => Self::GuestSuspended,
            8 => Self::Crashed,
            other => Self::Other(other),
        }
    }
}

/// Something that happened to a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Lifecycle {
        domain: Domain,
        change: Change,
        /// The reason: a number whose meaning depends on the change.
        detail: i32,
    },
    DeviceAdded {
        domain: Domain,
        alias: String,
    },
    DeviceRemoved {
        domain: Domain,
        alias: String,
    },
    DeviceRemovalFailed {
        domain: Domain,
        alias: String,
    },
}

impl Event {
    /// Returns the domain that it happened to.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        match self {
            Self::Lifecycle { domain, .. }
            | Self::DeviceAdded { domain, .. }
            | Self::DeviceRemoved { domain, .. }
            | Self::DeviceRemovalFailed { domain, .. } => domain,
        }
    }

    /// Returns its kind.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Lifecycle { .. } => EventKind::Lifecycle,
            Self::DeviceAdded { .. } => EventKind::DeviceAdded,
            Self::DeviceRemoved { .. } => EventKind::DeviceRemoved,
            Self::DeviceRemovalFailed { .. } => EventKind::DeviceRemovalFailed,
        }
    }
}

/// An event with the number of its subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The number that the subscription was given.
    pub callback: i32,
    pub event: Event,
}

impl Arrival {
    /// Reads the message of an event.
    ///
    /// # Errors
    /// If it is not one.
    pub fn decode(kind: EventKind, payload: &[u8]) -> Result<Self, xdr::Error> {
        let mut reader = Reader::new(payload);
        let callback = reader.i32()?;
        let domain = Domain::decode(&mut reader)?;
        let event = match kind {
            EventKind::Lifecycle => Event::Lifecycle { domain, change: reader.i32()?.into(), detail: reader.i32()? },
            EventKind::DeviceAdded => Event::DeviceAdded { domain, alias: reader.string()?.to_owned() },
            EventKind::DeviceRemoved => Event::DeviceRemoved { domain, alias: reader.string()?.to_owned() },
            EventKind::DeviceRemovalFailed => Event::DeviceRemovalFailed { domain, alias: reader.string()?.to_owned() },
        };
        reader.finish()?;
        Ok(Self { callback, event })
    }
}

/// Subscribes to one kind of event of one domain. The reply is the subscription's number; the first is 0.
pub struct Subscribe<'a> {
    pub kind: EventKind,
    pub domain: &'a Domain,
}

impl Call for Subscribe<'_> {
    const PROCEDURE: i32 = 316;
    const DOING: &'static str = "subscribing to the events of a domain";
    type Reply = i32;

    fn encode(&self, writer: &mut Writer) -> Result<(), xdr::Error> {
        writer.i32(self.kind.id());
        writer.u32(1); // this domain, not all
        self.domain.encode(writer)
    }

    fn decode(reader: &mut Reader<'_>) -> Result<i32, xdr::Error> {
        match reader.i32()? {
            callback @ 0.. => Ok(callback),
            value => Err(xdr::Error::Impossible { what: "callback number", value: value.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DEVICE_REMOVED for callback 0, of domain "vm" with id 1, alias "ua-a".
    fn removed() -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, 0, 0, 0, 2, b'v', b'm', 0, 0];
        bytes.extend_from_slice(&[9; 16]);
        bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 4, b'u', b'a', b'-', b'a']);
        bytes
    }

    #[test]
    fn a_device_event_is_read_to_its_last_byte() {
        let bytes = removed();
        let arrival = Arrival::decode(EventKind::DeviceRemoved, &bytes).unwrap();
        let domain = Domain { name: "vm".into(), uuid: [9; 16], id: 1 };
        let event = Event::DeviceRemoved { domain, alias: "ua-a".into() };
        assert_eq!((event.kind(), event.domain().id), (EventKind::DeviceRemoved, 1));
        assert_eq!(arrival, Arrival { callback: 0, event });
        for cut in 0..bytes.len() {
            assert!(Arrival::decode(EventKind::DeviceRemoved, &bytes[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [&bytes[..], &[0; 4]].concat();
        assert_eq!(Arrival::decode(EventKind::DeviceRemoved, &longer), Err(xdr::Error::Trailing(4)));
    }

    #[test]
    fn a_lifecycle_event_has_two_words() {
        let mut bytes = removed();
        bytes.truncate(bytes.len() - 8);
        bytes.extend_from_slice(&[0, 0, 0, 5, 0, 0, 0, 1]);
        let arrival = Arrival::decode(EventKind::Lifecycle, &bytes).unwrap();
        assert!(matches!(arrival.event, Event::Lifecycle { change: Change::Stopped, detail: 1, .. }));
        assert_eq!(Change::from(9), Change::Other(9));
    }

    #[test]
    fn each_kind_is_known_by_the_procedure_of_its_messages() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::of_procedure(kind.procedure()), Some(kind));
        }
        assert_eq!(EventKind::of_procedure(319), None);
    }

    #[test]
    fn a_subscription_names_kind_and_domain() {
        let domain = Domain { name: "vm".into(), uuid: [9; 16], id: 1 };
        let mut writer = Writer::new();
        Subscribe { kind: EventKind::DeviceRemoved, domain: &domain }.encode(&mut writer).unwrap();
        let bytes = writer.into_bytes();
        assert_eq!(&bytes[..16], &[0, 0, 0, 15, 0, 0, 0, 1, 0, 0, 0, 2, b'v', b'm', 0, 0]);
        assert_eq!(&bytes[16..], &[&[9; 16][..], &[0, 0, 0, 1]].concat());
        assert_eq!(Subscribe::decode(&mut Reader::new(&[0; 4])), Ok(0));
        assert!(Subscribe::decode(&mut Reader::new(&[0xff; 4])).is_err());
    }
}
