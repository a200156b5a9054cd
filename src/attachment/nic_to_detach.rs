//! Which NIC a DEL or a GC detaches.

use std::path::Path;

use crate::attachment::record::{Nic, Record};
use crate::cni::Error;
use crate::config::{Attach, Keys};
use crate::pod::running::RunningPod;
use crate::pod::unix_path::UnixPath;
use crate::pod::unix_sockets::Socket;
use crate::pod::volume::Volume;
use crate::vm::interface::alias_of;

use super::context::{AttachmentId, Context};

/// An attachment that a call ends, and what the call says of it.
pub struct DetachRequest<'a> {
    pub context: Context<'a>,
    pub id: AttachmentId<'a>,
    /// CNI_NETNS, if the call has it.
    pub netns: Option<&'a Path>,
    /// The NIC's MAC address, if the call has it.
    pub mac: Option<String>,
    /// The plugin's keys in the call, for the record of a NIC that has none.
    pub keys: Keys,
}

/// A NIC to look for in the pod's VMs.
pub struct NicToDetach {
    pub nic: Nic,
    pub origin: Origin,
}

/// Where the knowledge of the NIC comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The record of the attachment has it.
    Recorded,
    /// There is no record. It is the NIC that an ADD of this call would have plugged.
    Unrecorded,
    /// No NIC is recorded (or `attach` is `never`), but a VM that migrated here may have brought one.
    Migrated,
}

impl DetachRequest<'_> {
    /// Returns the NIC that this attachment plugged. If none is recorded (/run was wiped, or the VM has brought the NIC along),
    /// it is the one that an ADD would have plugged, but only if the call names the pod's running sandbox, and no other
    /// attachment of the pod has this interface name: otherwise this is the late DEL of an old sandbox.
    ///
    /// # Errors
    /// The NIC could not be looked for, or not in time. Without an answer a DEL must not succeed.
    pub fn nic(
        &self,
        record: Option<&Record>,
        volume: Option<&Volume>,
        running: Option<&RunningPod>,
    ) -> Result<Option<NicToDetach>, Error> {
        if let Some(nic) = record.and_then(|record| record.nic.clone()) {
            return Ok(Some(NicToDetach { nic, origin: Origin::Recorded }));
        }
        let Context { config, deadline, .. } = self.context;
        let Some((running, volume)) = running.zip(volume) else { return Ok(None) };
        let is_rival = |other: &Record| other.ifname == self.id.ifname && !self.id.has(other);
        let is_named = self.netns.is_some_and(|netns| running.sandbox.is_at(netns));
        if !is_named || self.context.records().iter().any(is_rival) {
            return Ok(None);
        }
        let (Ok(socket), Ok(location)) = (config.socket_name(self.id.ifname), volume.location()) else {
            return Ok(None);
        };
        let points = running.mount_points(&location, deadline);
        if deadline.passed() {
            return Err(Error::try_again(
                "The time was up before it was known whether the pod's VM has the NIC. Nothing was undone; the next DEL \
                 begins anew.",
            ));
        }
        let paths: Vec<_> =
            points.iter().filter_map(|point| point.join(socket).into_os_string().into_string().ok()).collect();
        let held = Self::listened_at(&paths, running)?;
        // A NIC that migrated here, or that an ADD would not have plugged, must have the plugin's alias: one of the VM's own
        // definition may have the same MAC and socket.
        let (origin, mac) = match record {
            None if config.attach != Attach::Never => (Origin::Unrecorded, self.mac.clone()),
            _ if held.is_none() => return Ok(None),
            _ => (Origin::Migrated, None),
        };
        let Some(path) = held.or(paths.first()).cloned() else { return Ok(None) };
        let nic = Nic {
            alias: config.nic.alias.clone().unwrap_or_else(|| alias_of(self.id.ifname)),
            mac: mac.unwrap_or_default(),
            path,
            socket: socket.to_owned(),
            domain: String::new(),
            queues: None,
            mtu: None,
            guest_mtu: None,
            attached: true,
            detaching: false,
        };
        Ok(Some(NicToDetach { nic, origin }))
    }

    /// Returns the first of these paths at which a process of the pod listens. Other containers than QEMU's may have the
    /// volume too.
    fn listened_at<'p>(paths: &'p [String], running: &RunningPod) -> Result<Option<&'p String>, Error> {
        let spellings: Vec<UnixPath> = paths.iter().map(|path| running.path(path)).collect();
        let mut held = None;
        let note = |socket: Socket<'_>| {
            let index = spellings.iter().position(|path| socket.listens && path.may_be(socket.path))?;
            held = held.map_or(Some(index), |held: usize| Some(held.min(index)));
            None::<()>
        };
        running.find_socket(note).map_err(|error| {
            Error::try_again(
                "The pod's unix sockets cannot be listed, so that it cannot be known whether its VM has the NIC. Nothing was \
                 undone; the next DEL begins anew.",
            )
            .with_details(error)
        })?;
        Ok(held.and_then(|index| paths.get(index)))
    }
}
