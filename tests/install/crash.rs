//! SIGKILL at every step of what install.sh does, and system calls that fail. Whenever a runtime looks, there is a sound list, and a
//! plugin that runs if the list names it; the next run completes what was begun.

use super::machine::{CHAINED, Machine, SHIPPED};
use support::strace::{Run, fail, kill, points};

/// A run of the installer, what is on the node before it, and what must be there after it.
struct Deed {
    name: &'static str,
    options: &'static [&'static str],
    before: fn(&Machine),
    done: fn(&Machine),
}

const DEEDS: [Deed; 5] = [
    Deed {
        name: "install",
        options: &[],
        before: |_| {},
        done: |machine| {
            assert_eq!(machine.list(), CHAINED);
            assert!(machine.is_sound());
        },
    },
    Deed {
        name: "upgrade",
        options: &[],
        before: |machine| {
            machine.install(&[]);
            // An older plugin: it runs, but it is another.
            let old = "#!/bin/sh\n[ \"${1:-}\" != --version ] || echo vhostuser-hotplug 0.0.1\n";
            std::fs::write(machine.binary(), old).unwrap();
        },
        done: |machine| {
            assert_eq!(machine.list(), CHAINED);
            assert!(std::fs::metadata(machine.binary()).unwrap().len() > 100_000, "the old one is still there");
        },
    },
    Deed {
        name: "to a drop-in",
        options: &["--mode", "dropin"],
        before: |machine| drop(machine.install(&[])),
        done: |machine| {
            assert_eq!(machine.list(), SHIPPED);
            assert!(machine.drop_in().exists() && machine.is_sound());
        },
    },
    Deed {
        name: "from a drop-in",
        options: &["--mode", "conflist"],
        before: |machine| drop(machine.install(&["--mode", "dropin"])),
        done: |machine| {
            assert_eq!(machine.list(), CHAINED);
            assert!(!machine.drop_in().exists() && machine.is_sound());
        },
    },
    Deed {
        name: "uninstall",
        options: &["--uninstall"],
        before: |machine| drop(machine.install(&[])),
        done: |machine| {
            assert_eq!((machine.list(), machine.binary().exists()), (SHIPPED.to_owned(), false));
        },
    },
];

impl Deed {
    fn ready(&self) -> Machine {
        let machine = Machine::new();
        (self.before)(&machine);
        machine
    }

    fn traced<'a>(&'a self, machine: &'a Machine) -> impl Run + 'a {
        |words: &[&str]| machine.installer(words, self.options).output().unwrap()
    }

    /// The chain is whole, and the network has lost nothing.
    fn holds(&self, machine: &Machine, at: &str) {
        let chain = machine.chain().unwrap_or_else(|fault| panic!("{at}: {fault}"));
        assert!(chain.starts_with(&["kube-ovn".to_owned(), "portmap".to_owned()]), "{at}: {chain:?}");
    }

    /// Another run ends where an undisturbed one does, and leaves nothing half done.
    fn completes(&self, machine: &Machine, at: &str) {
        let (ok, text) = machine.run(self.options);
        // What has removed its own binary says so.
        assert!(ok, "{at}: {text}");
        (self.done)(machine);
        for directory in ["etc/cni/net.d", "opt/cni/bin"] {
            let names = machine.names(directory);
            assert!(!names.iter().any(|name| name.ends_with("-new")), "{at}: {names:?}");
        }
    }
}

#[test]
fn killed_at_any_step_the_node_is_sound_and_the_next_run_completes() {
    for deed in DEEDS {
        let found = points(deed.traced(&deed.ready()));
        let mut killed = 0;
        for point in &found {
            let at = format!("{} killed before {} ({})", deed.name, point.call, point.words);
            let machine = deed.ready();
            killed += usize::from(kill(deed.traced(&machine), point));
            deed.holds(&machine, &at);
            deed.completes(&machine, &at);
        }
        println!("{}: killed {killed} times at {} points", deed.name, found.len());
        assert_eq!(killed, found.len(), "{}: the points are wrong", deed.name);
    }
}

#[test]
fn a_full_or_read_only_disk_changes_nothing_and_is_told() {
    for deed in DEEDS {
        for (errno, calls) in [
            ("ENOSPC", &["openat", "write", "copy_file_range", "fsync", "rename"][..]),
            ("EROFS", &["openat", "mkdir", "rename", "unlink"]),
            ("EIO", &["fsync", "fchmod"]),
        ] {
            let found = points(deed.traced(&deed.ready()));
            for point in found.iter().filter(|point| calls.contains(&&point.call[..]) && !point.words.starts_with("1,"))
            {
                let at = format!("{}: {errno} from {}({})", deed.name, point.call, point.words);
                let machine = deed.ready();
                let output = fail(deed.traced(&machine), point, errno);
                let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
                // Half of the unlinks are of files that are not there.
                assert!(!output.status.success() || point.call == "unlink", "{at}: {text}");
                assert!(output.status.success() || text.contains("("), "{at}: {text}");
                deed.holds(&machine, &at);
                deed.completes(&machine, &at);
            }
        }
    }
}
