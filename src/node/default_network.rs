//! How the runtime gets to kube-ovn's list: the network of its pods is the first configuration by name.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Error;
use crate::conflist::chain::{Chain, plugin_type, plugins};
use crate::conflist::file::ListFile;
use crate::conflist::{KUBE_OVN, PLUGIN, conf_dir};

/// What the runtime's first configuration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefaultNetwork {
    /// kube-ovn's list.
    KubeOvn,
    /// Multus, which calls kube-ovn.
    Multus(PathBuf),
    /// Multus with a copy of kube-ovn's list, made when Multus started, that lacks this plugin.
    StaleMultus(PathBuf),
    /// Another network, made by a plugin of this type.
    Other(PathBuf, String),
    /// A file that can't be read; the sentence names it.
    Unreadable(String),
}

impl DefaultNetwork {
    /// Looks at the first configuration, where kube-ovn's list is `kube_ovn`. Returns `None` if there is no configuration.
    #[must_use]
    pub fn find(conf_dir: &Path, kube_ovn: Option<&Path>) -> Option<Self> {
        let first = conf_dir::files(conf_dir).unwrap_or_default().into_iter().next()?;
        if Some(first.as_path()) == kube_ovn {
            return Some(Self::KubeOvn);
        }
        let chain = ListFile::read(&first).map_err(|source| Error::List { path: first.clone(), source }.to_string());
        let chain = chain
            .and_then(|file| Chain::of_file(&first, &file.text).map_err(|why| format!("{}: {why}", first.display())));
        let chain = match chain {
            Ok(chain) => chain,
            Err(why) => return Some(Self::Unreadable(why)),
        };
        let Some(multus) = chain.plugins().find(|plugin| plugin_type(plugin).starts_with("multus")) else {
            let kind = chain.types().next().filter(|kind| !kind.is_empty()).unwrap_or("nothing").to_owned();
            return Some(Self::Other(first, kind));
        };
        // Multus either names kube-ovn's list (clusterNetwork) or has a copy of it.
        let copies = multus.get("delegates").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let is_stale = copies.iter().filter_map(Value::as_object).any(|copy| has(copy, KUBE_OVN) && !has(copy, PLUGIN));
        Some(if is_stale { Self::StaleMultus(first) } else { Self::Multus(first) })
    }
}

fn has(config: &Map<String, Value>, kind: &str) -> bool {
    plugins(config).into_iter().any(|plugin| plugin_type(plugin) == kind)
}
