//! install.sh on a node whose containerd is at work: what it changes is picked up without a restart.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::containerd::{Containerd, sandbox};
use super::lab::{Pod, holds, lab};

/// kube-ovn's list as it ships it, and the plugins of its chain.
const SHIPPED: &str = include_str!("../install/lists/shipped.conflist");
const THEIRS: [&str; 2] = ["kube-ovn", "portmap"];

const BINARY: &str = env!("CARGO_BIN_EXE_vhostuser-hotplug");

/// A folder with what a release has. The plugin is back in the node when it goes, for the tests that come later.
struct Release(PathBuf);

impl Release {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("release-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let release = Self(folder);
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh"), release.0.join("install.sh")).unwrap();
        // Without what only a debugger reads: each installation is synced to the disk.
        let mut strip = Command::new("strip");
        let strip = strip.arg("-o").arg(release.0.join("vhostuser-hotplug"));
        assert!(strip.arg(BINARY).status().unwrap().success());
        release
    }

    /// Runs it in the node; what it says. It must succeed. The containerd that runs is the one that its PATH has.
    fn install(&self, options: &[&str]) -> String {
        let pid = "$(cut -d ' ' -f 1 /run/lab-containerd/pid)";
        let path = format!("PATH=$(dirname \"$(readlink /proc/{pid}/exe)\"):$PATH exec \"$0\" \"$@\"");
        let script = self.0.join("install.sh");
        lab(&[&["exec", "sh", "-c", &path, script.to_str().unwrap()], options].concat())
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        let _ = holds(&["cni-install", BINARY]);
    }
}

/// Which plugins are called while something is done.
fn called(containerd: &Containerd, what: impl FnOnce()) -> Vec<String> {
    let before = containerd.calls().len();
    what();
    let calls = containerd.calls().split_off(before);
    calls.iter().map(|call| call["plugin"].as_str().unwrap().to_owned()).collect()
}

/// A pod's sandbox, and which plugins were called to make it.
fn new_pod(containerd: &Containerd) -> (Pod, Vec<String>) {
    let mut pod = None;
    let plugins = called(containerd, || pod = Some(Pod::new(&["--cri", "--only-sandbox"])));
    (pod.unwrap(), plugins)
}

/// From kube-ovn's list to a pod with its share and back, in each of the ways.
fn comes_and_goes(version: &str, modes: &[&str]) {
    let release = Release::new();
    let containerd = Containerd::start(version, &[("01-kube-ovn.conflist", SHIPPED)]);
    lab(&["exec", "rm", "/opt/cni/bin/vhostuser-hotplug"]);
    assert_eq!(new_pod(&containerd).1, THEIRS);
    for mode in modes {
        // libcni keeps the list's file of a sandbox, and nothing of what was dropped in beside it.
        let remembered =
            if *mode == "conflist" { "sandboxes made with it in the chain: 1" } else { "attachments not undone: 1" };
        let told = release.install(&["--mode", mode]);
        assert!(told.contains("installed ("), "{told}");
        containerd.has_loaded(true);
        release.install(&["--check", "--mode", mode]);
        let (pod, plugins) = new_pod(&containerd);
        assert_eq!(plugins, [THEIRS[0], THEIRS[1], "vhostuser-hotplug"], "{mode}");
        let target = format!("/run/openvswitch/vhost_sockets/{}/vhostuser-sockets", pod.fact("POD_UID"));
        let is_shared = || holds(&["exec", "test", pod.fact("VOLUME"), "-ef", &target]);
        assert!(is_shared());

        let told = release.install(&["--uninstall"]);
        assert!(
            told.contains(&format!("left for now: {remembered}")) && told.contains("attachments not undone: 1"),
            "{told}"
        );
        containerd.has_loaded(false);
        assert_eq!(lab(&["exec", "cat", "/etc/cni/net.d/01-kube-ovn.conflist"]), SHIPPED.trim_end());
        assert_eq!(new_pod(&containerd).1, THEIRS, "{mode}");
        // containerd undoes a sandbox by the list of today, so nobody calls the plugin for this one.
        let plugins = called(&containerd, || sandbox("StopPodSandbox", &pod));
        assert_eq!(plugins, [THEIRS[1], THEIRS[0]], "{mode}");
        assert!(is_shared());
        drop(pod);
        let told = release.install(&["--uninstall"]);
        assert!(told.contains("removed"), "{told}");
        for path in ["/opt/cni/bin/vhostuser-hotplug", "/run/vhostuser-hotplug", &target] {
            assert!(!holds(&["exec", "test", "-e", path]), "{path} is left: {told}");
        }
    }
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn containerd_1_6_picks_the_plugin_up_and_lets_it_go() {
    comes_and_goes("1", &["conflist"]);
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn containerd_2_1_picks_the_plugin_up_and_lets_it_go_in_both_ways() {
    comes_and_goes("2", &["conflist", "dropin"]);
}
