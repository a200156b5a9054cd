//! A cgroup of the machine with the limits that Multus' DaemonSet has, which many nodes run as it is shipped: a tenth
//! of a CPU and 50 MiB. It goes with this value, and with it what runs in it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);

const HIERARCHIES: &str = "/sys/fs/cgroup";

/// How a cgroup is limited in version 2, where that has both controllers, and in version 1: the hierarchy, and in it
/// the files with their values.
type Limits = [(&'static str, &'static [(&'static str, &'static str)])];
const TWO: &Limits = &[("/sys/fs/cgroup", &[("cpu.max", "10000 100000"), ("memory.max", "52428800")])];
const ONE: &Limits = &[
    ("/sys/fs/cgroup/cpu", &[("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "10000")]),
    ("/sys/fs/cgroup/memory", &[("memory.limit_in_bytes", "52428800")]),
];

pub struct Limited {
    groups: Vec<PathBuf>,
    limits: Vec<&'static str>,
    busy: Vec<Child>,
}

impl Limited {
    /// Makes the cgroup.
    pub fn new() -> Self {
        let group = Self::without_limits();
        for ((_, files), path) in kind().iter().zip(&group.groups) {
            for (file, value) in *files {
                std::fs::write(path.join(file), value).unwrap();
            }
        }
        group
    }

    /// Makes it without limits.
    pub fn without_limits() -> Self {
        let name = format!("vhu-limited-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let groups: Vec<PathBuf> = kind().iter().map(|(root, _)| PathBuf::from(root).join(&name)).collect();
        for group in &groups {
            std::fs::create_dir(group).expect("a cgroup can be made, with controllers for CPU and memory");
        }
        let files = kind().iter().flat_map(|(_, files)| *files).map(|(file, _)| *file);
        let limits = files.filter(|file| !file.contains("period")).collect();
        Self { groups, limits, busy: Vec::new() }
    }

    /// The files that limit it.
    pub fn limits(&self) -> &[&'static str] {
        &self.limits
    }

    /// The words before a command that is to run in it, as root of the machine or of a node.
    pub fn enter(&self) -> [String; 3] {
        self.enter_below(HIERARCHIES)
    }

    /// The same, where the hierarchies are at another place.
    pub fn enter_below(&self, place: &str) -> [String; 3] {
        let path = |group: &PathBuf| group.to_str().unwrap().replace(HIERARCHIES, place);
        let enters = self.groups.iter().map(|group| format!("echo 0 > {}/cgroup.procs && ", path(group)));
        let script = format!("{}exec \"$0\" \"$@\"", enters.collect::<String>());
        ["sh", "-c", &script].map(str::to_owned)
    }

    /// Starts a process in it that computes as long as the group is there.
    pub fn keep_busy(&mut self) {
        let [shell, option, script] = self.enter();
        let mut busy = Command::new(shell);
        let busy = busy.args([&option, &script, "sh", "-c", "while :; do :; done"]).stdin(Stdio::null());
        self.busy.push(busy.spawn().expect("a shell"));
    }

    /// Whether a process, as the machine numbers it, is in it, in any hierarchy.
    pub fn has(&self, pid: u32) -> bool {
        let line = pid.to_string();
        let has = |group: &PathBuf| {
            let list = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
            list.lines().any(|pid| pid == line)
        };
        self.groups.iter().any(has)
    }

    /// How many of its processes were killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let files =
            self.groups.iter().flat_map(|group| ["memory.oom_control", "memory.events"].map(|file| group.join(file)));
        let texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
        let counts: Vec<u64> = texts
            .flat_map(|text| {
                text.lines().filter_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).collect::<Vec<u64>>()
            })
            .collect();
        assert_eq!(counts.len(), 1, "the kernel counts them");
        counts[0]
    }

    /// How often it has been throttled.
    pub fn throttled(&self) -> u64 {
        let texts = self.groups.iter().filter_map(|group| std::fs::read_to_string(group.join("cpu.stat")).ok());
        let mut counts =
            texts.filter_map(|text| text.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse().ok()));
        counts.next().expect("the kernel counts it")
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        for busy in &mut self.busy {
            let _ = busy.kill();
            let _ = busy.wait();
        }
        for group in &self.groups {
            // What was started in it may still be dying.
            for _ in 0..500 {
                if std::fs::remove_dir(group).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

fn kind() -> &'static Limits {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control").unwrap_or_default();
    let has = |name| controllers.split_whitespace().any(|controller| controller == name);
    if has("cpu") && has("memory") { TWO } else { ONE }
}
