//! The keeper as the DaemonSet runs it: in a root of its own with the image's one file, the node's two directories, and no
//! capability, against installers like kube-ovn's.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::machine::{CHAINED, Machine, SHIPPED, put_script, told};
use super::together::Running;

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Keeper {
    process: Running,
    lines: Receiver<String>,
}

/// The image's one file as the first process of a container: in a root directory as the image has it.
fn contained(machine: &Machine, words: &[&str]) -> Command {
    let root = machine.path("image");
    for directory in ["opt/cni/bin", "etc/cni/net.d", "proc"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::create_dir_all(machine.path("opt/cni/bin")).unwrap();
    let program = root.join("vhostuser-hotplug");
    if !program.exists() {
        std::fs::hard_link(machine.path("release/vhostuser-hotplug"), &program).unwrap();
    }
    // Read-only but for the two directories. Root's power is gone at the last exec: securebits NOROOT, and of the
    // capabilities only the one that chroot needs is left.
    let script = format!(
        "cd {machine} && mount --bind image image && mount --bind opt/cni/bin image/opt/cni/bin && \
         mount --bind etc/cni/net.d image/etc/cni/net.d && mount -t proc proc image/proc && \
         mount -o remount,bind,ro image && \
         exec setpriv --securebits=+noroot,+noroot_locked --inh-caps=-all,+sys_chroot --ambient-caps=-all,+sys_chroot \
         --bounding-set=-all,+sys_chroot --no-new-privs chroot image /vhostuser-hotplug {words}",
        machine = machine.root.display(),
        words = words.join(" "),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-ec", &script]);
    command
}

impl Keeper {
    /// Starts it in a container.
    fn start(machine: &Machine, options: &[&str]) -> Self {
        let mut process = contained(machine, &[&["keep"], options].concat()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { process: Running(process), lines }
    }

    /// The keeper's own pid: unshare's child.
    fn pid(&self) -> Pid {
        let parent = self.process.0.id();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        Pid::from_raw(children.trim().parse().unwrap())
    }

    /// Waits until it says a word.
    fn says(&self, word: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let line = self.lines.recv_timeout(end.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("it never said {word:?}"));
            if line.contains(word) {
                return line;
            }
        }
    }

    /// Tells it to end, as a runtime does, and waits for that.
    fn end(mut self) -> Vec<String> {
        let started = Instant::now();
        kill(self.pid(), Signal::SIGTERM).unwrap();
        assert!(self.process.0.wait().unwrap().success());
        assert!(started.elapsed() < PATIENCE, "it took {:?} to end", started.elapsed());
        self.lines.iter().collect()
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn it_installs_without_any_capability_and_ends_when_told_to() {
    let machine = Machine::new();
    std::fs::set_permissions(machine.conflist(), PermissionsExt::from_mode(0o600)).unwrap();
    let keeper = Keeper::start(&machine, &[]);
    keeper.says("plugin vhostuser-hotplug added");
    let status = std::fs::read_to_string(format!("/proc/{}/status", keeper.pid())).unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    assert_eq!(u64::from_str_radix(effective.trim(), 16).unwrap(), 1 << 18, "sys_chroot, which it does not use");
    assert_eq!(keeper.end(), Vec::<String>::new());
    assert_eq!(machine.list(), CHAINED, "the chain stays, for the next keeper");
    assert_eq!(std::fs::metadata(machine.conflist()).unwrap().mode() & 0o7777, 0o600);
    assert!(machine.is_sound());
}

#[test]
fn it_takes_the_plugin_out_at_its_end_if_that_was_chosen() {
    for mode in ["--mode=conflist", "--mode=dropin"] {
        let machine = Machine::new();
        let keeper = Keeper::start(&machine, &["--at-end=leave", mode]);
        until("it is in the chain", || machine.chain().unwrap().contains(&"vhostuser-hotplug".to_owned()));
        let last = keeper.end();
        assert!(last.iter().any(|line| line.contains("freed") || line.contains("removed")), "{last:?}");
        assert_eq!((machine.list(), machine.drop_in().exists()), (SHIPPED.to_owned(), false));
        assert!(machine.binary().exists(), "sandboxes may still call it");
    }
}

/// There it sees no sandbox and no record, and would take the binary away from those who still call it.
#[test]
fn it_does_not_uninstall_from_inside() {
    let machine = Machine::new();
    machine.install(&[]);
    let (ok, text) = told(contained(&machine, &["install", "--uninstall"]).output().unwrap());
    assert!(!ok && text.contains("uninstall on the node"), "{text}");
    assert!(machine.is_sound());
}

#[test]
fn whatever_others_do_to_the_list_or_the_binary_is_mended() {
    let machine = Machine::new();
    let keeper = Keeper::start(&machine, &[]);
    keeper.says("plugin vhostuser-hotplug added");
    let mut times = Vec::new();
    let mut is_mended = |how: &str| {
        let started = Instant::now();
        until(how, || machine.list() == CHAINED);
        times.push(started.elapsed());
    };
    // kube-ovn up to 1.12: written over in place at each start.
    std::fs::write(machine.conflist(), SHIPPED).unwrap();
    is_mended("written over");
    // Later ones: missing, so it is made; 1.17 by a rename.
    std::fs::remove_file(machine.conflist()).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let aside = machine.path("etc/cni/net.d/01-kube-ovn.conflist.tmp.1");
    std::fs::write(&aside, SHIPPED).unwrap();
    std::fs::rename(&aside, machine.conflist()).unwrap();
    is_mended("made anew");
    println!("the plugin was back after {times:?}");

    std::fs::remove_file(machine.binary()).unwrap();
    until("the binary is back", || machine.is_sound());
    // Another version is somebody's upgrade.
    let newer = "#!/bin/sh\n[ \"${1:-}\" != --version ] || echo vhostuser-hotplug 9.0.0\n";
    let aside = machine.path("opt/cni/bin/.newer");
    put_script(newer, &aside);
    std::fs::set_permissions(&aside, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::rename(&aside, machine.binary()).unwrap();
    std::fs::write(machine.conflist(), SHIPPED).unwrap();
    until("mended again", || machine.list() == CHAINED);
    assert_eq!(std::fs::read_to_string(machine.binary()).unwrap(), newer);
    keeper.end();
}

#[test]
fn it_waits_for_kube_ovn_and_says_so_once() {
    let machine = Machine::bare();
    let keeper = Keeper::start(&machine, &[]);
    keeper.says("not done yet");
    // Half a list, for as long as it takes kube-ovn to write the rest.
    std::fs::write(machine.conflist(), &SHIPPED[..100]).unwrap();
    keeper.says("not one JSON object");
    std::thread::sleep(Duration::from_secs(6));
    std::fs::write(machine.conflist(), SHIPPED).unwrap();
    keeper.says("plugin vhostuser-hotplug added");
    assert_eq!(keeper.end(), Vec::<String>::new());
}

#[test]
fn two_who_will_not_have_it_so_do_not_spin() {
    let machine = Machine::new();
    let keeper = Keeper::start(&machine, &[]);
    keeper.says("plugin vhostuser-hotplug added");
    let begun = Instant::now();
    for _ in 0..5 {
        until("the plugin is in the list again", || machine.list() == CHAINED);
        std::fs::write(machine.conflist(), SHIPPED).unwrap();
    }
    // At once; at once; then after 1 and after 2 seconds.
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    keeper.end();
}
