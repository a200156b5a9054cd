//! Every file of the corpus: the real peers' words, and each input that once broke a property.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use crate::properties::{ALL, libvirt_client};

fn directory() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus"].iter().collect()
}

/// A target's seeds, by their files' names.
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let listing = std::fs::read_dir(directory().join(target)).expect("each target has a corpus");
    let paths = listing.map(|entry| entry.expect("the corpus can be listed").path());
    let mut seeds: Vec<_> = paths
        .map(|path| {
            let name = path.strip_prefix(directory()).expect("it is in the corpus").display().to_string();
            (name, std::fs::read(&path).expect("a seed can be read"))
        })
        .collect();
    seeds.sort();
    seeds
}

#[test]
fn every_seed_keeps_every_property_of_its_target() {
    for (target, holds) in ALL {
        let seeds = seeds(target);
        assert!(seeds.len() >= 2, "{target} has {} seeds", seeds.len());
        for (name, bytes) in seeds {
            catch_unwind(AssertUnwindSafe(|| holds(&bytes))).unwrap_or_else(|_| panic!("fuzz/corpus/{name}"));
        }
    }
}

#[test]
fn every_folder_of_the_corpus_is_a_targets() {
    for entry in std::fs::read_dir(directory()).expect("there is a corpus") {
        let name = entry.expect("the corpus can be listed").file_name();
        assert!(ALL.iter().any(|(target, _)| *target == name), "{name:?}");
    }
}

/// Else the fuzzer would start, and perhaps stay, at the first calls.
#[test]
fn the_recorded_conversations_go_to_their_end() {
    for (name, calls) in [("story", 13), ("story-refused", 14)] {
        let seeds = seeds("libvirt_client");
        let path = format!("libvirt_client/{name}");
        let (_, bytes) = seeds.iter().find(|(seed, _)| *seed == path).expect("it is in the corpus");
        assert_eq!(libvirt_client::calls_made(&libvirt_client::renumbered(bytes)), calls, "{name}");
    }
}
