//! `rescue POD [NIC]`: frees a VM that stands still in an attach of a vhost-user NIC.

use std::collections::BTreeSet;
use std::io::stderr;
use std::thread;
use std::time::Duration;

use clap::Args;
use log::info;

use super::Answer;
use super::node_args::{self, NodeArgs};
use super::screen::clean;
use crate::attachment::journal::Journal;
use crate::attachment::record::{Record, Store};
use crate::attachment::rescue::{Found, Outcome, Rescue};
use crate::attachment::{context::Context, identify};
use crate::deadline::Deadline;
use crate::limits;
use crate::logging;
use crate::pod::identity::PodUid;
use crate::pod::running::RunningPod;
use crate::privilege::{self, Task};

/// Longest rescue in seconds, unless an option says otherwise: a guest may take long to release a NIC.
const TIMEOUT: u64 = 40;

/// How long a rescue may go on after its deadline.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct RescueOptions {
    /// The pod: NAMESPACE/NAME as recorded, its uid, or pid:N of any process in it
    pod: String,
    /// The NIC, or its socket's path or name, if not all of the pod's
    nic: Option<String>,
    /// How long it may take in all, 5 at least
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT, value_parser = clap::value_parser!(u64).range(5..))]
    timeout: u64,
    #[command(flatten)]
    node: NodeArgs,
}

/// Frees the QEMUs that wait. Exit status 1 if one still waits, or a NIC is still plugged.
pub fn run(options: &RescueOptions) -> Answer {
    logging::start();
    match node_args::enter_host().and_then(|()| options.rescue()) {
        Ok(freed) if freed.is_empty() => Answer::of("No QEMU of the pod waits for a back end.\n".to_owned(), true),
        Ok(freed) => {
            let sound = freed.iter().all(|one| one.outcome.error().is_none());
            Answer::of(freed.iter().map(described).collect(), sound)
        }
        Err(why) => Answer::failure(why),
    }
}

impl RescueOptions {
    fn rescue(&self) -> Result<Vec<Found>, String> {
        // A throttled rescue would hold up the VM, as a throttled attach does.
        limits::leave().iter().for_each(|limit| info!("rescue: {limit}"));
        let config = &self.node.config();
        let store = Store::new(&config.state_dir);
        privilege::confine(Task::Talk);
        let deadline = Deadline::after(Duration::from_secs(self.timeout));
        start_watchdog(deadline);
        let (uid, running) = match self.pod.strip_prefix("pid:") {
            Some(pid) => {
                let pid = pid.parse().map_err(|_| format!("{} is not a process id", clean(pid)))?;
                identify::by_pid(pid, config).map_err(|error| error.to_string())?
            }
            None => {
                let uid = self.uid(&store)?;
                let records = store.of_pod(&uid);
                let netns = records.iter().map(|record| record.netns.as_path()).find(|path| path.exists());
                let running = RunningPod::find(&uid, None, netns);
                (uid, running.ok_or("no process of the pod is left, so there is no VM")?)
            }
        };
        let records = store.of_pod(&uid);
        let wanted = self.nic.as_ref().map(|nic| sockets(nic, &records));
        let with_nic = records.iter().find(|record| record.nic.is_some());
        let config = &config.of_attachment(with_nic.or(records.first()).and_then(|record| record.keys.as_ref()));
        let journal = Journal::of_command("rescue", &uid);
        let context = Context { config, uid: &uid, store: &store, journal: &journal, deadline };
        let freed = Rescue { context, running: &running }.run(wanted.as_ref());
        let failed = match &freed {
            Ok(freed) => freed.iter().find_map(|one| one.outcome.error()),
            Err(error) => Some(error),
        };
        journal.close(failed);
        freed.map_err(|error| error.to_string())
    }

    /// Finds the pod's uid, given as such or by the pod's name in the records.
    fn uid(&self, store: &Store) -> Result<PodUid, String> {
        if let Some(uid) = PodUid::parse(&self.pod) {
            return Ok(uid);
        }
        let all = store.all().map_err(|error| format!("the records cannot be listed: {error}"))?;
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

/// Ends the process soon after its deadline: a socket may be on a tenant's file system that doesn't answer. The kernel releases
/// the pod's lock then.
fn start_watchdog(deadline: Deadline) {
    let watch = move || {
        thread::sleep(deadline.and(GRACE).remaining());
        let why = "vhostuser-hotplug: rescue gave up after its deadline: a file system of the pod does not answer\n";
        let _ = super::write(stderr(), why);
        std::process::exit(1);
    };
    // If the thread can't start, the command has no watchdog, which matters only if a file system hangs.
    drop(thread::Builder::new().spawn(watch));
}

/// Returns the paths that `nic` may mean: those of recorded NICs of this name, and the text itself.
fn sockets(nic: &str, records: &[Record]) -> BTreeSet<String> {
    let recorded = records.iter().filter(|record| record.ifname == nic).filter_map(|record| record.nic.as_ref());
    recorded.map(|nic| nic.path.clone()).chain([nic.to_owned()]).collect()
}

fn described(found: &Found) -> String {
    let became = match &found.outcome {
        Outcome::Unplugged(alias) => format!("it runs again, and the NIC {} was unplugged.", clean(alias)),
        Outcome::Freed => "it runs again.".to_owned(),
        Outcome::Ended => "it went on, and the VM has ended.".to_owned(),
        Outcome::Failed => "it runs again, and no NIC came of the attach.".to_owned(),
        Outcome::Connected => "it runs again, since a data plane has connected meanwhile.".to_owned(),
        Outcome::Plugged(error) => {
            format!("it runs again, and its NIC is still to be unplugged. {}", clean(&error.to_string()))
        }
        Outcome::Waits(error) => format!("it still waits. {}", clean(&error.to_string())),
    };
    format!("QEMU {} waited at {}: {became}\n", found.pid, clean(&found.path))
}
