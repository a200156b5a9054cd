//! Into kube-ovn's chain, and out of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value};

use super::{Error, Journal, Mode, NAME, NodePaths, kube_ovn};
use crate::conflist::conf_dir::{drop_ins, read};
use crate::conflist::file::{self as list, Edit, Found};
use crate::conflist::text::List;
use crate::conflist::{KUBE_OVN, PLUGIN, faults};
use crate::file::{self, Access};
use crate::sys;

/// First containerd whose libcni reads drop-ins (its go.mod: 2.0 has libcni 1.2.3, 2.1 has 1.3.0).
const CONTAINERD: (u32, u32) = (2, 1);

/// kube-ovn's list and what belongs to it.
struct Chain {
    path: PathBuf,
    network: String,
    /// Whether the plugin is in the list.
    inlined: bool,
    /// Its entry there, or the one that it would get.
    entry: String,
    /// Whether the list keeps drop-ins out.
    closed: bool,
    drop_in: PathBuf,
}

impl Chain {
    fn find(places: &NodePaths) -> Result<Option<Self>, Error> {
        let Some(path) = kube_ovn::kube_ovns(&places.conf_dir)? else { return Ok(None) };
        let found = Found::read(&path).map_err(|error| Error::List(path.clone(), error))?;
        let list = List::parse(&found.text).map_err(|error| Error::List(path.clone(), error.into()))?;
        let network = list.name();
        // The name becomes a path. libcni refuses such a name too.
        if network.is_empty() || network.starts_with('.') || network.contains('/') {
            return Err(Error::Refused(format!("{}: {network:?} is no network's name", path.display())));
        }
        let drop_in = kube_ovn::drop_in(&places.conf_dir, &network);
        let entry = list.ours().map_or_else(|| list.new_entry(), str::to_owned);
        Ok(Some(Self { inlined: list.has(PLUGIN), entry, closed: list.is_closed(), network, drop_in, path }))
    }

    fn edit(&self, edit: &Edit, journal: &mut Journal) -> Result<bool, Error> {
        list::edit(&self.path, edit, journal.is_dry()).map_err(|error| Error::List(self.path.clone(), error))
    }

    /// Puts the entry into the list, with the keys that an operator gave a drop-in.
    fn inline(&self, journal: &mut Journal) -> Result<(), Error> {
        let keys = if self.drop_in.exists() { entry_in(&self.drop_in)? } else { Map::new() };
        if self.edit(&Edit::Add(keys), journal)? {
            journal.changed(&self.path, format_args!("given the plugin {NAME}"));
        } else {
            journal.say(&self.path, "has the plugin already");
        }
        Ok(())
    }

    /// Takes the entry out of the list.
    fn clear(&self, journal: &mut Journal) -> Result<(), Error> {
        if self.edit(&Edit::Remove, journal)? {
            journal.changed(&self.path, format_args!("freed of the plugin {NAME}"));
        }
        Ok(())
    }

    /// Puts the drop-in beside the list, with the keys that an operator gave the entry in it.
    fn drop_beside(&self, places: &NodePaths, journal: &mut Journal) -> Result<(), Error> {
        if self.drop_in.exists() {
            journal.say(&self.drop_in, "there already");
            return Ok(());
        }
        if !journal.is_dry() {
            let entry = format!("{}\n", self.entry);
            file::make_directory(&places.conf_dir.join(&self.network))?;
            file::replace(&self.drop_in, &places.conf_dir, entry.as_bytes(), Access::of_root(0o600), || true)?;
        }
        journal.changed(&self.drop_in, "made");
        Ok(())
    }
}

/// Takes a drop-in away, by way of the runtime's own directory: it watches no other.
fn pick_up(drop_in: &Path, places: &NodePaths, journal: &mut Journal) -> Result<(), Error> {
    let aside = file::unfinished(drop_in, &places.conf_dir);
    if !journal.is_dry() {
        // Of one who was killed at it.
        file::remove(&aside)?;
    }
    if !drop_in.exists() {
        return Ok(());
    }
    if !journal.is_dry() {
        std::fs::rename(drop_in, &aside).map_err(|error| sys::Error::of("rename", drop_in, &error))?;
        file::remove(&aside)?;
        // Others may have drop-ins of their own in it.
        let _ = drop_in.parent().map(std::fs::remove_dir);
        file::sync_directory(&places.conf_dir)?;
    }
    journal.changed(drop_in, "removed");
    Ok(())
}

/// Gets into the chain, in one way.
///
/// # Errors
/// That there is no chain, that its list cannot be edited, or that drop-ins are not read.
pub fn enter(places: &NodePaths, mode: Mode, journal: &mut Journal) -> Result<(), Error> {
    if mode == Mode::None {
        journal.say(&places.conf_dir, "left alone; the plugin is called by NADs that name it, and by nothing else");
        return Ok(());
    }
    let _lock = lock(places, journal)?;
    let Some(chain) = Chain::find(places)? else {
        return Err(Error::Refused(format!(
            "{}: no list in it names kube-ovn; install kube-ovn first, or say --mode none if the plugin is for NADs only",
            places.conf_dir.display()
        )));
    };
    // The new way first: in both at once the plugin is called twice, which does no harm; in none it would be missed.
    match resolve(mode, &chain, places, journal)? {
        Mode::DropIn => {
            chain.drop_beside(places, journal)?;
            chain.clear(journal)
        }
        _ => {
            chain.inline(journal)?;
            pick_up(&chain.drop_in, places, journal)
        }
    }
}

/// What `auto` comes to, and whether a drop-in would be read.
fn resolve(mode: Mode, chain: &Chain, places: &NodePaths, journal: &mut Journal) -> Result<Mode, Error> {
    match mode {
        Mode::DropIn => {
            let refused =
                |why: &str| Err(Error::Refused(format!("{}: a drop-in would not do: {why}", chain.path.display())));
            if chain.closed {
                return refused("it is not read, for the list says loadOnlyInlinedPlugins");
            }
            // Elsewhere it is another machine, or a distribution with a containerd of its own (k3s).
            let here = places.conf_dir.starts_with("/etc");
            match here.then(containerd).flatten() {
                Some(version) if version < CONTAINERD => {
                    return refused("this node's containerd, older than 2.1, does not read it; use --mode conflist");
                }
                Some(_) => {}
                // Its ocicni undoes a sandbox by the list that libcni kept of its ADD, which is the list's file alone.
                None if here && answers("crio").is_some() => {
                    return refused("CRI-O reads it, but sends no DEL by it; use --mode conflist");
                }
                None => journal.say(
                    &chain.drop_in,
                    "read by runtimes with libcni 1.3 or later (containerd 2.1); whether this node's is one cannot be told",
                ),
            }
            Ok(Mode::DropIn)
        }
        Mode::Auto if chain.drop_in.exists() && !chain.inlined && !chain.closed => {
            journal.say(&chain.drop_in, "mode auto: dropin, since it is there");
            Ok(Mode::DropIn)
        }
        Mode::Auto => {
            journal.say(&chain.path, "mode auto: conflist, which every runtime reads; not every one reads drop-ins");
            Ok(Mode::Conflist)
        }
        other => Ok(other),
    }
}

/// Gets out of the chain, whichever way the plugin is in.
///
/// # Errors
/// Those of the files.
pub fn leave(places: &NodePaths, journal: &mut Journal) -> Result<(), Error> {
    if !places.conf_dir.is_dir() {
        return Ok(());
    }
    let _lock = lock(places, journal)?;
    let Some(chain) = Chain::find(places)? else {
        // kube-ovn went first, and with it its list.
        return pick_up(&kube_ovn::drop_in(&places.conf_dir, KUBE_OVN), places, journal);
    };
    chain.clear(journal)?;
    pick_up(&chain.drop_in, places, journal)
}

/// How the plugin is in the chain, and what is wrong with that.
#[derive(Debug)]
pub struct Verdict {
    /// kube-ovn's list.
    pub list: PathBuf,
    /// The way that it is in; [`Mode::None`] if it is not.
    pub mode: Mode,
    /// Each in a sentence; nothing if the plugin will be called.
    pub faults: Vec<String>,
}

/// Looks at the chain; `None` where kube-ovn has none. What libcni would chain is judged, so with every file dropped in
/// beside the list, whatever its name.
///
/// # Errors
/// That it cannot be found out.
pub fn judge(places: &NodePaths) -> Result<Option<Verdict>, Error> {
    let Some(chain) = Chain::find(places)? else { return Ok(None) };
    let text = Found::read(&chain.path).map_err(|error| Error::List(chain.path.clone(), error))?.text;
    let list = serde_json::from_str(&text).unwrap_or_default();
    let mut dropped = chain.drop_in.exists().then(|| chain.drop_in.clone());
    for (file, plugin) in drop_ins(&chain.path, &list) {
        let unread =
            |why| Error::Refused(format!("{}: with this, no runtime reads the list beside it: {why}", file.display()));
        if plugin.map_err(unread)?.get("type").and_then(Value::as_str) == Some(NAME) {
            dropped = Some(file);
        }
    }
    let (mode, faults) = match (chain.inlined, dropped) {
        (true, Some(file)) if !chain.closed => {
            let file = file.display();
            let twice =
                format!("{NAME} is in it and in {file}: it would be called twice; say --mode conflist or dropin");
            (Mode::Conflist, vec![twice])
        }
        (false, Some(file)) if chain.closed => {
            (Mode::DropIn, vec![format!("it says loadOnlyInlinedPlugins, so {} is not read", file.display())])
        }
        (false, Some(_)) => {
            let whole = read(&chain.path).map_err(Error::Refused)?;
            (Mode::DropIn, faults(&whole.text))
        }
        (true, _) => (Mode::Conflist, faults(&text)),
        (false, None) => (Mode::None, faults(&text)),
    };
    Ok(Some(Verdict { list: chain.path, mode, faults }))
}

/// The entry that a drop-in is.
fn entry_in(drop_in: &Path) -> Result<Map<String, Value>, Error> {
    let text = Found::read(drop_in).map_err(|error| Error::List(drop_in.to_owned(), error))?.text;
    serde_json::from_str(&text).map_err(|error| {
        Error::Refused(format!("{}: with this, no runtime reads the list beside it: {error}", drop_in.display()))
    })
}

fn lock(places: &NodePaths, journal: &Journal) -> Result<Option<file::Lock>, Error> {
    if journal.is_dry() {
        return Ok(None);
    }
    list::lock(&places.conf_dir).map(Some).map_err(|error| Error::List(places.conf_dir.clone(), error))
}

/// The version of the containerd that this node's PATH has.
fn containerd() -> Option<(u32, u32)> {
    version_in(&answers("containerd")?)
}

/// What a program says of its version, if this node's PATH has it.
fn answers(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// As containerd prints it: its name, where it is from, the version, the revision. Debian's has no "v".
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
