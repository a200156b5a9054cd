//! What a pod without the volume pays, in system calls. They are counted against those of the benchmark's no-op, a plugin
//! that only prints prevResult: so the start of a process, which is the toolchain's, is left out, and no clock is asked.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use support::tool;

use crate::plugin::{BINARY, Call};
use crate::scene::Scene;

/// What each call does beyond what the no-op does for it, and why.
const BEYOND: [(&str, usize, &str); 6] = [
    ("ioctl", 1, "is stdin a terminal? Then a person has started it, and gets the usage instead of silence"),
    ("poll", 2, "stdin is waited for with a limit, once for the configuration and once for its end"),
    (
        "statx",
        2,
        "is CNI_NETNS the plugin's own namespace? (one of the two is std's question whether the kernel has statx)",
    ),
    ("openat", 1, "the pod's directory of emptyDirs"),
    ("openat2", 1, "the volume in it: not there, so there is nothing to do"),
    ("close", 1, "that directory"),
];

/// Of the allocator and of reading in larger or smaller pieces: bounded, but not counted to the last.
const BUFFERS: [&str; 6] = ["brk", "mmap", "mprotect", "mremap", "munmap", "read"];

fn syscalls(scene: &Scene, call: &Call, program: &str) -> BTreeMap<String, usize> {
    let log = scene.path("strace.log");
    let words = ["-f", "-qq", "-o", log.to_str().unwrap(), program].map(OsStr::new);
    call.run_as(call.command_of("strace", &words)).printed();
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(&log).unwrap().lines() {
        // "PID NAME(ARGUMENTS…"; ends of processes and signals have no such form.
        let name = line.split_once(' ').and_then(|(_, rest)| rest.trim_start().split_once('(')).map(|(name, _)| name);
        if let Some(name) = name.filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')) {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    counts
}

#[test]
fn an_add_for_a_pod_without_the_volume_makes_a_handful_of_system_calls() {
    let scene = Scene::new();
    let volumes = "pods/8f3a1c52-0b6e-4a7d-9c41-5a0f4de9b7c1/volumes/kubernetes.io~empty-dir";
    std::fs::create_dir_all(scene.path("kubelet").join(volumes)).unwrap();
    let call = Call::new("ADD", "1.0.0", &scene);
    let (ours, least) = (syscalls(&scene, &call, BINARY), syscalls(&scene, &call, tool("noop").to_str().unwrap()));

    let more = |name: &str| ours.get(name).unwrap_or(&0).saturating_sub(*least.get(name).unwrap_or(&0));
    for name in ours.keys().filter(|name| !BUFFERS.contains(&name.as_str())) {
        // Builds with debug assertions look whether a descriptor is open before they close it.
        let checked = usize::from(name == "fcntl" && cfg!(debug_assertions));
        let allowed = BEYOND.iter().find(|(known, ..)| known == name).map_or(0, |(_, count, _)| *count);
        assert_eq!(more(name), allowed + checked, "{name}: {ours:?}\nagainst {least:?}");
    }
    for (name, count, why) in BEYOND {
        assert_eq!(more(name), count, "{name} ({why}) is not made any more: {ours:?}\nagainst {least:?}");
    }
    let buffers: usize = BUFFERS.iter().map(|name| more(name)).sum();
    assert!(buffers <= 4, "{buffers} more for memory and reading: {ours:?}\nagainst {least:?}");
}
