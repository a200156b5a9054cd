//! The attachments of this node as `list` and `inspect` show them: what is recorded, and what is there now. The field names
//! are those of the JSON, which others rely on.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::attachment::mtu;
use crate::attachment::record::{self, ReadError, Record, Store};
use crate::attachment::state::{self, AttachmentState, Problem, ShareState};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::libvirt::DomainState;
use crate::ovs::Ovs;

/// How long to search a pod's processes, of which there may be very many, for a NIC's connection.
const LOOK: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
pub struct Attachments {
    pub attachments: Vec<ShownAttachment>,
    pub unreadable: Vec<UnreadableRecord>,
}

#[derive(Debug, Serialize)]
pub struct UnreadableRecord {
    pub path: PathBuf,
    pub problem: String,
}

#[derive(Debug, Serialize)]
pub struct ShownAttachment {
    /// The pod's namespace and name, as the runtime gave them.
    pub pod: String,
    pub uid: String,
    /// CNI_IFNAME.
    pub interface: String,
    /// CNI_CONTAINERID.
    pub container_id: String,
    pub network: String,
    /// CNI_NETNS.
    pub netns: PathBuf,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// How long ago that is, in seconds.
    pub age: u64,
    pub mount: ShownShare,
    /// `None` if only the volume is shared.
    pub nic: Option<ShownNic>,
}

/// Something that must be there.
#[derive(Debug, Serialize)]
pub struct CheckedPart {
    /// True if it is there.
    pub ok: bool,
    /// What is wrong, or why it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// False if it could not be looked at.
    #[serde(skip)]
    pub is_known: bool,
}

#[derive(Debug, Serialize)]
pub struct ShownShare {
    /// The directory that the data plane sees.
    pub path: PathBuf,
    /// False, and left out otherwise, if it is not mounted and no NIC of the pod needs it.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub needed: bool,
    /// Ok if it shows the pod's volume, or isn't needed.
    #[serde(flatten)]
    pub part: CheckedPart,
}

#[derive(Debug, Serialize)]
pub struct ShownNic {
    pub alias: String,
    pub mac: String,
    /// Queue pairs, if known.
    pub queues: Option<u16>,
    /// False if ADD was cut short.
    pub attached: bool,
    /// `None` if the network's MTU is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    pub socket: ShownSocket,
    pub vm: Vm,
    pub data_plane: DataPlane,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Mtu {
    pub network: u32,
    /// What the guest took at the attach, and has unless somebody set another one there.
    pub guest: u32,
}

#[derive(Debug, Serialize)]
pub struct ShownSocket {
    /// As QEMU knows it.
    pub path: String,
    pub host_path: PathBuf,
    #[serde(flatten)]
    pub part: CheckedPart,
}

#[derive(Debug, Serialize)]
pub struct DataPlane {
    pub connected: bool,
    /// Ok if packets pass, too, as far as OVS can tell.
    #[serde(flatten)]
    pub part: CheckedPart,
}

#[derive(Debug, Serialize)]
pub struct Vm {
    /// The domain's UUID, 32 hexadecimal digits.
    pub uuid: String,
    /// `None` if libvirt was not asked or has no such domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<String>,
    /// "plugged", "different", "opening" (an attach may be under way), "leaving" (the guest was asked to release it),
    /// "left-over" (the VM doesn't have it, and a process listens at its socket), "gone" or "unknown". From libvirt if that was
    /// asked, else from whether a process has its socket.
    pub nic: &'static str,
    #[serde(flatten)]
    pub part: CheckedPart,
}

impl From<state::CheckResult> for CheckedPart {
    fn from(part: state::CheckResult) -> Self {
        let is_known = !matches!(part, Err(Problem::Unseen(_)));
        let problem = part.err().map(|problem| problem.words());
        Self { ok: problem.is_none(), problem, is_known }
    }
}

impl Attachments {
    /// Looks at the attachments that are `wanted`, and lists all unreadable records.
    ///
    /// # Errors
    /// A sentence: the records can't be listed.
    pub fn look(config: &Config, wanted: impl Fn(&Record) -> bool, ask: Ask) -> Result<Self, String> {
        let store = Store::new(&config.state_dir);
        let all = store.all();
        let all = all.map_err(|error| format!("the records cannot be listed: {error}"))?;
        let mut found = Self { attachments: Vec::new(), unreadable: Vec::new() };
        // Queries OVS once for all of them.
        let ovs = Ovs::new(&config.ovsdb_socket);
        for one in all {
            match one {
                Ok(record) if wanted(&record) => found.take(&record, (&store, &ovs), config, ask),
                Ok(_) => {}
                Err(ReadError { path, why }) => found.unreadable.push(UnreadableRecord { path, problem: why }),
            }
        }
        // Groups a pod's NICs.
        found.attachments.sort_by(|a, b| (&a.pod, &a.uid, &a.interface).cmp(&(&b.pod, &b.uid, &b.interface)));
        Ok(found)
    }

    fn take(&mut self, record: &Record, (store, ovs): (&Store, &Ovs<'_>), config: &Config, ask: Ask) {
        let config = &config.of_attachment(record.keys.as_ref());
        match AttachmentState::of(record, store, None, &config.kubelet_dir) {
            Some(state) => self.attachments.push(ShownAttachment::of(record, &state, config, ask, ovs)),
            None => self.unreadable.push(UnreadableRecord {
                path: config.state_dir.join("pods").join(&record.uid),
                problem: format!("holds a record of {}, which is not a pod's uid", record.uid),
            }),
        }
    }
}

/// Where a NIC's state comes from.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// The kernel's lists of sockets.
    Kernel,
    /// The pod's libvirt, until this deadline.
    Libvirt(Deadline),
}

impl ShownAttachment {
    fn of(record: &Record, state: &AttachmentState<'_>, config: &Config, ask: Ask, ovs: &Ovs<'_>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self {
            pod: record.pod.clone(),
            uid: record.uid.clone(),
            interface: record.ifname.clone(),
            container_id: record.container_id.clone(),
            network: record.network.clone(),
            netns: record.netns.clone(),
            created: record.created,
            age: now.saturating_sub(record.created),
            mount: ShownShare::of(state),
            nic: record.nic.as_ref().map(|nic| ShownNic::of(nic, state, config, ask, ovs)),
        }
    }

    /// Returns true if everything is as ADD left it.
    pub fn is_sound(&self) -> bool {
        let nic_is = |nic: &ShownNic| nic.socket.part.ok && nic.vm.part.ok && nic.data_plane.part.ok;
        self.mount.part.ok && self.nic.as_ref().is_none_or(nic_is)
    }
}

impl ShownShare {
    fn of(state: &AttachmentState<'_>) -> Self {
        let mount = state.mount();
        let needed = !matches!(mount, Ok(ShareState::NotNeeded));
        Self { path: state.share().target(), needed, part: mount.map(drop).into() }
    }
}

impl ShownNic {
    fn of(nic: &record::Nic, state: &AttachmentState<'_>, config: &Config, ask: Ask, ovs: &Ovs<'_>) -> Self {
        let host_path = state.share().target().join(&nic.socket);
        let vm = match ask {
            Ask::Kernel => {
                let nic_state = state.nic(nic);
                Vm {
                    uuid: nic.domain.clone(),
                    name: None,
                    state: None,
                    libvirt: None,
                    nic: nic_state.word(),
                    part: nic_state.part(nic).into(),
                }
            }
            Ask::Libvirt(deadline) => {
                let answer = state.vm(nic, config, deadline);
                Vm {
                    uuid: answer.domain.as_ref().map_or_else(|| nic.domain.clone(), |domain| domain.uuid_digits()),
                    name: answer.domain.as_ref().map(|domain| domain.name.clone()),
                    state: answer.state.map(state_name),
                    libvirt: answer.libvirt.map(dotted),
                    nic: answer.nic.word(),
                    part: answer.part(nic).into(),
                }
            }
        };
        let (connected, part) = state.data_plane(nic, ovs, Deadline::after(LOOK));
        let data_plane = DataPlane { connected, part: part.into() };
        Self {
            alias: nic.alias.clone(),
            mac: nic.mac.clone(),
            queues: nic.queues,
            attached: nic.attached,
            mtu: mtu::of_nic(nic).map(|(network, guest)| Mtu { network, guest }),
            socket: ShownSocket { path: nic.path.clone(), host_path, part: state.socket(nic).into() },
            vm,
            data_plane,
        }
    }
}

/// Formats a version of `virConnectGetLibVersion`.
fn dotted(version: u64) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
}

/// Returns virsh(1)'s name of a state.
fn state_name(state: DomainState) -> &'static str {
    match state {
        DomainState::Running => "running",
        DomainState::Blocked => "idle",
        DomainState::Paused => "paused",
        DomainState::ShuttingDown => "in shutdown",
        DomainState::ShutOff => "shut off",
        DomainState::Crashed => "crashed",
        DomainState::Suspended => "pmsuspended",
        DomainState::NoState | DomainState::Other(_) => "no state",
    }
}
