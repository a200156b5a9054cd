//! Network configuration lists: how a runtime chains their plugins ([`chain`]), and an editor for the plugin's entry
//! ([`mod@file`], [`text`]). serde_json bounds a list's depth (128), [`file::LIMIT`] its length.

pub mod chain;
pub mod conf_dir;
pub mod file;
pub mod text;

/// The plugin's type in a list.
pub const PLUGIN: &str = "vhostuser-hotplug";

/// The type of the plugin that this one is chained after.
pub const KUBE_OVN: &str = "kube-ovn";

/// The keys that must have the same value for both plugins.
const SHARED_KEYS: [&str; 3] =
    ["vhost_user_socket_volume_name", "vhost_user_socket_consumption", "vhost_user_socket_name"];
