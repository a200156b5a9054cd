//! A runtime's directory of network configurations, as a runtime looks at it.

use std::path::{Path, PathBuf};

use super::{Error, NAME};
use crate::conflist::THEIRS;
use crate::conflist::file::Found;
use crate::conflist::text::List;

/// The files that a runtime takes for configurations, in its order: the first is the node's default network
/// (containerd's `loadFromConfDir`). containerd gives up at a first one that is broken; CRI-O takes the next.
#[must_use]
pub fn configurations(conf_dir: &Path) -> Vec<PathBuf> {
    let listing = std::fs::read_dir(conf_dir).into_iter().flatten().flatten();
    let files = listing.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir())).map(|entry| entry.path());
    let read =
        |path: &PathBuf| path.extension().is_some_and(|kind| kind == "conf" || kind == "conflist" || kind == "json");
    let mut files: Vec<PathBuf> = files.filter(read).collect();
    files.sort();
    files
}

/// kube-ovn's list: the first with its plugin. Its name begins with a number that kube-ovn's operator chose.
///
/// # Errors
/// That the one which is kube-ovn's by its name cannot be read: another must not be taken for it.
pub fn kube_ovns(conf_dir: &Path) -> Result<Option<PathBuf>, Error> {
    for path in configurations(conf_dir) {
        if path.extension().is_none_or(|kind| kind != "conflist") {
            continue;
        }
        let its_own = path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("kube-ovn.conflist"));
        match Found::read(&path) {
            Ok(found) => match List::parse(&found.text) {
                Ok(list) if list.has(THEIRS) => return Ok(Some(path)),
                Err(error) if its_own => return Err(Error::List(path, error.into())),
                _ => {}
            },
            Err(error) if its_own => return Err(Error::List(path, error)),
            Err(_) => {}
        }
    }
    Ok(None)
}

/// The file by which the plugin gets into a network's chain without an edit of its list, where libcni is 1.3 or later.
#[must_use]
pub fn drop_in(conf_dir: &Path, network: &str) -> PathBuf {
    conf_dir.join(network).join(format!("{NAME}.conf"))
}
