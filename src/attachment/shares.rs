//! Which attachments of a pod a share is there for, and who still uses it. A pod may have several shares: one for each of its volumes, and one
//! for each directory that `socket_base_dir` has named while it lived.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::attachment::record::{Nic, Record, Store};
use crate::attachment::share::Share;
use crate::cni::Error;
use crate::deadline::Deadline;
use crate::pod::identity::PodUid;
use crate::pod::unix_sockets::Socket;
use crate::pod::volume::Volume;
use crate::quote;

use super::errors;
use crate::pod::running::RunningPod;

/// How long a failed ADD looks who uses the share that it has made.
const LOOK: Duration = Duration::from_secs(1);

/// The share that a recorded attachment needs.
pub fn of(record: &Record, uid: &PodUid) -> Share {
    Share::new(&record.socket_base_dir, uid, &record.volume)
}

/// Whether an attachment of the pod needs the share, but for those that are about to go.
pub fn is_needed(share: &Share, store: &Store, uid: &PodUid, goes: impl Fn(&Record) -> bool) -> bool {
    store.of_pod(uid).iter().any(|record| !goes(record) && of(record, uid) == *share)
}

/// Returns whether a recorded NIC of the pod is reached through the share.
pub fn serves_a_nic(share: &Share, store: &Store, uid: &PodUid) -> bool {
    store.of_pod(uid).iter().any(|record| record.nic.is_some() && of(record, uid) == *share)
}

/// Makes sure, while a NIC is being plugged, that the path that the data plane has leads to the pod's volume.
/// kube-ovn's DEL of the pod's last other NIC may have taken the share since the ADD began.
///
/// # Errors
/// That it does not, and the call has given up the right to mount.
pub fn ensure(share: &Share, volume: &Volume, may_mount: bool) -> Result<(), Error> {
    if may_mount {
        return share.ensure(volume).map(drop).map_err(|error| errors::share(&error));
    }
    if share.is_mounted(volume).map_err(|error| errors::share(&error))? {
        return Ok(());
    }
    Err(Error::try_again(format!(
        "The pod's share {} was taken away while the NIC was being plugged, as kube-ovn's DEL of another NIC of the pod does: ADD \
         again.",
        quote::value(&share.target().to_string_lossy())
    )))
}

/// Whether some process of the pod still has a socket in the volume, through any of the pod's mounts. What there is no time
/// to look at may have.
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

/// Puts back what a failed ADD found: its earlier record, if it had one, and no share where there was none. A share stays
/// while a socket in it is in use: whoever waits there, such as a QEMU in another client's attach, is reached through it.
pub fn restore(
    store: &Store,
    (share, volume, mounted): (&Share, &Volume, bool),
    before: Option<Record>,
    now: &Record,
    (uid, running): (&PodUid, Option<&RunningPod>),
) -> Result<(), Error> {
    if let Some(mut before) = before {
        before.started |= now.started;
        // What the guest was asked meanwhile is not taken back.
        let is_leaving = |nic: &Nic| now.nic.as_ref().is_some_and(|now| now.detaching && now.path == nic.path);
        before.nic.iter_mut().filter(|nic| is_leaving(nic)).for_each(|nic| nic.detaching = true);
        return store.write(uid, &before).map_err(|error| errors::record(&error));
    }
    // The call's own deadline may have passed.
    let in_use = || running.is_some_and(|running| is_in_use(volume, running, Deadline::after(LOOK)));
    let goes = |other: &Record| other.is_of(&now.container_id, &now.ifname);
    if mounted && !is_needed(share, store, uid, goes) && !in_use() {
        share.remove().map_err(|error| errors::share(&error))?;
    }
    store.remove(uid, &now.container_id, &now.ifname).map_err(|error| errors::record(&error))
}
