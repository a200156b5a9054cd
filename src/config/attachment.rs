//! The keys of an attachment, for the calls that come after its ADD.
//!
//! A DEL may come without any of the plugin's keys: Multus drops them for a sandbox that it has no cached result of,
//! and for lists below 0.4.0. So ADD writes the keys that its DEL, CHECK and GC need into the record. This is the rule
//! for a key that both have, here and nowhere else:
//!
//! - Where things are ([`WHERE`], and the volume and `socket_base_dir`, which the record has in fields of its own): the
//!   record. What an ADD did is undone where it was done, whatever the configuration says now.
//! - How the pod's libvirt and OVSDB are reached, how long a call may take and what it logs ([`HOW`]): the call, if it
//!   has the key, else the record. An operator may have changed it to get a DEL through.
//! - A record without keys is that of an older version: the call's keys alone.
//!
//! A value that can't be, in a record too, counts as absent.

use serde_json::{Map, Value, json};

use super::{Config, Consumption, LibvirtUri, PLUGIN, Reader};
use crate::cni::NetConf;

/// The plugin's keys that an ADD was given, as its record has them.
pub type Keys = Map<String, Value>;

/// Keys that say where an ADD did its work.
pub(super) const WHERE: [&str; 3] = ["kubelet_dir", "vhost_user_socket_consumption", "vhost_user_socket_name"];

/// Keys that say how a call works.
pub(super) const HOW: [&str; 6] =
    ["libvirt_uri", "libvirt_sockets", "ovsdb_socket", "attach_timeout", "detach_timeout", "log_level"];

impl Config {
    /// Returns the keys that go into the record of an attachment: those that `conf`, from which this configuration was
    /// read, gives.
    #[must_use]
    pub fn keys(&self, conf: &NetConf) -> Keys {
        let uri = match self.libvirt_uri {
            LibvirtUri::Auto => "auto",
            LibvirtUri::System => "qemu:///system",
            LibvirtUri::Session => "qemu:///session",
        };
        // Any text but "kubevirt" means the same, however long it is.
        let consumption = if self.consumption == Consumption::Kubevirt { "kubevirt" } else { "" };
        let values = [
            ("kubelet_dir", json!(self.kubelet_dir)),
            ("vhost_user_socket_consumption", json!(consumption)),
            ("vhost_user_socket_name", json!(self.socket_name)),
            ("libvirt_uri", json!(uri)),
            ("libvirt_sockets", json!(self.libvirt_sockets)),
            ("ovsdb_socket", json!(self.ovsdb_socket)),
            ("attach_timeout", json!(self.attach_timeout.as_secs())),
            ("detach_timeout", json!(self.detach_timeout.as_secs())),
            ("log_level", json!(self.log_level.as_str().to_ascii_lowercase())),
        ];
        let given = values.into_iter().filter(|(key, _)| conf.raw(key).is_some());
        let mut keys: Keys = given.map(|(key, value)| (key.to_owned(), value)).collect();
        if let Some(alias) = &self.nic.alias {
            keys.insert("args".to_owned(), json!({"cni": {PLUGIN: {"alias": alias}}}));
        }
        keys
    }

    /// Returns the configuration for an attachment whose record has these keys. `conf` is what this configuration was
    /// read from.
    #[must_use]
    pub fn for_attachment(&self, conf: &NetConf, keys: Option<&Keys>) -> Self {
        let Some(keys) = keys else { return self.clone() };
        let recorded = NetConf::of_keys(keys);
        // What is wrong in the call's own keys has been logged.
        let config = Reader { conf, recorded: Some(&recorded), errors: Vec::new() }.config();
        Self {
            volume_name: self.volume_name.clone(),
            socket_base_dir: self.socket_base_dir.clone(),
            state_dir: self.state_dir.clone(),
            ..config
        }
    }

    /// The same for a call that has no network configuration: a person's command.
    #[must_use]
    pub fn of_attachment(&self, keys: Option<&Keys>) -> Self {
        self.for_attachment(&NetConf::empty(), keys)
    }
}
