//! install.sh: what it does on a sound node and what it says on others.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use super::machine::{CHAINED, Machine, SHIPPED, put, put_script, told};

#[test]
fn one_command_installs_and_a_second_one_changes_nothing() {
    let machine = Machine::new();
    std::fs::set_permissions(machine.conflist(), PermissionsExt::from_mode(0o600)).unwrap();
    let text = machine.install(&[]);
    assert!(text.contains("mode auto: conflist") && text.contains("plugin vhostuser-hotplug added"), "{text}");
    assert_eq!(machine.list(), CHAINED);
    assert_eq!(std::fs::metadata(machine.conflist()).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::metadata(machine.binary()).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(machine.names("opt/cni/bin"), ["vhostuser-hotplug"]);
    let names = machine.names("etc/cni/net.d");
    assert_eq!(
        names,
        [".01-kube-ovn.conflist.before-vhostuser-hotplug", "01-kube-ovn.conflist"],
        "no runtime reads the first"
    );
    let before = machine.snapshot();
    let text = machine.install(&[]);
    assert!(text.contains("already this version") && text.contains("has the plugin already"), "{text}");
    assert_eq!(machine.snapshot(), before);
    assert!(machine.is_sound());
    assert_eq!(machine.snapshot(), before, "a check changes nothing");
    assert_eq!(machine.chain().unwrap(), ["kube-ovn", "portmap", "vhostuser-hotplug"]);
}

#[test]
fn a_binary_is_replaced_while_it_runs() {
    let machine = Machine::new();
    std::fs::create_dir_all(machine.path("opt/cni/bin")).unwrap();
    put(Path::new("/bin/sleep"), &machine.binary());
    let mut running = Command::new(machine.binary()).arg("60").spawn().unwrap();
    let (ok, text) = machine.run(&["--mode", "none"]);
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(ok, "{text}");
    let output = Command::new(machine.binary()).arg("--version").output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        concat!("vhostuser-hotplug ", env!("CARGO_PKG_VERSION"), "\n")
    );
    assert_eq!(machine.list(), SHIPPED, "mode none leaves the list alone");
    assert!(machine.run(&["--check", "--mode", "none"]).0);
    let (ok, text) = machine.run(&["--check"]);
    assert!(!ok && text.contains("no plugin of it is vhostuser-hotplug"), "{text}");
}

#[test]
fn a_dry_run_says_it_all_and_does_nothing() {
    let machine = Machine::new();
    let before = machine.snapshot();
    for (options, words) in [
        (&["--dry-run"][..], &["would be installed", "would be edited: plugin vhostuser-hotplug added"][..]),
        (&["--dry-run", "--mode", "dropin"], &["would be installed", "would be made"]),
        (&["--dry-run", "--mode", "none"], &["would be installed", "left alone"]),
        (&["--dry-run", "--uninstall"], &["not there"]),
    ] {
        let text = machine.install(options);
        assert!(words.iter().all(|word| text.contains(word)), "{options:?}: {text}");
        assert_eq!(machine.snapshot(), before, "{options:?}");
    }
    machine.install(&[]);
    let before = machine.snapshot();
    let text = machine.install(&["--dry-run", "--uninstall"]);
    assert!(
        text.contains("would be edited: plugin vhostuser-hotplug removed") && text.contains("would be removed"),
        "{text}"
    );
    let text = machine.install(&["--dry-run", "--mode", "dropin"]);
    assert!(
        text.contains("would be made") && text.contains("would be edited: plugin vhostuser-hotplug removed"),
        "{text}"
    );
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn every_shell_and_both_spellings_of_an_option_will_do() {
    for shell in [&["dash"][..], &["busybox", "sh"], &["bash", "--posix"]] {
        let machine = Machine::new();
        let bins = machine.path("usr/libexec/cni");
        let (ok, text) = told(machine.command(shell, &["--bin-dir=/usr/libexec/cni"]).output().unwrap());
        assert!(ok && bins.join("vhostuser-hotplug").exists(), "{shell:?}: {text}");
        // Without the release, the installed one looks after itself.
        std::fs::remove_file(machine.path("release/vhostuser-hotplug")).unwrap();
        for options in [&["--bin-dir", "/usr/libexec/cni", "--check"][..], &["--check", "--bin-dir=/usr/libexec/cni"]] {
            let (ok, text) = told(machine.command(shell, options).output().unwrap());
            assert!(ok, "{shell:?} {options:?}: {text}");
        }
        let options = ["--uninstall", "--bin-dir", "/usr/libexec/cni"];
        let (ok, text) = told(machine.command(shell, &options).output().unwrap());
        assert!(ok && machine.list() == SHIPPED && !bins.join("vhostuser-hotplug").exists(), "{shell:?}: {text}");
        let (ok, text) = told(machine.command(shell, &options).output().unwrap());
        assert!(!ok && text.contains("is not there"), "{shell:?}: {text}");
    }
}

#[test]
fn directories_other_than_the_usual_ones_are_honoured_to_the_letter() {
    let machine = Machine::bare();
    std::fs::create_dir_all(machine.path("a b/net.d")).unwrap();
    std::fs::write(machine.path("a b/net.d/10-kube-ovn.conflist"), SHIPPED).unwrap();
    let (bins, lists) = (machine.path("a b/bin $x"), machine.path("a b/net.d"));
    let options = ["--bin-dir", bins.to_str().unwrap(), "--conf-dir", lists.to_str().unwrap()];
    let mut command = machine.command(&[], &options);
    let (ok, text) = told(command.env_remove("DESTDIR").output().unwrap());
    assert!(ok && bins.join("vhostuser-hotplug").exists(), "{text}");
    assert_eq!(std::fs::read_to_string(lists.join("10-kube-ovn.conflist")).unwrap(), CHAINED);
}

#[test]
fn a_drop_in_and_an_entry_take_each_others_place_with_their_keys() {
    let machine = Machine::new();
    let text = machine.install(&["--mode", "dropin"]);
    assert!(text.contains("libcni 1.3"), "{text}");
    assert_eq!(machine.list(), SHIPPED);
    assert_eq!(std::fs::read_to_string(machine.drop_in()).unwrap(), "{\"type\":\"vhostuser-hotplug\"}\n");
    assert!(machine.is_sound());
    let before = machine.snapshot();
    assert!(machine.install(&[]).contains("mode auto: dropin"));
    assert_eq!(machine.snapshot(), before, "auto leaves it as it is");

    std::fs::write(machine.drop_in(), "{ \"type\":\"vhostuser-hotplug\", \"queues\":4 }").unwrap();
    machine.install(&["--mode", "conflist"]);
    let entry = r#"{"type":"vhostuser-hotplug","queues":4}"#;
    assert_eq!(machine.list(), CHAINED.replace(r#"{"type":"vhostuser-hotplug"}"#, entry));
    assert!(!machine.drop_in().exists() && !machine.drop_in().parent().unwrap().exists());
    assert!(machine.is_sound());
    machine.install(&["--mode", "dropin"]);
    assert_eq!(std::fs::read_to_string(machine.drop_in()).unwrap(), format!("{entry}\n"));
    assert_eq!(machine.list(), SHIPPED);

    // Others' drop-ins stay.
    std::fs::write(machine.drop_in().with_file_name("other.conf"), "{\"type\":\"other\"}").unwrap();
    machine.install(&["--uninstall"]);
    assert_eq!(machine.names("etc/cni/net.d/kube-ovn"), ["other.conf"]);
}

#[test]
fn a_list_that_takes_no_drop_ins_gets_none() {
    for closed in ["true", "\"True\""] {
        let machine = Machine::new();
        let list = SHIPPED.replacen('{', &format!("{{\"loadOnlyInlinedPlugins\": {closed},"), 1);
        std::fs::write(machine.conflist(), &list).unwrap();
        let (ok, text) = machine.run(&["--mode", "dropin"]);
        assert!(!ok && text.contains("loadOnlyInlinedPlugins") && !machine.drop_in().exists(), "{text}");
        machine.install(&[]);
        assert!(machine.is_sound() && machine.list().contains("vhostuser-hotplug"));
    }
}

/// What `--check` says of a machine; it must not be sound.
fn wrong(machine: &Machine) -> String {
    let (ok, text) = machine.run(&["--check"]);
    assert!(!ok && text.contains("wrong:"), "{text}");
    text
}

#[test]
fn a_check_names_what_is_wrong() {
    let machine = Machine::bare();
    let text = wrong(&machine);
    assert!(text.contains("not there") && text.contains("is it installed on this node"), "{text}");
    let (ok, text) = machine.run(&[]);
    assert!(!ok && text.contains("install kube-ovn first") && machine.binary().exists(), "{text}");

    std::fs::write(machine.conflist(), SHIPPED).unwrap();
    machine.install(&[]);
    assert!(machine.is_sound());
    let put = |name: &str, text: &str| std::fs::write(machine.path("etc/cni/net.d").join(name), text).unwrap();
    let remove = |name: &str| std::fs::remove_file(machine.path("etc/cni/net.d").join(name)).unwrap();

    // Another network comes first by its name: the runtime takes that one.
    put("00-calico.conflist", include_str!("lists/refused/calico.conflist"));
    let text = wrong(&machine);
    assert!(text.contains("00-calico.conflist: the runtime reads this first") && text.contains("calico"), "{text}");
    put("00-calico.conflist", "{");
    assert!(wrong(&machine).contains("00-calico.conflist: it is not one JSON object"));
    remove("00-calico.conflist");
    put("00-lo.json", "{\"cniVersion\":\"0.3.1\",\"name\":\"lo\",\"type\":\"loopback\"}");
    assert!(wrong(&machine).contains("made by loopback"));
    remove("00-lo.json");
    put("20-other.conflist", "{");
    assert!(machine.is_sound(), "what comes later is not read");

    // Multus, thick and by name; and with a copy of the list from before.
    put(
        "00-multus.conf",
        r#"{"name":"m","type":"multus-shim","clusterNetwork":"/etc/cni/net.d/01-kube-ovn.conflist"}"#,
    );
    let (ok, text) = machine.run(&["--check"]);
    assert!(ok && text.contains("calls Multus"), "{text}");
    put("00-multus.conf", &format!(r#"{{"name":"m","type":"multus","delegates":[{SHIPPED}]}}"#));
    assert!(wrong(&machine).contains("restart this node's Multus pod"));
    put("00-multus.conf", &format!(r#"{{"name":"m","type":"multus","delegates":[{CHAINED}]}}"#));
    assert!(machine.is_sound());
    remove("00-multus.conf");

    // Twice in the chain.
    std::fs::create_dir_all(machine.drop_in().parent().unwrap()).unwrap();
    std::fs::write(machine.drop_in(), "{\"type\":\"vhostuser-hotplug\"}").unwrap();
    assert!(wrong(&machine).contains("called twice"));
    // `validate` has the same judge, but wants the plugin in the list itself.
    let validate = || told(Command::new(machine.binary()).arg("validate").arg(machine.conflist()).output().unwrap());
    assert!(validate().1.contains("called twice"));
    std::fs::write(machine.conflist(), SHIPPED).unwrap();
    assert!(machine.is_sound());
    let (ok, text) = validate();
    assert!(!ok && text.contains("no plugin of it is vhostuser-hotplug: ") && text.contains("before 1.3"), "{text}");
    std::fs::write(machine.drop_in(), "{").unwrap();
    assert!(wrong(&machine).contains("no runtime reads the list"));
    std::fs::remove_file(machine.drop_in()).unwrap();

    let broken = &CHAINED[..200];
    std::fs::write(machine.conflist(), broken).unwrap();
    assert!(wrong(&machine).contains("not one JSON object"));
    let (ok, text) = machine.run(&[]);
    assert!(!ok && text.contains("not one JSON object") && machine.list() == broken, "{text}");
    std::fs::write(machine.conflist(), CHAINED).unwrap();

    std::fs::set_permissions(machine.binary(), PermissionsExt::from_mode(0o644)).unwrap();
    assert!(wrong(&machine).contains("not executable"));
    put_script("#!/bin/sh\nexit 1\n", &machine.binary());
    std::fs::set_permissions(machine.binary(), PermissionsExt::from_mode(0o755)).unwrap();
    assert!(wrong(&machine).contains("does not run"));
    machine.install(&[]);
    assert!(machine.is_sound());
}

#[test]
fn wrong_words_and_a_broken_binary_install_nothing() {
    let machine = Machine::new();
    let before = machine.snapshot();
    for options in [&["--no-such-option"][..], &["--bin-dir"], &["--mode", "other"], &["--check", "--uninstall"]] {
        let (ok, text) = machine.run(options);
        assert!(!ok && !text.is_empty(), "{options:?}");
    }
    // Not written over: it is a link to what all machines have.
    std::fs::remove_file(machine.path("release/vhostuser-hotplug")).unwrap();
    put(Path::new("/bin/false"), &machine.path("release/vhostuser-hotplug"));
    let (ok, text) = machine.run(&[]);
    assert!(!ok && text.contains("does not run"), "{text}");
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn the_script_tells_every_option_of_the_binary() {
    let machine = Machine::bare();
    let script = machine.install(&["--help"]);
    let binary = told(Command::new(super::machine::BINARY).args(["install", "--help"]).output().unwrap()).1;
    let options = |text: &str| {
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
        let mut options: Vec<String> =
            words.filter(|word| word.starts_with("--") && *word != "--help").map(str::to_owned).collect();
        options.sort();
        options.dedup();
        options
    };
    assert_eq!(options(&script), options(&binary));
    assert!(options(&script).len() >= 6, "{script}");
}
