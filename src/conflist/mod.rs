//! A network configuration list as a runtime reads it: judged before a runtime does, and our entry in it. Its depth is
//! bounded by serde_json (128), its length by who reads the file.

pub mod conf_dir;
pub mod file;
pub mod text;

use serde_json::{Map, Value};

use crate::cni::{Command, Error, NetConf};
use crate::config::Config;
use crate::quote;

/// Our type in a list.
pub const PLUGIN: &str = "vhostuser-hotplug";

/// The type of the plugin that ours is chained after.
pub const KUBE_OVN: &str = "kube-ovn";

/// The keys that both plugins must be told alike.
const SHARED_KEYS: [&str; 3] =
    ["vhost_user_socket_volume_name", "vhost_user_socket_consumption", "vhost_user_socket_name"];

/// What is wrong with a list; nothing if a runtime can use it and this plugin will do its work in it.
#[must_use]
pub fn faults(text: &str) -> Vec<String> {
    let list: Map<String, Value> = match serde_json::from_str(text) {
        Ok(list) => list,
        Err(error) => return vec![format!("it is not a JSON object: {}", quote::words(&error))],
    };
    let Some(plugins) = list.get("plugins").and_then(Value::as_array) else {
        return vec!["it has no list \"plugins\"".to_owned()];
    };
    let place = |kind: &str| plugins.iter().position(|plugin| plugin.get("type").and_then(Value::as_str) == Some(kind));
    let mut faults: Vec<String> = is_closed(&list).err().into_iter().collect();
    for (number, plugin) in plugins.iter().enumerate() {
        if plugin.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
            faults.push(format!("plugin {number} has no \"type\""));
        }
    }
    let Some((at, ours)) = place(PLUGIN).and_then(|at| Some((at, plugins.get(at)?.as_object()?))) else {
        faults.push(format!("no plugin of it is {PLUGIN}"));
        return faults;
    };
    if plugins.iter().filter(|plugin| plugin.get("type").and_then(Value::as_str) == Some(PLUGIN)).count() > 1 {
        faults.push(format!("{PLUGIN} is in it more than once"));
    }
    match place(KUBE_OVN).and_then(|first| Some((first, plugins.get(first)?))) {
        None => faults.push(format!("no plugin of it is kube-ovn, which {PLUGIN} is to be chained after")),
        Some((first, _)) if first > at => faults.push(format!("{PLUGIN} stands before kube-ovn")),
        // kube-ovn's own object of a primary network names no volume, and then no NIC of it is a vhost-user one.
        Some((_, theirs)) if theirs.get("vhost_user_socket_volume_name").is_some() => {
            for key in SHARED_KEYS {
                if theirs.get(key) != ours.get(key) {
                    faults.push(format!("{key} is not the same for kube-ovn and for {PLUGIN}"));
                }
            }
        }
        Some(_) => {}
    }
    if let Err(error) = configuration(&list, ours) {
        faults.push(error.to_string());
    }
    faults
}

/// Returns whether a list keeps plugins from being added by files beside it: its key `loadOnlyInlinedPlugins`, as
/// libcni reads it from 1.3 on (a boolean, or its name in any case).
///
/// # Errors
/// In words: that it is another value, with which libcni does not read the list.
pub fn is_closed(list: &Map<String, Value>) -> Result<bool, String> {
    let key = "loadOnlyInlinedPlugins";
    match list.get(key) {
        None => Ok(false),
        Some(Value::Bool(closed)) => Ok(*closed),
        Some(Value::String(word)) if word.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(word)) if word.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(format!("{key} must be true or false, not {}", quote::cut(&other.to_string(), 100))),
    }
}

/// Our configuration in a list; `None` if we are not in it.
#[must_use]
pub fn ours(text: &str) -> Option<Result<Config, Error>> {
    let list: Map<String, Value> = serde_json::from_str(text).ok()?;
    let is_ours = |plugin: &&Value| plugin.get("type").and_then(Value::as_str) == Some(PLUGIN);
    let object = list.get("plugins")?.as_array()?.iter().find(is_ours)?.as_object()?;
    Some(configuration(&list, object))
}

/// Our object as libcni hands it on: with the list's name and version in it.
fn configuration(list: &Map<String, Value>, ours: &Map<String, Value>) -> Result<Config, Error> {
    let mut object = ours.clone();
    for key in ["name", "cniVersion"] {
        if let Some(value) = list.get(key) {
            object.insert(key.to_owned(), value.clone());
        }
    }
    let text = Value::Object(object).to_string();
    Config::parse(&NetConf::parse(text.into_bytes(), Command::Add)?)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let closed =
            |value: &str| is_closed(&serde_json::from_str(&format!("{{\"loadOnlyInlinedPlugins\":{value}}}")).unwrap());
        for (value, expected) in
            [("true", true), ("\"TRUE\"", true), ("\"True\"", true), ("false", false), ("\"False\"", false)]
        {
            assert_eq!(closed(value), Ok(expected), "{value}");
        }
        for value in ["null", "1", "\"yes\"", "[]", "\"\""] {
            assert!(closed(value).is_err(), "{value}");
        }
        // The key is that of a map in libcni, so its case counts.
        assert_eq!(is_closed(&serde_json::from_str(r#"{"LoadOnlyInlinedPlugins":true}"#).unwrap()), Ok(false));
    }

    #[test]
    fn each_fault_is_told() {
        let list = |plugins: &str| format!(r#"{{"name":"n","cniVersion":"1.0.0","plugins":[{plugins}]}}"#);
        let theirs = r#"{"type":"kube-ovn","vhost_user_socket_volume_name":"v"}"#;
        let ours = r#"{"type":"vhostuser-hotplug","vhost_user_socket_volume_name":"v"}"#;
        assert_eq!(faults(&list(&format!("{theirs},{ours}"))), Vec::<String>::new());
        for (text, word) in [
            ("{".to_owned(), "JSON"),
            ("{}".to_owned(), "plugins"),
            (
                list(&format!("{theirs},{ours}")).replacen('{', r#"{"loadOnlyInlinedPlugins":"yes","#, 1),
                "loadOnlyInlinedPlugins",
            ),
            (list(theirs), "no plugin of it is vhostuser-hotplug"),
            (list(ours), "no plugin of it is kube-ovn"),
            (list(&format!("{ours},{theirs}")), "before"),
            (list(&format!("{theirs},{ours},{ours}")), "more than once"),
            (list(&format!("{theirs},{{}},{ours}")), "plugin 1"),
            (list(&format!(r#"{theirs},{{"type":"vhostuser-hotplug"}}"#)), "not the same"),
            (list(&format!("{theirs},{}", ours.replace('}', r#","queues":0}"#))), "queues"),
            (list(&format!("{theirs},{ours}")).replace("1.0.0", "9.0.0"), "9.0.0"),
            (list(&format!("{theirs},{ours}")).replace(r#""n""#, r#""""#), "name"),
        ] {
            let found = faults(&text);
            assert!(found.iter().any(|fault| fault.contains(word)), "{text}: {found:?}");
        }
    }
}
