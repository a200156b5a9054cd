//! ADD: identify the pod, ensure the share, ask the data plane, plug the NIC, wait until packets can pass, record it, reply.

use std::collections::BTreeSet;

use crate::attachment::context::Context;
use crate::attachment::failure::Failure;
use crate::attachment::journal::Journal;
use crate::attachment::ledger::{self, Ledger};
use crate::attachment::nic_spec::NicSpec;
use crate::attachment::plug::Plug;
use crate::attachment::record::{Record, Store};
use crate::attachment::share::Share;
use crate::attachment::shares::SharedVolume;
use crate::attachment::{errors, hypervisor, identify, ports, shares};
use crate::cni::mac::Mac;
use crate::cni::{Error, Interface, PrevResult, Socket};
use crate::config::{Attach, Config};
use crate::deadline::Deadline;
use crate::ovs::stale::Of;
use crate::pod::identity::PodUid;
use crate::pod::netns::Sandbox;
use crate::pod::running::RunningPod;
use crate::pod::volume::Volume;
use crate::privilege::{self, Task};
use crate::quote;

use super::call::Call;
use super::host::Host;

/// Answers with prevResult, after doing for the pod what its configuration asks for.
pub fn add(call: &Call<'_>, result: &PrevResult<'_>, journal: &Journal) -> Result<Vec<u8>, Error> {
    let socket = match identify_pod(call)? {
        Some(uid) => serve(call, result, &uid, journal)?,
        None => None,
    };
    let socket = socket.as_ref().map(|path| Socket { ifname: call.id.ifname, path });
    Ok(result.answer(call.version(), socket).into_bytes())
}

/// Returns the pod, if it has the volume. For any other pod this first look is all that an ADD costs.
fn identify_pod(call: &Call<'_>) -> Result<Option<PodUid>, Error> {
    let config = call.config;
    let uid = match &call.uid {
        Some(uid) => Some(uid.clone()),
        None => identify::by_netns(call.netns, config)?,
    };
    match uid {
        Some(uid) if identify::volume(config, &uid)?.is_some() => Ok(Some(uid)),
        uid if config.attach == Attach::Always => Err(no_volume(config, uid.as_ref())),
        _ => Ok(None),
    }
}

fn no_volume(config: &Config, uid: Option<&PodUid>) -> Error {
    match uid {
        Some(uid) => Error::no_volume(format!(
            "The pod has no emptyDir volume {} below {}/pods/{uid}, which attach \"always\" demands.",
            config.volume_name,
            config.kubelet_dir.display()
        )),
        None => Error::try_again(
            "Cannot identify the pod: CNI_ARGS has no K8S_POD_UID, and CNI_NETNS has no process of a pod; attach \"always\" \
             needs to know the pod.",
        ),
    }
}

/// Serves a pod that has the volume. Returns the path on the host of the socket of the NIC that was plugged.
fn serve(call: &Call<'_>, result: &PrevResult<'_>, uid: &PodUid, journal: &Journal) -> Result<Option<String>, Error> {
    journal.set_pod(uid);
    let config = call.config;
    let deadline = Deadline::after(config.attach_timeout);
    let sandbox = identify::sandbox(call.netns)?;
    let host = Host::enter(journal)?;
    // This must come before the right to enter a namespace is dropped.
    let has_link = sandbox.has_link(call.id.ifname).map_err(|error| errors::netns(&error))?;
    host.confine(Task::Mount, deadline);
    let store = Store::new(&config.state_dir);
    let context = Context { config, uid, store: &store, journal, deadline };
    let _lock = context.lock()?;
    journal.checked("lock");
    // Look again: it is the host's namespace now, and other calls have ended.
    let volume = identify::volume(config, uid)?.ok_or_else(|| no_volume(config, Some(uid)))?;
    let wanted = match config.attach {
        Attach::Never => false,
        Attach::Always => true,
        // kube-ovn makes a link for every NIC but a vhost-user one.
        Attach::Auto => !has_link,
    };
    Add { call, result, context, volume: &volume, share: &context.share() }.run(sandbox, wanted)
}

/// An ADD for a pod with the volume. The pod's lock is held.
struct Add<'a> {
    call: &'a Call<'a>,
    result: &'a PrevResult<'a>,
    context: Context<'a>,
    volume: &'a Volume,
    share: &'a Share,
}

/// What an ADD has made so far.
struct Made {
    record: Record,
    /// True if this call mounted the share, or may have.
    mounted: bool,
    running: Option<RunningPod>,
}

impl Add<'_> {
    /// Shares the volume and, if a NIC is `wanted` and there is a VM for it, plugs the NIC. If that fails, undoes it. Returns
    /// the path of the NIC's socket on the host.
    fn run(&self, sandbox: Sandbox, wanted: bool) -> Result<Option<String>, Error> {
        let Self { context, volume, share, .. } = *self;
        let before = context.find(self.call.id);
        if let Some(before) = before.as_ref().map(|before| shares::of(before, context.uid))
            && before != *share
        {
            return Err(moved(&before, share));
        }
        // A share that can't be looked at can't be made either.
        let mounted = !share.is_mounted(volume).unwrap_or(false);
        let mut made = Made { record: self.record(before.as_ref()), mounted, running: None };
        let outcome = self.make(&mut made, before.is_none(), sandbox, wanted);

        // A NIC that is plugged needs its share and its record, even if a later step failed.
        let plugged = made.record.nic.as_ref().filter(|nic| nic.attached);
        if let Err(failure) = &outcome
            && !failure.open
            && plugged.is_none()
        {
            let shared = SharedVolume { share, volume, may_mount: made.mounted };
            if let Err(error) = shares::restore(&context, shared, before, &made.record, made.running.as_ref()) {
                context.journal.warn(format_args!("what was done could not be undone: {error}"));
            }
        }
        let socket = plugged.and_then(|nic| share.target().join(&nic.socket).into_os_string().into_string().ok());
        outcome.map(|()| socket).map_err(|failure| failure.error)
    }

    /// Returns the record to write: the earlier one, if there is one, with this call's keys.
    fn record(&self, before: Option<&Record>) -> Record {
        let (call, context) = (self.call, &self.context);
        let new = || Record { pod: call.pod.clone(), ..context.new_record(call.id, call.netns) };
        let mut record = Record { keys: Some(call.keys()), ..before.cloned().unwrap_or_else(new) };
        record.started |= ledger::is_started(context, call.id.container_id);
        record
    }

    fn make(&self, made: &mut Made, is_first: bool, sandbox: Sandbox, wanted: bool) -> Result<(), Failure> {
        let Self { call, context, volume, share, .. } = *self;
        let journal = context.journal;
        // The record comes first, so that a killed call leaves nothing that no record describes.
        context.write(&made.record)?;
        made.mounted = share.ensure(volume).map_err(|error| errors::share(&error))?;
        if made.mounted {
            journal.changed("mount");
        }
        let mounted = made.mounted;
        if wanted && let Some((running, record)) = self.find_vm(made, sandbox)? {
            let shared = SharedVolume { share, volume, may_mount: mounted };
            return Plug { context, nic: self.nic()?, shared, running }.run(&mut Ledger { context, record });
        }
        // No NIC is plugged. Ports of dead sandboxes go before kube-ovn makes one with the same path for this sandbox.
        if is_first {
            let of = Of::OtherSandboxes(call.id.container_id);
            ports::remove_stale(&context.config.ovsdb_socket, &share.target(), of, context.deadline, journal);
        }
        Ok(())
    }

    /// Looks for what runs of the pod. Returns it if there is, or must be, a VM to plug the NIC into.
    fn find_vm<'m>(
        &self,
        made: &'m mut Made,
        sandbox: Sandbox,
    ) -> Result<Option<(&'m RunningPod, &'m mut Record)>, Error> {
        let running = RunningPod::of(self.context.uid, sandbox);
        made.running = running.map_err(|error| errors::system("listing processes", &error))?;
        let count = made.running.as_ref().map_or(0, |running| running.processes.len());
        self.context.journal.checked(format_args!("pod: {count} processes"));
        let Made { record, mounted, running: Some(running) } = made else {
            return if made.record.started { Err(has_ended()) } else { Ok(None) };
        };
        if !*mounted {
            // A failure would leave nothing to unmount either.
            privilege::narrow(Task::Talk);
        }
        let is_being_made = self.is_being_made(running, &mut Ledger { context: self.context, record })?;
        Ok((!is_being_made).then_some((running, record)))
    }

    /// Returns true if no container of the pod has run in the sandbox yet, so there is no VM, and the share is all that
    /// it can have. With cri-dockerd the sandbox's own process lives from the start, and with containerd 1.7 in a pod
    /// with a user namespace.
    fn is_being_made(&self, running: &RunningPod, ledger: &mut Ledger<'_>) -> Result<bool, Error> {
        let Context { config, uid, journal, deadline, .. } = self.context;
        if ledger.record.started {
            return Ok(false);
        }
        // A VM may have a volume for each of its NICs.
        let names: BTreeSet<String> = ledger.of_sandbox().map(|record| record.volume).collect();
        let others = names.iter().filter(|name| self.volume.name() != name.as_str());
        let others: Vec<Volume> =
            others.filter_map(|name| Volume::open(&config.kubelet_dir, uid.as_str(), name).ok().flatten()).collect();
        let volumes: Vec<&Volume> = others.iter().chain([self.volume]).collect();
        let has_volume = running.has_a_volume(uid, &volumes, deadline);
        if has_volume == Some(true) {
            ledger.start()?;
        }
        // A VM that doesn't mount the volume is not "being made": its ADD must fail, and say so.
        let is_made = has_volume != Some(false) || hypervisor::find(config, uid, running, deadline).is_ok();
        journal.checked(if is_made { "containers have run" } else { "the sandbox is being made" });
        Ok(!is_made)
    }

    /// Returns the NIC that the call asks for.
    fn nic(&self) -> Result<NicSpec<'_>, Error> {
        let (call, config) = (self.call, self.context.config);
        let interface = self.result.interface_of(call.id.ifname).unwrap_or_default();
        let mtu = interface.mtu;
        let mac = match &config.nic.mac {
            Some(mac) => mac.to_string(),
            None => mac_of(interface)?,
        };
        Ok(NicSpec { id: call.id, pod: &call.pod, mac, mtu, socket: config.socket_name(call.id.ifname)? })
    }
}

/// Returns the MAC address in kube-ovn's result.
fn mac_of(interface: Interface) -> Result<String, Error> {
    let text = interface.mac.filter(|mac| !mac.is_empty()).ok_or_else(|| {
        Error::invalid_config(
            "Neither runtimeConfig.mac nor an interface of prevResult gives the NIC's MAC address, which the VM's NIC must \
             share with the data plane's port.",
        )
    })?;
    let mac = text.parse::<Mac>().ok().filter(Mac::is_unicast);
    mac.map(|mac| mac.to_string()).ok_or_else(|| {
        Error::invalid_config(format!("prevResult's MAC address {} is not the address of a NIC.", quote::value(&text)))
    })
}

/// Returns the error for a sandbox in which containers have run, and no process is left.
fn has_ended() -> Error {
    Error::try_again(
        "No process of the pod is left in CNI_NETNS, though its containers have run there: the VM has ended, or its \
         container is being restarted. Try again once the VM runs.",
    )
}

/// Returns the error for an attachment whose share is not the one that is configured now.
fn moved(before: &Share, now: &Share) -> Error {
    Error::conflict(format!(
        "This attachment was made with the pod's volume shared at {}, and the configuration now says {}: undo it first \
         (DEL).",
        quote::value(&before.target().to_string_lossy()),
        quote::value(&now.target().to_string_lossy())
    ))
}
