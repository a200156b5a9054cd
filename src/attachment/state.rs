//! How much of an attachment is as its ADD left it: for CHECK, `list` and `inspect`.

use std::path::Path;

use crate::attachment::record::{Nic, Record, Store};
use crate::attachment::share::{self, Share};
use crate::cni::Error;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::libvirt::{Access, Client, Domain, DomainState};
use crate::ovs::{Ovs, port};
use crate::pod::identity::PodUid;
use crate::pod::running::RunningPod;
use crate::pod::unix_path::UnixPath;
use crate::pod::volume::{self, Entry, Volume};
use crate::quote;
use crate::vm::attach;
use crate::vm::interface::{self, Target};

use super::hypervisor::Hypervisor;
use super::nic_state::{Heard, NicState, Recorded, judge, listens};
use super::{errors, shares, unfinished};

/// Whether a part of what an ADD made is as it was.
pub type CheckResult = Result<(), Problem>;

/// What is wrong with a part.
#[derive(Debug)]
pub enum Problem {
    /// What is missing or different.
    Missing(String),
    /// Why it could not be looked at, or is not trusted.
    Unseen(Error),
}

impl Problem {
    /// Returns the message.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Missing(words) => words.clone(),
            Self::Unseen(error) => error.to_string(),
        }
    }
}

/// What the pod's libvirt says of a NIC and its VM.
#[derive(Debug)]
pub struct Vm {
    /// The VM that has the NIC, or that had it, if it runs.
    pub domain: Option<Domain>,
    pub state: Option<DomainState>,
    /// Whether it has the NIC as it was plugged.
    pub nic: NicState,
    /// Who listens at its socket, and how to end that, if the VM does not have the NIC.
    left_over: Option<String>,
    /// libvirt's version, if it could be asked: 11003000 for 11.3.0.
    pub libvirt: Option<u64>,
}

/// The state of a share with which nothing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareState {
    /// It shows the pod's volume.
    Mounted,
    /// It is gone, and no NIC of the pod needs it: kube-ovn's DEL of the last one removed it, and the next ADD makes it
    /// again.
    NotNeeded,
}

/// The pod of an attachment as it is now. This process is in the host's mount namespace.
pub struct AttachmentState<'a> {
    record: &'a Record,
    uid: PodUid,
    /// Whether a NIC of the pod needs the share.
    needs_share: bool,
    volume: Result<Option<Volume>, volume::Error>,
    running: Option<RunningPod>,
}

impl<'a> AttachmentState<'a> {
    /// Looks at the pod of a record: its volume and, if a NIC is recorded, its processes. `netns` is the namespace that the
    /// call names. Returns `None` if the record names no pod.
    #[must_use]
    pub fn of(record: &'a Record, store: &Store, netns: Option<&Path>, kubelet_dir: &Path) -> Option<Self> {
        let uid = PodUid::parse(&record.uid)?;
        let needs_share = shares::serves_a_nic(&shares::of(record, &uid), store, &uid);
        let volume = Volume::open(kubelet_dir, uid.as_str(), &record.volume);
        let running = record.nic.as_ref().and_then(|_| RunningPod::find(&uid, netns, Some(&record.netns)));
        Some(Self { record, uid, needs_share, volume, running })
    }

    #[must_use]
    pub fn share(&self) -> Share {
        shares::of(self.record, &self.uid)
    }

    /// Returns true if any process of the pod lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.running.is_some()
    }

    /// Returns the pod's volume, unless it is gone or not what kubelet makes.
    pub fn volume(&self) -> Result<&Volume, Problem> {
        match &self.volume {
            Ok(Some(volume)) => Ok(volume),
            Ok(None) => Err(Problem::Missing(format!("the pod's volume {} is gone", self.record.volume))),
            Err(error) => Err(Problem::Unseen(errors::volume(error))),
        }
    }

    /// Returns whether the data plane sees the volume. It is an error if a NIC of the pod needs it, and it doesn't.
    pub fn mount(&self) -> Result<ShareState, Problem> {
        let (share, volume) = (self.share(), self.volume()?);
        let looking = |error| Problem::Unseen(errors::share(&error));
        if share.is_mounted(volume).map_err(looking)? {
            return Ok(ShareState::Mounted);
        }
        // A directory that shows something else is wrong in any case: kube-ovn's next ADD takes it for the share.
        if !self.needs_share && share.is_absent().map_err(looking)? {
            return Ok(ShareState::NotNeeded);
        }
        Err(Problem::Missing(format!("{} does not show the pod's volume", share.target().display())))
    }

    /// Checks that the NIC's socket is in the volume.
    pub fn socket(&self, nic: &Nic) -> CheckResult {
        let looking = |error| Problem::Unseen(errors::system("looking at the NIC's socket", &error));
        match self.volume()?.entry(&nic.socket).map_err(looking)? {
            Entry::Socket => Ok(()),
            Entry::Absent => Err(Problem::Missing(format!("{} is not in the pod's volume", quote::value(&nic.socket)))),
            Entry::Other => {
                Err(Problem::Missing(format!("{} in the pod's volume is not a socket", quote::value(&nic.socket))))
            }
        }
    }

    /// Returns whether the VM has the NIC, without asking libvirt: from the record, and from whether a process of the pod
    /// listens at the NIC's socket, as QEMU does while it has the NIC.
    #[must_use]
    pub fn nic(&self, nic: &Nic) -> NicState {
        judge(Recorded::from(nic), Heard::Unasked, || self.listens(nic))
    }

    fn listens(&self, nic: &Nic) -> Result<bool, Error> {
        self.running.as_ref().map_or(Ok(false), |running| listens(running, &nic.path))
    }

    /// Returns whether a data plane is connected to the NIC's socket, and whether packets also pass, as far as OVS can tell.
    pub fn data_plane(&self, nic: &Nic, ovs: &Ovs<'_>, deadline: Deadline) -> (bool, CheckResult) {
        let path = share::data_plane_path(&self.share().target().join(&nic.socket));
        let Record { container_id, ifname, pod, .. } = self.record;
        let port = port::Nic { path: &path, container_id, ifname, pod };
        match self.connection(nic, deadline) {
            Ok(()) => (
                true,
                ovs.problem_of_connected(&port, deadline).map_or(Ok(()), |trouble| Err(Problem::Missing(trouble))),
            ),
            Err(Problem::Missing(words)) if self.running.is_some() => {
                let why = ovs.why_not_connected(&port, deadline).map_or(String::new(), |why| format!(": {why}"));
                (false, Err(Problem::Missing(format!("{words}{why}"))))
            }
            Err(flaw) => (false, Err(flaw)),
        }
    }

    fn connection(&self, nic: &Nic, deadline: Deadline) -> CheckResult {
        let ends = self.running()?.accepted(&nic.path, None, deadline);
        if ends.iter().any(|end| !end.is_of_stopped()) {
            return Ok(());
        }
        let path = quote::value(&nic.path);
        Err(if !ends.is_empty() {
            Problem::Missing(format!("the process that is connected to {path} is stopped (by a signal or a debugger)"))
        } else if deadline.passed() {
            Problem::Unseen(Error::try_again(format!("There was no time left to look who is connected to {path}.")))
        } else {
            Problem::Missing(format!("nobody is connected to {path}"))
        })
    }

    /// Asks the pod's libvirt about the NIC.
    #[must_use]
    pub fn vm(&self, nic: &Nic, config: &Config, deadline: Deadline) -> Vm {
        let mut vm = Vm { domain: None, state: None, nic: NicState::Absent, left_over: None, libvirt: None };
        let Some(running) = &self.running else { return vm };
        let recorded = Recorded::from(nic);
        let heard = match Hypervisor::reach(config, &self.uid, running, Access::ReadOnly, deadline) {
            Ok(mut libvirt) => {
                let path = running.path(&nic.path);
                let mut heard = ask(&mut libvirt.client, (nic, &path), recorded.opening, deadline, &mut vm);
                // It is only left over if that is still so once what may be under way has ended.
                if !recorded.opening && matches!(heard, Ok(Heard::Nothing)) && running.may_listen(&nic.path) {
                    heard = ask(&mut libvirt.client, (nic, &path), true, deadline, &mut vm);
                }
                heard.unwrap_or_else(Heard::NoAnswer)
            }
            Err(unreached) => Heard::Unreached(unreached.into()),
        };
        let is_open = recorded.opening && matches!(heard, Heard::Unreached(_));
        if !is_open || !self.volume().is_ok_and(|volume| running.has_no_vm(volume, deadline)) {
            vm.nic = judge(recorded, heard, || self.listens(nic));
        }
        if matches!(vm.nic, NicState::LeftOver) {
            vm.left_over = Some(unfinished::left_over(running, &nic.path, &nic.alias, &nic.domain));
        }
        vm
    }

    fn running(&self) -> Result<&RunningPod, Problem> {
        self.running.as_ref().ok_or_else(|| Problem::Missing("no process of the pod lives, so no VM does".to_owned()))
    }
}

/// Asks libvirt which of its VMs has the NIC, and notes what it says of that VM. If `settled`, waits first until libvirt has
/// ended what it does to them.
fn ask(
    client: &mut Client,
    (nic, path): (&Nic, &UnixPath),
    settled: bool,
    deadline: Deadline,
    vm: &mut Vm,
) -> Result<Heard, Error> {
    let mut running = client.running_domains(deadline).map_err(|error| errors::libvirt(&error))?;
    let (mut holder, mut unread) = (None, None);
    for (at, domain) in running.iter().enumerate() {
        let ended = if settled { attach::settle(client, domain, deadline) } else { Ok(()) };
        match ended.and_then(|()| attach::describe(client, domain, deadline)) {
            Ok(seen) => {
                let found = seen.find(Target { mac: Some(&nic.mac), path, alias: &nic.alias });
                holder = found.map(|found| (at, shown(found, nic, path)));
            }
            Err(error) => unread = unread.or(Some(errors::held(&error))),
        }
        if holder.is_some() {
            break;
        }
    }
    let recorded_one = || running.iter().position(|domain| domain.uuid_digits() == nic.domain);
    let (at, shown) = holder.map_or_else(|| (recorded_one(), None), |(at, shown)| (Some(at), Some(shown)));
    vm.domain = at.map(|at| running.swap_remove(at));
    vm.state = vm.domain.as_ref().and_then(|domain| client.state(domain, deadline).ok());
    // Last, because nothing depends on it.
    vm.libvirt = client.library_version(deadline).ok();
    // A VM that could not be looked at may have the NIC.
    shown.map_or_else(|| unread.map_or(Ok(Heard::Nothing), Err), Ok)
}

/// Compares the NIC that a VM shows with the one that was plugged.
fn shown(found: &interface::Nic, nic: &Nic, path: &UnixPath) -> Heard {
    let differs = |what: &str, is: &str, should: &str| {
        Heard::Different(format!(
            "the VM has {} with {what} {is}, and ADD plugged it with {should}",
            quote::value(&nic.alias)
        ))
    };
    if found.mac != nic.mac {
        return differs("MAC", &quote::value(&found.mac), &nic.mac);
    }
    if !found.is_at(path) {
        let is = found.path.as_deref().unwrap_or("-");
        return differs("socket", &quote::value(is), &quote::value(&nic.path));
    }
    match nic.queues.filter(|queues| found.queues != *queues) {
        Some(queues) => differs("queues", &found.queues.to_string(), &queues.to_string()),
        None => Heard::Same,
    }
}

impl Vm {
    /// Checks that it has the NIC. A NIC whose attach may be under way is not missing.
    pub fn part(self, nic: &Nic) -> CheckResult {
        self.left_over.map_or_else(|| self.nic.part(nic), |words| Err(Problem::Missing(words)))
    }
}

impl NicState {
    /// Checks that the VM has the NIC. A NIC whose attach may be under way is not missing.
    pub fn part(self, nic: &Nic) -> CheckResult {
        let alias = quote::value(&nic.alias);
        match self {
            Self::Plugged => Ok(()),
            Self::Different(difference) => Err(Problem::Missing(difference)),
            Self::Leaving => {
                Err(Problem::Missing(format!("the guest was asked to release {alias}, and has not done so yet")))
            }
            Self::Absent => {
                let queues = nic.queues.map_or(String::new(), |queues| format!(" and {queues} queue pairs"));
                let path = quote::value(&nic.path);
                Err(Problem::Missing(format!(
                    "no VM of the pod has {alias} with MAC {}, socket {path}{queues}",
                    nic.mac
                )))
            }
            Self::Opening => Err(Problem::Unseen(Error::try_again(format!(
                "An attach of {alias} (socket {}) may be under way, or was cut short.",
                quote::value(&nic.path)
            )))),
            Self::LeftOver => Err(Problem::Missing(format!(
                "no VM of the pod has {alias}, and a process of the pod listens at its socket {}",
                quote::value(&nic.path)
            ))),
            Self::Unknown(error) => Err(Problem::Unseen(error)),
        }
    }

    /// Returns the word for this state in tables and in JSON.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Plugged => "plugged",
            Self::Different(_) => "different",
            Self::Opening => "opening",
            Self::Leaving => "leaving",
            Self::LeftOver => "left-over",
            Self::Absent => "gone",
            Self::Unknown(_) => "unknown",
        }
    }
}
