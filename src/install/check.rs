//! Is the plugin installed, and will it be called?

use serde_json::Value;

use super::{Error, Mode, NAME, Places, binary, chain};
use crate::conflist::file::Found;
use crate::conflist::{OURS, THEIRS};
use crate::netd;

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
pub fn check(places: &Places, mode: Mode) -> Vec<Finding> {
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

fn of_binary(places: &Places) -> Finding {
    let path = places.binary();
    if !binary::is_executable(&path) {
        return found(false, format!("{}: not there, or not executable by all", path.display()));
    }
    match binary::version(&path) {
        Ok(version) => found(true, format!("{}: {version}", path.display())),
        Err(why) => found(false, format!("{}: {why}", path.display())),
    }
}

/// The runtime's default network is the first configuration by name. It must be kube-ovn's, or lead there.
fn of_the_first(places: &Places, kube_ovns: &std::path::Path) -> Option<Finding> {
    let first = netd::files(&places.conf_dir).unwrap_or_default().into_iter().next()?;
    if first == kube_ovns {
        return None;
    }
    let here = first.display();
    let parsed = Found::read(&first).map_err(|error| Error::List(first.clone(), error).to_string());
    let value = parsed.and_then(|file| {
        serde_json::from_str::<Value>(&file.text).map_err(|error| format!("{here}: it is not JSON: {error}"))
    });
    let value = match value {
        Ok(value) => value,
        Err(why) => return Some(found(false, format!("{why}; the runtime reads it before {}", kube_ovns.display()))),
    };
    let kinds = kinds(&value);
    if !kinds.iter().any(|kind| kind.starts_with("multus")) {
        let what = kinds.first().map_or("nothing", String::as_str);
        return Some(found(
            false,
            format!(
                "{here}: the runtime reads this first, so its pods' network is made by {what} and not by {}; if that is \
                 meant, say --mode none",
                kube_ovns.display()
            ),
        ));
    }
    // Multus either names kube-ovn's list (clusterNetwork) or has a copy of it, made when Multus started.
    let copies = value.get("delegates").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let stale = copies
        .iter()
        .map(self::kinds)
        .any(|kinds| kinds.iter().any(|kind| kind == THEIRS) && !kinds.iter().any(|kind| kind == OURS));
    Some(if stale {
        found(
            false,
            format!("{here}: Multus has a copy of kube-ovn's list without {NAME}: restart this node's Multus pod"),
        )
    } else {
        found(true, format!("{here}: the runtime calls Multus, and Multus kube-ovn"))
    })
}

/// The types of a configuration's plugins, be it a list or a single one.
fn kinds(value: &Value) -> Vec<String> {
    let one = |value: &Value| value.get("type").and_then(Value::as_str).map(str::to_owned);
    match value.get("plugins").and_then(Value::as_array) {
        Some(plugins) => plugins.iter().filter_map(one).collect(),
        None => one(value).into_iter().collect(),
    }
}
