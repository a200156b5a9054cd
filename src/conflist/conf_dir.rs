//! The runtime's directory of network configurations, `/etc/cni/net.d`, as libcni reads it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::chain::Chain;
use crate::config::Config;

/// Returns the files that a runtime considers, in its order: the first is the pods' network (libcni, `ConfFiles`; containerd
/// and CRI-O sort them by name). containerd gives up if the first one is broken; CRI-O takes the next.
///
/// # Errors
/// Those of reading the directory.
pub fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    with_extensions(directory, &["conf", "conflist", "json"])
}

pub(super) fn with_extensions(directory: &Path, extensions: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let extension = path.extension().and_then(OsStr::to_str);
        if extension.is_some_and(|extension| extensions.contains(&extension)) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the plugin's own configuration on this node: the first valid one in the directory.
#[must_use]
pub fn own_config(directory: &Path) -> Option<Config> {
    let files = files(directory).unwrap_or_default();
    files.iter().find_map(|file| Chain::read(file).ok()?.own_config()?.ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_as_libcni_reads_it() {
        let root = std::env::temp_dir().join(format!("vhu-netd-{}", std::process::id()));
        std::fs::create_dir_all(root.join("05-folder.conf")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
        write("10-b.conflist", r#"{"name":"kube-ovn","cniVersion":"1.0.0","plugins":[{"type":"kube-ovn"}]}"#);
        write("02-a.conf", r#"{"name":"one","cniVersion":"1.0.0","type":"bridge"}"#);
        write("01-x.conflist.bak", "{}");
        write("99-broken.json", "{");
        let files = files(&root).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["02-a.conf", "10-b.conflist", "99-broken.json"]);
        assert_eq!(Chain::read(&files[0]).unwrap().types().collect::<Vec<_>>(), ["bridge"]);
        assert!(Chain::read(&files[2]).unwrap_err().contains("99-broken.json"));
        std::fs::remove_dir_all(root).unwrap();
    }
}
