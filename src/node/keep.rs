//! Keeps the plugin installed on a node where others rewrite the list: kube-ovn's installer overwrites it at each start of its
//! pod (up to 1.12, and the first releases of 1.13 and 1.14) or when the file is missing (later ones).

use std::io::{Write, stdout};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{ChangeLog, Error, Mode, NodePaths, binary, chain, install};
use crate::conflist::chain::Judgement;
use crate::deadline::Deadline;

/// How often to look without an event: inotify can be out of watches, and the directory of binaries is not watched.
const TICK: Duration = Duration::from_secs(5);

/// Repairs at shorter intervals than this are a quarrel with another program.
const QUARREL: Duration = Duration::from_secs(60);

/// Longest pause between repairs in a quarrel.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What happens to the chain when the keeper ends (SIGTERM).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AtEnd {
    /// Leave all as it is: another keeper follows
    Stay,
    /// Take the plugin out of the chain
    // The binary stays, for the sandboxes that were made with it.
    Leave,
}

/// Installs the plugin, and puts back what goes missing, until SIGTERM or SIGINT.
///
/// After the start it doesn't replace a binary of another version: that is a person's upgrade.
///
/// # Errors
/// It can't wait for signals, or, at the end, can't take the plugin out of the chain.
pub fn keep(paths: &NodePaths, mode: Mode, at_end: AtEnd) -> Result<(), Error> {
    let refused = |errno: Errno| Error::Refused(format!("cannot wait for signals: {}", errno.desc()));
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Blocked, they reach the first process of a container, too, for which the kernel drops default actions.
    signals.thread_block().map_err(refused)?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(refused)?;

    let mut keeper = Keeper { paths, mode, started: false, said: Vec::new(), repaired: None, pause: Duration::ZERO };
    let mut watch = None;
    loop {
        // Before the look, so that no change during it is missed. The directory may be made after the keeper starts.
        watch = watch.or_else(|| watched(&paths.conf_dir));
        let pause = keeper.look();
        if !wait(&signals, watch.as_ref(), pause) {
            break;
        }
    }
    let mut log = ChangeLog::new(false);
    let outcome = if at_end == AtEnd::Leave { chain::leave(paths, &mut log) } else { Ok(()) };
    say(log.lines());
    outcome
}

struct Keeper<'a> {
    paths: &'a NodePaths,
    mode: Mode,
    started: bool,
    /// The lines that were printed last: the same trouble is printed once.
    said: Vec<String>,
    repaired: Option<Instant>,
    pause: Duration,
}

impl Keeper<'_> {
    /// Installs at the start; later, looks and repairs. Returns how long to pause then.
    fn look(&mut self) -> Duration {
        let mut log = ChangeLog::new(false);
        let outcome = if !self.started || !binary::is_executable(&self.paths.binary()) {
            install(self.paths, self.mode, &mut log)
        } else if self.is_sound() {
            self.said.clear();
            return Duration::ZERO;
        } else {
            chain::enter(self.paths, self.mode, &mut log)
        };
        let mut lines = log.lines().to_vec();
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
        let is_sound =
            |judgement: &Judgement| judgement.faults.is_empty() && chain::is_as_asked(self.mode, &judgement.placement);
        let judged = || chain::judge(self.paths).ok().flatten();
        self.mode == Mode::None || judged().is_some_and(|(_, judgement)| is_sound(&judgement))
    }

    /// Returns a growing pause if another program undoes each repair: two programs that each correct the list would never end,
    /// and the runtime would reload each time.
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

/// Watches the directory for new and renamed files.
fn watched(directory: &Path) -> Option<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
    // Not creation: the file is written next.
    let what = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(directory, what).ok()?;
    Some(inotify)
}

/// Waits until something has changed, or for a while. Returns false on a signal to end.
fn wait(signals: &SignalFd, watch: Option<&Inotify>, pause: Duration) -> bool {
    let signalled = |watch: Option<&Inotify>, span: Duration| {
        let deadline = Deadline::after(span);
        let mut both = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        both.extend(watch.map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN)));
        let timeout = if span.is_zero() { PollTimeout::ZERO } else { deadline.poll_timeout() };
        let _ = poll(&mut both, timeout);
        both.first().is_some_and(|signal| signal.any().unwrap_or(false))
    };
    if signalled(None, pause) || signalled(watch, TICK) {
        return false;
    }
    // The events say only that there is something to look at.
    while watch.is_some_and(|watch| watch.read_events().is_ok_and(|events| !events.is_empty())) {}
    true
}

/// Prints what was done, for the container's log.
fn say(lines: &[String]) {
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
        // println! would panic if nobody reads.
        let _ = stdout().write_all(text.as_bytes());
    }
}
