//! The container runtime, and the network configuration that it uses.

use std::path::{Path, PathBuf};

use super::{Check, Finding, NodePaths};
use crate::conflist::chain::Placement;
use crate::conflist::conf_dir;
use crate::node::chain;
use crate::node::default_network::DefaultNetwork;
use crate::pod::process::Process;
use crate::sys;

const CONFLIST: Check = Check {
    name: "conflist",
    why: "the runtime takes the first configuration of its directory for every pod; the plugin must be in it, after kube-ovn, \
          to share a pod's volume at its start",
};

const RUNTIME: Check =
    Check { name: "runtime", why: "it must read the directories that the plugin and its configuration are in" };

/// Longest configuration file of a runtime that is read, in bytes.
const CONFIG_LIMIT: u64 = 1 << 20;

pub fn examine(paths: &NodePaths) -> Vec<Finding> {
    vec![conflist(paths), runtime(paths)]
}

/// Judges the chain as `install --check` does, except that a plugin which only NADs call is no fault.
fn conflist(paths: &NodePaths) -> Finding {
    let conf_dir = &paths.conf_dir;
    let directory = conf_dir.display();
    match conf_dir::files(conf_dir) {
        Ok(files) if files.is_empty() => {
            return CONFLIST.wrong(format!("{directory} has none"), "is kube-ovn installed?");
        }
        Ok(_) => {}
        Err(error) => {
            return CONFLIST.wrong(format!("{directory}: {error}"), "is kube-ovn installed? Or give --conf-dir");
        }
    }
    let chain = chain::judge(paths);
    let list = chain.as_ref().ok().and_then(|chain| Some(chain.as_ref()?.0.as_path()));
    let before = match DefaultNetwork::find(conf_dir, list) {
        Some(DefaultNetwork::Unreadable(why)) => {
            return CONFLIST.wrong(why, "fix or remove it: runtimes stop at a file that they cannot read");
        }
        Some(DefaultNetwork::StaleMultus(path)) => {
            let found = format!("{}: Multus has a copy of kube-ovn's list without the plugin", path.display());
            return CONFLIST.wrong(found, "restart this node's Multus pod");
        }
        Some(DefaultNetwork::Other(path, _)) => Some(path),
        Some(DefaultNetwork::KubeOvn | DefaultNetwork::Multus(_)) | None => None,
    };
    let by_nad_alone = |found: String| {
        let found = format!("{found}: NICs can be plugged by NAD alone");
        CONFLIST.warning(found, "to give pods' own networks such NICs, run install.sh")
    };
    let (list, judgement) = match chain {
        Ok(Some(judged)) => judged,
        Ok(None) => return by_nad_alone(format!("no list in {directory} names kube-ovn, and so none the plugin")),
        Err(error) => return CONFLIST.wrong(error.to_string(), "fix or remove it, and try: install.sh --check"),
    };
    let shown = list.display();
    if judgement.is_absent_only() {
        return by_nad_alone(format!("{shown} is the one in use, and the plugin is not in it"));
    }
    if let Some(path) = before {
        let path = path.display();
        let advice = format!("remove or rename {path}, or put the plugin into it");
        return CONFLIST.wrong(format!("{shown} has the plugin, but {path} comes first"), advice);
    }
    if !judgement.faults.is_empty() {
        let advice = format!("fix it, and try: vhostuser-hotplug validate {shown}");
        return CONFLIST.wrong(format!("{shown}: {}", judgement.faults.join("; ")), advice);
    }
    if let Placement::DroppedIn(file) = judgement.placement {
        let found = format!("{shown} is sound with {}, which is dropped in beside it", file.display());
        let advice = "make sure that the runtime reads drop-ins: its libcni must be 1.3 or later, and it must not be CRI-O, which \
                      sends no DEL by them";
        return CONFLIST.warning(found, advice);
    }
    CONFLIST.ok(format!("{shown} is the one in use, and sound"))
}

/// A known runtime: its process, its configuration files, and the keys that name its directories.
struct Known {
    process: &'static str,
    files: &'static [&'static str],
    /// The key for network configurations.
    conf_key: &'static str,
    /// The keys for plugins.
    bin_keys: &'static [&'static str],
}

const KNOWN: [Known; 2] = [
    Known {
        process: "containerd",
        files: &["/etc/containerd/config.toml"],
        conf_key: "conf_dir",
        bin_keys: &["bin_dir", "bin_dirs"],
    },
    Known {
        process: "crio",
        files: &["/etc/crio/crio.conf", "/etc/crio/crio.conf.d"],
        conf_key: "network_dir",
        bin_keys: &["plugin_dirs"],
    },
];

fn runtime(paths: &NodePaths) -> Finding {
    let Some((known, process)) = find() else {
        return RUNTIME.warning(
            "neither containerd nor CRI-O runs",
            "if another one does, make sure that it reads these directories",
        );
    };
    let found = format!("{}, process {}", known.process, process.pid());
    let texts: Vec<String> =
        files(known, &process).iter().filter_map(|file| sys::read_text(file, CONFIG_LIMIT).ok()).collect();
    // The last value counts.
    let value =
        |keys: &[&str]| texts.iter().flat_map(|text| text.lines()).filter_map(|line| value_of(line, keys)).next_back();
    let directories = [
        (&paths.conf_dir, value(&[known.conf_key]), "--conf-dir"),
        (&paths.bin_dir, value(known.bin_keys), "--bin-dir"),
    ];
    for (directory, configured, option) in directories {
        if let Some(configured) = configured
            && !names(&configured, directory)
        {
            let found = format!("{found}, reads {configured} and not {}", directory.display());
            return RUNTIME.wrong(found, format!("install there, and give doctor {option}"));
        }
    }
    RUNTIME.ok(found)
}

fn find() -> Option<(&'static Known, Process)> {
    KNOWN.iter().find_map(|known| Some((known, super::processes(|name| name == known.process).next()?)))
}

/// Returns the runtime's configuration files: that of its command line, else the usual ones.
fn files(known: &Known, process: &Process) -> Vec<PathBuf> {
    let line = sys::read_text(&process.path("cmdline"), 64 << 10).unwrap_or_default();
    let arguments: Vec<&str> = line.split('\0').collect();
    let joined = arguments.iter().find_map(|argument| argument.strip_prefix("--config="));
    let apart = arguments.windows(2).find_map(|pair| match pair {
        ["--config" | "-c", file] => Some(*file),
        _ => None,
    });
    if let Some(file) = joined.or(apart) {
        return vec![PathBuf::from(file)];
    }
    let mut files = Vec::new();
    for path in known.files.iter().map(Path::new) {
        match std::fs::read_dir(path) {
            Ok(listing) => {
                let mut entries: Vec<_> = listing.flatten().map(|entry| entry.path()).collect();
                entries.sort();
                files.extend(entries);
            }
            Err(_) => files.push(path.to_owned()),
        }
    }
    files
}

/// Returns the text of the value that a line of TOML sets one of these keys to. Does not read lists over several lines.
fn value_of(line: &str, keys: &[&str]) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    let value = value.trim();
    (keys.contains(&key.trim()) && !value.is_empty() && value != "[").then(|| value.to_owned())
}

/// Returns true if a value of TOML, a string or a list of strings, names this directory.
fn names(value: &str, directory: &Path) -> bool {
    let mut quoted = value.split(['"', '\'']).skip(1).step_by(2).filter(|text| !text.is_empty()).peekable();
    // An empty string stands for the default.
    quoted.peek().is_none() || quoted.any(|text| Path::new(text) == directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_toml_are_read_as_far_as_they_matter() {
        for (line, value) in [
            ("      conf_dir = \"/etc/cni/net.d\"", Some("\"/etc/cni/net.d\"")),
            ("conf_dir='/x'", Some("'/x'")),
            ("# conf_dir = \"/x\"", None),
            ("conf_dirs = \"/x\"", None),
            ("bin_dirs = [", None),
            ("[plugins]", None),
        ] {
            assert_eq!(value_of(line, &["conf_dir", "bin_dirs"]).as_deref(), value, "{line}");
        }
        for (value, named) in [
            ("\"/a\"", true),
            ("'/a/'", true),
            ("['/b', '/a']", true),
            ("\"/b\"", false),
            ("[\"/ab\"]", false),
            ("\"\"", true),
        ] {
            assert_eq!(names(value, Path::new("/a")), named, "{value}");
        }
    }
}
