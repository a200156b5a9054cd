//! A network's chain: the plugins of its list's file, then those of the files dropped in beside it, as libcni chains them.
//! [`Chain::judge`] is the one judge of a chain.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::text::ListText;
use super::{KUBE_OVN, PLUGIN, SHARED_KEYS, conf_dir, file};
use crate::cni::{self, Command, NetConf};
use crate::config::Config;
use crate::quote;

type Object = Map<String, Value>;

/// A list with the files dropped in beside it.
#[derive(Clone, Debug)]
pub struct Chain {
    list: Object,
    /// Why the list can't be edited. Runtimes and this plugin could read it differently, if a runtime can read it at all.
    malformed: Option<String>,
    /// Whether the list keeps drop-ins out (`loadOnlyInlinedPlugins`); or why libcni doesn't read the list.
    inlined_only: Result<bool, String>,
    /// The files of `<directory>/<network>/*.conf`, which libcni reads from 1.3 on, or why they can't be read.
    drop_ins: Vec<(PathBuf, Result<Object, String>)>,
}

/// Where a chain gets this plugin from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The list's own file, which every runtime reads.
    Inlined,
    /// A file beside it.
    DroppedIn(PathBuf),
    /// The chain doesn't have the plugin.
    Absent,
}

/// What is wrong with a chain.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Where the plugin is.
    pub placement: Placement,
    /// Each in a sentence; none if a runtime can use the chain and calls this plugin in it.
    pub faults: Vec<String>,
}

impl Chain {
    /// Parses the text of a list or of a single plugin's configuration, without drop-ins.
    ///
    /// # Errors
    /// A sentence: it is no JSON object.
    pub fn parse(text: &str) -> Result<Self, String> {
        let list = object(text)?;
        let malformed = ListText::parse(text).err().map(|error| error.to_string());
        Ok(Self { malformed, inlined_only: inlined_only(&list), drop_ins: Vec::new(), list })
    }

    /// Parses the text of this file, and reads the files that are dropped in beside it.
    ///
    /// # Errors
    /// A sentence: the text is no JSON object.
    pub fn of_file(path: &Path, text: &str) -> Result<Self, String> {
        let mut chain = Self::parse(text)?;
        let network = chain.list.get("name").and_then(Value::as_str);
        let network = network.filter(|name| is_network_name(name));
        if let Some(folder) = network.and_then(|name| Some(path.parent()?.join(name))) {
            let files = conf_dir::with_extensions(&folder, &["conf"]).unwrap_or_default();
            chain.drop_ins = files.into_iter().map(|file| (file.clone(), read_object(&file))).collect();
        }
        Ok(chain)
    }

    /// Reads a list's file and the files that are dropped in beside it.
    ///
    /// # Errors
    /// A sentence that names the file: it can't be read, or is no JSON object.
    pub fn read(path: &Path) -> Result<Self, String> {
        let chain = file::read_text(path).and_then(|text| Self::of_file(path, &text));
        chain.map_err(|why| format!("{}: {why}", path.display()))
    }

    /// Returns true if the list keeps drop-ins out.
    #[must_use]
    pub fn is_inlined_only(&self) -> bool {
        self.inlined_only == Ok(true)
    }

    /// Returns the plugins in order, those that are no objects left out.
    pub fn plugins(&self) -> impl Iterator<Item = &Object> {
        let dropped = self.drop_ins.iter().filter(|_| !self.is_inlined_only());
        plugins(&self.list).into_iter().chain(dropped.filter_map(|(_, plugin)| plugin.as_ref().ok()))
    }

    /// Returns the types of the plugins in order; a plugin without a type has an empty one.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.plugins().map(plugin_type)
    }

    /// Returns this plugin's configuration; `None` if the chain doesn't have the plugin.
    #[must_use]
    pub fn own_config(&self) -> Option<Result<Config, cni::Error>> {
        let own = self.plugins().find(|plugin| plugin_type(plugin) == PLUGIN)?;
        Some(self.config_of(own))
    }

    /// Parses a plugin's object as libcni passes it on: with the list's name and version.
    fn config_of(&self, plugin: &Object) -> Result<Config, cni::Error> {
        let mut object = plugin.clone();
        for key in ["name", "cniVersion"] {
            if let Some(value) = self.list.get(key) {
                object.insert(key.to_owned(), value.clone());
            }
        }
        let text = Value::Object(object).to_string();
        Config::parse(&NetConf::parse(text.into_bytes(), Command::Add)?)
    }

    /// Judges the chain.
    #[must_use]
    pub fn judge(&self) -> Judgement {
        let is_own = |plugin: &Object| plugin_type(plugin) == PLUGIN;
        let is_inlined = plugins(&self.list).into_iter().any(is_own);
        let dropped = self.drop_ins.iter().rfind(|(_, plugin)| plugin.as_ref().is_ok_and(is_own)).map(|(file, _)| file);
        match (is_inlined, dropped) {
            (false, Some(file)) => {
                let unread = || vec![format!("it says loadOnlyInlinedPlugins, so {} is not read", file.display())];
                let faults = if self.is_inlined_only() { unread() } else { self.faults() };
                Judgement { placement: Placement::DroppedIn(file.clone()), faults }
            }
            (false, None) => Judgement { placement: Placement::Absent, faults: self.faults() },
            (true, Some(file)) if !self.is_inlined_only() => {
                let twice = format!(
                    "{PLUGIN} is in it and in {}: it would be called twice; use --mode conflist or --mode dropin",
                    file.display()
                );
                Judgement { placement: Placement::Inlined, faults: vec![twice] }
            }
            (true, _) => Judgement { placement: Placement::Inlined, faults: self.faults() },
        }
    }

    fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.inlined_only.clone().err().into_iter().collect();
        for (_, plugin) in self.drop_ins.iter().filter(|_| !self.is_inlined_only()) {
            if let Err(why) = plugin {
                faults.push(format!("no runtime reads the list because of a file that is dropped in beside it: {why}"));
            }
        }
        if let Some(why) = &self.malformed {
            faults.push(why.clone());
            return faults;
        }
        for (number, kind) in self.types().enumerate() {
            if kind.is_empty() {
                faults.push(format!("plugin {number} has no \"type\""));
            }
        }
        let place = |kind: &str| self.plugins().enumerate().find(|(_, plugin)| plugin_type(plugin) == kind);
        let Some((at, own)) = place(PLUGIN) else {
            faults.push(absent());
            return faults;
        };
        if self.types().filter(|kind| *kind == PLUGIN).count() > 1 {
            faults.push(format!("{PLUGIN} is in it more than once"));
        }
        match place(KUBE_OVN) {
            None => faults.push(format!("no plugin of it is {KUBE_OVN}, which {PLUGIN} must be chained after")),
            Some((first, _)) if first > at => faults.push(format!("{PLUGIN} is before {KUBE_OVN}")),
            // kube-ovn's own object of a primary network names no volume, and then no NIC of it is a vhost-user one.
            Some((_, theirs)) if theirs.contains_key("vhost_user_socket_volume_name") => {
                for key in SHARED_KEYS.iter().filter(|key| theirs.get(**key) != own.get(**key)) {
                    faults.push(format!("{key} is not the same for {KUBE_OVN} and for {PLUGIN}"));
                }
            }
            Some(_) => {}
        }
        faults.extend(self.config_of(own).err().map(|error| error.to_string()));
        faults
    }
}

impl Judgement {
    /// Returns true if nothing is wrong but that the chain doesn't have the plugin.
    #[must_use]
    pub fn is_absent_only(&self) -> bool {
        self.placement == Placement::Absent && self.faults == [absent()]
    }
}

fn absent() -> String {
    format!("no plugin of it is {PLUGIN}")
}

/// Returns true if a directory of drop-ins may have this name. libcni refuses other names of a network, too.
#[must_use]
pub fn is_network_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/')
}

/// Returns the plugin objects of a configuration, be it a list or a single plugin.
#[must_use]
pub fn plugins(config: &Object) -> Vec<&Object> {
    match config.get("plugins").and_then(Value::as_array) {
        Some(plugins) => plugins.iter().filter_map(Value::as_object).collect(),
        None if config.contains_key("type") => vec![config],
        None => Vec::new(),
    }
}

/// Returns a plugin's type; an empty one if it has none.
#[must_use]
pub fn plugin_type(plugin: &Object) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Reads the JSON object of a drop-in.
///
/// # Errors
/// A sentence that names the file: it can't be read, or is no JSON object.
pub fn read_object(path: &Path) -> Result<Object, String> {
    file::read_text(path).and_then(|text| object(&text)).map_err(|why| format!("{}: {why}", path.display()))
}

fn object(text: &str) -> Result<Object, String> {
    serde_json::from_str(text).map_err(|error| format!("it is not one JSON object: {}", quote::words(&error)))
}

/// Reads `loadOnlyInlinedPlugins` as libcni does from 1.3 on: a boolean, or its name in any case.
fn inlined_only(list: &Object) -> Result<bool, String> {
    let key = "loadOnlyInlinedPlugins";
    match list.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(name)) if name.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(name)) if name.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(format!("{key} must be true or false, not {}", quote::cut(&other.to_string(), 100))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        Chain::parse(text).map_or_else(|why| vec![why], |chain| chain.judge().faults)
    }

    #[test]
    fn the_lists_that_come_with_the_plugin_are_sound() {
        for list in
            [include_str!("../../conflist/01-kube-ovn.conflist"), include_str!("../../conflist/hotplug.conflist")]
        {
            assert_eq!(faults(list), Vec::<String>::new());
        }
        let yaml = include_str!("../../conflist/nad.yaml");
        let config: Vec<&str> = yaml
            .lines()
            .skip_while(|line| !line.ends_with("config: |"))
            .skip(1)
            .take_while(|line| line.starts_with("    "))
            .collect();
        assert_eq!(faults(&config.join("\n")), Vec::<String>::new());
    }

    #[test]
    fn whether_a_list_is_closed_is_read_as_libcni_reads_it() {
        let closed = |value: &str| {
            inlined_only(&serde_json::from_str(&format!("{{\"loadOnlyInlinedPlugins\":{value}}}")).unwrap())
        };
        for (value, expected) in
            [("true", true), ("\"TRUE\"", true), ("\"True\"", true), ("false", false), ("\"False\"", false)]
        {
            assert_eq!(closed(value), Ok(expected), "{value}");
        }
        for value in ["null", "1", "\"yes\"", "[]", "\"\""] {
            assert!(closed(value).is_err(), "{value}");
        }
        // The key is that of a map in libcni, so its case counts.
        assert_eq!(inlined_only(&serde_json::from_str(r#"{"LoadOnlyInlinedPlugins":true}"#).unwrap()), Ok(false));
    }

    #[test]
    fn each_fault_is_told() {
        let list = |plugins: &str| format!(r#"{{"name":"n","cniVersion":"1.0.0","plugins":[{plugins}]}}"#);
        let theirs = r#"{"type":"kube-ovn","vhost_user_socket_volume_name":"v"}"#;
        let ours = r#"{"type":"vhostuser-hotplug","vhost_user_socket_volume_name":"v"}"#;
        let both = list(&format!("{theirs},{ours}"));
        assert_eq!(faults(&both), Vec::<String>::new());
        for (text, part) in [
            ("{".to_owned(), "JSON"),
            ("{}".to_owned(), "plugins"),
            (ours.to_owned(), "no \"plugins\""),
            (both.replacen('{', r#"{"plugins":[],"#, 1), "more than once"),
            (both.replacen('{', r#"{"loadOnlyInlinedPlugins":"yes","#, 1), "loadOnlyInlinedPlugins"),
            (list(theirs), "no plugin of it is vhostuser-hotplug"),
            (list(ours), "no plugin of it is kube-ovn"),
            (list(&format!("{ours},{theirs}")), "before"),
            (list(&format!("{theirs},{ours},{ours}")), "more than once"),
            (list(&format!("{theirs},{{}},{ours}")), "plugin 1"),
            (list(&format!(r#"{theirs},{{"type":"vhostuser-hotplug"}}"#)), "not the same"),
            (list(&format!("{theirs},{}", ours.replace('}', r#","queues":0}"#))), "queues"),
            (both.replace("1.0.0", "9.0.0"), "9.0.0"),
            (both.replace(r#""n""#, r#""""#), "name"),
        ] {
            let found = faults(&text);
            assert!(found.iter().any(|fault| fault.contains(part)), "{text}: {found:?}");
        }
    }

    #[test]
    fn drop_ins_are_chained_as_libcni_chains_them() {
        let root = std::env::temp_dir().join(format!("vhu-chain-{}", std::process::id()));
        std::fs::create_dir_all(root.join("kube-ovn")).unwrap();
        let (file, ours) = (root.join("10-b.conflist"), root.join("kube-ovn/20-ours.conf"));
        let put = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
        put(&root.join("kube-ovn/10-theirs.conf"), r#"{"type":"portmap"}"#);
        put(&ours, r#"{"type":"vhostuser-hotplug"}"#);
        let list = |rest: &str| {
            format!(r#"{{"name":"kube-ovn","cniVersion":"1.0.0"{rest},"plugins":[{{"type":"kube-ovn"}}]}}"#)
        };
        put(&file, &list(""));
        let chain = Chain::read(&file).unwrap();
        assert_eq!(chain.types().collect::<Vec<_>>(), ["kube-ovn", "portmap", "vhostuser-hotplug"]);
        let Judgement { placement, faults } = chain.judge();
        assert_eq!((placement, faults), (Placement::DroppedIn(ours.clone()), vec![]));
        for closed in ["true", "\"TRUE\""] {
            put(&file, &list(&format!(",\"loadOnlyInlinedPlugins\":{closed}")));
            let chain = Chain::read(&file).unwrap();
            assert_eq!(chain.types().collect::<Vec<_>>(), ["kube-ovn"]);
            assert!(chain.judge().faults.iter().any(|fault| fault.contains("20-ours.conf is not read")));
        }
        put(&file, &list("").replace("[{", "[{\"type\":\"vhostuser-hotplug\"},{"));
        assert!(Chain::read(&file).unwrap().judge().faults.iter().any(|fault| fault.contains("called twice")));
        put(&ours, "{");
        assert!(Chain::read(&file).unwrap().judge().faults.iter().any(|fault| fault.contains("no runtime reads")));
        std::fs::remove_dir_all(root).unwrap();
    }
}
