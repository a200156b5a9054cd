//! `install --check`: is the plugin installed, and will the runtime call it?

use std::path::Path;

use super::default_network::DefaultNetwork;
use super::{Mode, NodePaths, PLUGIN, binary, chain};
use crate::conflist::chain::Placement;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedItem {
    /// True if it is as it must be.
    pub sound: bool,
    /// What it is, in a sentence; what to do if it isn't sound.
    pub text: String,
}

fn sound(text: String) -> CheckedItem {
    CheckedItem { sound: true, text }
}

fn wrong(text: String) -> CheckedItem {
    CheckedItem { sound: false, text }
}

/// Looks at the binary and the chain, and changes nothing.
#[must_use]
pub fn check(paths: &NodePaths, mode: Mode) -> Vec<CheckedItem> {
    let mut items = vec![binary_of(paths)];
    if mode == Mode::None {
        return items;
    }
    let (list, judgement) = match chain::judge(paths) {
        Ok(Some(judged)) => judged,
        Ok(None) => {
            let conf_dir = paths.conf_dir.display();
            items.push(wrong(format!("{conf_dir}: no list in it names kube-ovn: is it installed on this node?")));
            return items;
        }
        Err(error) => {
            items.push(wrong(error.to_string()));
            return items;
        }
    };
    let path = list.display();
    items.extend(judgement.faults.iter().map(|fault| wrong(format!("{path}: {fault}"))));
    if judgement.faults.is_empty() {
        let how = match judgement.placement {
            Placement::DroppedIn(_) => "by a drop-in, if the runtime's libcni is 1.3 or later",
            _ => "in the list",
        };
        let as_asked = chain::is_as_asked(mode, &judgement.placement);
        let other = if as_asked { "" } else { ", and not as asked" };
        let text = format!("{path}: sound, the plugin is in the chain ({how}{other})");
        items.push(CheckedItem { sound: as_asked, text });
    }
    items.extend(first_of(paths, &list));
    items
}

fn binary_of(paths: &NodePaths) -> CheckedItem {
    let path = paths.binary();
    let shown = path.display();
    if !binary::is_executable(&path) {
        return wrong(format!("{shown}: not there, or not executable by all"));
    }
    // Files for another machine may be anybody's.
    if let Some(who) = binary::writable_by_others(&path).filter(|_| paths.is_this_machine()) {
        return wrong(format!("{shown} is {who}"));
    }
    match binary::version(&path) {
        Ok(version) => sound(format!("{shown}: {version}")),
        Err(why) => wrong(format!("{shown} {why}")),
    }
}

fn first_of(paths: &NodePaths, kube_ovn: &Path) -> Option<CheckedItem> {
    let list = kube_ovn.display();
    Some(match DefaultNetwork::find(&paths.conf_dir, Some(kube_ovn))? {
        DefaultNetwork::KubeOvn => return None,
        DefaultNetwork::Multus(path) => {
            sound(format!("{}: the runtime calls Multus, and Multus calls kube-ovn", path.display()))
        }
        DefaultNetwork::StaleMultus(path) => wrong(format!(
            "{}: Multus has a copy of kube-ovn's list without {PLUGIN}: restart this node's Multus pod",
            path.display()
        )),
        DefaultNetwork::Other(path, kind) => wrong(format!(
            "{}: the runtime reads this first, so its pods' network is made by {kind} and not by {list}; if that is meant, use \
             --mode none",
            path.display()
        )),
        DefaultNetwork::Unreadable(why) => wrong(format!("{why}; the runtime reads it before {list}")),
    })
}
