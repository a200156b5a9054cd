//! GC: undo every attachment of this network that the runtime no longer knows.

use crate::cni::{Error, Request};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::pod::identity::PodUid;
use crate::record::{Record, Store};
use crate::sys;

use super::fault;
use super::journal::Journal;
use super::undo::{self, Undo};

/// Goes on after an error, and reports all of them.
pub fn gc(request: &Request, config: &Config, journal: &mut Journal) -> Result<(), Error> {
    // No list at all is not an empty list: nothing is known, so nothing is done.
    let Some(valid) = request.conf.valid_attachments()? else { return Ok(()) };
    let store = Store::new(&config.state_dir);
    let is_valid = |record: &Record| {
        valid.iter().any(|one| (&one.container_id, &one.ifname) == (&record.container_id, &record.ifname))
    };
    let mut stale = Vec::new();
    for uid in store.pods() {
        let records = store.of_pod(&uid).into_iter();
        let of_this = records.filter(|record| record.network == request.conf.name && !is_valid(record));
        stale.extend(of_this.map(|record| (uid.clone(), record)));
    }
    if stale.is_empty() {
        return Ok(());
    }
    sys::enter_host_mounts().map_err(|error| fault::system("entering the host's mount namespace", &error))?;
    let mut failures = Vec::new();
    for (uid, record) in stale {
        if let Err(error) = undo_one(config, &store, &uid, &record, journal) {
            failures.push((format!("{} of {}", record.ifname, record.container_id), error));
        }
    }
    let Some((_, first)) = failures.first() else { return Ok(()) };
    let all: Vec<String> = failures.iter().map(|(which, error)| format!("{which}: {error}")).collect();
    Err(Error::new(first.code, format!("{} stale attachments could not be undone.", failures.len()))
        .with_details(all.join("; ")))
}

fn undo_one(config: &Config, store: &Store, uid: &PodUid, record: &Record, journal: &mut Journal) -> Result<(), Error> {
    let deadline = Deadline::after(config.detach_timeout);
    let lock = store.lock(uid, deadline).map_err(|error| fault::record(&error))?;
    let (container_id, ifname) = (&record.container_id, &record.ifname);
    let undo = Undo { config, store, uid, container_id, ifname, netns: None, mac: None, deadline, with_dead: false };
    let outcome = undo.run(journal);
    undo::let_go(lock, store, uid);
    outcome
}
