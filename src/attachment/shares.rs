//! Which attachments of a pod need a share, and who still uses it. A pod may have several shares: one for each of its
//! volumes, and one for each directory that `socket_base_dir` has named while the pod ran.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::attachment::record::{Nic, Record, Store};
use crate::attachment::share::Share;
use crate::cni::Error;
use crate::deadline::Deadline;
use crate::pod::identity::PodUid;
use crate::pod::running::RunningPod;
use crate::pod::unix_sockets::Socket;
use crate::pod::volume::Volume;
use crate::quote;

use super::context::Context;
use super::errors;

/// How long a failed ADD may look for users of the share that it has made.
const LOOK: Duration = Duration::from_secs(1);

/// Returns the share that a recorded attachment needs.
pub fn of(record: &Record, uid: &PodUid) -> Share {
    Share::new(&record.socket_base_dir, uid, &record.volume)
}

/// Returns true if an attachment of the pod needs the share, other than those that are about to go.
pub fn is_needed(share: &Share, context: &Context<'_>, goes: impl Fn(&Record) -> bool) -> bool {
    context.records().iter().any(|record| !goes(record) && of(record, context.uid) == *share)
}

/// Returns true if the data plane reaches a recorded NIC of the pod through the share.
pub fn serves_a_nic(share: &Share, store: &Store, uid: &PodUid) -> bool {
    store.of_pod(uid).iter().any(|record| record.nic.is_some() && of(record, uid) == *share)
}

/// A share while a NIC is being plugged through it.
#[derive(Clone, Copy)]
pub struct SharedVolume<'a> {
    pub share: &'a Share,
    pub volume: &'a Volume,
    /// True if this call mounted it. Then it still has the right to mount.
    pub may_mount: bool,
}

impl SharedVolume<'_> {
    /// Makes sure that the data plane's path leads to the pod's volume. kube-ovn's DEL of another NIC, the pod's last, may
    /// have removed the share since the ADD began.
    pub fn ensure(&self) -> Result<(), Error> {
        if self.may_mount {
            return self.share.ensure(self.volume).map(drop).map_err(|error| errors::share(&error));
        }
        if self.share.is_mounted(self.volume).map_err(|error| errors::share(&error))? {
            return Ok(());
        }
        Err(Error::try_again(format!(
            "The pod's share {} was removed while the NIC was being plugged, as kube-ovn's DEL of another NIC of the pod \
             does: ADD again.",
            quote::value(&self.share.target().to_string_lossy())
        )))
    }
}

/// Returns true if a process of the pod still has a socket in the volume, through any of the pod's mounts, or if there is
/// no time to find out.
pub fn is_in_use(volume: &Volume, running: &RunningPod, deadline: Deadline) -> bool {
    let Ok(names) = volume.sockets() else { return true };
    if names.is_empty() {
        return false;
    }
    let Ok(location) = volume.location() else { return true };
    let points = running.mount_points(&location, deadline);
    let is_in_it = |socket: Socket<'_>| {
        let path = Path::new(OsStr::from_bytes(socket.path));
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| names.contains(*name));
        let at = |point: &PathBuf| point.join(name?).into_os_string().into_string().ok();
        (socket.listens && points.iter().filter_map(at).any(|one| running.path(&one).may_be(socket.path))).then_some(())
    };
    deadline.passed() || running.find_socket(is_in_it).map_or(true, |found| found.is_some())
}

/// Undoes what a failed ADD made: restores its earlier record, if it had one, and removes the share if it was not `mounted`
/// before. A share stays while a socket in it is in use: the data plane reaches a QEMU that waits there, such as one in
/// another client's attach, through the share.
pub fn restore(
    context: &Context<'_>,
    SharedVolume { share, volume, may_mount: mounted }: SharedVolume<'_>,
    before: Option<Record>,
    now: &Record,
    running: Option<&RunningPod>,
) -> Result<(), Error> {
    if let Some(mut before) = before {
        before.started |= now.started;
        // The guest keeps what it was asked for meanwhile.
        let is_leaving = |nic: &Nic| now.nic.as_ref().is_some_and(|now| now.detaching && now.path == nic.path);
        before.nic.iter_mut().filter(|nic| is_leaving(nic)).for_each(|nic| nic.detaching = true);
        return context.write(&before);
    }
    // The call's own deadline may have passed.
    let in_use = || running.is_some_and(|running| is_in_use(volume, running, Deadline::after(LOOK)));
    let goes = |other: &Record| other.is_of(&now.container_id, &now.ifname);
    if mounted && !is_needed(share, context, goes) && !in_use() {
        share.remove().map_err(|error| errors::share(&error))?;
    }
    let removed = context.store.remove(context.uid, &now.container_id, &now.ifname);
    removed.map_err(|error| errors::record(&error))
}
