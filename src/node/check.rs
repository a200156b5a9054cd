//! Is the plugin installed, and will it be called?

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Error, Mode, NAME, NodePaths, binary, chain};
use crate::conflist::conf_dir;
use crate::conflist::file::Found;
use crate::conflist::{KUBE_OVN, PLUGIN};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is as it should be.
    pub sound: bool,
    /// What it is, in a sentence; what to do if it is not sound.
    pub text: String,
}

fn found(sound: bool, text: String) -> Finding {
    Finding { sound, text }
}

/// Looks at all of it and changes nothing.
#[must_use]
pub fn check(places: &NodePaths, mode: Mode) -> Vec<Finding> {
    let mut findings = vec![of_binary(places)];
    if mode != Mode::None {
        match chain::judge(places) {
            Ok(None) => findings.push(found(
                false,
                format!("{}: no list in it names kube-ovn: is it installed on this node?", places.conf_dir.display()),
            )),
            Ok(Some(verdict)) => {
                let path = verdict.list.display();
                let how = match verdict.mode {
                    Mode::DropIn => "by a drop-in, if the runtime's libcni is 1.3 or later",
                    _ => "in the list",
                };
                findings.extend(verdict.faults.iter().map(|fault| found(false, format!("{path}: {fault}"))));
                if verdict.faults.is_empty() {
                    let as_asked = mode == Mode::Auto || mode == verdict.mode;
                    let other = if as_asked { "" } else { ", and not as asked" };
                    findings.push(found(as_asked, format!("{path}: sound, the plugin is in the chain ({how}{other})")));
                }
                findings.extend(of_the_first(places, &verdict.list));
            }
            Err(error) => findings.push(found(false, error.to_string())),
        }
    }
    findings
}

fn of_binary(places: &NodePaths) -> Finding {
    let path = places.binary();
    if !binary::is_executable(&path) {
        return found(false, format!("{}: not there, or not executable by all", path.display()));
    }
    match binary::version(&path) {
        Ok(version) => found(true, format!("{}: {version}", path.display())),
        Err(why) => found(false, format!("{}: {why}", path.display())),
    }
}

/// How the runtime gets to kube-ovn's list: its default network is the first configuration by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// The list is the first.
    KubeOvns,
    /// Multus is, and calls kube-ovn.
    Multus(PathBuf),
    /// Multus is, with a copy of the list, made when it started, that lacks this plugin.
    StaleMultus(PathBuf),
    /// Another network is, made by this plugin.
    Other(PathBuf, String),
    /// What is first cannot be read: why, in a sentence that names it.
    Unreadable(PathBuf, String),
}

/// Looks at what the runtime reads first, where kube-ovn's list is `kube_ovns`; `None` if there is nothing at all.
#[must_use]
pub fn first(conf_dir: &Path, kube_ovns: Option<&Path>) -> Option<First> {
    let first = conf_dir::files(conf_dir).unwrap_or_default().into_iter().next()?;
    if Some(first.as_path()) == kube_ovns {
        return Some(First::KubeOvns);
    }
    let here = first.display();
    let parsed = Found::read(&first).map_err(|error| Error::List(first.clone(), error).to_string());
    let value = parsed.and_then(|file| {
        serde_json::from_str::<Value>(&file.text).map_err(|error| format!("{here}: it is not JSON: {error}"))
    });
    let value = match value {
        Ok(value) => value,
        Err(why) => return Some(First::Unreadable(first, why)),
    };
    let kinds = kinds(&value);
    if !kinds.iter().any(|kind| kind.starts_with("multus")) {
        return Some(First::Other(first, kinds.into_iter().next().unwrap_or_else(|| "nothing".to_owned())));
    }
    // Multus either names kube-ovn's list (clusterNetwork) or has a copy of it.
    let copies = value.get("delegates").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_stale =
        |kinds: Vec<String>| kinds.iter().any(|kind| kind == KUBE_OVN) && !kinds.iter().any(|kind| kind == PLUGIN);
    let stale = copies.iter().map(self::kinds).any(is_stale);
    Some(if stale { First::StaleMultus(first) } else { First::Multus(first) })
}

fn of_the_first(places: &NodePaths, kube_ovns: &Path) -> Option<Finding> {
    let kube_ovns_list = kube_ovns.display();
    match first(&places.conf_dir, Some(kube_ovns))? {
        First::KubeOvns => None,
        First::Multus(path) => {
            Some(found(true, format!("{}: the runtime calls Multus, and Multus kube-ovn", path.display())))
        }
        First::StaleMultus(path) => Some(found(
            false,
            format!(
                "{}: Multus has a copy of kube-ovn's list without {NAME}: restart this node's Multus pod",
                path.display()
            ),
        )),
        First::Other(path, what) => Some(found(
            false,
            format!(
                "{}: the runtime reads this first, so its pods' network is made by {what} and not by {kube_ovns_list}; if that \
                 is meant, say --mode none",
                path.display()
            ),
        )),
        First::Unreadable(_, why) => Some(found(false, format!("{why}; the runtime reads it before {kube_ovns_list}"))),
    }
}

/// The types of a configuration's plugins, be it a list or a single one.
fn kinds(value: &Value) -> Vec<String> {
    let one = |value: &Value| value.get("type").and_then(Value::as_str).map(str::to_owned);
    match value.get("plugins").and_then(Value::as_array) {
        Some(plugins) => plugins.iter().filter_map(one).collect(),
        None => one(value).into_iter().collect(),
    }
}
