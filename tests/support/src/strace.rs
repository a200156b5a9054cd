//! A program under strace(1): the system calls by which it changes something or waits, and faults put into them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

use crate::signals::program;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Calls that change something outside the process, and those in which it may wait for long.
const CHANGES: &[&str] = &[
    "bind",
    "chmod",
    "connect",
    "copy_file_range",
    "fchmod",
    "fchmodat",
    "fchown",
    "flock",
    "fsync",
    "ftruncate",
    "link",
    "linkat",
    "listen",
    "mkdir",
    "mkdirat",
    "mount",
    "move_mount",
    "openat",
    "pidfd_send_signal",
    "poll",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "sendfile",
    "sendmsg",
    "sendto",
    "setns",
    "shutdown",
    "splice",
    "symlink",
    "symlinkat",
    "umount2",
    "unlink",
    "unlinkat",
    "unshare",
    "write",
    "writev",
];

/// A program: runs it to its end as the last of these words.
pub trait Run: Fn(&[&str]) -> Output {}

impl<F: Fn(&[&str]) -> Output> Run for F {}

/// A place in a run of a program: just before a system call is made the n-th time by one of its threads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub call: String,
    pub nth: usize,
    /// What it was about when nothing was in its way.
    pub words: String,
}

/// The places at which a program may be hit, found by running it: each system call of its that changes something.
pub fn points(run: impl Run) -> Vec<Point> {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("vhu-strace-{}-{count}", std::process::id()));
    let set = format!("trace={}", CHANGES.join(","));
    let output = run(&["strace", "-f", "-qq", "-o", file.to_str().unwrap(), "-e", &set]);
    let trace = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut points = BTreeSet::new();
    for line in trace.lines() {
        let (thread, rest) = line.split_once(' ').unwrap();
        let Some((name, words)) = rest.trim_start().split_once('(') else { continue };
        if !CHANGES.contains(&name) {
            continue; // "<... resumed>", "+++ exited with 0 +++"
        }
        let nth = counts.entry((thread.to_owned(), name.to_owned())).or_default();
        *nth += 1;
        let (nth, point) = (*nth, |words: &str| words.chars().take(100).collect::<String>());
        // A file that is opened only to be read is no change, nor is a word to the log; a poll that may not wait is no wait.
        let is_look = match name {
            "openat" => !words.contains("O_CREAT"),
            "write" => words.starts_with("2,"),
            "poll" => words.contains("], 1, 0") || words.contains("], 3, 0"),
            _ => false,
        };
        if is_look {
            continue;
        }
        if !points.iter().any(|other: &Point| (&other.call[..], other.nth) == (name, nth)) {
            points.insert(Point { call: name.to_owned(), nth, words: point(words) });
        }
    }
    assert!(points.len() > 10, "strace saw little:\n{trace}");
    points.into_iter().collect()
}

/// Runs a program and does `what` to it at a point: `signal=KILL`, `error=EIO`.
fn hit(run: impl Run, point: &Point, what: &str) -> Output {
    let Point { call: name, nth, .. } = point;
    let (set, fault) = (format!("trace={name}"), format!("inject={name}:{what}:when={nth}"));
    run(&["strace", "-f", "-qq", "-o", "/dev/null", "-e", &set, "-e", &fault])
}

/// Runs a program until it is killed at a point. False if it never got there.
pub fn kill(run: impl Run, point: &Point) -> bool {
    let status = hit(run, point, "signal=KILL").status;
    let killed = status.signal() == Some(9) || status.code() == Some(128 + 9);
    assert!(killed || status.code() == Some(0), "{point:?}: {status:?}");
    killed
}

/// A program that stops (SIGSTOP) each time that one of its threads has passed a point.
pub struct Stopping {
    child: Child,
    /// What strace says.
    file: PathBuf,
}

impl Stopping {
    /// Starts the program as the last of the words that `start` is given.
    pub fn start(start: impl FnOnce(&[&str]) -> Child, point: &Point) -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("vhu-stop-{}-{count}", std::process::id()));
        let Point { call: name, nth, .. } = point;
        let (set, stop) = (format!("trace={name}"), format!("inject={name}:signal=STOP:when={nth}"));
        let child = start(&["strace", "-f", "-qq", "-o", file.to_str().unwrap(), "-e", &set, "-e", &stop]);
        Self { child, file }
    }

    /// Waits until it has stopped; false if it ended without.
    pub fn reaches_it(&mut self) -> bool {
        let is_there =
            |said: &PathBuf| std::fs::read_to_string(said).is_ok_and(|said| said.contains("stopped by SIGSTOP"));
        loop {
            if is_there(&self.file) {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return is_there(&self.file);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lets it go on until it ends, though each of its threads may be stopped in its turn.
    pub fn goes_on(mut self) -> Output {
        let strace = program(self.child.id());
        while self.child.try_wait().unwrap().is_none() {
            let children =
                std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap_or_default();
            for pid in children.split_whitespace() {
                // It may end meanwhile.
                let _ = send(Pid::from_raw(pid.parse().unwrap()), Signal::SIGCONT);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = std::fs::remove_file(&self.file);
        self.child.wait_with_output().unwrap()
    }
}

/// Runs a program with a system call of its failing.
pub fn fail(run: impl Run, point: &Point, errno: &str) -> Output {
    hit(run, point, &format!("error={errno}"))
}
