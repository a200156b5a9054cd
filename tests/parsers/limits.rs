//! Inputs as large as each parser takes them, of the shapes that would cost the most: a parser whose time grew faster than
//! its input would need many minutes for one of these.

use std::ffi::OsStr;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use vhostuser_hotplug::cni::{Args, Command, NetConf, Version};
use vhostuser_hotplug::libvirt::error::Refusal;
use vhostuser_hotplug::libvirt::xdr::{Reader, STRING_MAX, Writer};
use vhostuser_hotplug::pod::unix_sockets::{OfPath, Socket};
use vhostuser_hotplug::pod::{cgroup, mounts};
use vhostuser_hotplug::vm::domain::Description;

/// What stdin may have (`cni::serve`).
const STDIN: usize = 4 << 20;
/// As much as a table of the kernel's has that lists 200,000 sockets.
const TABLE: usize = 16 << 20;
/// CPU time that is far more than any of these takes.
const CPU_MAX: Duration = Duration::from_secs(60);

/// As many of `part` as make `size` bytes.
fn many(part: &str, size: usize) -> String {
    part.repeat(size / part.len())
}

/// Does the work on this thread, and bounds the CPU time that it takes: a busy machine does not stretch that.
fn in_time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = cpu_time();
    let outcome = work();
    let took = cpu_time() - begun;
    assert!(took < CPU_MAX, "{what}: {took:?}");
    outcome
}

/// Returns the CPU time of this thread.
fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let microseconds = (usage.user_time() + usage.system_time()).num_microseconds();
    Duration::from_micros(u64::try_from(microseconds).unwrap())
}

#[test]
fn a_domain() {
    for part in ["&lt;", "<!---->", "<b a='' b='' c=''/>", "<![CDATA[]]>"] {
        let document = format!("<domain>{}</domain>", many(part, STRING_MAX));
        let _ = in_time(part, || Description::parse(&document));
    }
    for document in
        [format!("<domain a='{}'/>", many("&amp;", STRING_MAX)), many("<a>", STRING_MAX), many("<", STRING_MAX)]
    {
        let _ = in_time(&document[..20], || Description::parse(&document));
    }
}

#[test]
fn a_configuration() {
    let conf =
        |rest: &str| format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"prevResult\":{{{rest}}}}}").into_bytes();
    for part in ["\"cniVersion\":1,", "\"interfaces\":[],"] {
        let text = conf(&format!("{}\"z\":0", many(part, STDIN - 100)));
        let answer = in_time(part, || {
            let conf = NetConf::parse(text, Command::Add).unwrap();
            let result = conf.prev_result().unwrap().unwrap();
            (result.interfaces(), result.answer(Version::V1_0_0, None)).1
        });
        assert!(answer.contains("\"cniVersion\":\"1.0.0\"") && !answer.contains("\"cniVersion\":1"), "{part}");
    }
    for part in ["[", "{\"a\":"] {
        let text = conf(&format!("\"a\":{}", many(part, STDIN - 100)));
        let _ = in_time(part, || NetConf::parse(text, Command::Add));
    }
    for part in [";", "=", "A=;", "A=B=C;"] {
        let value = many(part, 128 << 10);
        in_time(part, || assert_eq!(Args::new(OsStr::new(&value)).get("A"), None));
    }
}

#[test]
fn a_table() {
    for part in ["\\040", "1 1 1:1 / /\n", "0: 2 0 00010000 1 01 1 /a\n"] {
        let table = many(part, TABLE);
        in_time(part, || mounts::mounts(table.as_bytes()).count());
        let mut sockets = OfPath::default();
        let mut note = |line: &[u8]| Socket::parse(line).and_then(|socket| sockets.add(|path| path == b"/a", &socket));
        in_time(part, || table.as_bytes().split(|byte| *byte == b'\n').filter_map(&mut note).count());
    }
}

#[test]
fn a_process() {
    for part in ["0::/", "/pod", "-", "\n"] {
        // As much as is read of a cgroup table (`pod::process`).
        let table = many(part, 64 << 10);
        in_time(part, || assert_eq!(cgroup::pod_of(&table, &table), None));
    }
}

#[test]
fn a_refusal() {
    for part in ["\n", "\u{202e}", "x"] {
        let mut writer = Writer::new();
        for word in [1, 2, 1] {
            writer.i32(word);
        }
        writer.string(&many(part, STRING_MAX)).unwrap();
        (0..8).for_each(|_| writer.i32(0));
        let bytes = writer.into_bytes();
        let refusal = in_time(part, || Refusal::decode("testing", &mut Reader::new(&bytes)));
        assert!(refusal.unwrap().to_string().len() < 8192);
    }
}
