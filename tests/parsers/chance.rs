//! Seeds, changed by chance: cut, doubled, overwritten, joined. Most of a fuzzer's ways, without its eyes.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::corpus::seeds;
use crate::for_all;
use crate::properties::{self, Property};

/// One change; places count modulo the input's length.
#[derive(Clone, Debug)]
enum Change {
    Overwrite(Index, Vec<u8>),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Cut(Index),
    Join(Index),
}

fn change() -> impl Strategy<Value = Change> {
    // Words at the edges of what a length or a count may be, beside any bytes.
    let word = prop_oneof![
        Just(0_u32),
        Just(1),
        Just(u32::MAX),
        Just(0x7fff_ffff),
        Just(0x8000_0000),
        Just(28),
        Just(4_194_304),
        Just(4_194_305),
        any::<u32>()
    ];
    let bytes = prop_oneof![
        vec(any::<u8>(), 1..9),
        word.clone().prop_map(|word| word.to_be_bytes().to_vec()),
        word.prop_map(|word| word.to_ne_bytes().to_vec()),
        "[<>&'\"\\\\/;=:{}\\[\\],\n\t 0-9a-z]{1,8}".prop_map(String::into_bytes),
    ];
    let place = any::<Index>;
    prop_oneof![
        4 => (place(), bytes.clone()).prop_map(|(at, bytes)| Change::Overwrite(at, bytes)),
        2 => (place(), bytes).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (place(), 1..64_usize).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (place(), 1..256_usize, 1..64_usize).prop_map(|(at, count, times)| Change::Repeat(at, count, times)),
        1 => place().prop_map(Change::Cut),
        1 => place().prop_map(Change::Join),
    ]
}

fn apply(change: &Change, bytes: &mut Vec<u8>, others: &[(String, Vec<u8>)]) {
    // The end is a place too.
    let place = |at: &Index, bytes: &[u8]| at.index(bytes.len() + 1);
    match change {
        Change::Overwrite(at, new) => {
            let at = place(at, bytes);
            let end = bytes.len().min(at + new.len());
            bytes.splice(at..end, new.iter().copied());
        }
        Change::Insert(at, new) => {
            let at = place(at, bytes);
            bytes.splice(at..at, new.iter().copied());
        }
        Change::Remove(at, count) => {
            let at = place(at, bytes);
            let end = bytes.len().min(at + count);
            bytes.drain(at..end);
        }
        Change::Repeat(at, count, times) => {
            let at = place(at, bytes);
            let end = bytes.len().min(at + count);
            let part = bytes[at..end].repeat(*times);
            bytes.splice(at..at, part);
        }
        Change::Cut(at) => bytes.truncate(place(at, bytes)),
        Change::Join(other) => bytes.extend_from_slice(&other.get(others).1),
    }
}

fn holds_by_chance((target, holds): Property) {
    let seeds = seeds(target);
    let inputs = (any::<Index>(), vec(change(), 1..8)).prop_map(|(seed, changes)| {
        let mut bytes = seed.get(&seeds).1.clone();
        changes.iter().for_each(|change| apply(change, &mut bytes, &seeds));
        Input(bytes)
    });
    for_all(256, inputs, |input| holds(&input.0));
}

/// Shown as it may be pasted into a test, since its bytes are what is wanted.
#[derive(Clone)]
struct Input(Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

#[test]
fn calls() {
    holds_by_chance(property("cni_call"));
}

#[test]
fn domains() {
    holds_by_chance(property("domain_xml"));
}

#[test]
fn conversations() {
    holds_by_chance(property("libvirt_client"));
}

#[test]
fn frames() {
    holds_by_chance(property("libvirt_frame"));
}

#[test]
fn databases() {
    holds_by_chance(property("ovsdb"));
}

#[test]
fn tables() {
    holds_by_chance(property("proc_tables"));
}

#[test]
fn files() {
    holds_by_chance(property("state_files"));
}

#[test]
fn messages() {
    holds_by_chance(property("vhost_user"));
}

fn property(name: &str) -> Property {
    *properties::ALL.iter().find(|(target, _)| *target == name).expect("it is in the list")
}
