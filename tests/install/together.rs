//! Installers that are not alone: each other, a runtime that reads all the while, and kube-ovn's own installer.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::strace::{Stopping, points};

use super::machine::{BINARY, CHAINED, Machine, SHIPPED, told};

/// Ends and waits, also where the test fails.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends the reader, also where the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How often the runtime has to look while others install.
const LOOKS: usize = 20;

#[test]
fn many_at_once_install_once_and_a_runtime_never_sees_half_of_it() {
    let machine = Machine::new();
    let (done, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _end = End(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let chain = machine.chain().unwrap();
                assert!(chain.starts_with(&["kube-ovn".to_owned(), "portmap".to_owned()]), "{chain:?}");
                looks.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let mut rounds = 0;
        while rounds < 3 || looks.load(Ordering::Relaxed) < LOOKS {
            rounds += 1;
            for options in [&[][..], &["--mode", "dropin"], &["--mode", "conflist"], &["--uninstall"]] {
                let start = || {
                    let mut command = machine.command(&[], options);
                    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
                };
                for installer in [start(), start(), start(), start()] {
                    let (ok, text) = told(installer.wait_with_output().unwrap());
                    assert!(ok, "{options:?}: {text}");
                }
            }
        }
    });
    println!("a runtime looked {} times", looks.load(Ordering::Relaxed));
    assert_eq!(machine.list(), SHIPPED);
    assert_eq!(machine.names("etc/cni/net.d"), ["01-kube-ovn.conflist"]);
}

#[test]
fn a_second_installer_waits_for_the_first_and_then_says_so() {
    let machine = Machine::new();
    let directory = machine.path("etc/cni/net.d");
    let mut holder = Command::new("flock");
    let holder = holder
        .arg("--no-fork")
        .arg(&directory)
        .args(["sh", "-c", "echo held; exec sleep infinity"])
        .stdout(Stdio::piped());
    let mut holder = Running(holder.spawn().unwrap());
    let mut word = [0; 5];
    std::io::Read::read_exact(holder.0.stdout.as_mut().unwrap(), &mut word).unwrap();
    let started = Instant::now();
    let (ok, text) = machine.run(&[]);
    assert!(!ok && text.contains("another installer is at work"), "{text}");
    assert!(started.elapsed() > Duration::from_secs(25), "it did not wait");
    assert_eq!(machine.list(), SHIPPED);
    assert!(machine.run(&["--check"]).1.contains("no plugin of it"), "a check waits for nobody");
    drop(holder);
    machine.install(&[]);
}

/// kube-ovn's installer knows no lock: it may write after any step of ours. Between the last look at the list and the rename
/// there are some microseconds, without a step that changes anything, that no lock closes.
#[test]
fn what_kube_ovn_writes_after_any_step_is_never_lost() {
    let machine = Machine::new();
    let command = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args([BINARY, "conflist", "add"]).arg(machine.conflist());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let newer = |text: &str| text.replace("0.3.1", "0.4.0");
    for point in points(|words: &[&str]| command(words).output().unwrap()) {
        std::fs::write(machine.conflist(), SHIPPED).unwrap();
        let mut adding = Stopping::start(|words| command(words).spawn().unwrap(), &point);
        assert!(adding.reaches_it(), "{point:?}");
        std::fs::write(machine.conflist(), newer(SHIPPED)).unwrap();
        let (ok, text) = told(adding.goes_on());
        assert!(ok, "{point:?}: {text}");
        let list = machine.list();
        // Either kube-ovn wrote last, or its text was the one to start from.
        assert!(list == newer(SHIPPED) || list == newer(CHAINED), "{point:?}: {list}");
    }
}
