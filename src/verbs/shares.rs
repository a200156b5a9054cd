//! Which attachments of a pod a share is there for. A pod may have several shares: one for each of its volumes, and one
//! for each directory that `socket_base_dir` has named while it lived.

use crate::pod::identity::PodUid;
use crate::record::{Record, Store};
use crate::share::Share;

/// The share that a recorded attachment needs.
pub fn of(record: &Record, uid: &PodUid) -> Share {
    Share::new(&record.socket_base_dir, uid, &record.volume)
}

/// Whether an attachment of the pod needs the share, but for those that are about to go.
pub fn is_needed(share: &Share, store: &Store, uid: &PodUid, goes: impl Fn(&Record) -> bool) -> bool {
    store.of_pod(uid).iter().any(|record| !goes(record) && of(record, uid) == *share)
}
