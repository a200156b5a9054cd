//! The plugin out of the chain, then the binary away once no sandbox can call it any more.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{ChangeLog, Error, NodePaths, PLUGIN, binary, callers, chain};
use crate::attachment::record::{ReadError, Record, Store};
use crate::config::Config;
use crate::conflist::KUBE_OVN;
use crate::conflist::conf_dir;
use crate::{file, quote};

/// Most callers that are named.
const NAMED: usize = 3;

/// Where libcni and Multus keep the lists that they called ADD with.
const CACHE: &str = "/var/lib/cni";

/// Uninstalls. A binary that sandboxes may still call stays and answers their DEL; a later run removes it. The plugin's two
/// directories are those of its keys, unless they are given.
///
/// # Errors
/// See [`Error`]. If the chain wasn't changed or the records can't be read, the binary stays.
pub fn uninstall(
    paths: &NodePaths,
    state_dir: Option<&Path>,
    kubelet_dir: Option<&Path>,
    log: &mut ChangeLog,
) -> Result<(), Error> {
    if is_contained() {
        return Err(Error::Refused(
            "this is the plugin's own container, from which the sandboxes that still call it cannot be seen: uninstall on the \
             node, and end the keeper with --at-end=leave"
                .to_owned(),
        ));
    }
    let config = configuration(paths, state_dir, kubelet_dir);
    chain::leave(paths, log)?;
    let installed = paths.binary();
    let _lock = if log.is_dry() || !paths.bin_dir.is_dir() { None } else { Some(binary::lock(paths)?) };
    let state_dir = paths.place(&config.state_dir);
    let store = Store::below(&paths.place(Path::new("/")), &config.state_dir);
    if !log.is_dry() && paths.is_this_machine() {
        clean_up(&config, &store)?;
    }
    let callers = Callers::find(paths, &store)?;
    if !installed.exists() {
        log.say(&installed, "not there");
    } else if let Some(who) = callers.describe() {
        let again = again(&config);
        log.say(
            &installed,
            format_args!(
                "left for now: {who}. Without it their pods could not end. Uninstall again when they are gone{again}"
            ),
        );
    } else {
        if !log.is_dry() {
            file::remove(&installed)?;
            file::sync_directory(&paths.bin_dir)?;
        }
        log.changed(&installed, "removed");
    }
    if !log.is_dry() && !installed.exists() && store.retire() {
        log.changed(&state_dir, "removed");
    }
    Ok(())
}

/// Returns true if the first process is this program: the keeper, or a container that was started to uninstall. Neither
/// libcni's cache nor the records can be seen there, so all callers would seem to be gone.
fn is_contained() -> bool {
    let this = |pid: &str| std::fs::metadata(format!("/proc/{pid}/exe")).map(|file| (file.dev(), file.ino())).ok();
    this("1").is_some_and(|first| this("self") == Some(first))
}

/// Reads the plugin's keys before its entry, which has them, is removed.
fn configuration(paths: &NodePaths, state_dir: Option<&Path>, kubelet_dir: Option<&Path>) -> Config {
    let mut config = conf_dir::own_config(&paths.conf_dir).unwrap_or_default();
    for (given, key) in [(state_dir, &mut config.state_dir), (kubelet_dir, &mut config.kubelet_dir)] {
        if let Some(given) = given {
            given.clone_into(key);
        }
    }
    config
}

/// Returns the options that a later run needs, because it finds no keys any more.
fn again(config: &Config) -> String {
    let usual = Config::default();
    let directories =
        [("state-dir", &config.state_dir, &usual.state_dir), ("kubelet-dir", &config.kubelet_dir, &usual.kubelet_dir)];
    let others = directories.iter().filter(|(_, path, usual)| path != usual);
    let options: String = others.map(|(name, path, _)| format!(" --{name} {}", path.display())).collect();
    if options.is_empty() { options } else { format!(", with{options}") }
}

/// What may still call the plugin.
struct Callers {
    sandboxes: Vec<PathBuf>,
    attachments: Vec<Result<Record, ReadError>>,
}

impl Callers {
    fn find(paths: &NodePaths, store: &Store) -> Result<Self, Error> {
        Ok(Self { sandboxes: callers::sandboxes(&paths.place(Path::new(CACHE))), attachments: store.all()? })
    }

    /// Returns `None` if there are none.
    fn describe(&self) -> Option<String> {
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

/// Joins the first of the names.
fn some(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = if names.len() > NAMED { ", …" } else { "" };
    format!("{}{more}", names.take(NAMED).collect::<Vec<_>>().join(", "))
}

/// Cleans up after pods that are gone, by a GC call of the plugin. containerd sends no DEL for them any more, since it uses the
/// list of today. What fails leaves its records, by which the caller notices.
fn clean_up(config: &Config, store: &Store) -> Result<(), Error> {
    let records = store.all()?.into_iter().flatten();
    // Records of live pods stay.
    let valid: Vec<Value> =
        records.map(|record| json!({"containerID": record.container_id, "ifname": record.ifname})).collect();
    let conf = json!({
        "cniVersion": "1.1.0", "name": KUBE_OVN, "type": PLUGIN, "cni.dev/valid-attachments": valid,
        "state_dir": config.state_dir, "kubelet_dir": config.kubelet_dir, "socket_base_dir": config.socket_base_dir,
        "vhost_user_socket_volume_name": config.volume_name, "detach_timeout": config.detach_timeout.as_secs(),
    });
    // In another process, because GC drops most capabilities.
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
