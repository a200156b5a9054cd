//! One frame of libvirt's RPC: its length, its header, and its payload as every answer and event that it could be.
//!
//! What is decoded must encode to the very bytes that it came from (XDR has one spelling for each value, and the decoders
//! read to the last byte), so nothing is skipped, guessed or lost.

use vhostuser_hotplug::libvirt::error::{MESSAGE_MAX, Refusal};
use vhostuser_hotplug::libvirt::events::{Arrival, Change, Event, EventKind, Subscribe};
use vhostuser_hotplug::libvirt::jobs::GetJobStats;
use vhostuser_hotplug::libvirt::message::{FRAME_MAX, FRAME_MIN, Frame, LENGTH_SIZE, frame, frame_length};
use vhostuser_hotplug::libvirt::procedures::{
    AuthList, AuthPolkit, AuthType, Call, DOMAINS_MAX, Domain, DomainState, GetState, GetXml, IsPersistent,
    LibraryVersion, ListDomains,
};
use vhostuser_hotplug::libvirt::xdr::{self, Reader, Writer};

use super::said;

pub fn holds(bytes: &[u8]) {
    if let Some(word) = bytes.first_chunk::<LENGTH_SIZE>() {
        match frame_length(*word) {
            Ok(length) => assert!((FRAME_MIN..=FRAME_MAX).contains(&length)),
            Err(error) => drop(said(&error)),
        }
    }
    let whole = match Frame::parse(bytes.to_vec()) {
        Ok(whole) => whole,
        Err(error) => return drop(said(&error)),
    };
    let payload = whole.payload();
    assert_eq!(payload.len() + FRAME_MIN, bytes.len());
    let again = frame(&whole.header, payload).expect("what came in one frame goes into one");
    assert_eq!(again[LENGTH_SIZE..], bytes[LENGTH_SIZE..]);
    as_answers(payload);
    as_refusal(payload);
    as_events(payload);
}

fn as_answers(payload: &[u8]) {
    answer::<AuthList>(payload, |types, writer| {
        writer.u32(u32::try_from(types.len()).unwrap());
        for kind in types {
            writer.i32(match kind {
                AuthType::None => 0,
                AuthType::Sasl => 1,
                AuthType::Polkit => 2,
                AuthType::Other(other) => *other,
            });
        }
    });
    answer::<AuthPolkit>(payload, |done, writer| writer.u32((*done).into()));
    answer::<LibraryVersion>(payload, |version, writer| writer.opaque(&version.to_be_bytes()));
    answer::<ListDomains>(payload, |domains, writer| {
        assert!(domains.len() <= DOMAINS_MAX);
        let count = u32::try_from(domains.len()).unwrap();
        writer.u32(count);
        domains.iter().for_each(|one| domain(one, writer));
        writer.u32(count);
    });
    answer::<IsPersistent<'_>>(payload, |persistent, writer| writer.u32((*persistent).into()));
    answer::<GetXml<'_>>(payload, |xml, writer| writer.string(xml).unwrap());
    answer::<Subscribe<'_>>(payload, |callback, writer| {
        assert!(*callback >= 0);
        writer.i32(*callback);
    });
    // Of many figures only one is kept.
    if let Err(error) = GetJobStats::decode(&mut Reader::new(payload)) {
        said(&error);
    }
    // The reason is not kept, so that only the first word can come back.
    if let Ok(state) = GetState::decode(&mut Reader::new(payload)) {
        let word = match state {
            DomainState::NoState => 0,
            DomainState::Running => 1,
            DomainState::Blocked => 2,
            DomainState::Paused => 3,
            DomainState::ShuttingDown => 4,
            DomainState::ShutOff => 5,
            DomainState::Crashed => 6,
            DomainState::Suspended => 7,
            DomainState::Other(other) => other,
        };
        assert_eq!(payload[..4], word.to_be_bytes());
    }
}

/// The payload as the answer to a call: what is read must be written the same.
fn answer<C: Call>(payload: &[u8], write: impl FnOnce(&C::Reply, &mut Writer)) {
    let mut reader = Reader::new(payload);
    let decoded = C::decode(&mut reader);
    let read = payload.len() - reader.left();
    match decoded {
        Ok(reply) => {
            let mut writer = Writer::new();
            write(&reply, &mut writer);
            assert_eq!(writer.into_bytes(), payload[..read], "while {}", C::DOING);
            assert_eq!(reader.finish().is_ok(), read == payload.len());
        }
        Err(error) => drop(said(&error)),
    }
}

fn domain(domain: &Domain, writer: &mut Writer) {
    assert!(domain.id >= -1 && !domain.name.contains('\0'));
    assert_eq!(domain.uuid_digits().len(), 32);
    writer.string(&domain.name).unwrap();
    writer.opaque(&domain.uuid);
    writer.i32(domain.id);
}

fn as_refusal(payload: &[u8]) {
    let mut reader = Reader::new(payload);
    match Refusal::decode("testing", &mut reader) {
        Ok(refusal) => {
            said(&refusal);
            assert!(refusal.message.is_none_or(|message| message.chars().count() <= MESSAGE_MAX));
            assert_eq!(payload[..8], [refusal.code.to_be_bytes(), refusal.domain.to_be_bytes()].concat());
        }
        Err(error) => drop(said(&error)),
    }
}

fn as_events(payload: &[u8]) {
    for kind in [EventKind::Lifecycle, EventKind::DeviceAdded, EventKind::DeviceRemoved, EventKind::DeviceRemovalFailed]
    {
        match Arrival::decode(kind, payload) {
            Ok(arrival) => {
                assert_eq!(arrival.event.kind(), kind);
                assert_eq!(written(&arrival), payload);
            }
            Err(error) => {
                said(&error);
                assert!(!matches!(error, xdr::Error::LongArray { .. }), "events have no arrays");
            }
        }
    }
}

fn written(arrival: &Arrival) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.i32(arrival.callback);
    domain(arrival.event.domain(), &mut writer);
    match &arrival.event {
        Event::Lifecycle { change, detail, .. } => {
            writer.i32(match change {
                Change::Defined => 0,
                Change::Undefined => 1,
                Change::Started => 2,
                Change::Suspended => 3,
                Change::Resumed => 4,
                Change::Stopped => 5,
                Change::Shutdown => 6,
                Change::GuestSuspended => 7,
                Change::Crashed => 8,
                Change::Other(other) => *other,
            });
            writer.i32(*detail);
        }
        Event::DeviceAdded { alias, .. }
        | Event::DeviceRemoved { alias, .. }
        | Event::DeviceRemovalFailed { alias, .. } => writer.string(alias).unwrap(),
    }
    writer.into_bytes()
}
