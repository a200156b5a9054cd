//! Logs: to syslog, or to stderr where there is none; never to stdout, which belongs to the protocol.
//!
//! Most calls log little or nothing, so syslog is connected to at the first record that passes the level. No record can
//! hold up a call for long or make it fail: a log that takes nothing is given up.
//!
//! The time stamp that the syslog format carries is in UTC; journald and rsyslog put their own in its place.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, Formatter3164, LogFormat};

/// Where the system's log takes records.
const SOCKET: &str = "/dev/log";
/// The name that records carry.
const PROCESS: &str = "vhostuser-hotplug";
/// Longest message, in bytes: what rsyslog takes in one piece, less some space for the header.
const MESSAGE_MAX: usize = 8000;
/// How long a full log is waited for; once, since it is given up then.
const PATIENCE: Duration = Duration::from_millis(250);

static LOGGER: Logger = Logger { socket: OnceLock::new(), given_up: AtomicBool::new(false) };

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
        let message = one_line(&record.args().to_string());
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
        let sent = self.socket.get_or_init(connect).as_ref().is_some_and(|socket| {
            let datagram = datagram(level, message);
            socket.send(&datagram).is_ok_and(|sent| sent == datagram.len())
        });
        self.given_up.store(!sent, Ordering::Relaxed);
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

/// The message as one line of bounded length. Parts of it come from pods, so what could forge a second record, move a
/// terminal's cursor or reorder text on a screen is spelt out.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len().min(MESSAGE_MAX));
    for c in message.chars() {
        if line.len() > MESSAGE_MAX {
            line.push('…');
            break;
        }
        let invisible = matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || invisible {
            // Writing to memory doesn't fail.
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_of_bounded_length() {
        assert_eq!(one_line("détaché: a\nb\0\u{1b}[2J\u{202e}c"), "détaché: a\\nb\\u{0}\\u{1b}[2J\\u{202e}c");
        let line = one_line(&"\n".repeat(1 << 20));
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
