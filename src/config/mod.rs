//! The plugin's own keys in the network configuration: their defaults, and the errors of wrong values.
//!
//! The keys are those of the contract's table (snake_case, like kube-ovn's); the first three are kube-ovn's keys
//! repeated, because a plugin sees only its own object of the conflist. Unknown keys are ignored. An invalid value is
//! error 7, with key and value.

mod attachment;
#[cfg(test)]
mod tests;
mod value;

use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

pub use self::attachment::Keys;
use self::attachment::{HOW, WHERE};
use self::value::{Value, is_alias, is_domain_name, is_file_name, is_label};

use crate::cni::json::member;
use crate::cni::mac::Mac;
use crate::cni::netconf::wrong_value;
use crate::cni::{Error, NetConf};
use crate::vm::interface::PciAddress;

/// The name of this plugin's object in `args.cni`.
const PLUGIN: &str = "vhostuser-hotplug";
/// The default of `state_dir`. The pods' locks and the names of other state directories are always here.
pub const STATE_DIR: &str = "/run/vhostuser-hotplug";
/// The default of `libvirt_sockets`: the sockets of virtqemud and libvirtd in libvirt and in Debian.
const LIBVIRT_SOCKETS: [&str; 4] = [
    "/var/run/libvirt/virtqemud-sock",
    "/var/run/libvirt/libvirt-sock",
    "/run/libvirt/virtqemud-sock",
    "/run/libvirt/libvirt-sock",
];

/// How kube-ovn names a pod's sockets (its key of the same name).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumption {
    /// `"kubevirt"`: one directory for all NICs of the pod, the socket is named `CNI_IFNAME`.
    Kubevirt,
    /// Anything else: the socket is named `vhost_user_socket_name`.
    Named,
}

/// When a NIC is attached to the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// When the pod's network namespace has no link of the interface's name, as kube-ovn makes none for a DPDK NIC.
    Auto,
    /// For every attachment.
    Always,
    /// Never: the directory is only shared with OVS.
    Never,
}

/// How many pairs of queues the NIC gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// One for each vCPU, if the data plane has as many, and at most 16.
    Auto,
    /// This many, 1 to 128.
    Pairs(u16),
}

impl Queues {
    /// Most pairs that can be requested.
    pub const MAX: u16 = 128;
}

/// The model of the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// `virtio`
    Virtio,
    /// `virtio-transitional`
    VirtioTransitional,
    /// `virtio-non-transitional`
    VirtioNonTransitional,
}

impl Model {
    /// Returns the name of the model in libvirt's XML.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::VirtioTransitional => "virtio-transitional",
            Self::VirtioNonTransitional => "virtio-non-transitional",
        }
    }
}

/// Which of libvirt's drivers to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LibvirtUri {
    /// The system driver, or the session driver if the daemon refuses that.
    Auto,
    /// `qemu:///system`
    System,
    /// `qemu:///session`
    Session,
}

/// The keys of one NIC: `args.cni["vhostuser-hotplug"]` and `runtimeConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nic {
    /// `alias`: libvirt's name for the NIC, `ua-` and then letters, digits, `_` and `-`.
    pub alias: Option<String>,
    /// `pci_address`: the NIC's place in the VM.
    pub pci_address: Option<PciAddress>,
    /// `queues`: takes precedence over the key of the same name for all NICs.
    pub queues: Option<Queues>,
    /// `runtimeConfig.mac`, which a runtime sends to a plugin that declares the capability `mac`.
    pub mac: Option<Mac>,
    /// `runtimeConfig.CNIDeviceInfoFile`, which a runtime sends to a plugin that declares the capability of that name.
    pub device_info_file: Option<PathBuf>,
}

/// The plugin's configuration, every value within its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `vhost_user_socket_volume_name`: the name of the emptyDir, a DNS label.
    pub volume_name: String,
    /// `vhost_user_socket_consumption`
    pub consumption: Consumption,
    /// `attach`
    pub attach: Attach,
    /// `queues`; [`Config::queues`] has the value for this NIC.
    pub queues: Queues,
    /// `model`
    pub model: Model,
    /// `rx_queue_size`, in descriptors: 256, 512 or 1024.
    pub rx_queue_size: Option<u16>,
    /// `tx_queue_size`, in descriptors: 256, 512 or 1024.
    pub tx_queue_size: Option<u16>,
    /// `libvirt_uri`
    pub libvirt_uri: LibvirtUri,
    /// `libvirt_sockets`: absolute paths inside the container, to be tried in this order.
    pub libvirt_sockets: Vec<PathBuf>,
    /// `domain`: the name of the VM, if the pod runs more than one.
    pub domain: Option<String>,
    /// `kubelet_dir`
    pub kubelet_dir: PathBuf,
    /// `socket_base_dir`
    pub socket_base_dir: PathBuf,
    /// `state_dir`
    pub state_dir: PathBuf,
    /// `ovsdb_socket`
    pub ovsdb_socket: PathBuf,
    /// `attach_timeout`: for the whole attachment.
    pub attach_timeout: Duration,
    /// `detach_timeout`: for the whole detachment.
    pub detach_timeout: Duration,
    /// `log_level`
    pub log_level: LevelFilter,
    /// The keys of this NIC.
    pub nic: Nic,
    /// `vhost_user_socket_name`; [`Config::socket_name`] has the name that counts.
    socket_name: Option<String>,
}

impl Config {
    /// Reads the plugin's keys in `conf`.
    ///
    /// # Errors
    /// The first wrong value: code 7, with key and value.
    pub fn parse(conf: &NetConf) -> Result<Self, Error> {
        let mut reader = Reader { conf, recorded: None, errors: Vec::new() };
        let config = reader.config();
        reader.errors.into_iter().next().map_or(Ok(config), Err)
    }

    /// Reads the plugin's keys in `conf`, with defaults for wrong values, which are logged. It is for commands that
    /// undo: an error about a value that they may not need would keep the runtime from deleting a pod.
    #[must_use]
    pub fn parse_lenient(conf: &NetConf) -> Self {
        let mut reader = Reader { conf, recorded: None, errors: Vec::new() };
        let config = reader.config();
        for error in reader.errors {
            log::warn!("{error}; the default is used");
        }
        config
    }

    /// Returns the file name of the socket of interface `ifname`.
    ///
    /// # Errors
    /// Code 7 if the sockets aren't named after their interfaces and `vhost_user_socket_name` is missing.
    pub fn socket_name<'a>(&'a self, ifname: &'a str) -> Result<&'a str, Error> {
        match self.consumption {
            Consumption::Kubevirt => Ok(ifname),
            Consumption::Named => self.socket_name.as_deref().ok_or_else(|| {
                Error::invalid_config(
                    "vhost_user_socket_name is missing: it is needed unless vhost_user_socket_consumption is \"kubevirt\".",
                )
            }),
        }
    }

    /// Returns the queues of this NIC: its own value, else the one for all NICs.
    #[must_use]
    pub fn queues(&self) -> Queues {
        self.nic.queues.unwrap_or(self.queues)
    }
}

impl Default for Config {
    /// Returns the defaults.
    fn default() -> Self {
        Reader { conf: &NetConf::empty(), recorded: None, errors: Vec::new() }.config()
    }
}

/// Reads the values, and collects the errors instead of stopping at the first.
struct Reader<'a> {
    conf: &'a NetConf,
    /// The keys in the record of the attachment that the call is about.
    recorded: Option<&'a NetConf>,
    errors: Vec<Error>,
}

impl<'a> Reader<'a> {
    fn config(&mut self) -> Config {
        Config {
            volume_name: self
                .key("vhost_user_socket_volume_name", |value| {
                    value.checked(is_label, "it must be a volume's name: lower-case letters, digits and '-'")
                })
                .unwrap_or_else(|| "vhostuser-sockets".to_owned()),
            consumption: self
                .key("vhost_user_socket_consumption", |value| {
                    // As in kube-ovn: any other text, even an empty one, is the other mode.
                    let kubevirt = value.decoded::<String>()? == "kubevirt";
                    Ok(Some(if kubevirt { Consumption::Kubevirt } else { Consumption::Named }))
                })
                .unwrap_or(Consumption::Kubevirt),
            attach: self
                .key("attach", |value| {
                    value.word(&[("auto", Attach::Auto), ("always", Attach::Always), ("never", Attach::Never)])
                })
                .unwrap_or(Attach::Auto),
            queues: self.key("queues", Value::queues).unwrap_or(Queues::Auto),
            model: self
                .key("model", |value| {
                    let models = [Model::VirtioNonTransitional, Model::Virtio, Model::VirtioTransitional];
                    value.word(&models.map(|model| (model.as_str(), model)))
                })
                .unwrap_or(Model::VirtioNonTransitional),
            rx_queue_size: self.key("rx_queue_size", Value::queue_size),
            tx_queue_size: self.key("tx_queue_size", Value::queue_size),
            libvirt_uri: self
                .key("libvirt_uri", |value| {
                    value.word(&[
                        ("auto", LibvirtUri::Auto),
                        ("qemu:///system", LibvirtUri::System),
                        ("qemu:///session", LibvirtUri::Session),
                    ])
                })
                .unwrap_or(LibvirtUri::Auto),
            libvirt_sockets: self
                .key("libvirt_sockets", Value::paths)
                .unwrap_or_else(|| LIBVIRT_SOCKETS.map(PathBuf::from).to_vec()),
            domain: self.key("domain", |value| {
                value.checked(is_domain_name, "it must be a domain's name: at most 255 bytes, no control characters")
            }),
            kubelet_dir: self.path("kubelet_dir", "/var/lib/kubelet"),
            socket_base_dir: self.path("socket_base_dir", "/run/openvswitch/vhost_sockets"),
            state_dir: self.path("state_dir", STATE_DIR),
            ovsdb_socket: self.path("ovsdb_socket", "/run/openvswitch/db.sock"),
            attach_timeout: self.key("attach_timeout", Value::seconds).unwrap_or(Duration::from_secs(20)),
            // With kube-ovn's part and the grace period it fits into the minute after which CRI-O ends a call.
            detach_timeout: self.key("detach_timeout", Value::seconds).unwrap_or(Duration::from_secs(40)),
            log_level: self
                .key("log_level", |value| {
                    value.word(&[
                        ("error", LevelFilter::Error),
                        ("warn", LevelFilter::Warn),
                        ("info", LevelFilter::Info),
                        ("debug", LevelFilter::Debug),
                    ])
                })
                .unwrap_or(LevelFilter::Info),
            nic: self.nic(),
            socket_name: self.key("vhost_user_socket_name", |value| {
                value.checked(is_file_name, "it must be a file name of at most 64 letters, digits, '_', '.' and '-'")
            }),
        }
    }

    fn nic(&mut self) -> Nic {
        let ours = self.conf.at(&["args", "cni", PLUGIN]).unwrap_or("{}");
        if !ours.starts_with('{') {
            self.errors.push(wrong_value("args.cni.vhostuser-hotplug", ours, "it must be an object"));
        }
        let alias = match self.recorded {
            Some(keys) => keys.at(&["args", "cni", PLUGIN, "alias"]),
            None => member(ours, "alias"),
        };
        Nic {
            alias: self.value("args.cni.vhostuser-hotplug.alias", alias, |value| {
                value.checked(is_alias, "it must be \"ua-\" and then letters, digits, '_' and '-', at most 64 bytes")
            }),
            pci_address: self.value(
                "args.cni.vhostuser-hotplug.pci_address",
                member(ours, "pci_address"),
                Value::pci_address,
            ),
            queues: self.value("args.cni.vhostuser-hotplug.queues", member(ours, "queues"), Value::queues),
            mac: self.value("runtimeConfig.mac", self.conf.at(&["runtimeConfig", "mac"]), Value::mac),
            device_info_file: self.value(
                "runtimeConfig.CNIDeviceInfoFile",
                self.conf.at(&["runtimeConfig", "CNIDeviceInfoFile"]),
                Value::path,
            ),
        }
    }

    fn path(&mut self, key: &'static str, default: &str) -> PathBuf {
        self.key(key, Value::path).unwrap_or_else(|| PathBuf::from(default))
    }

    /// Returns the first valid value of this key: from the call's configuration or the attachment's record.
    fn key<T>(&mut self, key: &'static str, read: impl Fn(Value<'a>) -> Result<Option<T>, Error>) -> Option<T> {
        let own = self.conf.raw(key);
        let recorded = self.recorded.map(|keys| keys.raw(key));
        let candidates = match recorded {
            Some(recorded) if WHERE.contains(&key) => [recorded, None],
            Some(recorded) if HOW.contains(&key) => [own, recorded],
            _ => [own, None],
        };
        candidates.into_iter().find_map(|raw| self.value(key, raw, &read))
    }

    fn value<T>(
        &mut self,
        key: &'static str,
        raw: Option<&'a str>,
        read: impl FnOnce(Value<'a>) -> Result<Option<T>, Error>,
    ) -> Option<T> {
        read(Value { key, raw: raw? }).unwrap_or_else(|error| {
            self.errors.push(error);
            None
        })
    }
}
