//! What a script may say. Unknown keys are errors, so that a misspelt one cannot make a test pass.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The whole script.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Where each call becomes a line.
    pub log: Option<PathBuf>,
    /// The URIs that open; by default both, as with a daemon run by root.
    #[serde(default = "both_uris")]
    pub uris: Vec<String>,
    #[serde(default)]
    pub auth: Auth,
    #[serde(default = "version")]
    pub lib_version: u64,
    #[serde(default)]
    pub domains: Vec<Domain>,
    #[serde(default)]
    pub attach: Attach,
    #[serde(default)]
    pub detach: Detach,
    /// How long a call waits for another one's job on the same domain; libvirt's own wait by default.
    #[serde(default = "job_timeout")]
    pub job_timeout_ms: u64,
    #[serde(default)]
    pub lies: Vec<Order>,
    /// libvirtd or QEMU stops itself (SIGSTOP) at this step, once.
    pub stop: Option<Stopped>,
    /// The VM is paused while this file is there: each domain's state says so, and no guest answers.
    pub paused_while: Option<PathBuf>,
    /// Refusals are told in another language: the number and the domain stay, the words do not.
    #[serde(default)]
    pub foreign: bool,
    /// The double ends when its standard input does: with whoever started it, however that one ends.
    #[serde(default)]
    pub until_eof: bool,
}

impl Script {
    /// Whether reading the XML waits for a change that is under way: so it is in libvirt 11.0 to 11.4
    /// (`qemuDomainGetXMLDesc` takes a job), and neither before nor after.
    pub fn reading_takes_job(&self) -> bool {
        (11_000_000..11_005_000).contains(&self.lib_version)
    }

    pub fn is_paused(&self) -> bool {
        self.paused_while.as_ref().is_some_and(|file| file.exists())
    }
}

/// Who stops, and before which step.
#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Stopped {
    /// Before this command is sent.
    Libvirtd(Step),
    /// When this command was received, and before anything of it is done.
    Qemu(Step),
}

/// What libvirt has QEMU do for a NIC, in this order.
#[derive(Clone, Copy, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Unlinks, binds, listens.
    ChardevAdd,
    /// Waits for a back end.
    NetdevAdd,
    /// No command: within `netdev-add`, when the back end has answered the first question.
    Handshake,
    DeviceAdd,
    /// Asks the guest.
    DeviceDel,
    /// Closes the socket, once the guest has released the device.
    NetdevDel,
}

fn both_uris() -> Vec<String> {
    ["qemu:///system", "qemu:///session"].map(String::from).to_vec()
}

fn version() -> u64 {
    11_003_000
}

fn job_timeout() -> u64 {
    30_000
}

fn one() -> i32 {
    1
}

/// What AUTH_LIST answers.
#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    #[default]
    None,
    Polkit,
    PolkitRefused,
    Sasl,
}

/// A domain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    pub name: String,
    /// With or without dashes.
    pub uuid: String,
    /// -1 when it does not run.
    #[serde(default = "one")]
    pub id: i32,
    /// `virDomainState`.
    #[serde(default = "one")]
    pub state: i32,
    /// The live XML.
    pub xml: String,
    /// The stored XML, of a persistent domain.
    pub stored: Option<String>,
    /// The long job that holds it, for good (`virDomainJobOperation`).
    pub operation: Option<i32>,
}

/// How an attach goes, after libvirt's own checks.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Attach {
    /// Whether the socket is really bound and listened on, as QEMU does.
    pub socket: bool,
    pub data_plane: DataPlane,
    /// Before the answer.
    pub delay_ms: u64,
    /// Answers success and does nothing.
    pub ignore: bool,
    /// What the live XML shows of it afterwards.
    pub shows: Shows,
    /// How QEMU speaks to the first who dials the interface's socket.
    pub qemu: Qemu,
    /// What QEMU wants of a back end, where it makes the handshake.
    pub wants: Wants,
    /// A device that another client has plugged by the time that an attach comes: its XML.
    pub meanwhile: Option<String>,
    pub refuse: Option<Refuse>,
}

/// What QEMU wants of a back end, beside as many queue pairs as the interface has.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wants {
    /// How many regions of memory the VM has that a back end must map (`used + reserved` in `vhost_dev_init`), whatever its
    /// XML shows.
    pub memory_slots: u64,
    /// Virtio features; stands for whatever makes a QEMU hang up that no check foresees.
    pub features: u64,
    /// Features of the protocol, likewise.
    pub protocol_features: u64,
}

impl Default for Wants {
    fn default() -> Self {
        // The low memory of a VM takes two.
        Self { memory_slots: 2, features: 0, protocol_features: 0 }
    }
}

impl Default for Attach {
    fn default() -> Self {
        Self {
            socket: true,
            data_plane: DataPlane::default(),
            delay_ms: 0,
            ignore: false,
            shows: Shows::default(),
            qemu: Qemu::default(),
            wants: Wants::default(),
            meanwhile: None,
            refuse: None,
        }
    }
}

/// What the live XML shows of an interface that was attached.
#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Shows {
    #[default]
    It,
    Nothing,
    /// It, with another socket.
    OtherPath,
    /// It, two times.
    Twice,
}

/// QEMU's lies to its back end, in place of the handshake.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Qemu {
    #[default]
    Honest,
    /// A message that claims a payload of 4 GiB.
    Huge,
    /// A message of version 2.
    Version,
    /// A request that no specification has.
    Unknown,
    /// A reply to what nobody asked.
    Reply,
    /// A payload of another size than its request has.
    Size,
    /// Half a header, and then nothing.
    Half,
    /// A byte each second.
    Trickle,
    /// Requests for ever.
    Flood,
    /// Questions for ever, and none of the answers is read.
    Deaf,
    /// 250 descriptors with each of a hundred messages.
    Gift,
    /// Nothing.
    Silent,
}

/// Who dials the interface's socket.
#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum DataPlane {
    /// The double itself, at once: the attach returns.
    #[default]
    Own,
    /// Somebody else: the attach waits for the first to connect, without end, as QEMU does. Any connection will do.
    Wait,
    /// As `wait`, and who connects must also go through vhost-user's handshake as far as QEMU makes it before the guest's
    /// driver comes, and offer what QEMU wants; others are hung up on. QEMU has one back end at a time.
    Handshake,
    /// Nobody: the attach returns, the socket listens.
    None,
}

/// How a detach goes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Detach {
    pub guest: Guest,
    /// How long the guest takes.
    pub after_ms: u64,
    /// While this file is there the guest answers nothing, as one that boots; requests stay pending until it is gone.
    pub deaf_while: Option<PathBuf>,
    /// Whether DEVICE_REMOVED is sent.
    pub event: bool,
    /// Leaves the socket file behind, as a killed QEMU does.
    pub leave_socket: bool,
    pub refuse: Option<Refuse>,
}

impl Default for Detach {
    fn default() -> Self {
        Self { guest: Guest::default(), after_ms: 0, deaf_while: None, event: true, leave_socket: false, refuse: None }
    }
}

/// What the guest does when asked to let go.
#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Guest {
    #[default]
    Obeys,
    /// Ignores every request.
    Never,
    /// Obeys the second request.
    SecondAsk,
    /// Says no (DEVICE_REMOVAL_FAILED), as a pseries guest can.
    Refuses,
    /// Says no to the first request, and obeys the second.
    RefusesOnce,
    /// The whole domain stops instead.
    Stops,
    /// The device is said to be removed (DEVICE_REMOVED) and stays.
    Pretends,
    /// The XML shows the device no more, and QEMU still has it.
    Hides,
}

/// A refusal to order, for attach and detach.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    pub code: i32,
    #[serde(default = "qemu")]
    pub domain: i32,
    pub message: Option<String>,
    /// Whether it is said once, and the next call goes through.
    #[serde(default)]
    pub once: bool,
}

fn qemu() -> i32 {
    10
}

/// A lie, and when it is told.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The call: `connect`, `auth-list`, `auth-polkit`, `open`, `close`, `version`, `list`, `lookup`, `state`, `xml`,
    /// `persistent`, `attach`, `detach`, `detach-alias`, `subscribe`.
    pub at: String,
    /// Which of them, counted from 1 over all connections; each one by default.
    pub nth: Option<u32>,
    pub lie: Lie,
}

/// What is said instead of, or around, the honest answer.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Lie {
    /// The frame's first bytes, then the end of the connection.
    CutAt(usize),
    /// A whole frame with this much of the payload.
    ShortPayload(usize),
    /// Bytes after the payload, counted in the length.
    LongPayload(usize),
    /// Another length word.
    Length(u32),
    Program(u32),
    Version(u32),
    Procedure(i32),
    Type(i32),
    Serial(u32),
    Status(i32),
    /// A payload of that many bytes that mean nothing.
    Garbage(usize),
    /// Another first word of the payload: the length of a string, the count of an array.
    FirstWord(u32),
    /// The payload's last byte is not zero.
    Padding,
    /// The payload's fifth byte, a string's first, is 0xff.
    NotUtf8,
    /// A string with a NUL in it.
    Nul,
    /// Another id of the last domain in a list of them.
    LastId(i32),
    /// Another UUID of the last domain in a list of them.
    OtherUuid,
    /// DEVICE_REMOVED for ever, with this callback number.
    EventFlood(i32),
    /// DEVICE_REMOVED of the domain with this UUID for ever, with a callback number that nobody has.
    ForeignFlood(String),
    /// DEVICE_REMOVED of the domain with this UUID for ever, with callback number 0, of a device that nobody asked about.
    OwnFlood(String),
    /// DEVICE_REMOVED for ever, with callback number 0 and an alias of half a MiB: few make much.
    BigFlood,
    /// The same of an event that nobody subscribed to.
    BigUnknownFlood,
    /// Events that nobody subscribed to, for ever.
    UnknownEventFlood,
    /// Keepalive pings for ever.
    PingFlood,
    /// DEVICE_REMOVED for ever, with callback number 0, one per so many milliseconds.
    EventDrizzle(u64),
    /// Keepalive pings for ever, one per so many milliseconds.
    PingDrizzle(u64),
    /// The honest answer, and then this.
    AnswerThen(Box<Lie>),
    /// Pings, then the honest answer.
    Pings(u32),
    /// A byte per so many milliseconds.
    Trickle(u64),
    /// A length is claimed, the header follows, and then nothing.
    Claim(u32),
    /// A length is claimed and a string goes on for ever.
    Endless(u32),
    Silence,
    Close,
    /// The whole daemon ends, as in a restart.
    Exit,
    /// The whole daemon stops (SIGSTOP); QEMU goes on. For use after an answer.
    Stop,
    /// Descriptors come with the answer.
    Gift(usize),
    /// An answer to a call that was not made comes first.
    Unsolicited,
    /// The answer comes twice.
    Twice,
    /// The answer comes so many milliseconds late.
    Delay(u64),
    /// An error.
    Error {
        code: i32,
        domain: i32,
        message: Option<String>,
        /// How often the message is repeated.
        #[serde(default = "once")]
        repeat: usize,
    },
    /// What was asked is done, and then the connection closes without an answer.
    DoneButClose,
}

fn once() -> usize {
    1
}

impl Lie {
    /// Whether what was asked is done at all.
    pub fn acts(&self) -> bool {
        !matches!(self, Self::Error { .. } | Self::Silence | Self::Close | Self::Exit)
    }
}
