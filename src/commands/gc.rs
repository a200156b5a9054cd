//! GC: undo every attachment of this network that the runtime no longer knows, and what pods that are gone have left.

use std::collections::{BTreeMap, BTreeSet};

use crate::attachment::context::{AttachmentId, Context};
use crate::attachment::journal::Journal;
use crate::attachment::nic_to_detach::DetachRequest;
use crate::attachment::record::{Record, Store};
use crate::attachment::sweep::Sweep;
use crate::attachment::undo::Undo;
use crate::cni::{Attachment, Error, NetConf};
use crate::config::{Config, Keys};
use crate::deadline::Deadline;
use crate::pod::identity::PodUid;
use crate::privilege::Task;
use crate::quote;

use super::host::Host;

/// Goes on after an error, and reports all of them.
pub fn gc(conf: &NetConf, config: &Config, journal: &Journal) -> Result<(), Error> {
    // A missing list is not an empty list: nothing is known, so nothing is done.
    let Some(valid) = conf.valid_attachments()? else { return Ok(()) };
    let store = Store::new(&config.state_dir);
    let sweep = Sweep::new(config, &store);
    let is_stale = |record: &Record| {
        let is_it = |one: &Attachment| record.is_of(&one.container_id, &one.ifname);
        record.network == conf.name && !valid.iter().any(is_it)
    };
    let of_pod = |uid: PodUid| store.of_pod(&uid).into_iter().map(move |record| (uid.clone(), record));
    let recorded = store.pods().into_iter().flat_map(of_pod);
    let stale = recorded.filter(|(_, record)| is_stale(record));
    let stale: Vec<(PodUid, Record, Config)> = stale
        .map(|(uid, record)| {
            let config = config.for_attachment(conf, record.keys.as_ref());
            (uid, record, config)
        })
        .collect();
    if stale.is_empty() && sweep.candidates().is_empty() {
        return Ok(());
    }
    let host = Host::enter(journal)?;
    let longest = stale.iter().map(|(.., config)| config.detach_timeout).max().unwrap_or_default();
    let pods: BTreeSet<&PodUid> = stale.iter().map(|(uid, ..)| uid).collect();
    let pods = u32::try_from(pods.len().saturating_add(sweep.candidates().len())).unwrap_or(u32::MAX);
    host.confine(Task::Mount, Deadline::after(longest.max(config.detach_timeout).saturating_mul(pods)));
    store.withdraw_unused();
    let mut failures = Vec::new();
    // A pod holds up the others only once, however many NICs it does not release.
    let mut deadlines: BTreeMap<&PodUid, Deadline> = BTreeMap::new();
    for (uid, record, config) in &stale {
        let deadline = *deadlines.entry(uid).or_insert_with(|| Deadline::after(config.detach_timeout));
        if let Err(error) = undo(Context { config, uid, store: &store, journal, deadline }, record) {
            failures
                .push((format!("{} of {}", quote::value(&record.ifname), quote::value(&record.container_id)), error));
        }
    }
    for uid in sweep.candidates() {
        if let Err(error) = sweep.run(&uid, journal) {
            failures.push((format!("pod {uid}"), error));
        }
    }
    let Some((_, first)) = failures.first() else { return Ok(()) };
    let all: Vec<String> = failures.iter().map(|(which, error)| format!("{which}: {error}")).collect();
    let what = if failures.len() == 1 { "1 leftover".to_owned() } else { format!("{} leftovers", failures.len()) };
    Err(Error::new(first.code, format!("{what} could not be cleaned up.")).with_details(all.join("; ")))
}

fn undo(context: Context<'_>, record: &Record) -> Result<(), Error> {
    let Record { network, container_id, ifname, .. } = record;
    let id = AttachmentId { network, container_id, ifname };
    let _lock = context.lock()?;
    let request = DetachRequest { context, id, netns: None, mac: None, keys: Keys::new() };
    Undo { request, with_dead: false }.run()?;
    // A GC has no variable that names the NIC in the log.
    let (ifname, container_id) = (quote::value(ifname), quote::value(container_id));
    context.journal.changed(format_args!("undo {ifname} of {container_id}, pod {}", context.uid));
    Ok(())
}
