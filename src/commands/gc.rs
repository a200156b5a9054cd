//! GC: undo every attachment of this network that the runtime no longer knows, and what pods that are gone have left.

use std::collections::{BTreeMap, BTreeSet};

use crate::attachment::record::{Record, Store};
use crate::cni::{Attachment, Error, Request};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::pod::identity::PodUid;
use crate::privilege::{self, Task};
use crate::quote;

use super::{enter_host, start_watchdog};
use crate::attachment::errors;
use crate::attachment::journal::Journal;
use crate::attachment::sweep::Sweep;
use crate::attachment::undo::{self, Undo};

/// Goes on after an error, and reports all of them.
pub fn gc(request: &Request, config: &Config, journal: &mut Journal) -> Result<(), Error> {
    // No list at all is not an empty list: nothing is known, so nothing is done.
    let Some(valid) = request.conf.valid_attachments()? else { return Ok(()) };
    let store = Store::new(&config.state_dir);
    let sweep = Sweep::new(config, &store);
    let is_stale = |record: &Record| {
        let is_it = |one: &Attachment| record.is_of(&one.container_id, &one.ifname);
        record.network == request.conf.name && !valid.iter().any(is_it)
    };
    let of_pod = |uid: PodUid| store.of_pod(&uid).into_iter().map(move |record| (uid.clone(), record));
    let recorded = store.pods().into_iter().flat_map(of_pod);
    let stale: Vec<(PodUid, Record)> = recorded.filter(|(_, record)| is_stale(record)).collect();
    if stale.is_empty() && sweep.candidates().is_empty() {
        return Ok(());
    }
    enter_host(journal)?;
    privilege::confine(Task::Mount);
    store.withdraw_unused();
    let mut failures = Vec::new();
    // However many NICs a pod does not let go of, it holds up the others once.
    let mut deadlines: BTreeMap<PodUid, Deadline> = BTreeMap::new();
    let patience = |record: &Record| config.for_attachment(&request.conf, record.keys.as_ref()).detach_timeout;
    let longest = stale.iter().map(|(_, record)| patience(record)).max().unwrap_or_default().max(config.detach_timeout);
    let pods: BTreeSet<&PodUid> = stale.iter().map(|(uid, _)| uid).collect();
    let pods = u32::try_from(pods.len().saturating_add(sweep.candidates().len())).unwrap_or(u32::MAX);
    start_watchdog(Deadline::after(longest.saturating_mul(pods)), Task::Mount);
    for (uid, record) in stale {
        let deadline = *deadlines.entry(uid.clone()).or_insert_with(|| Deadline::after(patience(&record)));
        if let Err(error) = undo_one((request, config), &store, &uid, &record, deadline, journal) {
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

fn undo_one(
    (request, config): (&Request, &Config),
    store: &Store,
    uid: &PodUid,
    record: &Record,
    deadline: Deadline,
    journal: &mut Journal,
) -> Result<(), Error> {
    let lock = store.lock(uid, deadline).map_err(|error| errors::record(&error))?;
    let Record { network, container_id, ifname, .. } = record;
    let undo = Undo {
        config: &config.for_attachment(&request.conf, record.keys.as_ref()),
        conf: &request.conf,
        store,
        uid,
        network,
        container_id,
        ifname,
        netns: None,
        mac: None,
        deadline,
        with_dead: false,
    };
    let outcome = undo.run(journal);
    undo::release_lock(lock, store, uid);
    outcome?;
    // No variable of a GC tells the log whose NIC it was.
    journal.changed(format_args!("undo {} of {}, pod {uid}", quote::value(ifname), quote::value(container_id)));
    Ok(())
}
