//! What is left on the node of pods whose directory kubelet has removed, and of calls that were killed early or late.
//!
//! kube-ovn collects neither. The network doesn't matter: a pod that is gone has none. Only what the plugin, and kube-ovn
//! before it, names and makes is touched: `<socket_base_dir>/<uid>/<volume>`, and the plugin's own files.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use crate::attachment::record::{self, Store};
use crate::attachment::share::Share;
use crate::cni::Error;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::pod::identity::PodUid;
use crate::pod::running::RunningPod;

use super::context::PodLock;
use super::journal::Journal;
use super::undo::remove_device_info;
use super::{errors, shares};

/// How long to wait for a call that holds the lock of a pod that is gone: it is undoing the same things.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A search of the whole node. This process is in the host's mount namespace.
pub struct Sweep<'a> {
    config: &'a Config,
    store: &'a Store,
    /// The directories of kubelet: the one in the configuration, and those that other attachments were made with.
    kubelet_dirs: BTreeSet<PathBuf>,
}

impl<'a> Sweep<'a> {
    /// Prepares a search of the node.
    pub fn new(config: &'a Config, store: &'a Store) -> Self {
        let recorded = store.pods().into_iter().flat_map(|uid| store.of_pod(&uid));
        let recorded = recorded.map(|record| config.of_attachment(record.keys.as_ref()).kubelet_dir);
        Self { config, store, kubelet_dirs: recorded.chain([config.kubelet_dir.clone()]).collect() }
    }

    /// Returns the pods of which something may have been left.
    pub fn candidates(&self) -> Vec<PodUid> {
        let recorded = self.store.pods();
        let bases = recorded.iter().flat_map(|uid| self.store.of_pod(uid)).map(|record| record.socket_base_dir);
        let bases: BTreeSet<_> = bases.chain([self.config.socket_base_dir.clone()]).collect();
        let shared = bases.iter().flat_map(|base| Share::pods(base));
        let all: BTreeSet<PodUid> = recorded.iter().cloned().chain(self.store.locks()).chain(shared).collect();
        all.into_iter().filter(|uid| self.is_gone(uid) || self.is_empty(uid)).collect()
    }

    /// Removes what is left of a pod.
    pub fn run(&self, uid: &PodUid, journal: &Journal) -> Result<(), Error> {
        let gone = self.is_gone(uid);
        let patience = if gone { LOCK_PATIENCE } else { Duration::ZERO };
        let _lock = match PodLock::take(self.store, uid, Deadline::after(patience)) {
            Ok(lock) => lock,
            // The pod runs, so a call is probably at work.
            Err(record::Error::LockTimedOut(_)) if !gone => return Ok(()),
            Err(error) => return Err(errors::record(&error)),
        };
        if gone { self.clean_up(uid, journal) } else { Ok(()) }
    }

    /// Returns true if kubelet has no directory of the pod, though it has a directory for pods.
    fn is_gone(&self, uid: &PodUid) -> bool {
        let records = self.store.of_pod(uid);
        let recorded = records.iter().map(|record| self.config.of_attachment(record.keys.as_ref()).kubelet_dir);
        let recorded: BTreeSet<PathBuf> = recorded.collect();
        let is_absent = |path: PathBuf| path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let is_gone_from = |directory: &PathBuf| {
            let pods = directory.join("pods");
            pods.is_dir() && is_absent(pods.join(uid.as_str()))
        };
        if !recorded.is_empty() {
            return recorded.iter().all(is_gone_from);
        }
        // No record says which of them is the pod's.
        is_gone_from(&self.config.kubelet_dir)
            && self.kubelet_dirs.iter().all(|directory| is_absent(directory.join("pods").join(uid.as_str())))
    }

    /// Returns true if the plugin has files of the pod, but no record: a call was killed before its first or after its last
    /// step.
    fn is_empty(&self, uid: &PodUid) -> bool {
        self.store.knows(uid) && self.store.of_pod(uid).is_empty()
    }

    /// Removes all that is left of a pod that is gone, unless some process of it still lives.
    fn clean_up(&self, uid: &PodUid, journal: &Journal) -> Result<(), Error> {
        let records = self.store.of_pod(uid);
        let netns = records.iter().map(|record| record.netns.as_path()).find(|path| path.exists());
        if RunningPod::find(uid, None, netns).is_some() {
            return Ok(());
        }
        let usual = Share::new(&self.config.socket_base_dir, uid, &self.config.volume_name);
        let mut changed = !records.is_empty();
        // A share of several attachments comes more than once. It is gone the second time.
        for share in records.iter().map(|record| shares::of(record, uid)).chain([usual]) {
            changed |= share.remove().map_err(|error| errors::share(&error))?;
        }
        for record in &records {
            remove_device_info(Some(record), journal);
        }
        self.store.forget(uid).map_err(|error| errors::record(&error))?;
        if changed {
            journal.changed(format_args!("remove what is left of pod {uid}, which is gone"));
        }
        Ok(())
    }
}
