//! The runtime's directory of network configurations, `/etc/cni/net.d`, as libcni reads it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::config::Config;
use crate::conflist;

/// A configuration list with what is dropped in beside it.
#[derive(Clone, Debug)]
pub struct List {
    /// The file.
    pub file: PathBuf,
    /// The list as a whole, as JSON.
    pub text: String,
    /// How many of its plugins come from `<directory>/<network>/*.conf`, which libcni adds from 1.3 on.
    pub dropped_in: usize,
}

/// The files that a runtime considers, in its order: the first is the pods' network (libcni, `ConfFiles`; containerd and
/// CRI-O sort them by name). containerd gives up at a first one that is broken; CRI-O takes the next.
///
/// # Errors
/// Those of reading the directory.
pub fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    with_endings(directory, &["conf", "conflist", "json"])
}

fn with_endings(directory: &Path, endings: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let ending = path.extension().and_then(OsStr::to_str);
        if ending.is_some_and(|ending| endings.contains(&ending)) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads a file, a list or a single plugin's configuration, and adds what is dropped in.
///
/// # Errors
/// In words: that it cannot be read, or is no JSON object.
pub fn read(file: &Path) -> Result<List, String> {
    let mut list = object(file)?;
    if !list.contains_key("plugins") && list.contains_key("type") {
        // libcni makes a list of one of it.
        list = Map::from_iter([
            ("name".to_owned(), list.get("name").cloned().unwrap_or_default()),
            ("cniVersion".to_owned(), list.get("cniVersion").cloned().unwrap_or_default()),
            ("plugins".to_owned(), Value::Array(vec![Value::Object(list)])),
        ]);
    }
    let mut dropped = Vec::new();
    for (_, plugin) in drop_ins(file, &list) {
        dropped.push(Value::Object(plugin?));
    }
    let dropped_in = dropped.len();
    if dropped_in > 0 {
        let plugins = list.entry("plugins").or_insert_with(|| Value::Array(Vec::new()));
        plugins.as_array_mut().ok_or_else(|| format!("{}: \"plugins\" is no list", file.display()))?.extend(dropped);
    }
    Ok(List { file: file.to_owned(), text: Value::Object(list).to_string(), dropped_in })
}

/// What a file holds, or why it can't be read.
pub type Object = Result<Map<String, Value>, String>;

/// Returns the files that libcni adds to a list from 1.3 on, with what each is, or why it can't be read.
pub fn drop_ins(file: &Path, list: &Map<String, Value>) -> Vec<(PathBuf, Object)> {
    let folder = list.get("name").and_then(Value::as_str).and_then(|name| Some(file.parent()?.join(name)));
    match folder {
        // libcni does not read a list with another value at all, which its judge says.
        Some(folder) if conflist::is_closed(list) != Ok(true) => {
            let files = with_endings(&folder, &["conf"]).unwrap_or_default();
            files.into_iter().map(|file| (file.clone(), object(&file))).collect()
        }
        _ => Vec::new(),
    }
}

/// Reads the JSON object that a file holds.
///
/// # Errors
/// In words: that it cannot be read, or is none.
pub fn object(file: &Path) -> Result<Map<String, Value>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{} is not a JSON object: {error}", file.display()))
}

/// The plugin's own configuration on this node: the first in the directory that is sound.
#[must_use]
pub fn ours(directory: &Path) -> Option<Config> {
    let files = files(directory).unwrap_or_default();
    files.iter().find_map(|file| conflist::ours(&read(file).ok()?.text)?.ok())
}

impl List {
    /// The types of its plugins, in order.
    #[must_use]
    pub fn types(&self) -> Vec<String> {
        let list: Value = serde_json::from_str(&self.text).unwrap_or_default();
        let plugins = list.get("plugins").and_then(Value::as_array).cloned().unwrap_or_default();
        plugins.iter().map(|plugin| plugin.get("type").and_then(Value::as_str).unwrap_or_default().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_as_libcni_reads_it() {
        let root = std::env::temp_dir().join(format!("vhu-netd-{}", std::process::id()));
        std::fs::create_dir_all(root.join("kube-ovn")).unwrap();
        std::fs::create_dir_all(root.join("05-folder.conf")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
        write("10-b.conflist", r#"{"name":"kube-ovn","cniVersion":"1.0.0","plugins":[{"type":"kube-ovn"}]}"#);
        write("02-a.conf", r#"{"name":"one","cniVersion":"1.0.0","type":"bridge"}"#);
        write("01-x.conflist.bak", "{}");
        write("99-broken.json", "{");
        write("kube-ovn/20-ours.conf", r#"{"type":"vhostuser-hotplug"}"#);
        write("kube-ovn/10-theirs.conf", r#"{"type":"portmap"}"#);
        let files = files(&root).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["02-a.conf", "10-b.conflist", "99-broken.json"]);
        assert_eq!(read(&files[0]).unwrap().types(), ["bridge"]);
        let list = read(&files[1]).unwrap();
        assert_eq!(
            (list.types(), list.dropped_in),
            (["kube-ovn", "portmap", "vhostuser-hotplug"].map(str::to_owned).to_vec(), 2)
        );
        assert!(read(&files[2]).unwrap_err().contains("99-broken.json"));
        write("10-b.conflist", r#"{"name":"kube-ovn","loadOnlyInlinedPlugins":true,"plugins":[{"type":"kube-ovn"}]}"#);
        assert_eq!(read(&files[1]).unwrap().types(), ["kube-ovn"]);
        // The same word in another case.
        write(
            "10-b.conflist",
            r#"{"name":"kube-ovn","loadOnlyInlinedPlugins":"TRUE","plugins":[{"type":"kube-ovn"}]}"#,
        );
        assert_eq!(read(&files[1]).unwrap().types(), ["kube-ovn"]);
        std::fs::remove_dir_all(root).unwrap();
    }
}
