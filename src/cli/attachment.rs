//! An attachment of this node, as it is shown: what is recorded, and what is there of it now.

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

/// How long the processes of a pod are searched for a NIC's connection; there may be very many.
const LOOK: Duration = Duration::from_secs(5);

/// All attachments. The names of its fields are those of the JSON, which others may rely on.
#[derive(Debug, Serialize)]
pub struct Attachments {
    /// Those that could be read.
    pub attachments: Vec<Attachment>,
    /// Records that could not.
    pub unreadable: Vec<Broken>,
}

/// A record that could not be read.
#[derive(Debug, Serialize)]
pub struct Broken {
    /// Its file.
    pub path: PathBuf,
    /// Why.
    pub problem: String,
}

/// One attachment.
#[derive(Debug, Serialize)]
pub struct Attachment {
    /// The pod's namespace and name, as the runtime gave them.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// CNI_IFNAME.
    pub interface: String,
    /// CNI_CONTAINERID: the sandbox.
    pub container_id: String,
    /// The network's name.
    pub network: String,
    /// CNI_NETNS.
    pub netns: PathBuf,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// How long ago that is, in seconds.
    pub age: u64,
    /// The share.
    pub mount: Mount,
    /// The NIC, if one was plugged.
    pub nic: Option<Nic>,
}

/// Something that should be there.
#[derive(Debug, Serialize)]
pub struct Part {
    /// Whether it is.
    pub ok: bool,
    /// What is wrong, or why it cannot be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether it is known.
    #[serde(skip)]
    pub is_known: bool,
}

/// The share.
#[derive(Debug, Serialize)]
pub struct Mount {
    /// The directory that the data plane sees.
    pub path: PathBuf,
    /// False, and left out otherwise, if it is not mounted and no NIC of the pod needs it.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub needed: bool,
    /// Whether it shows the pod's volume, or need not.
    #[serde(flatten)]
    pub part: Part,
}

/// A NIC.
#[derive(Debug, Serialize)]
pub struct Nic {
    /// Its alias in libvirt.
    pub alias: String,
    /// Its MAC address.
    pub mac: String,
    /// Pairs of queues, if known.
    pub queues: Option<u16>,
    /// Whether ADD came to its end.
    pub attached: bool,
    /// Its MTUs, if that of its network is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// Its socket.
    pub socket: Socket,
    /// Its VM.
    pub vm: Vm,
    /// Whether a data plane is connected, and packets pass as far as OVS can tell.
    pub data_plane: DataPlane,
}

/// The MTUs of a NIC.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Mtu {
    /// Of its network.
    pub network: u32,
    /// That the guest took for it, and has unless somebody set another there.
    pub guest: u32,
}

/// A NIC's socket.
#[derive(Debug, Serialize)]
pub struct Socket {
    /// As QEMU knows it.
    pub path: String,
    /// On the host.
    pub host_path: PathBuf,
    /// Whether its file is there.
    #[serde(flatten)]
    pub part: Part,
}

/// A NIC's data plane.
#[derive(Debug, Serialize)]
pub struct DataPlane {
    /// Whether one is connected.
    pub connected: bool,
    /// Whether packets pass, too, as far as OVS can tell.
    #[serde(flatten)]
    pub part: Part,
}

/// A NIC's VM.
#[derive(Debug, Serialize)]
pub struct Vm {
    /// The domain's UUID, 32 hexadecimal digits.
    pub uuid: String,
    /// Its name, if libvirt was asked and has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is doing, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    /// libvirt's version, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<String>,
    /// Whether it has the NIC: "plugged", "different", "opening" (an attach may be under way), "leaving" (the guest was
    /// asked to release it), "left-over" (it does not, and its socket is listened at), "gone" or "unknown". By
    /// libvirt's word if that was asked, else by there being a process that has its socket.
    pub nic: &'static str,
    /// The same as a judgement.
    #[serde(flatten)]
    pub part: Part,
}

impl From<state::CheckResult> for Part {
    fn from(part: state::CheckResult) -> Self {
        let is_known = !matches!(part, Err(Problem::Unseen(_)));
        let problem = part.err().map(|flaw| flaw.words());
        Self { ok: problem.is_none(), problem, is_known }
    }
}

impl Attachments {
    /// Those of a store that are `wanted`, and all that cannot be read.
    ///
    /// # Errors
    /// In words: that the records cannot be listed.
    pub fn look(config: &Config, wanted: impl Fn(&Record) -> bool, ask: Ask) -> Result<Self, String> {
        let store = Store::new(&config.state_dir);
        let all = store.all();
        let all = all.map_err(|error| format!("the records cannot be listed: {error}"))?;
        let mut found = Self { attachments: Vec::new(), unreadable: Vec::new() };
        // OVS is asked once for all of them.
        let ovs = Ovs::new(&config.ovsdb_socket);
        for one in all {
            match one {
                Ok(record) if wanted(&record) => found.take(&record, (&store, &ovs), config, ask),
                Ok(_) => {}
                Err(ReadError { path, why }) => found.unreadable.push(Broken { path, problem: why }),
            }
        }
        // A pod's NICs stand together, whatever its uid.
        found.attachments.sort_by(|a, b| (&a.pod, &a.uid, &a.interface).cmp(&(&b.pod, &b.uid, &b.interface)));
        Ok(found)
    }

    fn take(&mut self, record: &Record, (store, ovs): (&Store, &Ovs<'_>), config: &Config, ask: Ask) {
        let config = &config.of_attachment(record.keys.as_ref());
        match AttachmentState::of(record, store, None, &config.kubelet_dir) {
            Some(scene) => self.attachments.push(Attachment::of(record, &scene, config, ask, ovs)),
            None => self.unreadable.push(Broken {
                path: config.state_dir.join("pods").join(&record.uid),
                problem: format!("holds a record of {}, which is no pod's uid", record.uid),
            }),
        }
    }
}

/// Whom to ask of a NIC's VM.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// The kernel, which knows who has a socket.
    Kernel,
    /// The pod's libvirt, until then.
    Libvirt(Deadline),
}

impl Attachment {
    fn of(record: &Record, scene: &AttachmentState<'_>, config: &Config, ask: Ask, ovs: &Ovs<'_>) -> Self {
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
            mount: Mount::of(scene),
            nic: record.nic.as_ref().map(|nic| Nic::of(nic, scene, config, ask, ovs)),
        }
    }

    /// Whether all of it is as its ADD left it.
    pub fn is_sound(&self) -> bool {
        let nic_is = |nic: &Nic| nic.socket.part.ok && nic.vm.part.ok && nic.data_plane.part.ok;
        self.mount.part.ok && self.nic.as_ref().is_none_or(nic_is)
    }
}

impl Mount {
    fn of(scene: &AttachmentState<'_>) -> Self {
        let mount = scene.mount();
        let needed = !matches!(mount, Ok(ShareState::NotNeeded));
        Self { path: scene.share().target(), needed, part: mount.map(drop).into() }
    }
}

impl Nic {
    fn of(nic: &record::Nic, scene: &AttachmentState<'_>, config: &Config, ask: Ask, ovs: &Ovs<'_>) -> Self {
        let host_path = scene.share().target().join(&nic.socket);
        let vm = match ask {
            Ask::Kernel => {
                let state = scene.nic(nic);
                Vm {
                    uuid: nic.domain.clone(),
                    name: None,
                    state: None,
                    libvirt: None,
                    nic: state.word(),
                    part: state.part(nic).into(),
                }
            }
            Ask::Libvirt(deadline) => {
                let told = scene.vm(nic, config, deadline);
                Vm {
                    uuid: told.domain.as_ref().map_or_else(|| nic.domain.clone(), |domain| domain.uuid_digits()),
                    name: told.domain.as_ref().map(|domain| domain.name.clone()),
                    state: told.state.map(in_a_word),
                    libvirt: told.libvirt.map(dotted),
                    nic: told.nic.word(),
                    part: told.part(nic).into(),
                }
            }
        };
        let (connected, part) = scene.data_plane(nic, ovs, Deadline::after(LOOK));
        let data_plane = DataPlane { connected, part: part.into() };
        Self {
            alias: nic.alias.clone(),
            mac: nic.mac.clone(),
            queues: nic.queues,
            attached: nic.attached,
            mtu: mtu::of_nic(nic).map(|(network, guest)| Mtu { network, guest }),
            socket: Socket { path: nic.path.clone(), host_path, part: scene.socket(nic).into() },
            vm,
            data_plane,
        }
    }
}

/// As libvirt writes its versions (`virConnectGetLibVersion`).
fn dotted(version: u64) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
}

/// As virsh(1) calls it.
fn in_a_word(state: DomainState) -> &'static str {
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
