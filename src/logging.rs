//! Logs: to syslog, or to stderr where there is none; never to stdout, which belongs to the protocol.
//!
//! Most calls log little or nothing, so syslog is connected to at the first record that passes the level. All records of
//! a call together can hold it up for half a second at most, and none makes it fail: a log that takes nothing, or takes
//! its time, is given up.
//!
//! The time stamp that the syslog format carries is in UTC; journald and rsyslog put their own in its place.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, Formatter3164, LogFormat};

use crate::quote::LogLine;

/// Where the system's log takes records.
const SOCKET: &str = "/dev/log";
/// The name that records carry.
const PROCESS: &str = "vhostuser-hotplug";
/// Longest message, in bytes: what rsyslog takes in one piece, less some space for the header.
const MESSAGE_MAX: usize = 8000;
/// How long a log is waited for, over all records: it is given up then. One wait that begins within it may take as long
/// again.
const PATIENCE: Duration = Duration::from_millis(250);

static LOGGER: Logger = Logger { socket: OnceLock::new(), waited: AtomicU64::new(0), given_up: AtomicBool::new(false) };

/// Starts logging at level info, until [`set_level`] says otherwise. Costs nothing until there is something to log.
pub fn start() {
    // The only way to fail is that logging has been started already.
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// From now on only records of this level and the graver ones are logged.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

struct Logger {
    /// The connection to syslog, if it could be made.
    socket: OnceLock<Option<UnixDatagram>>,
    /// How long sending has taken so far, in microseconds.
    waited: AtomicU64,
    given_up: AtomicBool,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let message = one_line(*record.args());
        if !self.to_syslog(record.level(), &message) {
            // There is nowhere left to complain to. `eprintln!` would panic where this fails.
            let _ = writeln!(io::stderr(), "{PROCESS}: {}: {message}", record.level());
        }
    }

    fn flush(&self) {}
}

impl Logger {
    /// Sends one record; whether that worked.
    fn to_syslog(&self, level: Level, message: &str) -> bool {
        if self.given_up.load(Ordering::Relaxed) {
            return false;
        }
        let begun = Instant::now();
        let sent = self.socket.get_or_init(connect).as_ref().is_some_and(|socket| {
            let datagram = datagram(level, message);
            socket.send(&datagram).is_ok_and(|sent| sent == datagram.len())
        });
        let waited = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let waited = self.waited.fetch_add(waited, Ordering::Relaxed).saturating_add(waited);
        // One that takes a record now and then, just in time, would hold up the call as long as there are any.
        let is_slow = Duration::from_micros(waited) > PATIENCE;
        self.given_up.store(!sent || is_slow, Ordering::Relaxed);
        sent
    }
}

fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_write_timeout(Some(PATIENCE)).ok()?;
    socket.connect(SOCKET).ok()?;
    Some(socket)
}

/// The record in the format of RFC 3164.
fn datagram(level: Level, message: &str) -> Vec<u8> {
    let mut formatter = Formatter3164 {
        facility: Facility::LOG_DAEMON,
        hostname: None,
        process: PROCESS.to_owned(),
        pid: std::process::id(),
    };
    let mut bytes = Vec::with_capacity(message.len().saturating_add(64));
    let formatted = match level {
        Level::Error => formatter.err(&mut bytes, message),
        Level::Warn => formatter.warning(&mut bytes, message),
        Level::Info => formatter.info(&mut bytes, message),
        Level::Debug | Level::Trace => formatter.debug(&mut bytes, message),
    };
    // Writing to memory doesn't fail; a record cut short would still be worth sending.
    drop(formatted);
    bytes
}

/// The message as one line of bounded length. Parts of it come from pods: what could forge a second record, move a
/// terminal's cursor or reorder text on a screen is spelt out here even where its author forgot to quote it.
fn one_line(message: fmt::Arguments<'_>) -> String {
    let mut line = LogLine::new(MESSAGE_MAX);
    // It fails where it is full.
    let _ = line.write_fmt(message);
    line.into_text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_of_bounded_length() {
        let line = one_line(format_args!("détaché: a\nb\0{}c", "\u{1b}[2J\u{202e}"));
        assert_eq!(line, "détaché: a\\nb\\u{0}\\u{1b}[2J\\u{202e}c");
        let line = one_line(format_args!("{}", "\n".repeat(1 << 20)));
        assert!(line.len() < MESSAGE_MAX + 16 && line.ends_with('…'));
    }

    #[test]
    fn a_datagram_names_level_and_process() {
        let text = String::from_utf8(datagram(Level::Error, "went wrong")).unwrap();
        // 3 (daemon) * 8 + 3 (err)
        assert!(text.starts_with("<27>"), "{text}");
        assert!(text.ends_with(&format!(" vhostuser-hotplug[{}]: went wrong", std::process::id())), "{text}");
        assert!(datagram(Level::Debug, "x").starts_with(b"<31>"));
    }
}
