//! Keeps the plugin installed on a node where others rewrite the list: kube-ovn's installer writes its own over it at each
//! start of its pod (up to 1.12, and the first releases of 1.13 and 1.14) or when the file is missing (later ones).

use std::io::{Write, stdout};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{Error, Journal, Mode, NodePaths, binary, chain, install};
use crate::deadline::Deadline;

/// How long a change may go unnoticed where it is not told: inotify can be out of watches, and the directory of binaries
/// is not watched at all.
const TICK: Duration = Duration::from_secs(5);

/// Repairs that follow each other faster than this are a quarrel with another program.
const QUARREL: Duration = Duration::from_secs(60);

/// Longest pause between repairs in a quarrel.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What becomes of the chain when the keeper is told to end (SIGTERM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEnd {
    /// The plugin stays in: another keeper follows, as in an upgrade.
    Stay,
    /// The plugin goes out of the chain. The binary stays, for the sandboxes that were made with it.
    Leave,
}

/// Installs the plugin, and whatever is missing of it afterwards, until SIGTERM or SIGINT.
///
/// A binary of another version is not replaced after the start: a person's upgrade is not undone.
///
/// # Errors
/// That signals cannot be waited for, or, at the end, that the chain could not be left.
pub fn keep(places: &NodePaths, mode: Mode, on_end: OnEnd) -> Result<(), Error> {
    let refused = |errno: Errno| Error::Refused(format!("signals cannot be waited for: {}", errno.desc()));
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Blocked, they reach the first process of a container too, which a default action does not.
    signals.thread_block().map_err(refused)?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(refused)?;

    let mut keeper = Keeper { places, mode, started: false, said: Vec::new(), repaired: None, pause: Duration::ZERO };
    let mut watch = None;
    loop {
        // Before the look, so that what changes during it is told. The directory may come later than its keeper.
        watch = watch.or_else(|| watched(&places.conf_dir));
        let pause = keeper.look();
        if !wait(&signals, watch.as_ref(), pause) {
            break;
        }
    }
    let mut journal = Journal::new(false);
    let outcome = if on_end == OnEnd::Leave { chain::leave(places, &mut journal) } else { Ok(()) };
    say(journal.lines());
    outcome
}

struct Keeper<'a> {
    places: &'a NodePaths,
    mode: Mode,
    started: bool,
    /// What was said last: the same trouble is told once.
    said: Vec<String>,
    repaired: Option<Instant>,
    pause: Duration,
}

impl Keeper<'_> {
    /// Installs at the start; later on, looks and mends. Returns how long to leave it alone then.
    fn look(&mut self) -> Duration {
        let mut journal = Journal::new(false);
        let outcome = if !self.started || !binary::is_executable(&self.places.binary()) {
            install(self.places, self.mode, &mut journal)
        } else if self.is_sound() {
            self.said.clear();
            return Duration::ZERO;
        } else {
            chain::enter(self.places, self.mode, &mut journal)
        };
        let mut lines = journal.lines().to_vec();
        let pause = match outcome {
            Ok(()) if self.started => self.calm_down(),
            Ok(()) => {
                self.started = true;
                Duration::ZERO
            }
            Err(error) => {
                lines.push(format!("not done yet: {error}"));
                Duration::ZERO
            }
        };
        if lines != self.said {
            say(&lines);
            self.said = lines;
        }
        pause
    }

    fn is_sound(&self) -> bool {
        let as_asked = |mode| self.mode == Mode::Auto || self.mode == mode;
        let verdict = || chain::judge(self.places).ok().flatten();
        self.mode == Mode::None || verdict().is_some_and(|verdict| verdict.faults.is_empty() && as_asked(verdict.mode))
    }

    /// Two programs that each put the list right would do so for ever, and the runtime would reload as often.
    fn calm_down(&mut self) -> Duration {
        let quarrel = self.repaired.is_some_and(|last| last.elapsed() < QUARREL.saturating_add(self.pause));
        self.pause = if quarrel {
            self.pause.saturating_mul(2).clamp(Duration::from_secs(1), PAUSE_MAX)
        } else {
            Duration::ZERO
        };
        self.repaired = Some(Instant::now());
        self.pause
    }
}

/// A watch on what may have become of the list.
fn watched(directory: &Path) -> Option<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
    // Not its creation: who creates it writes it next.
    let what = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(directory, what).ok()?;
    Some(inotify)
}

/// Waits until something has changed, or for a while. False when told to end.
fn wait(signals: &SignalFd, watch: Option<&Inotify>, pause: Duration) -> bool {
    let told = |watch: Option<&Inotify>, span: Duration| {
        let deadline = Deadline::after(span);
        let mut both = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        both.extend(watch.map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN)));
        let timeout = if span.is_zero() { PollTimeout::ZERO } else { deadline.poll_timeout() };
        let _ = poll(&mut both, timeout);
        both.first().is_some_and(|signal| signal.any().unwrap_or(false))
    };
    if told(None, pause) || told(watch, TICK) {
        return false;
    }
    // What they tell is only that there is something to look at.
    while watch.is_some_and(|watch| watch.read_events().is_ok_and(|events| !events.is_empty())) {}
    true
}

/// Says what was done, for the container's log.
fn say(lines: &[String]) {
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
        // Not println!, which panics where nobody reads.
        let _ = stdout().write_all(text.as_bytes());
    }
}
