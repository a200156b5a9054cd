//! The plugin out of the chain, and its binary away once nobody can call it any more.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Error, Journal, NAME, NodePaths, binary, callers, chain};
use crate::attachment::record::{ReadError, Record, Store};
use crate::config::Config;
use crate::conflist::KUBE_OVN;
use crate::conflist::conf_dir;
use crate::{file, quote};

/// How many of those who may still call are named.
const NAMED: usize = 3;

/// Where libcni and Multus keep what they called a sandbox' ADD with.
const CACHE: &str = "/var/lib/cni";

/// Uninstalls. A binary that sandboxes may still call stays, and answers their DEL; another run removes it when they are
/// gone. The plugin's two directories are where its keys say, unless they are given.
///
/// # Errors
/// See [`Error`]. With the chain unchanged, or the records not read, the binary stays.
pub fn uninstall(
    places: &NodePaths,
    state_dir: Option<&Path>,
    kubelet_dir: Option<&Path>,
    journal: &mut Journal,
) -> Result<(), Error> {
    if is_contained() {
        return Err(Error::Refused(
            "this is a container of the plugin's own, where nobody can tell which sandboxes still call it: uninstall on the \
             node, and the keeper by its --at-end=leave"
                .to_owned(),
        ));
    }
    let config = configuration(places, state_dir, kubelet_dir);
    chain::leave(places, journal)?;
    let installed = places.binary();
    let _lock = if journal.is_dry() || !places.bin_dir.is_dir() { None } else { Some(binary::lock(places)?) };
    let state_dir = places.place(&config.state_dir);
    let store = Store::below(&places.place(Path::new("/")), &config.state_dir);
    if !journal.is_dry() && places.is_this_machine() {
        clean_up(&config, &store)?;
    }
    let callers = Callers::find(places, &store)?;
    if !installed.exists() {
        journal.say(&installed, "not there");
    } else if let Some(who) = callers.in_words() {
        let again = again(&config);
        journal.say(
            &installed,
            format_args!(
                "left for now: {who}. Without it their pods could not end. When they are gone, uninstall again{again}"
            ),
        );
    } else {
        if !journal.is_dry() {
            file::remove(&installed)?;
            file::sync_directory(&places.bin_dir)?;
        }
        journal.changed(&installed, "removed");
    }
    if !journal.is_dry() && !installed.exists() && store.retire() {
        journal.changed(&state_dir, "removed");
    }
    Ok(())
}

/// Whether the first process is this program: the keeper, or a container that was started for this. There, neither what
/// libcni remembers nor the records are seen, and all would seem to be gone.
fn is_contained() -> bool {
    let this = |pid: &str| std::fs::metadata(format!("/proc/{pid}/exe")).map(|file| (file.dev(), file.ino())).ok();
    this("1").is_some_and(|first| this("self") == Some(first))
}

/// The plugin's keys, which go with its entry, so they are read before.
fn configuration(places: &NodePaths, state_dir: Option<&Path>, kubelet_dir: Option<&Path>) -> Config {
    let mut config = conf_dir::ours(&places.conf_dir).unwrap_or_default();
    for (given, key) in [(state_dir, &mut config.state_dir), (kubelet_dir, &mut config.kubelet_dir)] {
        if let Some(given) = given {
            given.clone_into(key);
        }
    }
    config
}

/// The options that another run needs, which finds no keys any more.
fn again(config: &Config) -> String {
    let usual = Config::default();
    let directories =
        [("state-dir", &config.state_dir, &usual.state_dir), ("kubelet-dir", &config.kubelet_dir, &usual.kubelet_dir)];
    let others = directories.iter().filter(|(_, path, usual)| path != usual);
    let options: String = others.map(|(name, path, _)| format!(" --{name} {}", path.display())).collect();
    if options.is_empty() { options } else { format!(", with{options}") }
}

/// Who may still call the plugin.
struct Callers {
    sandboxes: Vec<PathBuf>,
    attachments: Vec<Result<Record, ReadError>>,
}

impl Callers {
    fn find(places: &NodePaths, store: &Store) -> Result<Self, Error> {
        Ok(Self { sandboxes: callers::sandboxes(&places.place(Path::new(CACHE))), attachments: store.all()? })
    }

    /// `None` if there are none.
    fn in_words(&self) -> Option<String> {
        let mut who = Vec::new();
        if !self.sandboxes.is_empty() {
            let names = self.sandboxes.iter().map(|path| path.display().to_string());
            who.push(format!("sandboxes made with it in the chain: {} ({})", self.sandboxes.len(), some(names)));
        }
        if !self.attachments.is_empty() {
            let names = self.attachments.iter().map(|attachment| match attachment {
                Ok(record) => format!("{} {}", quote::value(&record.pod), quote::value(&record.ifname)),
                Err(ReadError { path, why }) => format!("{} {why}", path.display()),
            });
            who.push(format!("attachments not undone: {} ({})", self.attachments.len(), some(names)));
        }
        (!who.is_empty()).then(|| who.join("; "))
    }
}

/// The first of the names.
fn some(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = if names.len() > NAMED { ", …" } else { "" };
    format!("{}{more}", names.take(NAMED).collect::<Vec<_>>().join(", "))
}

/// Removes what pods that are gone have left, as the plugin's GC. No DEL comes for them where the runtime undoes a sandbox
/// by the list of today, as containerd does. That it could not is told by its records, which are still there then.
fn clean_up(config: &Config, store: &Store) -> Result<(), Error> {
    let records = store.all()?.into_iter().flatten();
    // Those of pods that live are to stay.
    let valid: Vec<Value> =
        records.map(|record| json!({"containerID": record.container_id, "ifname": record.ifname})).collect();
    let conf = json!({
        "cniVersion": "1.1.0", "name": KUBE_OVN, "type": NAME, "cni.dev/valid-attachments": valid,
        "state_dir": config.state_dir, "kubelet_dir": config.kubelet_dir, "socket_base_dir": config.socket_base_dir,
        "vhost_user_socket_volume_name": config.volume_name, "detach_timeout": config.detach_timeout.as_secs(),
    });
    // In a process of its own, for it gives up most of its rights first.
    let mut command = Command::new("/proc/self/exe");
    let command = command.env("CNI_COMMAND", "GC").env("CNI_PATH", "/opt/cni/bin").stdin(Stdio::piped());
    if let Ok(mut plugin) = command.stdout(Stdio::null()).spawn() {
        if let Some(mut stdin) = plugin.stdin.take() {
            let _ = stdin.write_all(conf.to_string().as_bytes());
        }
        let _ = plugin.wait();
    }
    Ok(())
}
