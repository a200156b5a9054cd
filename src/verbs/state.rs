//! What of an attachment is as its ADD left it: for CHECK, and for people.

use std::path::Path;

use crate::cni::Error;
use crate::config::Config;
use crate::dataplane::connected;
use crate::deadline::Deadline;
use crate::libvirt::{Access, Domain, DomainState};
use crate::pod::identity::PodUid;
use crate::pod::volume::{self, Entry, Volume};
use crate::quote;
use crate::record::{Nic, Record};
use crate::share::Share;
use crate::vm::attach;

use super::fault;
use super::hypervisor::Hypervisor;
use super::sandbox::Living;
use super::shares;

/// A part of what an ADD made: as it was, or not.
pub type Part = Result<(), Flaw>;

/// What is wrong with a part.
#[derive(Debug)]
pub enum Flaw {
    /// It is not as it was: in words.
    Missing(String),
    /// It could not be looked at, or is foul.
    Unseen(Error),
}

impl Flaw {
    /// In words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Missing(words) => words.clone(),
            Self::Unseen(error) => error.to_string(),
        }
    }
}

/// What the pod's libvirt tells of a NIC and its VM.
#[derive(Debug)]
pub struct Vm {
    /// The VM that has the NIC, or that had it, if it runs.
    pub domain: Option<Domain>,
    /// What it is doing.
    pub state: Option<DomainState>,
    /// Whether it has the NIC as it was plugged.
    pub nic: Part,
    /// libvirt's version, if it could be asked: 11003000 for 11.3.0.
    pub libvirt: Option<u64>,
}

/// The pod of an attachment as it is now. This process is in the host's mount namespace.
pub struct Scene<'a> {
    record: &'a Record,
    uid: PodUid,
    volume: Result<Option<Volume>, volume::Error>,
    living: Option<Living>,
}

impl<'a> Scene<'a> {
    /// Looks at the pod of a record: its volume and, if the record is of a NIC, its processes. `netns` is where a call
    /// says that they live. `None` if the record names no pod.
    #[must_use]
    pub fn of(record: &'a Record, netns: Option<&Path>, kubelet_dir: &Path) -> Option<Self> {
        let uid = PodUid::parse(&record.uid)?;
        let volume = Volume::open(kubelet_dir, uid.as_str(), &record.volume);
        let living = record.nic.as_ref().and_then(|_| Living::find(&uid, netns, Some(&record.netns)));
        Some(Self { record, uid, volume, living })
    }

    /// Where the pod's volume is shared.
    #[must_use]
    pub fn share(&self) -> Share {
        shares::of(self.record, &self.uid)
    }

    /// Whether any process of the pod lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.living.is_some()
    }

    /// The pod's volume.
    ///
    /// # Errors
    /// That it is gone, or not what it must be.
    pub fn volume(&self) -> Result<&Volume, Flaw> {
        match &self.volume {
            Ok(Some(volume)) => Ok(volume),
            Ok(None) => Err(Flaw::Missing(format!("the pod's volume {} is gone", self.record.volume))),
            Err(error) => Err(Flaw::Unseen(fault::volume(error))),
        }
    }

    /// Whether the data plane is shown the volume.
    ///
    /// # Errors
    /// That it is not.
    pub fn mount(&self) -> Part {
        let (share, volume) = (self.share(), self.volume()?);
        if share.is_mounted(volume).map_err(|error| Flaw::Unseen(fault::share(&error)))? {
            return Ok(());
        }
        Err(Flaw::Missing(format!("{} does not show the pod's volume", share.target().display())))
    }

    /// Whether the NIC's socket is in the volume.
    ///
    /// # Errors
    /// That it is not.
    pub fn socket(&self, nic: &Nic) -> Part {
        let looking = |error| Flaw::Unseen(fault::system("looking at the NIC's socket", &error));
        match self.volume()?.entry(&nic.socket).map_err(looking)? {
            Entry::Socket => Ok(()),
            Entry::Absent | Entry::Other => {
                Err(Flaw::Missing(format!("{} is not in the pod's volume", quote::value(&nic.socket))))
            }
        }
    }

    /// Whether a process of the pod listens on the NIC's socket, as QEMU does while it has the NIC: all that can be told
    /// of the VM without asking libvirt.
    ///
    /// # Errors
    /// That none does.
    pub fn listener(&self, nic: &Nic) -> Part {
        let sockets = self.living()?.unix_sockets();
        let sockets = sockets.map_err(|error| Flaw::Unseen(fault::system("listing the pod's unix sockets", &error)))?;
        if connected::is_listening(&sockets, &nic.path) {
            return Ok(());
        }
        Err(Flaw::Missing(format!("no process of the pod listens on {}", quote::value(&nic.path))))
    }

    /// Whether a data plane is connected to the NIC's socket.
    ///
    /// # Errors
    /// That none is.
    pub fn data_plane(&self, nic: &Nic, deadline: Deadline) -> Part {
        let ends = self.living()?.accepted(&nic.path, None, deadline);
        if ends.iter().any(|end| !end.is_of_stopped()) {
            return Ok(());
        }
        let path = quote::value(&nic.path);
        Err(if !ends.is_empty() {
            Flaw::Missing(format!("the process that is connected to {path} is stopped (by a signal or a debugger)"))
        } else if deadline.passed() {
            Flaw::Unseen(Error::try_again(format!("There was no time left to look who is connected to {path}.")))
        } else {
            Flaw::Missing(format!("nobody is connected to {path}"))
        })
    }

    /// What the pod's libvirt tells of the NIC.
    #[must_use]
    pub fn vm(&self, nic: &Nic, config: &Config, deadline: Deadline) -> Vm {
        let reached = self.living().and_then(|living| {
            let reached = Hypervisor::reach(config, &self.uid, living, Access::ReadOnly, deadline);
            reached.map_err(|unreached| Flaw::Missing(unreached.told().to_string()))
        });
        let mut libvirt = match reached {
            Ok(libvirt) => libvirt,
            Err(flaw) => return Vm { domain: None, state: None, nic: Err(flaw), libvirt: None },
        };
        let client = &mut libvirt.client;
        let mut running = match client.running_domains(deadline) {
            Ok(running) => running,
            Err(error) => {
                let nic = Err(Flaw::Unseen(fault::libvirt(&error)));
                return Vm { domain: None, state: None, nic, libvirt: None };
            }
        };
        let mut unread = None;
        let holder = running.iter().position(|domain| match attach::describe(client, domain, deadline) {
            Ok(seen) => {
                let found = seen.find(Some(&nic.mac), &nic.path, &nic.alias);
                found.is_some_and(|found| nic.queues.is_none_or(|queues| found.queues == queues))
            }
            Err(error) => {
                unread.get_or_insert(error);
                false
            }
        });
        let shown = holder.or_else(|| running.iter().position(|domain| domain.uuid_digits() == nic.domain));
        let domain = shown.map(|at| running.swap_remove(at));
        let state = domain.as_ref().and_then(|domain| client.state(domain, deadline).ok());
        let missing = || {
            let queues = nic.queues.map_or(String::new(), |queues| format!(" and {queues} queue pairs"));
            let (alias, path) = (quote::value(&nic.alias), quote::value(&nic.path));
            Flaw::Missing(format!("no VM of the pod has {alias} with MAC {}, socket {path}{queues}", nic.mac))
        };
        // One that could not be looked at may have it.
        let flaw = || unread.map_or_else(missing, |error| Flaw::Unseen(fault::held(&error)));
        let plugged = holder.map(|_| ()).ok_or_else(flaw);
        // After all that matters.
        let libvirt = client.library_version(deadline).ok();
        Vm { domain, state, nic: plugged, libvirt }
    }

    fn living(&self) -> Result<&Living, Flaw> {
        self.living.as_ref().ok_or_else(|| Flaw::Missing("no process of the pod lives, so no VM does".to_owned()))
    }
}
