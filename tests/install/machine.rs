//! A machine to install on: a root directory, and a folder with what a release has.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

pub const BINARY: &str = env!("CARGO_BIN_EXE_vhostuser-hotplug");

/// kube-ovn's list as every release from 1.10 to 1.16 ships it.
pub const SHIPPED: &str = include_str!("lists/shipped.conflist");

/// The same with the plugin.
pub const CHAINED: &str = include_str!("lists/shipped.expected");

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The binary without what only a debugger reads: it is copied, and synced to the disk, some hundred times.
fn stripped() -> &'static Path {
    static STRIPPED: OnceLock<PathBuf> = OnceLock::new();
    STRIPPED.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vhostuser-hotplug");
        let new = path.with_extension(std::process::id().to_string());
        assert!(Command::new("strip").arg("-o").args([&new, Path::new(BINARY)]).status().unwrap().success());
        std::fs::rename(&new, &path).unwrap();
        path
    })
}

/// Copies a program. By cp(1): a file that this process had open for writing would be so, until they are what they are to
/// be, in those that other tests start meanwhile, and could not be started.
pub fn put(program: &Path, at: &Path) {
    assert!(Command::new("cp").args([program, at]).status().unwrap().success());
}

/// The same with a script's text.
pub fn put_script(text: &str, at: &Path) {
    assert!(Command::new("sh").args(["-c", "printf %s \"$0\" >\"$1\"", text]).arg(at).status().unwrap().success());
}

pub struct Machine {
    pub root: PathBuf,
}

impl Machine {
    /// Without kube-ovn.
    pub fn bare() -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("install-{}-{count}", std::process::id()));
        let release = root.join("release");
        std::fs::create_dir_all(&release).unwrap();
        std::fs::create_dir_all(root.join("etc/cni/net.d")).unwrap();
        put(&Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh"), &release.join("install.sh"));
        // A link, so that nobody has it open for writing when it is started.
        std::fs::hard_link(stripped(), release.join("vhostuser-hotplug")).unwrap();
        Self { root }
    }

    /// With kube-ovn's list.
    pub fn new() -> Self {
        let machine = Self::bare();
        std::fs::write(machine.conflist(), SHIPPED).unwrap();
        machine
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    pub fn conflist(&self) -> PathBuf {
        self.path("etc/cni/net.d/01-kube-ovn.conflist")
    }

    pub fn drop_in(&self) -> PathBuf {
        self.path("etc/cni/net.d/kube-ovn/vhostuser-hotplug.conf")
    }

    pub fn binary(&self) -> PathBuf {
        self.path("opt/cni/bin/vhostuser-hotplug")
    }

    pub fn list(&self) -> String {
        std::fs::read_to_string(self.conflist()).unwrap()
    }

    /// install.sh behind these words, such as a shell or strace.
    pub fn command(&self, words: &[&str], options: &[&str]) -> Command {
        let script = self.path("release/install.sh");
        let mut all = words.iter().map(PathBuf::from).chain([script]);
        let mut command = Command::new(all.next().unwrap());
        command.args(all).args(options).env("DESTDIR", &self.root);
        command
    }

    /// What install.sh ends in, behind these words.
    pub fn installer(&self, words: &[&str], options: &[&str]) -> Command {
        let binary = self.path("release/vhostuser-hotplug");
        let mut all = words.iter().map(PathBuf::from).chain([binary]);
        let mut command = Command::new(all.next().unwrap());
        command.args(all).arg("install").args(options).env("DESTDIR", &self.root);
        command
    }

    pub fn run(&self, options: &[&str]) -> (bool, String) {
        told(self.command(&[], options).output().unwrap())
    }

    /// Installs or so; it must succeed.
    pub fn install(&self, options: &[&str]) -> String {
        let (ok, text) = self.run(options);
        assert!(ok, "{options:?}: {text}");
        text
    }

    pub fn is_sound(&self) -> bool {
        self.run(&["--check"]).0
    }

    /// Every file of the node with what matters of it; the release's folder is not the node's.
    pub fn snapshot(&self) -> Vec<(String, String)> {
        let script = "find . -path ./release -prune -o -printf '%P %y %m %U:%G %i %T@ %C@\\n' | sort";
        let output = Command::new("sh").args(["-c", script]).current_dir(&self.root).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter_map(|line| line.split_once(' ')).map(|(name, rest)| (name.into(), rest.into())).collect()
    }

    /// The files of a directory, hidden ones too.
    pub fn names(&self, directory: &str) -> Vec<String> {
        let listing = std::fs::read_dir(self.root.join(directory)).unwrap();
        let mut names: Vec<String> = listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// What a runtime gets when it loads its network now, as containerd does: the first file by name, and it must be sound.
    /// The types of the chain's plugins. If ours is one, it must be there and run.
    pub fn chain(&self) -> Result<Vec<String>, String> {
        let kinds = self.kinds()?;
        if kinds.iter().any(|kind| kind == "vhostuser-hotplug") {
            let mut plugin = Command::new(self.binary());
            let output = plugin.env("CNI_COMMAND", "VERSION").stdin(Stdio::null()).output();
            if !output.as_ref().is_ok_and(|output| output.status.success()) {
                // Uninstalled since, in which the chain goes first.
                let now = self.kinds()?;
                if now == kinds {
                    return Err(format!("the chain names a plugin that does not run: {output:?}"));
                }
                return Ok(now);
            }
        }
        Ok(kinds)
    }

    fn kinds(&self) -> Result<Vec<String>, String> {
        let is_read = |name: &String| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
        let first = self.names("etc/cni/net.d").into_iter().find(is_read).ok_or("no network")?;
        let text = std::fs::read_to_string(self.path("etc/cni/net.d").join(&first));
        let text = text.map_err(|error| format!("{first}: {error}"))?;
        let list: Value = serde_json::from_str(&text).map_err(|error| format!("{first}: {error}: {text:?}"))?;
        let mut kinds = Vec::new();
        for plugin in list["plugins"].as_array().ok_or(format!("{first}: no plugins: {text}"))? {
            kinds.push(plugin["type"].as_str().ok_or(format!("{first}: no type: {text}"))?.to_owned());
        }
        // libcni 1.3.
        if let Ok(text) = std::fs::read_to_string(self.drop_in()) {
            let plugin: Value = serde_json::from_str(&text).map_err(|error| format!("drop-in: {error}: {text:?}"))?;
            kinds.push(plugin["type"].as_str().ok_or(format!("drop-in: no type: {text}"))?.to_owned());
        }
        Ok(kinds)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Whether it succeeded, and all that it said.
pub fn told(output: Output) -> (bool, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}
