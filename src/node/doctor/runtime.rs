//! The container runtime, and the network configuration that it uses.

use std::path::{Path, PathBuf};

use super::{Check, Finding, Node};
use crate::conflist::conf_dir;
use crate::node::check::{self, First};
use crate::node::{Mode, NodePaths, chain};
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

pub fn examine(node: &Node) -> Vec<Finding> {
    vec![conflist(node), runtime(node)]
}

/// By the rules of `install --check`, but that a plugin which is called by NADs alone is no fault.
fn conflist(node: &Node) -> Finding {
    let directory = node.conf_dir.display();
    match conf_dir::files(&node.conf_dir) {
        Ok(files) if files.is_empty() => {
            return CONFLIST.wrong(format!("{directory} has none"), "is kube-ovn installed?");
        }
        Ok(_) => {}
        Err(error) => {
            return CONFLIST.wrong(format!("{directory}: {error}"), "is kube-ovn installed? Or give --conf-dir");
        }
    }
    let chain = chain::judge(&NodePaths::below(Path::new(""), &node.bin_dir, &node.conf_dir));
    let list = chain.as_ref().ok().and_then(|chain| Some(chain.as_ref()?.list.as_path()));
    let before = match check::first(&node.conf_dir, list) {
        Some(First::Unreadable(path, _)) => {
            // In the words of who reads it.
            let why = conf_dir::object(&path).err().unwrap_or_else(|| format!("{} cannot be read", path.display()));
            return CONFLIST.wrong(why, "fix or remove it: runtimes stop at a file that they cannot read");
        }
        Some(First::StaleMultus(path)) => {
            let found = format!("{}: Multus has a copy of kube-ovn's list without the plugin", path.display());
            return CONFLIST.wrong(found, "restart this node's Multus pod");
        }
        Some(First::Other(path, _)) => Some(path),
        Some(First::KubeOvns | First::Multus(_)) | None => None,
    };
    let by_nad_alone = |found: String| {
        let found = format!("{found}: NICs can be plugged by NAD alone");
        CONFLIST.warning(found, "if pods' own networks are to have them, install.sh puts it in")
    };
    let verdict = match chain {
        Ok(Some(verdict)) => verdict,
        Ok(None) => return by_nad_alone(format!("no list in {directory} names kube-ovn, and so none the plugin")),
        Err(error) => return CONFLIST.wrong(error.to_string(), "fix or remove it, and try: install.sh --check"),
    };
    let shown = verdict.list.display();
    if verdict.mode == Mode::None {
        return by_nad_alone(format!("{shown} is the one in use, and the plugin is not in it"));
    }
    if let Some(path) = before {
        let path = path.display();
        let advice = format!("remove or rename {path}, or put the plugin into it");
        return CONFLIST.wrong(format!("{shown} has the plugin, but {path} comes first"), advice);
    }
    if !verdict.faults.is_empty() {
        let advice = format!("fix it, and try: vhostuser-hotplug validate {shown}");
        return CONFLIST.wrong(format!("{shown}: {}", verdict.faults.join("; ")), advice);
    }
    if verdict.mode == Mode::DropIn {
        let found = format!("{shown} is sound with what is dropped in beside it");
        let advice = "make sure that the runtime reads drop-ins, for which its libcni must be 1.3 or later, and that it is not CRI-O, \
                      which sends no DEL by them";
        return CONFLIST.warning(found, advice);
    }
    CONFLIST.ok(format!("{shown} is the one in use, and sound"))
}

/// A runtime that is known here: its process, where it is configured, and the keys that name its directories.
struct Known {
    process: &'static str,
    files: &'static [&'static str],
    /// For configurations.
    conf_key: &'static str,
    /// For plugins.
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

fn runtime(node: &Node) -> Finding {
    let Some((known, process)) = find() else {
        return RUNTIME.warning(
            "neither containerd nor CRI-O runs",
            "if it is another one, make sure that it reads these directories",
        );
    };
    let found = format!("{}, process {}", known.process, process.pid());
    let texts: Vec<String> =
        files(known, &process).iter().filter_map(|file| sys::read_text(file, CONFIG_LIMIT).ok()).collect();
    // The last word counts.
    let value =
        |keys: &[&str]| texts.iter().flat_map(|text| text.lines()).filter_map(|line| value_of(line, keys)).next_back();
    let directories =
        [(&node.conf_dir, value(&[known.conf_key]), "--conf-dir"), (&node.bin_dir, value(known.bin_keys), "--bin-dir")];
    for (directory, told, option) in directories {
        if let Some(told) = told
            && !names(&told, directory)
        {
            let found = format!("{found}, reads {told} and not {}", directory.display());
            return RUNTIME.wrong(found, format!("install there, and give doctor {option}"));
        }
    }
    RUNTIME.ok(found)
}

fn find() -> Option<(&'static Known, Process)> {
    KNOWN.iter().find_map(|known| Some((known, super::processes(|name| name == known.process).next()?)))
}

/// The runtime's configuration: as its command line says, else where it usually is.
fn files(known: &Known, process: &Process) -> Vec<PathBuf> {
    let line = sys::read_text(&process.path("cmdline"), 64 << 10).unwrap_or_default();
    let words: Vec<&str> = line.split('\0').collect();
    let joined = words.iter().find_map(|word| word.strip_prefix("--config="));
    let apart = words.windows(2).find_map(|pair| match pair {
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
                let mut guest_path: Vec<_> = listing.flatten().map(|entry| entry.path()).collect();
                guest_path.sort();
                files.extend(guest_path);
            }
            Err(_) => files.push(path.to_owned()),
        }
    }
    files
}

/// What a line of TOML sets one of these keys to, as it stands there. Enough for a line; lists over several are not read.
fn value_of(line: &str, keys: &[&str]) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    let value = value.trim();
    (keys.contains(&key.trim()) && !value.is_empty() && value != "[").then(|| value.to_owned())
}

/// Whether a value of TOML, a string or a list of such, names this directory.
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
