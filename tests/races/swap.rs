//! The attacker: a thread that swaps what is at a name for something else, and back, all the time.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, open, renameat2};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::symlinkat;

/// What takes the place of the honest thing.
#[derive(Clone, Debug)]
pub enum Guise {
    /// A link.
    Link(String),
    /// A fifo that nobody writes to: who opens it waits for ever.
    Fifo,
    /// A file.
    File,
    /// A directory that has something of every name in it.
    Directory,
    /// A socket of the pod's on which somebody listens, and never answers.
    Socket,
    /// Nothing: the honest thing has another name for a moment.
    Nothing,
}

/// A name that is attacked.
pub struct Swap {
    /// The directory that it is in, by a path of the test's own.
    path: PathBuf,
    /// A handle on that, unless it comes and goes.
    held: Option<OwnedFd>,
    name: String,
    /// The inode of the honest thing, if it is a directory that is there from the beginning.
    honest: Option<u64>,
    /// Those that come first are taken most.
    guises: Vec<Guise>,
}

/// What all attackers of a race share.
#[derive(Default)]
pub struct Weather {
    /// Whether they are to end.
    pub over: AtomicBool,
    /// How long they rest at most between two swaps, in microseconds.
    pub rest: AtomicU64,
    /// How many swaps were made.
    pub swaps: AtomicU64,
}

/// Numbers that need not be good, only many (xorshift64).
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self(u64::try_from(now.as_nanos() % u128::from(u64::MAX)).unwrap() | 1)
    }

    /// A number below `end`.
    pub fn roll(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }
}

fn directory(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

impl Swap {
    /// `name` in a directory that stays the same.
    pub fn new(path: PathBuf, name: &str, guises: Vec<Guise>) -> Self {
        let there = path.join(name).symlink_metadata().ok();
        let honest = there.filter(std::fs::Metadata::is_dir).map(|found| found.ino());
        Self { held: Some(directory(&path).unwrap()), path, name: name.to_owned(), honest, guises }
    }

    /// `name` in a directory that comes and goes.
    pub fn in_passing(path: PathBuf, name: &str, guises: Vec<Guise>) -> Self {
        Self { path, held: None, name: name.to_owned(), honest: None, guises }
    }

    /// Attacks until the weather is over.
    pub fn storm(&self, weather: &Weather) {
        let mut dice = Dice::new();
        let mut listeners: Vec<Option<UnixListener>> = self.guises.iter().map(|_| None).collect();
        while !weather.over.load(Ordering::Relaxed) {
            // Links lead out, if anything does.
            let index = dice.roll(self.guises.len()).min(dice.roll(self.guises.len()));
            let rest = weather.rest.load(Ordering::Relaxed);
            let held = self.held.as_ref().map_or_else(|| directory(&self.path), |held| Ok(held.try_clone().unwrap()));
            if let Ok(held) = held {
                let cover =
                    Cover { at: held, name: &self.name, guise: &self.guises[index], beside: self.beside(index) };
                cover.plant(&mut listeners[index]);
                weather.count(cover.exchange());
                let part = [1, 4, 16][dice.roll(3)];
                pause(&mut dice, rest / part);
                weather.count(cover.exchange());
            }
            pause(&mut dice, rest);
        }
    }

    fn beside(&self, index: usize) -> String {
        format!(".{}-{index}", self.name)
    }

    /// Puts the honest thing back, and takes all else away. The directory must be healed before what is in it.
    pub fn heal(&self) {
        let Ok(listing) = std::fs::read_dir(&self.path) else { return };
        let mut honest = None;
        for entry in listing.flatten() {
            let name = entry.file_name().into_string().unwrap();
            if Some(entry.ino()) == self.honest {
                honest = Some(entry.path());
            } else if name == self.name || name.starts_with(&format!(".{}-", self.name)) {
                let removed = std::fs::remove_file(entry.path()).or_else(|_| std::fs::remove_dir_all(entry.path()));
                removed.unwrap_or_else(|error| panic!("{}: {error}", entry.path().display()));
            }
        }
        if let Some(honest) = honest {
            std::fs::rename(honest, self.path.join(&self.name)).unwrap();
        }
        assert!(self.honest.is_none() || self.path.join(&self.name).exists(), "{} is lost", self.name);
    }
}

impl Weather {
    fn count(&self, swapped: bool) {
        self.swaps.fetch_add(u64::from(swapped), Ordering::Relaxed);
    }
}

/// One disguise and its place.
struct Cover<'a> {
    at: OwnedFd,
    name: &'a str,
    guise: &'a Guise,
    beside: String,
}

impl Cover<'_> {
    /// Makes the disguise, unless it is there.
    fn plant(&self, listener: &mut Option<UnixListener>) {
        let (at, beside, all) = (self.at.as_fd(), self.beside.as_str(), Mode::from_bits_truncate(0o777));
        let made = match self.guise {
            Guise::Link(to) => symlinkat(to.as_str(), at, beside),
            Guise::Fifo => mknodat(at, beside, SFlag::S_IFIFO, all, 0),
            Guise::File => mknodat(at, beside, SFlag::S_IFREG, all, 0),
            Guise::Directory => mkdirat(at, beside, all).inspect(|()| {
                for name in ["net1", "libvirt-sock", "file"] {
                    let _ = mknodat(at, format!("{beside}/{name}").as_str(), SFlag::S_IFREG, all, 0);
                }
            }),
            Guise::Socket => {
                if let Ok(new) = UnixListener::bind(format!("/proc/self/fd/{}/{beside}", self.at.as_raw_fd())) {
                    *listener = Some(new);
                }
                Ok(())
            }
            Guise::Nothing => Ok(()),
        };
        // A directory may have been removed meanwhile.
        assert!(matches!(made, Ok(()) | Err(Errno::EEXIST | Errno::ENOENT)), "{:?}: {made:?}", self.guise);
    }

    /// Swaps the name and what is beside it; where one of them has nothing, the other takes its place. Whether anything
    /// was moved.
    fn exchange(&self) -> bool {
        let (at, name, beside) = (self.at.as_fd(), self.name, self.beside.as_str());
        let rename = |from: &str, to: &str, flags| renameat2(at, from, at, to, flags).is_ok();
        let swapped = !matches!(self.guise, Guise::Nothing) && rename(name, beside, RenameFlags::RENAME_EXCHANGE);
        swapped
            || rename(name, beside, RenameFlags::RENAME_NOREPLACE)
            || rename(beside, name, RenameFlags::RENAME_NOREPLACE)
    }
}

/// Between nothing and `most` microseconds; short ones are as likely as long ones.
fn pause(dice: &mut Dice, most: u64) {
    let micros = match dice.roll(4) {
        0 => 0,
        1 => most / 100,
        2 => most / 10,
        _ => most,
    };
    let span = Duration::from_micros(u64::try_from(dice.roll(usize::try_from(micros).unwrap() + 1)).unwrap());
    if span < Duration::from_micros(60) {
        // A sleep would take longer than that.
        let begun = Instant::now();
        while begun.elapsed() < span {
            std::hint::spin_loop();
        }
    } else {
        std::thread::sleep(span);
    }
}
