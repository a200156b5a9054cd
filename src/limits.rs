//! Limits that the caller has on itself, and that the plugin would share.
//!
//! Thick Multus runs plugins in its own container, whose cgroup has a tenth of a CPU and 50 MiB for Multus and all that
//! it starts. During an attach QEMU waits for the plugin's stand-in ([`crate::dataplane::standin`]): while the plugin
//! is throttled, the VM stands still, and an OOM kill comes in the middle of the attach. So a call that deals with a
//! pod leaves these limits before it does anything else.
//!
//! # Where it goes
//!
//! To the root cgroup of each hierarchy in which something limits it, and of no other. The root is always there, has no
//! limits and, in version 2, takes processes whatever controllers it has handed out, so nothing has to be made and
//! nothing is left behind. On a node that is a container itself, the root is no real one and takes none (`EBUSY`):
//! there one cgroup of the plugin's own is made below it, and stays. Where nothing limits the caller, as in the service
//! of a container runtime, nothing moves: in version 2 a move makes the kernel wait for some milliseconds.
//!
//! # What stays
//!
//! CPUs: operators keep the data plane's cores free by cpusets and affinities. The caller's are kept, also where
//! leaving a cgroup of version 2 leaves its cpuset. Cgroups of devices, freezers and block I/O of version 1 don't bear
//! on an attach.

use std::fmt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit};

use crate::{quote, sys};

/// Where hosts have their hierarchies: each controller of version 1 in a directory of its name, version 2 here or,
/// beside version 1, in `unified`.
const HIERARCHIES: &str = "/sys/fs/cgroup";

/// What limits a cgroup: the controller, its file, and the least value that is no limit. `max` and `-1` are none
/// either; a weight below the default is one, since on a busy node it means a long wait for a CPU.
const LIMITS: [(&str, &str, u64); 8] = [
    ("cpu", "cpu.max", u64::MAX),
    ("cpu", "cpu.weight", 100),
    ("cpu", "cpu.cfs_quota_us", u64::MAX),
    ("cpu", "cpu.shares", 1024),
    ("memory", "memory.max", u64::MAX),
    ("memory", "memory.high", u64::MAX),
    // The most that version 1 counts, in pages, is somewhat below 2^63.
    ("memory", "memory.limit_in_bytes", 1 << 62),
    ("pids", "pids.max", u64::MAX),
];

/// The cgroup that is made where the root takes no processes.
const OWN: &str = "vhostuser-hotplug";

/// Longest file of a cgroup, and longest cgroup table of a process, that is read, in bytes.
const FILE_LIMIT: u64 = 64 << 10;

/// The scheduling policy that runs only on a CPU that has nothing else to do (sched(7)).
const SCHED_IDLE: &str = "5";

/// A limit that this process was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What it is, for messages: `cgroup /x (cpu.max 10000 100000)`.
    pub what: String,
    /// Why it is still there, if it could not be left.
    pub kept: Option<String>,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kept {
            None => write!(f, "left {}", self.what),
            Some(why) => write!(
                f,
                "the plugin could not leave {}: {why}. While that limits it, the VM may stand still during an attach, and \
                 a call may be killed",
                self.what
            ),
        }
    }
}

/// A hierarchy, and this process' cgroup in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    /// The cgroup's path below the root, with a slash in front.
    path: String,
    /// The controller whose limits count; `None` for version 2, which has all of them.
    controller: Option<&'static str>,
}

/// Leaves what limits this process, as far as it may, and returns what that was. To be called in the host's mount
/// namespace, before there is any other thread and before anything is dropped ([`crate::privilege`]).
pub fn leave() -> Vec<Limit> {
    sys::enter_host_cgroups();
    let mut all: Vec<Limit> = hierarchies().iter().filter_map(Hierarchy::leave).collect();
    all.extend(leave_nice());
    all.extend(scheduling_policy());
    raise_descriptors();
    all
}

/// Returns why this process could not leave a cgroup if one limited it. Nothing moves.
#[must_use]
pub fn obstacles() -> Vec<String> {
    let is_closed = |hierarchy: &Hierarchy| sys::open_to_write(&hierarchy.entry(&hierarchy.root)).err();
    hierarchies().iter().filter_map(is_closed).map(|error| error.to_string()).collect()
}

/// Returns what limits the cgroups of a process, by the text of its `cgroup` (proc(5)).
#[must_use]
pub fn of_table(table: &str) -> Vec<String> {
    hierarchies_of(Path::new(HIERARCHIES), table).iter().filter_map(Hierarchy::described).collect()
}

fn hierarchies() -> Vec<Hierarchy> {
    let table = sys::read_text(Path::new("/proc/self/cgroup"), FILE_LIMIT).unwrap_or_default();
    hierarchies_of(Path::new(HIERARCHIES), &table)
}

/// The hierarchies that have controllers which limit, by lines like `4:cpu,cpuacct:/path` and `0::/path` (cgroups(7)).
fn hierarchies_of(directory: &Path, table: &str) -> Vec<Hierarchy> {
    let mut found = Vec::new();
    for line in table.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let path = path.to_owned();
        if controllers.is_empty() {
            let roots = [directory.to_owned(), directory.join("unified")];
            let root = roots.into_iter().find(|root| root.join("cgroup.controllers").exists());
            found.extend(root.map(|root| Hierarchy { root, path, controller: None }));
            continue;
        }
        for controller in ["cpu", "memory", "pids"] {
            if controllers.split(',').any(|one| one == controller) {
                let (root, path) = (directory.join(controller), path.clone());
                found.push(Hierarchy { root, path, controller: Some(controller) });
            }
        }
    }
    found
}

impl Hierarchy {
    /// What limits the cgroup and those above it, but for the root.
    fn limits(&self) -> Vec<String> {
        let mut found = Vec::new();
        let own = self.root.join(self.path.trim_start_matches('/'));
        for group in own.ancestors().take_while(|group| *group != self.root && group.starts_with(&self.root)) {
            let of_ours = |limit: &&(&str, _, _)| self.controller.is_none_or(|controller| controller == limit.0);
            for (_, file, free) in LIMITS.iter().filter(of_ours) {
                let Ok(text) = sys::read_text(&group.join(file), FILE_LIMIT) else { continue };
                let text = text.trim();
                if is_limit(text, *free) {
                    found.push(format!("{file} {text}"));
                }
            }
        }
        found.dedup();
        found
    }

    /// The cgroup and what limits it, if anything does.
    fn described(&self) -> Option<String> {
        let limits = self.limits();
        (!limits.is_empty()).then(|| format!("cgroup {} ({})", quote::value(&self.path), limits.join(", ")))
    }

    /// Leaves the cgroup if something limits it.
    fn leave(&self) -> Option<Limit> {
        let what = self.described()?;
        Some(Limit { what, kept: self.move_out().err().map(|error| error.to_string()) })
    }

    fn move_out(&self) -> Result<(), sys::Error> {
        let cpus = sched_getaffinity(Pid::this());
        match self.enter(&self.root) {
            Err(error) if error.errno() == Errno::EBUSY => {
                let own = self.root.join(OWN);
                // Another call may have made it, or its making fails: then entering it says why.
                let _ = std::fs::create_dir(&own);
                self.enter(&own)?;
            }
            other => other?,
        }
        if self.controller.is_none()
            && let Ok(cpus) = cpus
        {
            // If none of them is left to this process, it runs where it may.
            let _ = sched_setaffinity(Pid::this(), &cpus);
        }
        Ok(())
    }

    fn enter(&self, group: &Path) -> Result<(), sys::Error> {
        sys::write_to(&self.entry(group), "0")
    }

    /// The file to which the caller of write(2) writes 0. In version 1 `tasks` moves one thread, the only one there is,
    /// without the wait that moving a process takes.
    fn entry(&self, group: &Path) -> PathBuf {
        group.join(if self.controller.is_none() { "cgroup.procs" } else { "tasks" })
    }
}

/// Whether a value, the first word of a file, limits anything.
fn is_limit(text: &str, free: u64) -> bool {
    let word = text.split_ascii_whitespace().next().unwrap_or("max");
    // What is no number, such as `max` and `-1`, is no limit.
    word.parse::<u64>().is_ok_and(|value| value < free)
}

/// A nice value that makes others go first.
fn leave_nice() -> Option<Limit> {
    let nice = getpriority_process(None).ok().filter(|nice| *nice > 0)?;
    let left = setpriority_process(None, 0);
    Some(Limit { what: format!("nice {nice}"), kept: left.err().map(|errno| errno.to_string()) })
}

/// A policy that lets all others go first. It is told only: there is no way to change it without `unsafe` code.
fn scheduling_policy() -> Option<Limit> {
    let stat = sys::read_text(Path::new("/proc/self/stat"), FILE_LIMIT).ok()?;
    let kept = || Some("the plugin does not change its scheduling policy".to_owned());
    is_idle(&stat).then(|| Limit { what: "the policy SCHED_IDLE".to_owned(), kept: kept() })
}

/// Whether a process has that policy, by the text of its `stat` (proc(5)).
fn is_idle(stat: &str) -> bool {
    // The command's name, in parentheses, may hold anything; what follows it begins with the third field, and this is
    // the 41st.
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(38)) == Some(SCHED_IDLE)
}

/// Allows as many descriptors as may be allowed: each process of a pod takes one. Where that is not enough, whatever
/// needs one more fails and says so.
fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(test: &str, files: &[(&str, &str)]) -> PathBuf {
        let base = std::env::temp_dir().join(format!("vhu-limits-{}-{test}", std::process::id()));
        for (file, text) in files {
            let file = base.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        base
    }

    fn described(base: &Path, table: &str) -> Vec<(String, Vec<String>)> {
        let all = hierarchies_of(base, table);
        all.iter().map(|one| (one.root.strip_prefix(base).unwrap().display().to_string(), one.limits())).collect()
    }

    #[test]
    fn the_limits_of_version_2_are_found_on_the_whole_path_but_not_at_the_root() {
        let files = [
            ("cgroup.controllers", "cpu memory pids\n"),
            ("cpu.max", "5 100000\n"),
            ("kubepods/cpu.weight", "79\n"),
            ("kubepods/memory.max", "max\n"),
            ("kubepods/pod1/cpu.max", "10000 100000\n"),
            ("kubepods/pod1/c/cpu.max", "max 100000\n"),
            ("kubepods/pod1/c/memory.max", "52428800\n"),
            ("system.slice/a.service/cpu.max", "max 100000\n"),
            ("system.slice/a.service/cpu.weight", "100\n"),
            ("system.slice/a.service/pids.max", "max\n"),
            ("session/pids.max", "4096\n"),
        ];
        let base = directory("two", &files);
        let of = |table: &str| described(&base, table);
        let limits = ["memory.max 52428800", "cpu.max 10000 100000", "cpu.weight 79"];
        assert_eq!(of("0::/kubepods/pod1/c\n"), [(String::new(), limits.map(str::to_owned).to_vec())]);
        for free in ["0::/system.slice/a.service\n", "0::/\n", "0::/none/of/these\n", "0::/..\n"] {
            assert_eq!(of(free), [(String::new(), vec![])], "{free}");
        }
        assert_eq!(of("0::/session")[0].1, ["pids.max 4096"]);
        assert!(of("").is_empty() && of("x\n1:2\n").is_empty());
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn the_limits_of_version_1_are_those_of_each_hierarchy() {
        let files = [
            ("unified/cgroup.controllers", ""),
            ("cpu/a/cpu.cfs_quota_us", "10000\n"),
            ("cpu/a/cpu.shares", "102\n"),
            ("cpu/a/memory.limit_in_bytes", "1\n"),
            ("memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/b/memory.limit_in_bytes", "52428800\n"),
            ("pids/a/pids.max", "max\n"),
            ("cpu/free/cpu.cfs_quota_us", "-1\n"),
            ("cpu/free/cpu.shares", "1024\n"),
        ];
        let base = directory("one", &files);
        let table = "9:name=systemd:/a\n8:pids:/a\n4:memory:/b\n3:cpuset:/a\n1:cpu,cpuacct:/a\n0::/a\n";
        let found = described(&base, table);
        let expected = [
            ("pids", &[][..]),
            ("memory", &["memory.limit_in_bytes 52428800"]),
            ("cpu", &["cpu.cfs_quota_us 10000", "cpu.shares 102"]),
            ("unified", &[]),
        ];
        let expected: Vec<(String, Vec<String>)> = expected
            .iter()
            .map(|(root, limits)| ((*root).to_owned(), limits.iter().map(|limit| (*limit).to_owned()).collect()))
            .collect();
        assert_eq!(found, expected);
        let free = described(&base, "4:memory:/a\n1:cpu:/free\n");
        assert!(free.iter().all(|(_, limits)| limits.is_empty()), "{free:?}");
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_policy_that_lets_all_others_go_first_is_recognised() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(!is_idle(&stat));
        let (name, rest) = stat.rsplit_once(") ").unwrap();
        let mut fields: Vec<&str> = rest.split(' ').collect();
        fields[38] = "5";
        assert!(is_idle(&format!("{name}) {}", fields.join(" "))));
        assert!(!is_idle("") && !is_idle("1 (a) b"));
    }

    #[test]
    fn what_is_no_number_is_no_limit() {
        for (text, free, limits) in [
            ("max", u64::MAX, false),
            ("-1", u64::MAX, false),
            ("", u64::MAX, false),
            ("max 100000", u64::MAX, false),
            ("0", 100, true),
            ("100", 100, false),
            ("99", 100, true),
            ("9223372036854771712", 1 << 62, false),
        ] {
            assert_eq!(is_limit(text, free), limits, "{text:?}");
        }
    }
}
