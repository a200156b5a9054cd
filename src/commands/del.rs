//! DEL: identify the pod, then undo the attachment, and remove the port of a sandbox that has ended.

use crate::attachment::context::{Context, PodLock};
use crate::attachment::journal::Journal;
use crate::attachment::nic_to_detach::DetachRequest;
use crate::attachment::record::Store;
use crate::attachment::share::Share;
use crate::attachment::undo::Undo;
use crate::attachment::{errors, identify, ports};
use crate::cni::mac::Mac;
use crate::cni::{Error, PrevResult};
use crate::deadline::Deadline;
use crate::logging;
use crate::ovs::port::is_gone;
use crate::ovs::stale::Of;
use crate::pod::identity::PodUid;
use crate::privilege::{self, Task};

use super::call::Call;
use super::host::Host;

/// Undoes what an ADD of this attachment did. It is no error if nothing is left.
pub fn del(call: &Call<'_>, result: Option<&PrevResult<'_>>, journal: &Journal) -> Result<(), Error> {
    let store = Store::new(&call.config.state_dir);
    let Some(uid) = identify_pod(call, &store, journal) else { return Ok(()) };
    if is_untouched(call, &store, &uid) {
        return Ok(());
    }
    journal.set_pod(&uid);
    let find = || store.find(&uid, call.id.container_id, call.id.ifname);
    let early = call.config_of(find().as_ref());
    logging::set_level(early.log_level);
    let deadline = Deadline::after(early.detach_timeout);
    Host::enter(journal)?.confine(Task::Mount, deadline);
    let _lock = PodLock::take(&store, &uid, deadline).map_err(|error| errors::record(&error))?;
    journal.checked("lock");
    // Read the record again: the pod's other calls have ended.
    let record = find();
    let config = &call.config_of(record.as_ref());
    let context = Context { config, uid: &uid, store: &store, journal, deadline };
    let request = DetachRequest {
        context,
        id: call.id,
        netns: call.netns,
        mac: config.nic.mac.or_else(|| mac_in(result?, call.id.ifname)).map(|mac| mac.to_string()),
        keys: call.keys(),
    };
    let undo = Undo { request, with_dead: true };
    if undo.leaves_the_shares() {
        privilege::narrow(Task::Talk);
    }
    let share = undo.share(record.as_ref()).target();
    let is_alive = undo.run()?;
    if call.netns.is_none_or(is_gone) {
        // Without the namespace kube-ovn does nothing, and the pod's next sandbox gets a port with the same path.
        let sandbox = call.id.container_id;
        // The sandbox may live on, though the process that named its namespace has ended. Its other NICs work then.
        let of = match config.socket_name(call.id.ifname) {
            Ok(socket) if is_alive => Some(Of::Nic { sandbox, socket }),
            _ => (!is_alive).then_some(Of::Sandbox(sandbox)),
        };
        if let Some(of) = of {
            ports::remove_stale(&config.ovsdb_socket, &share, of, deadline, journal);
        }
    }
    Ok(())
}

/// Identifies the pod: as the runtime names it, as it is recorded, or from the processes of the sandbox.
fn identify_pod(call: &Call<'_>, store: &Store, journal: &Journal) -> Option<PodUid> {
    let recorded = || PodUid::parse(&store.find_anywhere(call.id.container_id, call.id.ifname)?.uid);
    let by_processes = || {
        let netns = call.netns?;
        // If this fails there is nothing to undo, and a DEL must not keep a pod from going.
        identify::by_netns(Some(netns), call.config).inspect_err(|error| journal.warn(error)).ok().flatten()
    };
    call.uid.clone().or_else(recorded).or_else(by_processes)
}

/// Returns true if the pod has nothing of this plugin. For most pods this look is all that a DEL costs.
fn is_untouched(call: &Call<'_>, store: &Store, uid: &PodUid) -> bool {
    let config = call.config;
    matches!(identify::volume(config, uid), Ok(None))
        && !store.knows(uid)
        && !Share::new(&config.socket_base_dir, uid, &config.volume_name).has_left_something()
}

/// Returns the NIC's MAC address in prevResult. It helps to recognise a NIC that is not recorded.
fn mac_in(result: &PrevResult<'_>, ifname: &str) -> Option<Mac> {
    let mut interfaces = result.interfaces().into_iter();
    interfaces.find(|interface| interface.name.as_deref() == Some(ifname))?.mac?.parse().ok()
}
