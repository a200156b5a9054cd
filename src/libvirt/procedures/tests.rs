//! Bytes written by hand from the protocol's description, and mutations of them.

use super::*;
use crate::libvirt::devices::DetachAlias;
use crate::libvirt::error::Refusal;
use crate::libvirt::events::{Arrival, EventKind, Subscribe};
use crate::libvirt::jobs::GetJobStats;

/// A domain "vm" with id 1, as it is on the wire.
fn vm() -> Vec<u8> {
    [&[0, 0, 0, 2, b'v', b'm', 0, 0][..], &[9; 16], &[0, 0, 0, 1]].concat()
}

fn domain() -> Domain {
    Domain { name: "vm".into(), uuid: [9; 16], id: 1 }
}

fn written<C: Call>(call: &C) -> Vec<u8> {
    let mut writer = Writer::new();
    call.encode(&mut writer).unwrap();
    writer.into_bytes()
}

/// The whole answer, and nothing after it.
fn read<C: Call>(_: &C, bytes: &[u8]) -> Result<C::Reply, xdr::Error> {
    let mut reader = Reader::new(bytes);
    let reply = C::decode(&mut reader)?;
    reader.finish().map(|()| reply)
}

#[test]
fn arguments_are_written_as_libvirt_reads_them() {
    let uri = [&[0, 0, 0, 1, 0, 0, 0, 14][..], b"qemu:///system", &[0, 0], &[0; 4]].concat();
    assert_eq!(written(&Open { uri: "qemu:///system", read_only: false }), uri);
    let uri = [&[0, 0, 0, 1, 0, 0, 0, 14][..], b"qemu:///session", &[0, 0, 0, 0, 1]].concat();
    let uri = [&uri[..7], &[15], &uri[8..]].concat();
    assert_eq!(written(&Open { uri: "qemu:///session", read_only: true }), uri);
    assert_eq!(written(&ListDomains { flags: 1 }), [0, 0, 0, 1, 0, 0, 0, 1]);
    assert_eq!(written(&IsPersistent { domain: &domain() }), vm());
    assert_eq!(written(&GetState { domain: &domain() }), [&vm()[..], &[0; 4]].concat());
    assert_eq!(written(&GetXml { domain: &domain(), flags: 2 }), [&vm()[..], &[0, 0, 0, 2]].concat());
    let alias = [&vm()[..], &[0, 0, 0, 4], b"ua-a", &[0, 0, 0, 1]].concat();
    assert_eq!(written(&DetachAlias { domain: &domain(), alias: "ua-a", flags: 1 }), alias);
}

#[test]
fn a_list_of_domains_is_a_count_the_domains_and_the_count_again() {
    let two = [&[0, 0, 0, 2][..], &vm(), &vm(), &[0, 0, 0, 2]].concat();
    assert_eq!(read(&ListDomains { flags: 0 }, &two), Ok(vec![domain(), domain()]));
    assert_eq!(read(&ListDomains { flags: 0 }, &[0; 8]), Ok(vec![]));
    for cut in 0..two.len() {
        assert!(read(&ListDomains { flags: 0 }, &two[..cut]).is_err(), "cut at {cut}");
    }
    let mut lie = two;
    *lie.last_mut().unwrap() = 3;
    assert_eq!(
        read(&ListDomains { flags: 0 }, &lie),
        Err(xdr::Error::Impossible { what: "number of domains", value: 3 })
    );
}

#[test]
fn answers_of_one_value_are_that_value() {
    let auth = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 9];
    let types = vec![AuthType::None, AuthType::Sasl, AuthType::Polkit, AuthType::Other(9)];
    assert_eq!(read(&AuthList, &auth), Ok(types));
    assert_eq!(read(&AuthList, &[0, 0, 0, 21]), Err(xdr::Error::LongArray { count: 21, most: 20 }));
    assert_eq!(read(&AuthPolkit, &[0, 0, 0, 1]), Ok(true));
    assert_eq!(read(&LibraryVersion, &[0, 0, 0, 0, 0, 0xa7, 0xe4, 0x78]), Ok(11_003_000));
    assert_eq!(read(&GetState { domain: &domain() }, &[0, 0, 0, 3, 0, 0, 0, 1]), Ok(DomainState::Paused));
    assert_eq!(read(&GetState { domain: &domain() }, &[0, 0, 0, 8, 0, 0, 0, 1]), Ok(DomainState::Other(8)));
    assert_eq!(read(&Open { uri: "", read_only: false }, &[]), Ok(()));
    assert_eq!(read(&Open { uri: "", read_only: false }, &[0]), Err(xdr::Error::Trailing(1)));
    let list = |id: [u8; 4]| [&[0, 0, 0, 1], &vm()[..24], &id, &[0, 0, 0, 1]].concat();
    assert_eq!(read(&ListDomains { flags: 0 }, &list([0xff; 4])).unwrap()[0].id, -1);
    assert!(read(&ListDomains { flags: 0 }, &list([0xff, 0xff, 0xff, 0xfe])).is_err());
}

/// Numbers that look random and are the same each time (xorshift64).
fn numbers() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(0x9e37_79b9_7f4a_7c15_u64), |x| {
        let x = x ^ (x << 13);
        let x = x ^ (x >> 7);
        Some(x ^ (x << 17))
    })
}

#[test]
fn no_bytes_make_a_decoder_panic_or_invent_anything() {
    let seeds = [
        [&[0, 0, 0, 2][..], &vm(), &vm(), &[0, 0, 0, 2]].concat(),
        [&[0; 4][..], &vm(), &[0, 0, 0, 4], b"ua-a"].concat(),
        [&[0, 0, 0, 42, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 4][..], b"gone", &[0; 36]].concat(),
        vec![0; 64],
    ];
    let mut numbers = numbers();
    let mut next = |below: usize| usize::try_from(numbers.next().unwrap() >> 20).unwrap() % below;
    for round in 0..60_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=next(4) {
            let at = next(bytes.len());
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, u8::try_from(next(256)).unwrap()][next(6)];
        }
        bytes.truncate(next(bytes.len() + 1));
        let whole = bytes.len();
        if let Ok(domains) = read(&ListDomains { flags: 0 }, &bytes) {
            // What was read took at least its own size on the wire.
            let size: usize = domains.iter().map(|domain| 24 + domain.name.len()).sum();
            assert!(size + 8 <= whole);
        }
        let _ = read(&AuthList, &bytes);
        let _ = read(&GetXml { domain: &domain(), flags: 0 }, &bytes);
        let _ = read(&GetJobStats { domain: &domain() }, &bytes);
        let _ = read(&Subscribe { kind: EventKind::Lifecycle, domain: &domain() }, &bytes);
        let _ = Refusal::decode("testing", &mut Reader::new(&bytes));
        for kind in [EventKind::Lifecycle, EventKind::DeviceRemoved] {
            let _ = Arrival::decode(kind, &bytes);
        }
    }
}
