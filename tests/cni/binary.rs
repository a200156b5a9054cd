//! The binary itself: static, and content with a root directory that holds nothing else.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use crate::plugin::{ALL, BINARY, Call};
use crate::results::usual;
use crate::scene::Scene;

/// Segment types of an ELF file that only a dynamically linked one has.
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;

/// The types of the file's segments (elf(5): `Elf64_Ehdr` and `Elf64_Phdr`, little-endian).
fn segment_types(elf: &[u8]) -> Vec<u32> {
    let number = |place: usize, width: usize| {
        elf[place..place + width].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    };
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF file");
    let (table, width, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).map(|index| u32::try_from(number(table + index * width, 4)).unwrap()).collect()
}

#[test]
fn the_binary_is_static() {
    let types = segment_types(&fs::read(BINARY).unwrap());
    assert!(!types.contains(&PT_INTERP) && !types.contains(&PT_DYNAMIC), "segments: {types:?}");
    // That the look is the right one: this machine's `ip` asks for a loader.
    let ip = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"].iter().find_map(|path| fs::read(path).ok()).unwrap();
    assert!(segment_types(&ip).contains(&PT_INTERP));
}

#[test]
fn it_runs_in_a_root_that_holds_nothing_else() {
    let scene = Scene::new();
    let root = scene.path("root");
    fs::create_dir(&root).unwrap();
    // Not by this process: what another test starts meanwhile would have the file open for writing for a moment.
    assert!(Command::new("cp").arg(BINARY).arg(root.join("plugin")).status().unwrap().success());
    let arguments = [root.as_os_str(), OsStr::new("/plugin")];
    let run = |call: Call| {
        let process = call.command_of("/usr/sbin/chroot", &arguments);
        call.run_as(process)
    };
    assert_eq!(run(Call::bare("VERSION")).document()["supportedVersions"], serde_json::json!(ALL));
    for version in ALL {
        assert_eq!(run(Call::new("ADD", version, &scene)).printed().trim_end(), usual(version));
        run(Call::new("DEL", version, &scene)).silent();
        run(Call::new("ADD", version, &scene).member("name", "7")).refused(&[6]);
    }
    run(Call::new("STATUS", "1.1.0", &scene)).silent();
}
