//! The NIC's part of ADD: find the VM, ask the data plane, plug the NIC, wait until packets can pass, and record it.

use std::path::Path;

use crate::attachment::device_info::DeviceInfo;
use crate::attachment::record::Nic;
use crate::cni::Error;
use crate::dataplane::socket_path::SocketPath;
use crate::libvirt::{Client, Domain};
use crate::pod::running::RunningPod;
use crate::pod::volume::Entry;
use crate::quote;
use crate::vm::attach;
use crate::vm::domain::Description;
use crate::vm::error::Error as VmError;
use crate::vm::interface::{self, Interface};

use super::attempt::Attempt;
use super::context::Context;
use super::failure::Failure;
use super::ledger::Ledger;
use super::link::Link;
use super::nic_spec::{NicSpec, Requested};
use super::nic_state::Recorded;
use super::shares::SharedVolume;
use super::{earlier, errors, fit, handover, mtu};

/// Longest alias that is copied from a VM's description into a record, in bytes. One that libvirt makes has a dozen, and the
/// configuration allows 64.
const ALIAS_LIMIT: usize = 255;

/// A NIC that is to be plugged.
pub struct Plug<'a> {
    pub context: Context<'a>,
    pub nic: NicSpec<'a>,
    pub shared: SharedVolume<'a>,
    pub running: &'a RunningPod,
}

impl Plug<'_> {
    /// Plugs the NIC, unless the VM has it as requested, and records it.
    pub fn run(&self, ledger: &mut Ledger<'_>) -> Result<(), Failure> {
        let Context { config, journal, deadline, .. } = self.context;
        earlier::end_attaches(self.shared.volume, self.nic.socket, self.running, ledger)?;
        let mut libvirt = self.context.libvirt(self.running).map_err(Error::from)?;
        journal.checked("libvirt");
        let target = self.shared.share.target();
        let host_path = self.nic.host_path(self.shared.share);
        let guest_path = self.nic.guest_path(self.shared.volume, &libvirt.process, &host_path)?;
        let client = &mut libvirt.client;
        let domain = attach::choose(client, config.domain.as_deref(), deadline)?;
        let asked = self.nic.interface(config, self.running.path(&guest_path));
        let description = self.describe(&asked, (&mut *client, &domain))?;
        let mut requested = Requested::of(asked, config, &description);

        let nic = self.nic.record(&requested.interface, &domain, &description);
        let link = Link {
            context: self.context,
            running: self.running,
            shared: self.shared,
            socket_path: SocketPath::new(self.shared.volume.fd(), self.nic.socket, Path::new(&host_path)),
            guest_path: &guest_path,
            host_path: &host_path,
            port: self.nic.port(config, &target, &host_path),
        };
        match attach::examine(&description, &requested.interface, requested.queues_matter)? {
            Some(there) => {
                attach::ensure_arrived(client, &domain, deadline).map_err(|error| errors::held(&error))?;
                self.adopt(there, nic, &link, ledger)?;
            }
            None => self.plug(&mut requested, &description, nic, (client, &domain), &link, ledger)?,
        }
        self.shared.ensure().map_err(Failure::open)?;
        if let Some(warning) = ledger.nic().and_then(mtu::warning) {
            journal.warn(warning);
        }
        self.write_device_info(ledger).map_err(Failure::from)
    }

    /// Reads the VM's description, once nothing is left of earlier calls that would change it.
    fn describe(&self, asked: &Interface, (client, domain): (&mut Client, &Domain)) -> Result<Description, Failure> {
        let context = &self.context;
        let held = |error: VmError| errors::held(&error);
        let recorded = Recorded::of(&context.records(), &asked.path);
        earlier::ensure_not_elsewhere(context, asked, (&mut *client, domain))?;
        let description = attach::describe(client, domain, context.deadline).map_err(held)?;
        let is_leaving = recorded.leaving
            && earlier::end_removal(context, asked, &description, self.running, (&mut *client, domain))?;
        if is_leaving { Ok(attach::describe(client, domain, context.deadline).map_err(held)?) } else { Ok(description) }
    }

    /// Records a NIC that the VM has already, and waits until packets can pass. The NIC stays whatever the data plane does,
    /// with its share and its record: an earlier ADD has reported it.
    fn adopt(&self, there: interface::Nic, nic: Nic, link: &Link<'_>, ledger: &mut Ledger<'_>) -> Result<(), Failure> {
        let Context { journal, deadline, .. } = self.context;
        let alias = there.alias.filter(|alias| alias.len() <= ALIAS_LIMIT).unwrap_or(nic.alias.clone());
        ledger.keep(Nic { alias, queues: Some(there.queues), attached: true, ..nic })?;
        journal.checked("already plugged");
        ledger.claim_nic()?;
        journal.checked("recorded");
        link.ensure_linked().map_err(Failure::open)?;
        journal.checked("data plane connected");
        link.port.ensure_passing(deadline, journal).map_err(Failure::open)?;
        let entry = self.shared.volume.entry(self.nic.socket);
        if entry.map_err(|error| errors::system("looking at the NIC's socket", &error))? != Entry::Socket {
            return Err(Failure::open(Error::try_again(format!(
                "The VM has this NIC, and its socket {} is gone from the volume, so no data plane can connect to it any \
                 more: unplug the NIC (DEL), and plug it anew.",
                quote::value(link.host_path)
            ))));
        }
        Ok(())
    }

    /// Asks the data plane, plugs the NIC, waits until the data plane is connected, and records it.
    fn plug(
        &self,
        requested: &mut Requested,
        description: &Description,
        nic: Nic,
        (client, domain): (&mut Client, &Domain),
        link: &Link<'_>,
        ledger: &mut Ledger<'_>,
    ) -> Result<(), Failure> {
        let Context { journal, deadline, .. } = self.context;
        // Recorded first, so that a DEL removes what a killed call leaves.
        ledger.keep(nic)?;
        link.ensure_unused((&mut *client, domain), &requested.interface.alias)?;
        journal.checked("VM looked at");
        link.port.ensure_ready(deadline, journal)?;
        let mut data_plane = link.probe()?;
        let mut ensure_free = || attach::ensure_free(client, domain, deadline).map_err(|error| errors::held(&error));
        ensure_free()?;
        journal.checked("VM not busy");
        if let Err(fault) = data_plane.ask_again(deadline.half()) {
            journal.warn(format_args!("the data plane is asked once more, on a new connection: {fault}"));
            drop(data_plane);
            data_plane = link.probe()?;
            ensure_free()?;
        }
        requested.negotiate_queues(&data_plane.capabilities)?;
        fit::ensure_accepted(&data_plane.capabilities, description)?;
        self.shared.ensure()?;
        let asked = &requested.interface;
        handover::plug(&mut Attempt { link, client, domain, asked, ledger }, data_plane)?;
        ledger.plugged(asked.queues)?;
        ledger.claim_nic()?;
        journal.checked("recorded");
        Ok(())
    }

    /// Writes the device-information file, if the runtime named one.
    fn write_device_info(&self, ledger: &mut Ledger<'_>) -> Result<(), Error> {
        let Context { config, journal, .. } = self.context;
        let Some(file) = config.nic.device_info_file.clone() else { return Ok(()) };
        let Some(nic) = ledger.nic() else { return Ok(()) };
        let info = DeviceInfo { file, socket: nic.path.clone() };
        let unwritten = |error| {
            let file = info.file.display();
            Error::io(format!("CNIDeviceInfoFile {file} could not be written; the NIC is plugged.")).with_details(error)
        };
        let earlier = ledger.record.device_info.take().filter(|earlier| *earlier != info);
        if let Some(earlier) = earlier {
            earlier.remove().map_err(unwritten)?;
        }
        // Recorded first, so that a DEL removes what a killed call leaves.
        ledger.write_device_info(Some(info.clone()))?;
        if info.write().map_err(unwritten)? {
            journal.changed(format_args!("write {}", info.file.display()));
            return Ok(());
        }
        journal.warn(format_args!("{} was written by another program, and was left as it is", info.file.display()));
        ledger.write_device_info(None)
    }
}
