//! install.sh, into a directory of the test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A root directory to install into, and a folder with the script, the lists and the binary as a release has them.
struct Machine {
    root: PathBuf,
}

impl Machine {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("vhu-install-{}-{name}", std::process::id()));
        let release = root.join("release");
        std::fs::create_dir_all(release.join("conflist")).unwrap();
        std::fs::create_dir_all(root.join("etc/cni/net.d")).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        for file in ["install.sh", "conflist/01-kube-ovn.conflist"] {
            std::fs::copy(source.join(file), release.join(file)).unwrap();
        }
        std::fs::copy(env!("CARGO_BIN_EXE_vhostuser-hotplug"), release.join("vhostuser-hotplug")).unwrap();
        Self { root }
    }

    fn install(&self, options: &[&str]) -> (bool, String) {
        let mut command = Command::new(self.root.join("release/install.sh"));
        let output = command.env("DESTDIR", &self.root).args(options).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    fn conflist(&self) -> PathBuf {
        self.root.join("etc/cni/net.d/01-kube-ovn.conflist")
    }

    /// The files of a directory, hidden ones too.
    fn list(&self, directory: &str) -> Vec<String> {
        let listing = std::fs::read_dir(self.root.join(directory)).unwrap();
        let mut names: Vec<String> = listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

const SHIPPED: &str = r#"{
    "name":"kube-ovn", "cniVersion":"0.3.1",
    "plugins":[ {"type":"kube-ovn", "server_socket":"/run/openvswitch/kube-ovn-daemon.sock"},
                {"type":"portmap", "capabilities":{"portMappings":true}} ]
}"#;

#[test]
fn a_binary_is_replaced_while_it_runs_and_a_second_time_changes_nothing() {
    use std::os::unix::fs::MetadataExt;
    let machine = Machine::new("binary");
    let installed = machine.root.join("opt/cni/bin/vhostuser-hotplug");
    std::fs::create_dir_all(installed.parent().unwrap()).unwrap();
    std::fs::copy("/bin/sleep", &installed).unwrap();
    let mut running = Command::new(&installed).arg("60").spawn().unwrap();
    let (ok, text) = machine.install(&[]);
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(ok, "{text}");
    assert_eq!(machine.list("opt/cni/bin"), ["vhostuser-hotplug"]);
    let metadata = std::fs::metadata(&installed).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o755);
    let output = Command::new(&installed).arg("--version").output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        concat!("vhostuser-hotplug ", env!("CARGO_PKG_VERSION"), "\n")
    );
    assert!(machine.install(&[]).0);
    assert_eq!(std::fs::metadata(&installed).unwrap().ino(), metadata.ino());
    assert!(machine.list("etc/cni/net.d").is_empty(), "the configuration is left alone");
}

#[test]
fn kube_ovns_own_conflist_gets_the_plugin_and_any_other_is_left_alone() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let machine = Machine::new("conflist");
    let (ok, text) = machine.install(&["--conflist"]);
    assert!(!ok && text.contains("is kube-ovn installed"), "{text}");

    std::fs::write(machine.conflist(), SHIPPED).unwrap();
    std::fs::set_permissions(machine.conflist(), PermissionsExt::from_mode(0o600)).unwrap();
    let (ok, text) = machine.install(&["--conflist"]);
    assert!(ok, "{text}");
    let conflist = std::fs::read_to_string(machine.conflist()).unwrap();
    assert_eq!(conflist, include_str!("../../conflist/01-kube-ovn.conflist"));
    assert_eq!(std::fs::metadata(machine.conflist()).unwrap().mode() & 0o777, 0o600);
    let names = machine.list("etc/cni/net.d");
    assert_eq!(
        names,
        [".01-kube-ovn.conflist.before-vhostuser-hotplug", "01-kube-ovn.conflist"],
        "no runtime reads the first"
    );
    assert!(machine.install(&["--conflist"]).0, "a second time changes nothing");
    assert_eq!(std::fs::read_to_string(machine.conflist()).unwrap(), conflist);

    let edited = SHIPPED.replace("kube-ovn-daemon.sock", "other.sock");
    std::fs::write(machine.conflist(), &edited).unwrap();
    let (ok, text) = machine.install(&["--conflist"]);
    assert!(!ok && text.contains("vhostuser-hotplug validate"), "{text}");
    assert_eq!(std::fs::read_to_string(machine.conflist()).unwrap(), edited);
}

#[test]
fn wrong_words_and_a_broken_binary_install_nothing() {
    let machine = Machine::new("wrong");
    assert!(!machine.install(&["--no-such-option"]).0);
    assert!(!machine.install(&["--bin-dir"]).0);
    std::fs::write(machine.root.join("release/vhostuser-hotplug"), "#!/bin/sh\nexit 1\n").unwrap();
    let (ok, text) = machine.install(&[]);
    assert!(!ok && text.contains("does not run"), "{text}");
    assert!(!machine.root.join("opt").exists());
}
