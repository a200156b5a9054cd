//! kube-ovn's chain: the plugin into it, out of it, and a look at it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Map;

use super::{ChangeLog, Error, Mode, NodePaths, PLUGIN};
use crate::conflist::chain::{Chain, Judgement, Placement, is_network_name, read_object};
use crate::conflist::file::{self as list, Edit, ListFile};
use crate::conflist::text::ListText;
use crate::conflist::{KUBE_OVN, conf_dir};
use crate::file::{self, Attributes};
use crate::sys;

/// First containerd whose libcni reads drop-ins (its go.mod: 2.0 has libcni 1.2.3, 2.1 has 1.3.0).
const CONTAINERD: (u32, u32) = (2, 1);

/// kube-ovn's list on this node.
struct KubeOvnList {
    path: PathBuf,
    chain: Chain,
    /// True if the list's file itself has the plugin.
    inlined: bool,
    /// The plugin's entry in the list, or the one that the list would get.
    entry: String,
    /// The file by which the plugin gets into the chain without an edit of the list, where libcni is 1.3 or later.
    drop_in: PathBuf,
}

impl KubeOvnList {
    /// Finds the first list with kube-ovn's plugin. Its name begins with a number that kube-ovn's operator chose.
    ///
    /// # Errors
    /// The list that is kube-ovn's by its name can't be read: no other is taken instead.
    fn find(conf_dir: &Path) -> Result<Option<Self>, Error> {
        for path in conf_dir::files(conf_dir).unwrap_or_default() {
            if path.extension().is_none_or(|kind| kind != "conflist") {
                continue;
            }
            let is_named = path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("kube-ovn.conflist"));
            match ListFile::read(&path).and_then(|file| Self::parse(conf_dir, &path, &file.text)) {
                Ok(Some(list)) => return list.map(Some),
                Err(source) if is_named => return Err(Error::List { path, source }),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Returns `None` if the list doesn't have kube-ovn's plugin.
    fn parse(conf_dir: &Path, path: &Path, text: &str) -> Result<Option<Result<Self, Error>>, list::Error> {
        let list = ListText::parse(text)?;
        if !list.has(KUBE_OVN) {
            return Ok(None);
        }
        let network = list.name();
        // The name becomes a path.
        if !is_network_name(&network) {
            let why = format!("{}: {network:?} is not a valid name of a network", path.display());
            return Ok(Some(Err(Error::Refused(why))));
        }
        let chain = Chain::of_file(path, text).map_err(list::Error::NotRegular)?;
        let (inlined, drop_in) = (list.has(PLUGIN), drop_in(conf_dir, &network));
        let entry = list.entry().map_or_else(|| list.new_entry(), str::to_owned);
        Ok(Some(Ok(Self { path: path.to_owned(), chain, inlined, entry, drop_in })))
    }

    fn edit(&self, edit: &Edit, log: &ChangeLog) -> Result<bool, Error> {
        list::edit(&self.path, edit, log.is_dry()).map_err(|source| Error::List { path: self.path.clone(), source })
    }

    /// Adds the entry to the list, with the keys that an operator gave a drop-in.
    fn inline(&self, log: &mut ChangeLog) -> Result<(), Error> {
        let unread = |why| {
            Error::Refused(format!("no runtime reads {} because of the file beside it: {why}", self.path.display()))
        };
        let keys = if self.drop_in.exists() { read_object(&self.drop_in).map_err(unread)? } else { Map::new() };
        if self.edit(&Edit::Add(keys), log)? {
            log.changed(&self.path, format_args!("edited: plugin {PLUGIN} added"));
        } else {
            log.say(&self.path, "has the plugin already");
        }
        Ok(())
    }

    /// Removes the entry from the list.
    fn clear(&self, log: &mut ChangeLog) -> Result<(), Error> {
        if self.edit(&Edit::Remove, log)? {
            log.changed(&self.path, format_args!("edited: plugin {PLUGIN} removed"));
        }
        Ok(())
    }

    /// Adds the drop-in, with the keys that an operator gave the entry in the list.
    fn add_drop_in(&self, paths: &NodePaths, log: &mut ChangeLog) -> Result<(), Error> {
        let path = &self.drop_in;
        if path.exists() {
            log.say(path, "there already");
            return Ok(());
        }
        if !log.is_dry() {
            let (entry, unfinished) = (format!("{}\n", self.entry), file::unfinished(path, &paths.conf_dir));
            file::create_directories(path.parent().unwrap_or(&paths.conf_dir), 0o755)?;
            file::replace(path, &unfinished, entry.as_bytes(), Attributes::of_root(0o600), || true)?;
        }
        log.changed(path, "made");
        Ok(())
    }
}

fn drop_in(conf_dir: &Path, network: &str) -> PathBuf {
    conf_dir.join(network).join(format!("{PLUGIN}.conf"))
}

/// Removes a drop-in by way of the runtime's own directory, the only one that a runtime watches.
fn remove_drop_in(drop_in: &Path, paths: &NodePaths, log: &mut ChangeLog) -> Result<(), Error> {
    let aside = file::unfinished(drop_in, &paths.conf_dir);
    if !log.is_dry() {
        // An installer that was killed may have left it.
        file::remove(&aside)?;
    }
    if !drop_in.exists() {
        return Ok(());
    }
    if !log.is_dry() {
        std::fs::rename(drop_in, &aside).map_err(|error| sys::Error::of("rename", drop_in, &error))?;
        file::remove(&aside)?;
        // Fails if others have drop-ins there.
        let _ = drop_in.parent().map(std::fs::remove_dir);
        file::sync_directory(&paths.conf_dir)?;
    }
    log.changed(drop_in, "removed");
    Ok(())
}

/// Puts the plugin into the chain, in one way.
///
/// # Errors
/// There is no chain, its list can't be edited, or the runtime doesn't read drop-ins.
pub fn enter(paths: &NodePaths, mode: Mode, log: &mut ChangeLog) -> Result<(), Error> {
    if mode == Mode::None {
        log.say(&paths.conf_dir, "left alone; only NADs that name the plugin call it");
        return Ok(());
    }
    let _lock = lock(paths, log)?;
    let Some(list) = KubeOvnList::find(&paths.conf_dir)? else {
        return Err(Error::Refused(format!(
            "{}: no list in it names kube-ovn; install kube-ovn first, or use --mode none if the plugin is for NADs only",
            paths.conf_dir.display()
        )));
    };
    // The new way first: in both at once, the plugin is called twice, which does no harm.
    match resolve(mode, &list, paths, log)? {
        Mode::DropIn => {
            list.add_drop_in(paths, log)?;
            list.clear(log)
        }
        _ => {
            list.inline(log)?;
            remove_drop_in(&list.drop_in, paths, log)
        }
    }
}

/// Returns what `auto` means here, and refuses a drop-in that the runtime wouldn't read.
fn resolve(mode: Mode, list: &KubeOvnList, paths: &NodePaths, log: &mut ChangeLog) -> Result<Mode, Error> {
    match mode {
        Mode::DropIn => {
            let refused =
                |why: &str| Err(Error::Refused(format!("{}: a drop-in would not work: {why}", list.path.display())));
            if list.chain.is_inlined_only() {
                return refused("it is not read, because the list has loadOnlyInlinedPlugins");
            }
            // Elsewhere it is another machine, or a distribution with a containerd of its own (k3s).
            let here = paths.conf_dir.starts_with("/etc");
            match here.then(containerd).flatten() {
                Some(version) if version < CONTAINERD => {
                    return refused("this node's containerd is older than 2.1 and does not read it; use --mode conflist");
                }
                Some(_) => {}
                // Its ocicni sends DEL by the list that libcni kept of the ADD, which is the list's file alone.
                None if here && version_of("crio").is_some() => {
                    return refused("CRI-O reads it, but sends no DEL by it; use --mode conflist");
                }
                None => log.say(
                    &list.drop_in,
                    "read by runtimes with libcni 1.3 or later (containerd 2.1); cannot tell whether this node's is one",
                ),
            }
            Ok(Mode::DropIn)
        }
        Mode::Auto if list.drop_in.exists() && !list.inlined && !list.chain.is_inlined_only() => {
            log.say(&list.drop_in, "mode auto: dropin, because it is there");
            Ok(Mode::DropIn)
        }
        Mode::Auto => {
            log.say(&list.path, "mode auto: conflist, which every runtime reads; not every one reads drop-ins");
            Ok(Mode::Conflist)
        }
        other => Ok(other),
    }
}

/// Takes the plugin out of the chain, whichever way it is in.
///
/// # Errors
/// Those of the files.
pub fn leave(paths: &NodePaths, log: &mut ChangeLog) -> Result<(), Error> {
    if !paths.conf_dir.is_dir() {
        return Ok(());
    }
    let _lock = lock(paths, log)?;
    let Some(list) = KubeOvnList::find(&paths.conf_dir)? else {
        // kube-ovn was uninstalled first, with its list.
        return remove_drop_in(&drop_in(&paths.conf_dir, KUBE_OVN), paths, log);
    };
    list.clear(log)?;
    remove_drop_in(&list.drop_in, paths, log)
}

/// Returns kube-ovn's list and judges its chain; `None` where kube-ovn has none.
///
/// # Errors
/// The list can't be read.
pub fn judge(paths: &NodePaths) -> Result<Option<(PathBuf, Judgement)>, Error> {
    Ok(KubeOvnList::find(&paths.conf_dir)?.map(|list| (list.path, list.chain.judge())))
}

/// Returns true if the plugin is in the chain in the way that `mode` asks for.
#[must_use]
pub fn is_as_asked(mode: Mode, placement: &Placement) -> bool {
    match mode {
        Mode::Auto => true,
        Mode::DropIn => matches!(placement, Placement::DroppedIn(_)),
        Mode::Conflist => *placement == Placement::Inlined,
        Mode::None => *placement == Placement::Absent,
    }
}

fn lock(paths: &NodePaths, log: &ChangeLog) -> Result<Option<file::Lock>, Error> {
    if log.is_dry() {
        return Ok(None);
    }
    let lock = list::lock(&paths.conf_dir);
    lock.map(Some).map_err(|source| Error::List { path: paths.conf_dir.clone(), source })
}

/// Returns the version of the containerd in this node's PATH.
fn containerd() -> Option<(u32, u32)> {
    version_in(&version_of("containerd")?)
}

/// Returns what a program in this node's PATH prints as its version.
fn version_of(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// Parses what containerd prints: its name, its source, the version, the revision. Debian's version has no "v".
fn version_in(text: &str) -> Option<(u32, u32)> {
    let version = text.split_whitespace().nth(2)?.trim_start_matches('v');
    let mut numbers = version.split(['.', '~', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerds_versions_are_compared_as_numbers() {
        let old = ["v1.7.28 b98a3aace656320842a23f4a392a33f46af97866", "1.6.20~ds1 1.6.20~ds1-1+deb12u3", "v2.0.5 x"];
        let new = ["v2.1.0 061792f0ecf3684fb30a3a0eb006799b8c6638a7", "v2.10.1 x", "v2.4.0-beta.0 x", "v10.0.0 x"];
        let version = |text: &str| version_in(&format!("containerd github.com/containerd/containerd/v2 {text}\n"));
        assert!(old.into_iter().all(|text| version(text).unwrap() < CONTAINERD));
        assert!(new.into_iter().all(|text| version(text).unwrap() >= CONTAINERD));
        assert_eq!(version_in("containerd"), None);
        assert_eq!(version("unknown"), None);
    }
}
