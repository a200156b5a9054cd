//! DEL: whose attachment it is, then undo it.

use crate::attachment::record::{Record, Store};
use crate::attachment::share::Share;
use crate::cni::mac::Mac;
use crate::cni::{Error, Request};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::logging;
use crate::ovs::port::is_gone;
use crate::ovs::stale::Of;
use crate::pod::identity::PodUid;
use crate::privilege::{self, Task};

use super::{enter_host, start_watchdog};
use crate::attachment::journal::Journal;
use crate::attachment::sandbox;
use crate::attachment::undo::{self, Undo};
use crate::attachment::{errors, ports};

/// Undoes what an ADD of this attachment did. Nothing left is success.
pub fn del(request: &Request, config: &Config, journal: &mut Journal) -> Result<(), Error> {
    let store = Store::new(&config.state_dir);
    let Some(uid) = whose(request, config, &store, journal) else { return Ok(()) };
    if untouched(config, &store, &uid) {
        return Ok(());
    }
    journal.set_pod(&uid);
    // The record that counts is the one that is there once the pod's other calls are over.
    let find = || store.find(&uid, &request.container_id, &request.ifname);
    let with =
        |record: Option<&Record>| config.for_attachment(&request.conf, record.and_then(|record| record.keys.as_ref()));
    let early = with(find().as_ref());
    logging::set_level(early.log_level);
    enter_host(journal)?;
    privilege::confine(Task::Mount);
    let deadline = Deadline::after(early.detach_timeout);
    start_watchdog(deadline, Task::Mount);
    let lock = store.lock(&uid, deadline).map_err(|error| errors::record(&error))?;
    journal.checked("lock");
    let record = find();
    let config = &with(record.as_ref());
    let undo = Undo {
        config,
        conf: &request.conf,
        store: &store,
        uid: &uid,
        network: &request.conf.name,
        container_id: &request.container_id,
        ifname: &request.ifname,
        netns: request.netns.as_deref(),
        mac: mac(request, config),
        deadline,
        with_dead: true,
    };
    if undo.leaves_the_shares() {
        privilege::narrow(Task::Talk);
    }
    let share = undo.share(record.as_ref()).target();
    let outcome = undo.run(journal);
    if let Ok(lives) = outcome
        && request.netns.as_deref().is_none_or(is_gone)
    {
        // kube-ovn does nothing without the namespace, and the pod's next sandbox gets a port with the same path.
        let sandbox = request.container_id.as_str();
        // The sandbox may live though the process by which its namespace was named has ended; then its other NICs work.
        let of = match config.socket_name(&request.ifname) {
            Ok(socket) if lives => Some(Of::Nic { sandbox, socket }),
            _ => (!lives).then_some(Of::Sandbox(sandbox)),
        };
        if let Some(of) = of {
            ports::remove_stale(&config.ovsdb_socket, &share, of, deadline, journal);
        }
    }
    undo::release_lock(lock, &store, &uid);
    outcome.map(drop)
}

/// The pod: as the runtime names it, as it was recorded, or as the sandbox's processes tell.
fn whose(request: &Request, config: &Config, store: &Store, journal: &Journal) -> Option<PodUid> {
    let recorded = || PodUid::parse(&store.find_anywhere(&request.container_id, &request.ifname)?.uid);
    let by_processes = || {
        let netns = request.netns.as_deref()?;
        // A DEL that cannot tell has nothing to undo; it must not keep a pod from going.
        sandbox::uid_by_processes(netns, config).inspect_err(|error| journal.warn(error)).ok().flatten()
    };
    sandbox::named_uid(request, journal).or_else(recorded).or_else(by_processes)
}

/// Whether nothing of this plugin's concern is there: all that a DEL of any other pod costs.
fn untouched(config: &Config, store: &Store, uid: &PodUid) -> bool {
    let no_volume = matches!(sandbox::volume(config, uid), Ok(None));
    no_volume
        && !store.knows(uid)
        && !Share::new(&config.socket_base_dir, uid, &config.volume_name).has_left_something()
}

/// The NIC's MAC address, if the call tells it; it helps to recognise a NIC that was not recorded.
fn mac(request: &Request, config: &Config) -> Option<String> {
    let told = || {
        let interfaces = request.prev_result().ok()?.interfaces();
        interfaces.into_iter().find(|interface| interface.name.as_deref() == Some(&request.ifname))?.mac?.parse().ok()
    };
    config.nic.mac.or_else(told).map(|mac: Mac| mac.to_string())
}
