//! Where in the runtime's directory the plugin gets into kube-ovn's chain.

use std::path::{Path, PathBuf};

use super::{Error, NAME};
use crate::conflist::KUBE_OVN;
use crate::conflist::conf_dir;
use crate::conflist::file::Found;
use crate::conflist::text::List;

/// kube-ovn's list: the first with its plugin. Its name begins with a number that kube-ovn's operator chose.
///
/// # Errors
/// That the one which is kube-ovn's by its name cannot be read: another must not be taken for it.
pub fn kube_ovns(conf_dir: &Path) -> Result<Option<PathBuf>, Error> {
    for path in conf_dir::files(conf_dir).unwrap_or_default() {
        if path.extension().is_none_or(|kind| kind != "conflist") {
            continue;
        }
        let its_own = path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("kube-ovn.conflist"));
        match Found::read(&path) {
            Ok(found) => match List::parse(&found.text) {
                Ok(list) if list.has(KUBE_OVN) => return Ok(Some(path)),
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
