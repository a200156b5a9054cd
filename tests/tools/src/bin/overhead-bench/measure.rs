//! One process from start to end, and many of them in turn.

use std::fs::File;
use std::io::{PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Usage, UsageWho, getrusage};

use tools::figures::Sorted;

/// A call of a plugin.
#[derive(Clone)]
pub struct Call {
    pub name: &'static str,
    pub verb: &'static str,
    pub program: PathBuf,
    pub env: Vec<(&'static str, String)>,
    /// What is on its stdin.
    pub config: PathBuf,
}

/// What one process took: milliseconds, milliseconds of processor time, page faults.
pub struct Sample {
    pub wall: f64,
    pub cpu: f64,
    pub faults: f64,
}

/// What a call takes.
pub struct Row {
    pub call: Call,
    pub wall: Sorted,
    pub cpu: Sorted,
    pub faults: Sorted,
    /// Peak of resident memory in KiB, of calls that print something.
    pub memory: Option<u64>,
    /// System calls, by strace; those after execve.
    pub syscalls: usize,
    /// Instructions in user space, by callgrind; `None` where it cannot run the program.
    pub instructions: Option<u64>,
}

impl Call {
    /// The process, to be started.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        self.dress(&mut command);
        command
    }

    fn through(&self, words: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(&self.program);
        self.dress(&mut command);
        command
    }

    fn dress(&self, command: &mut Command) {
        command.env_clear().envs(self.env.iter().map(|(key, value)| (key, value)));
        // strace and valgrind are looked up with it; the plugins look nothing up.
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(File::open(&self.config).expect("the configuration")).stdout(Stdio::null()).stderr(Stdio::null());
    }

    /// Runs it once, alone.
    pub fn once(&self) -> Sample {
        let mut command = self.command();
        let before = spent();
        let began = Instant::now();
        let status = command.status().unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        let wall = began.elapsed();
        let after = spent();
        assert!(
            status.success(),
            "{} {} fails: {:?}",
            self.name,
            self.verb,
            self.command().stdout(Stdio::piped()).output()
        );
        let faults = (after.minor_page_faults() - before.minor_page_faults()) as f64;
        Sample { wall: millis(wall), cpu: millis(cpu(&after).saturating_sub(cpu(&before))), faults }
    }

    /// Runs it once, beside others; how long it took.
    pub fn timed(&self) -> f64 {
        let mut command = self.command();
        let began = Instant::now();
        let status = command.status().expect("the program starts");
        assert!(status.success(), "{} {} fails", self.name, self.verb);
        millis(began.elapsed())
    }

    /// Its peak of memory in KiB. It is read when the plugin has done its work and cannot get rid of its answer: what the
    /// kernel tells of a process that has ended holds the memory of whoever started it, too.
    fn memory(&self) -> Option<u64> {
        let (mut reader, mut writer) = pipe().expect("a pipe");
        fill(&mut writer);
        let mut child = self.command().stdout(writer).spawn().expect("the program starts");
        let peak = peak_at_rest(&mut child);
        drain(&mut reader, &mut child);
        peak
    }

    fn syscalls(&self) -> usize {
        let log = self.config.with_extension("strace");
        let status = self.through(&["strace", "-f", "-qq", "-o", &log.to_string_lossy()]).status().expect("strace");
        assert!(status.success(), "{} {} fails under strace", self.name, self.verb);
        let text = std::fs::read_to_string(&log).expect("strace's log");
        let is_call = |line: &&str| line.contains('(') && !line.contains("execve(") && !line.contains("resumed>");
        text.lines().filter(is_call).count()
    }

    fn instructions(&self) -> Option<u64> {
        let log = self.config.with_extension("callgrind");
        let log_option = format!("--log-file={}", log.display());
        let words = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", &log_option];
        if !self.through(&words).status().ok()?.success() {
            return None;
        }
        let text = std::fs::read_to_string(&log).ok()?;
        let count = text.lines().find_map(|line| line.split("I   refs:").nth(1))?;
        count.trim().replace(',', "").parse().ok()
    }
}

/// Runs each call `rounds` times, in turns.
pub fn interleaved(calls: &[Call], rounds: usize) -> Vec<Row> {
    let mut samples: Vec<Vec<Sample>> = calls.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds.saturating_add(2) {
        for (call, samples) in calls.iter().zip(&mut samples) {
            let sample = call.once();
            // The first two find programs and files that are not in memory yet.
            if round >= 2 {
                samples.push(sample);
            }
        }
    }
    let column = |samples: &[Sample], of: fn(&Sample) -> f64| Sorted::new(samples.iter().map(of).collect());
    calls
        .iter()
        .zip(&samples)
        .map(|(call, samples)| Row {
            call: call.clone(),
            wall: column(samples, |sample| sample.wall),
            cpu: column(samples, |sample| sample.cpu),
            faults: column(samples, |sample| sample.faults),
            memory: call.memory(),
            syscalls: call.syscalls(),
            instructions: call.instructions(),
        })
        .collect()
}

/// What all children that have been waited for took.
pub fn spent() -> Usage {
    getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage")
}

/// The processor's time in it.
pub fn cpu(usage: &Usage) -> Duration {
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0))
    };
    of(usage.user_time()) + of(usage.system_time())
}

/// As milliseconds.
pub fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// Fills a pipe, so that whoever writes to it next waits.
fn fill(writer: &mut PipeWriter) {
    let flags = |flags| fcntl(writer.as_fd(), FcntlArg::F_SETFL(flags)).expect("fcntl");
    flags(OFlag::O_NONBLOCK);
    while (&*writer).write(&[b' '; 4096]).is_ok() {}
    while (&*writer).write(b" ").is_ok() {}
    flags(OFlag::empty());
}

/// The peak of a process' memory in KiB once it has not used the processor for 30 ms; `None` if it has ended.
fn peak_at_rest(child: &mut Child) -> Option<u64> {
    let file = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
    let mut before = String::new();
    loop {
        std::thread::sleep(Duration::from_millis(30));
        let now = file("schedstat");
        if now == before {
            break;
        }
        before = now;
    }
    let status = file("status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak?.trim().trim_end_matches(" kB").parse().ok()
}

fn drain(reader: &mut impl Read, child: &mut Child) {
    let _ = std::io::copy(reader, &mut std::io::sink());
    let _ = child.wait();
}
