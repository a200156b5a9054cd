//! `rescue POD [NIC]`: frees a VM that stands still in an attach of a vhost-user NIC.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;

use super::Answer;
use super::place::{self, Place};
use super::screen::clean;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::logging;
use crate::pod::identity::PodUid;
use crate::privilege::{self, Task};
use crate::record::{Record, Store};
use crate::verbs::rescue::{Freed, Rescue};
use crate::verbs::{journal::Journal, sandbox};

/// How long a rescue takes at most, unless its option says otherwise: a guest may take its time to release a NIC.
const TIMEOUT: u64 = 40;

/// The options of `rescue`.
#[derive(Debug, Args)]
pub struct Options {
    /// The pod: NAMESPACE/NAME as recorded, its uid, or pid:N of any process in it
    pod: String,
    /// The NIC, or its socket's path or name, if not all of the pod's
    nic: Option<String>,
    /// How long it may take in all
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT)]
    timeout: u64,
    #[command(flatten)]
    place: Place,
}

/// Frees what waits, and says what was done. Exit status 1 if something still waits or is still plugged.
pub fn run(options: &Options) -> Answer {
    logging::start();
    match place::enter_host().and_then(|()| options.rescue()) {
        Ok(freed) if freed.is_empty() => Answer::of("No QEMU of the pod waits for a back end.\n".to_owned(), true),
        Ok(freed) => {
            let sound = freed.iter().all(|one| one.outcome.is_ok());
            Answer::of(freed.iter().map(described).collect(), sound)
        }
        Err(why) => Answer::failure(why),
    }
}

impl Options {
    fn rescue(&self) -> Result<Vec<Freed>, String> {
        let config = &self.place.config();
        privilege::confine(Task::Talk);
        let deadline = Deadline::after(Duration::from_secs(self.timeout));
        let (uid, living) = match self.pod.strip_prefix("pid:") {
            Some(pid) => {
                let pid = pid.parse().map_err(|_| format!("{} is no process id", clean(pid)))?;
                sandbox::of_pid(pid, config).map_err(|error| error.to_string())?
            }
            None => {
                let uid = self.uid(config)?;
                let records = Store::new(&config.state_dir).of_pod(&uid);
                let netns = records.iter().map(|record| record.netns.as_path()).find(|path| path.exists());
                let living = sandbox::Living::find(&uid, None, netns);
                (uid, living.ok_or("no process of the pod lives, so no VM does")?)
            }
        };
        let wanted = self.nic.as_ref().map(|nic| sockets(nic, &Store::new(&config.state_dir).of_pod(&uid)));
        let mut journal = Journal::of_command("rescue", &uid);
        let rescue = Rescue { config, uid: &uid, living: &living, deadline };
        let freed = rescue.run(wanted.as_ref(), &mut journal);
        let failed = match &freed {
            Ok(freed) => freed.iter().find_map(|one| one.outcome.as_ref().err()),
            Err(error) => Some(error),
        };
        journal.close(failed);
        freed.map_err(|error| error.to_string())
    }

    /// The pod by its uid, or by its name in the records.
    fn uid(&self, config: &Config) -> Result<PodUid, String> {
        if let Some(uid) = PodUid::parse(&self.pod) {
            return Ok(uid);
        }
        let all =
            Store::new(&config.state_dir).all().map_err(|error| format!("the records cannot be listed: {error}"))?;
        let named = all.into_iter().flatten().filter(|record| record.pod == self.pod);
        let uids: BTreeSet<PodUid> = named.filter_map(|record| PodUid::parse(&record.uid)).collect();
        let mut uids = uids.into_iter();
        match (uids.next(), uids.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(format!(
                "no attachment of a pod {} is recorded on this node: give its uid, or pid:N of a process in it",
                clean(&self.pod)
            )),
            (Some(_), Some(_)) => Err(format!("several pods named {} are recorded: give the uid", clean(&self.pod))),
        }
    }
}

/// The names under which the sockets of a NIC are known.
fn sockets(nic: &str, records: &[Record]) -> BTreeSet<String> {
    let recorded = records.iter().filter(|record| record.ifname == nic).filter_map(|record| record.nic.as_ref());
    recorded.map(|nic| nic.path.clone()).chain([nic.to_owned()]).collect()
}

fn described(freed: &Freed) -> String {
    let waited = format!("QEMU {} waited at {}", freed.pid, clean(&freed.path));
    match (&freed.outcome, freed.runs) {
        (Ok(Some(alias)), _) => format!("{waited}: it runs again, and the NIC {} was unplugged.\n", clean(alias)),
        (Ok(None), _) => format!("{waited}: it runs again, and no NIC came of the attach.\n"),
        (Err(error), true) => {
            format!("{waited}: it runs again, and its NIC is still to be unplugged. {}\n", clean(&error.to_string()))
        }
        (Err(error), false) => format!("{waited}, and still does. {}\n", clean(&error.to_string())),
    }
}
