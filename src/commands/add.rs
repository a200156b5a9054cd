//! ADD: identify the pod, share its volume, plug the NIC, record it, reply.

use std::collections::BTreeSet;
use std::path::Path;

use crate::attachment::record::{Record, Store};
use crate::attachment::share::Share;
use crate::cni::{Error, Request, Socket};
use crate::config::{Attach, Config};
use crate::deadline::Deadline;
use crate::ovs::stale::Of;
use crate::pod::identity::PodUid;
use crate::pod::netns::Sandbox;
use crate::pod::volume::Volume;
use crate::privilege::{self, Task};
use crate::quote;

use super::{enter_host, start_watchdog};
use crate::attachment::errors::Failure;
use crate::attachment::journal::Journal;
use crate::attachment::ledger::{self, Ledger};
use crate::attachment::plug::Plug;
use crate::attachment::sandbox;
use crate::attachment::{errors, hypervisor, ports, shares, undo};
use crate::pod::running::RunningPod;

/// Most characters of a pod's namespace and name that are recorded.
const NAME_MAX: usize = 253;

/// Answers with prevResult, after doing for the pod what its configuration asks for.
pub fn add(request: &Request, config: &Config, journal: &mut Journal) -> Result<Option<Vec<u8>>, Error> {
    let result = request.prev_result()?;
    let netns = request.netns.as_deref().unwrap_or(Path::new(""));
    let uid = match sandbox::named_uid(request, journal) {
        Some(uid) => Some(uid),
        None => sandbox::uid_by_processes(netns, config)?,
    };
    // This first look is all that an ADD of any other pod costs.
    let concerned = match &uid {
        Some(uid) => sandbox::volume(config, uid)?.is_some(),
        None => false,
    };
    let mut socket = None;
    if let (Some(uid), true) = (&uid, concerned) {
        socket = serve(request, config, uid, netns, journal)?;
    } else if config.attach == Attach::Always {
        return Err(no_volume(config, uid.as_ref()));
    }
    let socket = socket.as_ref().map(|path| Socket { ifname: &request.ifname, path });
    Ok(Some(result.answer(request.conf.version, socket).into_bytes()))
}

fn no_volume(config: &Config, uid: Option<&PodUid>) -> Error {
    match uid {
        Some(uid) => Error::no_volume(format!(
            "The pod has no emptyDir volume {} below {}/pods/{uid}, which attach \"always\" demands.",
            config.volume_name,
            config.kubelet_dir.display()
        )),
        None => Error::try_again(
            "CNI_ARGS has no K8S_POD_UID, and CNI_NETNS has no process of a pod that would tell it; attach \"always\" needs \
             to know the pod.",
        ),
    }
}

/// The work for a pod that has the volume. Returns where the socket of the NIC that was plugged is on the host.
fn serve(
    request: &Request,
    config: &Config,
    uid: &PodUid,
    netns: &Path,
    journal: &mut Journal,
) -> Result<Option<String>, Error> {
    journal.set_pod(uid);
    let deadline = Deadline::after(config.attach_timeout);
    let sandbox = Sandbox::open(netns).map_err(|error| errors::netns(&error))?;
    if sandbox.is_hosts() {
        return Err(errors::netns_of_host());
    }
    enter_host(journal)?;
    let has_link = sandbox.has_link(&request.ifname).map_err(|error| errors::netns(&error))?;
    privilege::confine(Task::Mount);
    start_watchdog(deadline, Task::Mount);
    let store = Store::new(&config.state_dir);
    let lock = store.lock(uid, deadline).map_err(|error| errors::record(&error))?;
    journal.checked("lock");
    let wanted = match config.attach {
        Attach::Never => false,
        Attach::Always => true,
        // kube-ovn makes a link for every NIC but a vhost-user one.
        Attach::Auto => !has_link,
    };
    let outcome = Pod { request, config, uid, store: &store, deadline }.attach(sandbox, netns, wanted, journal);
    undo::release_lock(lock, &store, uid);
    outcome
}

/// A pod with the volume, whose lock is held. This process is in the host's mount namespace.
struct Pod<'a> {
    request: &'a Request,
    config: &'a Config,
    uid: &'a PodUid,
    store: &'a Store,
    deadline: Deadline,
}

impl Pod<'_> {
    /// Shares the volume and, if a NIC is `wanted` and there is a VM to have it, plugs that. Undone in reverse if it cannot
    /// be finished. Returns the path of the NIC's socket on the host.
    fn attach(
        &self,
        sandbox: Sandbox,
        netns: &Path,
        wanted: bool,
        journal: &mut Journal,
    ) -> Result<Option<String>, Error> {
        let Self { request, config, uid, store, deadline } = *self;
        // Again, in the host's namespace and behind the lock.
        let volume = sandbox::volume(config, uid)?.ok_or_else(|| no_volume(config, Some(uid)))?;
        let share = Share::new(&config.socket_base_dir, uid, &config.volume_name);
        let before = store.find(uid, &request.container_id, &request.ifname);
        if let Some(before) = before.as_ref().map(|before| shares::of(before, uid)).filter(|before| *before != share) {
            return Err(moved(&before, &share));
        }
        let is_first = before.is_none();
        let keys = Some(config.keys(&request.conf));
        let record = before.clone().unwrap_or_else(|| new_record(request, config, uid, netns));
        let mut record = Record { keys, ..record };
        record.started |= ledger::is_started(store, uid, &request.container_id);
        // Whether a failure takes it away again. One that cannot be looked at will fail to be made, too.
        let mut mounted = !share.is_mounted(&volume).unwrap_or(false);
        let mut running = None;
        let attempt = || -> Result<(), Failure> {
            // First, so that nothing is ever there that no record tells of, wherever this call may be killed.
            store.write(uid, &record).map_err(|error| errors::record(&error))?;
            mounted = share.ensure(&volume).map_err(|error| errors::share(&error))?;
            if mounted {
                journal.changed("mount");
            }
            // No NIC is plugged. Ports of dead sandboxes go before kube-ovn makes one with the same path for this sandbox.
            let end_with_the_share = |journal: &mut Journal| {
                if is_first {
                    let of = Of::OtherSandboxes(&request.container_id);
                    ports::remove_stale(&config.ovsdb_socket, &share.target(), of, deadline, journal);
                }
                Ok(())
            };
            if !wanted {
                return end_with_the_share(journal);
            }
            running = RunningPod::of(uid, sandbox).map_err(|error| errors::system("listing processes", &error))?;
            journal.checked(format_args!(
                "pod: {} processes",
                running.as_ref().map_or(0, |running| running.processes.len())
            ));
            let ledger = &mut Ledger { store, uid, record: &mut record };
            let Some(running) = &running else {
                if ledger.record.started {
                    return Err(has_ended().into());
                }
                return end_with_the_share(journal);
            };
            if !mounted {
                // Nor will there be anything to unmount, should this fail.
                privilege::narrow(Task::Talk);
            }
            if self.is_being_made(running, &volume, ledger, journal)? {
                return end_with_the_share(journal);
            }
            let plug =
                Plug { request, config, uid, volume: &volume, share: &share, may_mount: mounted, running, deadline };
            plug.run(ledger, journal)
        };
        let outcome = attempt();
        // A NIC that is there needs its share and the record that was made before it, though a later step failed.
        let plugged = record.nic.as_ref().filter(|nic| nic.attached);
        if let Err(failure) = &outcome
            && !failure.open
            && plugged.is_none()
            && let Err(error) =
                shares::restore(store, (&share, &volume, mounted), before, &record, (uid, running.as_ref()))
        {
            journal.warn(format_args!("what was done could not be undone: {error}"));
        }
        let socket = plugged.and_then(|nic| share.target().join(&nic.socket).into_os_string().into_string().ok());
        outcome.map(|()| socket).map_err(|failure| failure.error)
    }

    /// Returns true if no container of the pod has run in the sandbox yet, so there is no VM, and the share is all that
    /// it can have. With cri-dockerd the sandbox's own process lives from the start, and with containerd 1.7 in a pod
    /// with a user namespace.
    fn is_being_made(
        &self,
        running: &RunningPod,
        volume: &Volume,
        ledger: &mut Ledger<'_>,
        journal: &mut Journal,
    ) -> Result<bool, Error> {
        let Self { config, uid, deadline, .. } = *self;
        if ledger.record.started {
            return Ok(false);
        }
        // A VM may have a volume for each of its NICs.
        let names: BTreeSet<String> = ledger.of_sandbox().map(|record| record.volume).collect();
        let others = names.iter().filter(|name| volume.name() != name.as_str());
        let others: Vec<Volume> =
            others.filter_map(|name| Volume::open(&config.kubelet_dir, uid.as_str(), name).ok().flatten()).collect();
        let volumes: Vec<&Volume> = others.iter().chain([volume]).collect();
        let has_volume = running.has_a_volume(uid, &volumes, deadline);
        if has_volume == Some(true) {
            ledger.start()?;
        }
        // A VM that has no use for the volume is told so.
        let is_made = has_volume != Some(false) || hypervisor::find(config, uid, running, deadline).is_ok();
        journal.checked(if is_made { "containers have run" } else { "the sandbox is being made" });
        Ok(!is_made)
    }
}

/// Containers have run in the sandbox, and no process is left in it.
fn has_ended() -> Error {
    Error::try_again(
        "No process of the pod is left in CNI_NETNS, though its containers have run there: the VM has ended, or its \
         container is being restarted. Try again once the VM runs.",
    )
}

/// The attachment is there, with another share than is configured now.
fn moved(before: &Share, now: &Share) -> Error {
    Error::conflict(format!(
        "This attachment was made with the pod's volume shared at {}, and the configuration now says {}: undo it first \
         (DEL).",
        quote::value(&before.target().to_string_lossy()),
        quote::value(&now.target().to_string_lossy())
    ))
}

fn new_record(request: &Request, config: &Config, uid: &PodUid, netns: &Path) -> Record {
    let attachment = (request.conf.name.as_str(), request.container_id.as_str(), request.ifname.as_str());
    let share = (config.volume_name.as_str(), config.socket_base_dir.as_path());
    // For people. Kubernetes' names have 253 bytes at most; of what is longer no more is kept.
    let pod = |key| request.args.get(key).unwrap_or("-").chars().take(NAME_MAX).collect::<String>();
    let pod = format!("{}/{}", pod("K8S_POD_NAMESPACE"), pod("K8S_POD_NAME"));
    Record { pod, ..Record::new(attachment, uid, netns, share) }
}
