//! The NIC that an ADD asks for: its paths, and what libvirt is asked with.

use std::path::Path;

use crate::attachment::record::Nic;
use crate::attachment::share::{self, SUN_PATH, Share};
use crate::cni::Error;
use crate::config::{Config, Queues};
use crate::dataplane::capabilities::Capabilities;
use crate::libvirt::Domain;
use crate::ovs::port;
use crate::pod::process::Process;
use crate::pod::unix_path::UnixPath;
use crate::pod::volume::Volume;
use crate::quote;
use crate::vm::domain::Description;
use crate::vm::interface::{Interface, alias_of};

use super::context::AttachmentId;
use super::ports::Port;
use super::{errors, mtu};

/// Most queue pairs with `queues: auto`. A guest with more vCPUs seldom gains by more.
const AUTO_QUEUES: u16 = 16;

/// The NIC that an ADD asks for, checked; [`Config`] has the rest.
pub struct NicSpec<'a> {
    pub id: AttachmentId<'a>,
    /// The pod's namespace and name, for messages.
    pub pod: &'a str,
    pub mac: String,
    /// The MTU of its network, if kube-ovn's result has it.
    pub mtu: Option<u32>,
    /// The name of its socket in the volume.
    pub socket: &'a str,
}

/// A NIC as libvirt is asked for it.
pub struct Requested {
    pub interface: Interface,
    /// True if the configuration names the number of queues.
    pub queues_matter: bool,
}

impl NicSpec<'_> {
    /// Returns the path of the socket as the data plane knows it.
    pub fn host_path(&self, share: &Share) -> String {
        share::data_plane_path(&share.target().join(self.socket)).display().to_string()
    }

    /// Returns the path of the socket as QEMU knows it: the mount point of the volume in the daemon's container, and the
    /// socket's name.
    pub fn guest_path(&self, volume: &Volume, daemon: &Process, host_path: &str) -> Result<String, Error> {
        let location = volume.location().map_err(|error| errors::system("locating the pod's volume", &error))?;
        let point = daemon.mount_point(&location);
        let point = point.map_err(|error| errors::system("reading the mounts of the pod's libvirt daemon", &error))?;
        let point = point.ok_or_else(|| {
            Error::no_volume(format!(
                "The container of the pod's libvirt daemon does not mount the volume {}.",
                volume.name().to_string_lossy()
            ))
        })?;
        let guest_path = point.join(self.socket);
        for path in [guest_path.to_string_lossy().as_ref(), host_path] {
            if path.len() > SUN_PATH {
                return Err(Error::invalid_config(format!(
                    "The socket's path {} has {} bytes, and a unix socket's may have {SUN_PATH}: mount the volume \
                     {} at a shorter path, or choose a shorter socket name.",
                    quote::value(path),
                    path.len(),
                    volume.name().to_string_lossy()
                )));
            }
        }
        match guest_path.to_str() {
            Some(path) if path.chars().all(stands_in_xml) => Ok(path.to_owned()),
            _ => Err(Error::untrusted_files(format!(
                "The socket's path would be {}, which can't be written in XML: mount the volume at a path without control \
                 characters.",
                quote::value(&guest_path.to_string_lossy())
            ))),
        }
    }

    /// Returns OVS's port of the NIC.
    pub fn port<'a>(&'a self, config: &'a Config, share: &'a Path, host_path: &'a str) -> Port<'a> {
        let AttachmentId { container_id, ifname, .. } = self.id;
        Port {
            socket: &config.ovsdb_socket,
            share,
            nic: port::Nic { path: Path::new(host_path), container_id, ifname, pod: self.pod },
        }
    }

    /// Returns the NIC to ask for, before its VM is known.
    pub fn interface(&self, config: &Config, path: UnixPath) -> Interface {
        Interface {
            mac: self.mac.clone(),
            path,
            model: config.model.as_str().to_owned(),
            queues: 1,
            rx_queue_size: config.rx_queue_size,
            tx_queue_size: config.tx_queue_size,
            alias: config.nic.alias.clone().unwrap_or_else(|| alias_of(self.id.ifname)),
            address: config.nic.pci_address,
            iommu: false,
        }
    }

    /// Returns the record of the NIC before it is plugged.
    pub fn record(&self, asked: &Interface, domain: &Domain, description: &Description) -> Nic {
        Nic {
            alias: asked.alias.clone(),
            mac: asked.mac.clone(),
            path: asked.path.to_string(),
            socket: self.socket.to_owned(),
            domain: domain.uuid_digits(),
            queues: None,
            mtu: self.mtu,
            guest_mtu: Some(mtu::of_guest(description, &asked.model)),
            attached: false,
            detaching: false,
        }
    }
}

impl Requested {
    /// Adds to a NIC what depends on its VM.
    pub fn of(interface: Interface, config: &Config, description: &Description) -> Self {
        let (queues, queues_matter) = match config.queues() {
            Queues::Pairs(pairs) => (pairs, true),
            Queues::Auto => {
                let vcpus = u16::try_from(description.vcpus).unwrap_or(AUTO_QUEUES);
                (vcpus.clamp(1, AUTO_QUEUES), false)
            }
        };
        Self { interface: Interface { queues, iommu: description.encrypted, ..interface }, queues_matter }
    }

    /// Reduces the queue pairs to what the data plane offers: QEMU never finishes with a NIC that has more than its data
    /// plane.
    pub fn negotiate_queues(&mut self, capabilities: &Capabilities) -> Result<(), Error> {
        let offered = u16::try_from(capabilities.queues).unwrap_or(u16::MAX);
        let queues = self.interface.queues;
        if self.queues_matter && queues > offered {
            return Err(Error::invalid_config(format!(
                "The key \"queues\" asks for {queues} queue pairs, and the data plane offers {offered}: ask for less, or for \
                 \"auto\"."
            )));
        }
        self.interface.queues = queues.min(offered);
        Ok(())
    }
}

/// Returns true if XML can hold a character, and an attribute doesn't change it (XML 1.0, "Characters" and "Attribute-Value
/// Normalization").
fn stands_in_xml(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')
}
