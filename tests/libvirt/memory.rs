//! A daemon that sends without end, or claims that it will, does not grow the client.
//!
//! Peak memory (VmHWM) is of a whole process and never falls, so each measurement runs in a process of its own: this
//! test program, started again with the socket in its environment.

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use vhostuser_hotplug::deadline::Deadline;
use vhostuser_hotplug::libvirt::Xml;

use crate::harness::{Double, open, plain, soon};

const SOCKET: &str = "VHU_TEST_MEMORY_SOCKET";

/// The peak of this process's resident memory so far, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn what_is_kept_is_bounded() {
    if let Some(socket) = std::env::var_os(SOCKET) {
        let mut client = open(UnixStream::connect(socket).unwrap(), soon()).unwrap();
        let domain = plain(&mut client);
        let before = peak();
        let error = client.xml(&domain, Xml::Live, Deadline::after(Duration::from_secs(3))).unwrap_err();
        println!("\npeak {} {error}", peak() - before);
        return;
    }
    // In KiB: a frame of 4 MiB while it grows, and what the allocator does with it; nothing where nothing is sent.
    for (lie, bound) in [
        (json!({"endless": 4_259_868}), 12_288),
        (json!({"endless": 33_554_436}), 512),
        (json!({"claim": 4_259_868}), 512),
        (json!({"claim": 0xffff_ffffu32}), 512),
        (json!({"first-word": 0x0040_0000}), 512),
        (json!({"event-flood": 0}), 4_096),
        (json!("unknown-event-flood"), 1_024),
    ] {
        let double = Double::lying("xml", &lie);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::what_is_kept_is_bounded", "--nocapture", "--test-threads=1"])
            .env(SOCKET, double.dir.join("socket"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{lie}: {text}");
        let line = text.lines().find_map(|line| line.strip_prefix("peak ")).expect("the other process measured");
        println!("{lie}: {line}");
        let grown: u64 = line.split(' ').next().unwrap().parse().unwrap();
        assert!(grown <= bound, "{lie}: the peak grew by {grown} KiB, over {bound}");
    }
}
