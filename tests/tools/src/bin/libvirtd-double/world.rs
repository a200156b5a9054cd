//! What libvirtd knows, over all connections: domains, their NICs, who listens for what.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::checks::{accepted, allowed, unsupported_flags};
use crate::devices::{Device, devices, free_port, without};
use crate::log::Log;
use crate::monitor::Monitor;
use crate::script::{Lie, Refuse, Script, Step, Stopped};
use crate::wire::{Head, Out, Refusal};

/// The end of a connection that several threads write to, a whole frame at a time.
pub type Writer = Arc<Mutex<UnixStream>>;

/// Flag: what runs.
pub const LIVE: i32 = 1;
/// Flag: what is stored.
pub const CONFIG: i32 = 2;
/// How many domains have their QEMU from the beginning, as all have in life.
const FROM_THE_BEGINNING: usize = 4;
/// How long libvirt waits for the guest in a detach by XML.
const DETACH_WAIT: Duration = Duration::from_secs(5);

pub const LIFECYCLE: (i32, i32) = (0, 318);
pub const DEVICE_REMOVED: (i32, i32) = (15, 333);
pub const DEVICE_ADDED: (i32, i32) = (19, 354);
pub const REMOVAL_FAILED: (i32, i32) = (22, 367);

pub struct World {
    pub script: Script,
    state: Mutex<State>,
    changed: Condvar,
    log: Log,
}

#[derive(Default)]
struct State {
    domains: Vec<Domain>,
    subscriptions: Vec<Subscription>,
    next_callback: i32,
    /// How often each call was made.
    calls: HashMap<String, u32>,
    /// The domains whose QEMU somebody waits for.
    awaited: Vec<[u8; 16]>,
}

#[derive(Clone)]
struct Subscription {
    callback: i32,
    connection: usize,
    event: i32,
    domain: Option<[u8; 16]>,
    writer: Writer,
}

#[derive(Default)]
pub struct Domain {
    pub name: String,
    pub uuid: [u8; 16],
    pub id: i32,
    pub state: i32,
    pub xml: String,
    pub stored: Option<String>,
    pub operation: Option<i32>,
    /// Its QEMU, if it runs.
    monitor: Option<Arc<Monitor>>,
    busy: bool,
    /// A domain that was not persistent and has ended: no call finds it any more.
    gone: bool,
}

impl Domain {
    pub fn encode(&self, out: Out) -> Out {
        out.text(&self.name).raw(&self.uuid).word(self.id)
    }

    /// The XML that the flags name.
    fn text(&self, flags: i32) -> &String {
        self.stored.as_ref().filter(|_| flags & CONFIG != 0).unwrap_or(&self.xml)
    }

    /// Removes a device from the live XML.
    fn forget(&mut self, alias: &str) {
        let all = devices(&self.xml, 2).expect("the XML is well-formed");
        if let Some(device) = all.iter().find(|device| device.alias == alias) {
            self.xml = without(&self.xml, &device.place);
        }
    }

    fn text_mut(&mut self, flags: i32) -> &mut String {
        self.stored.as_mut().filter(|_| flags & CONFIG != 0).unwrap_or(&mut self.xml)
    }
}

/// A UUID, with or without dashes.
pub fn uuid(text: &str) -> [u8; 16] {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&hex, 16).expect("a UUID").to_be_bytes()
}

/// A UUID as libvirt writes it.
fn dashed(uuid: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(uuid));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// What a call meets whose domain ends while it runs.
fn gone() -> Refusal {
    Refusal::new(55, 10, "Requested operation is not valid: domain is not running")
}

impl World {
    pub fn new(script: Script) -> Self {
        let domain = |domain: &crate::script::Domain| Domain {
            name: domain.name.clone(),
            uuid: uuid(&domain.uuid),
            id: domain.id,
            state: domain.state,
            xml: domain.xml.clone(),
            stored: domain.stored.clone(),
            operation: domain.operation,
            ..Domain::default()
        };
        let state = State { domains: script.domains.iter().map(domain).collect(), ..State::default() };
        let log = Log::open(&script);
        Self { script, state: Mutex::new(state), changed: Condvar::new(), log }
    }

    /// Starts the QEMUs of the first domains that run. Only the process' first thread may do this.
    pub fn boot(self: &Arc<Self>, script: &Path) {
        let state = self.lock();
        let running = state.domains.iter().filter(|domain| domain.id >= 0).map(|domain| domain.uuid);
        let running: Vec<_> = running.take(FROM_THE_BEGINNING).collect();
        drop(state);
        running.into_iter().for_each(|uuid| self.start(uuid, script));
    }

    /// Starts the QEMUs of the others, each when it is first needed: some scripts have thousands of domains. Only the process'
    /// first thread may do this.
    pub fn boot_on_demand(self: &Arc<Self>, script: &Path) {
        let mut state = self.lock();
        loop {
            if let Some(uuid) = state.awaited.pop() {
                drop(state);
                self.start(uuid, script);
                self.changed.notify_all();
                state = self.lock();
            } else {
                state = self.changed.wait(state).unwrap();
            }
        }
    }

    fn start(self: &Arc<Self>, uuid: [u8; 16], script: &Path) {
        if !matches!(self.by_uuid(uuid, |domain| domain.id >= 0 && domain.monitor.is_none()), Ok(true)) {
            return;
        }
        let stop = match self.script.stop {
            Some(Stopped::Libvirtd(step)) => Some(step),
            _ => None,
        };
        let world = Arc::clone(self);
        let monitor = Monitor::start(script, stop, move |event| world.heard(uuid, event));
        self.change(uuid, |domain| domain.monitor = Some(Arc::new(monitor)));
    }

    /// A domain's QEMU.
    fn monitor(&self, uuid: [u8; 16]) -> Result<Arc<Monitor>, Refusal> {
        let mut state = self.lock();
        loop {
            let domain = state.domains.iter().find(|domain| domain.uuid == uuid).ok_or_else(gone)?;
            if let Some(monitor) = &domain.monitor {
                return Ok(Arc::clone(monitor));
            }
            if domain.id < 0 {
                return Err(gone());
            }
            state.awaited.push(uuid);
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes a domain, if there is one.
    fn change(&self, uuid: [u8; 16], change: impl FnOnce(&mut Domain)) {
        if let Some(domain) = self.lock().domains.iter_mut().find(|domain| domain.uuid == uuid) {
            change(domain);
        }
    }

    /// Has a domain's QEMU execute a command.
    fn execute(&self, uuid: [u8; 16], step: Step, alias: &str, arguments: &Value) -> Result<(), Refusal> {
        self.monitor(uuid)?.execute(step, alias, arguments).map_err(|why| Refusal::new(1, 10, why))
    }

    /// Notes that everything that a client sent over this connection was done.
    pub fn ended(&self, connection: usize) {
        self.log.note(json!({"connection": connection, "ended": true}));
    }

    /// Writes one line about a call and counts it; the lie to tell in return, if one was ordered.
    pub fn called(&self, connection: usize, call: &str, args: &Value) -> Option<Lie> {
        self.log.note(json!({"connection": connection, "call": call, "args": args}));
        let mut state = self.lock();
        let count = state.calls.entry(call.to_owned()).or_default();
        *count += 1;
        let ordered = |order: &&crate::script::Order| order.at == call && order.nth.is_none_or(|nth| nth == *count);
        self.script.lies.iter().find(ordered).map(|order| order.lie.clone())
    }

    /// What `look` makes of the domain that matches.
    pub fn look<T>(&self, matches: impl Fn(&Domain) -> bool, look: impl FnOnce(&Domain) -> T) -> Option<T> {
        self.lock().domains.iter().find(|domain| !domain.gone && matches(domain)).map(look)
    }

    /// The UUID, if it is a domain's; the name is only repeated in the error, as libvirt does.
    pub fn known(&self, (name, uuid): (String, [u8; 16])) -> Result<[u8; 16], Refusal> {
        let message = || format!("Domain not found: no domain with matching uuid '{}' ({name})", dashed(uuid));
        self.look(|domain| domain.uuid == uuid, |_| uuid).ok_or_else(|| Refusal::new(42, 10, message()))
    }

    pub fn by_uuid<T>(&self, uuid: [u8; 16], look: impl FnOnce(&Domain) -> T) -> Result<T, Refusal> {
        self.look(|domain| domain.uuid == uuid, look).ok_or_else(gone)
    }

    /// The domains, on the wire: the active ones (flag 1), those that are not (2), or all.
    pub fn listed(&self, flags: i32) -> (u32, Out) {
        let state = self.lock();
        let is_asked_for = |domain: &&Domain| match flags & 3 {
            1 => domain.id >= 0,
            2 => domain.id < 0,
            _ => true,
        };
        let listed = || state.domains.iter().filter(|domain| !domain.gone).filter(is_asked_for);
        (u32::try_from(listed().count()).unwrap(), listed().fold(Out::default(), |out, domain| domain.encode(out)))
    }

    pub fn subscribe(
        &self,
        connection: usize,
        event: i32,
        domain: Option<[u8; 16]>,
        writer: Writer,
    ) -> Result<i32, Refusal> {
        let mut state = self.lock();
        if !(0..=27).contains(&event) {
            return Err(Refusal::new(1, 7, format!("internal error: unsupported event ID {event}")));
        }
        let same = |s: &Subscription| s.connection == connection && s.event == event && s.domain == domain;
        if state.subscriptions.iter().any(same) {
            return Err(Refusal::new(8, 0, "invalid argument: event callback already tracked"));
        }
        let callback = state.next_callback;
        state.next_callback += 1;
        state.subscriptions.push(Subscription { callback, connection, event, domain, writer });
        Ok(callback)
    }

    pub fn unsubscribe(&self, connection: usize) {
        self.lock().subscriptions.retain(|subscription| subscription.connection != connection);
    }

    /// Sends an event about a domain to whoever asked for it.
    fn tell(&self, uuid: [u8; 16], (event, procedure): (i32, i32), what: impl Fn(Out) -> Out) {
        let state = self.lock();
        let Some(domain) = state.domains.iter().find(|domain| domain.uuid == uuid) else { return };
        let heard = |s: &&Subscription| s.event == event && s.domain.is_none_or(|domain| domain == uuid);
        let letters: Vec<_> = state
            .subscriptions
            .iter()
            .filter(heard)
            .map(|s| {
                let payload = what(domain.encode(Out::default().word(s.callback))).0;
                (Arc::clone(&s.writer), Head::event(procedure).frame(&payload))
            })
            .collect();
        drop(state);
        self.log.note(json!({"event": procedure, "heard": letters.len()}));
        for (writer, frame) in letters {
            // A client that is gone hears nothing.
            let _ = writer.lock().unwrap().write_all(&frame);
        }
    }

    /// Runs `work` on a running domain while holding its job, as each change does in libvirt.
    fn job<T>(&self, uuid: [u8; 16], work: impl FnOnce(&Self) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let end = Instant::now() + Duration::from_millis(self.script.job_timeout_ms);
        let mut state = self.lock();
        loop {
            let domain = state.domains.iter_mut().find(|d| d.uuid == uuid).ok_or_else(gone)?;
            if !domain.busy {
                domain.busy = true;
                break;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let holder = "held by monitor=remoteDispatchDomainAttachDeviceFlags";
                let message = format!("Timed out during operation: cannot acquire state change lock ({holder})");
                return Err(Refusal::new(68, 10, message));
            }
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
        drop(state);
        let result = work(self);
        if let Some(domain) = self.lock().domains.iter_mut().find(|domain| domain.uuid == uuid) {
            domain.busy = false;
        }
        self.changed.notify_all();
        result
    }

    /// Waits for the domain's long job to end, which it does not; a backup (9) lets changes pass.
    fn changeable(&self, uuid: [u8; 16]) -> Result<(), Refusal> {
        if self.by_uuid(uuid, |domain| domain.operation.is_none_or(|operation| operation == 9))? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(self.script.job_timeout_ms));
        let holder = "held by monitor=remoteDispatchDomainMigratePerform3Params";
        let message = format!("Timed out during operation: cannot acquire state change lock ({holder})");
        Err(Refusal::new(68, 10, message))
    }

    /// The long job of a domain. To tell it libvirt waits for a change that is under way: it takes a job in every release
    /// (`qemuDomainGetJobStatsInternal`).
    pub fn operation(&self, uuid: [u8; 16]) -> Result<Option<i32>, Refusal> {
        self.job(uuid, |world| {
            world.by_uuid(uuid, |domain| allowed(domain, LIVE))??;
            world.by_uuid(uuid, |domain| domain.operation)
        })
    }

    /// The XML, live or stored; what does not run is described by what is stored. Waits for a change that is under way
    /// where the script's libvirt does.
    pub fn xml(&self, uuid: [u8; 16], stored: bool) -> Result<String, Refusal> {
        let xml = |d: &Domain| d.stored.as_ref().filter(|_| stored || d.id < 0).unwrap_or(&d.xml).clone();
        if self.script.reading_takes_job() {
            self.job(uuid, |world| world.by_uuid(uuid, xml))
        } else {
            self.by_uuid(uuid, xml)
        }
    }

    pub fn attach(&self, uuid: [u8; 16], xml: &str, flags: i32) -> Result<(), Refusal> {
        if flags & !3 != 0 {
            return Err(unsupported_flags(flags & !3, "qemuDomainAttachDeviceLiveAndConfig"));
        }
        self.changeable(uuid)?;
        self.job(uuid, |world| {
            world.by_uuid(uuid, |domain| allowed(domain, flags))??;
            if let Some(device) = world.script.attach.meanwhile.as_ref() {
                world.show(uuid, device, flags);
            }
            if let Some(refusal) = world.ordered("attach", world.script.attach.refuse.as_ref()) {
                return Err(refusal);
            }
            std::thread::sleep(Duration::from_millis(world.script.attach.delay_ms));
            if world.script.attach.ignore {
                return Ok(());
            }
            let device = world.accepted(uuid, xml, flags)?;
            if world.script.attach.socket && flags & CONFIG == 0 {
                let (alias, queues) = (&device.alias, device.queues.parse().unwrap_or(1));
                world.execute(uuid, Step::ChardevAdd, alias, &json!({"path": device.path}))?;
                // The guest stands still here until somebody dials; libvirt sets no limit to that.
                world.execute(uuid, Step::NetdevAdd, alias, &json!({"queues": queues}))?;
                world.execute(uuid, Step::DeviceAdd, alias, &Value::Null)?;
            }
            // Only now the definition has it (the end of qemuDomainAttachNetDevice).
            world.insert(uuid, &device, flags);
            world.tell(uuid, DEVICE_ADDED, |out| out.text(&device.alias));
            Ok(())
        })
    }

    /// Checks the interface as libvirt does, and gives it its place.
    fn accepted(&self, uuid: [u8; 16], xml: &str, flags: i32) -> Result<Device, Refusal> {
        let text = self.by_uuid(uuid, |domain| domain.text(flags).clone())?;
        let there = devices(&text, 2).expect("the script's XML is well-formed");
        let mut device = accepted(xml, &text, &there)?;
        let full = || Refusal::new(1, 20, "internal error: No more available PCI slots");
        device.bus = Some(device.bus.or_else(|| free_port(&there)).ok_or_else(full)?);
        Ok(device)
    }

    /// Puts an interface into the XML that the flags name.
    fn insert(&self, uuid: [u8; 16], device: &Device, flags: i32) {
        self.show(uuid, &device.shown(self.script.attach.shows), flags);
    }

    /// Puts a device's XML into that.
    fn show(&self, uuid: [u8; 16], device: &str, flags: i32) {
        self.change(uuid, |domain| {
            let text = domain.text(flags);
            let at = text.find("</devices>").expect("the script's XML has devices");
            let at = text[..at].rfind('\n').map_or(at, |line| line + 1);
            let text = [&text[..at], device, &text[at..]].concat();
            *domain.text_mut(flags) = text;
        });
    }

    fn ordered(&self, call: &str, refuse: Option<&Refuse>) -> Option<Refusal> {
        let refuse = refuse?;
        let first = self.lock().calls.get(call).is_none_or(|count| *count <= 1);
        (first || !refuse.once).then(|| Refusal {
            code: refuse.code,
            domain: refuse.domain,
            message: refuse.message.clone(),
            errno: None,
        })
    }

    /// Detaches what `find` finds; by XML libvirt waits for the guest, by alias it does not.
    pub fn detach(
        self: &Arc<Self>,
        uuid: [u8; 16],
        flags: i32,
        call: &str,
        find: impl Fn(&[Device]) -> Result<Device, Refusal>,
    ) -> Result<(), Refusal> {
        let stored = flags & CONFIG != 0;
        self.changeable(uuid)?;
        self.job(uuid, |world| {
            world.by_uuid(uuid, |domain| allowed(domain, flags))??;
            let look = |d: &Domain| if stored { d.stored.clone().unwrap_or_default() } else { d.xml.clone() };
            let text = world.by_uuid(uuid, look)?;
            let found = find(&devices(&text, 2).expect("the XML is well-formed"))?;
            let alias = found.alias;
            if let Some(refusal) = world.ordered(call, world.script.detach.refuse.as_ref()) {
                return Err(refusal);
            }
            if stored {
                // By its place: devices that are stored may have no alias.
                if let Some(domain) = world.lock().domains.iter_mut().find(|domain| domain.uuid == uuid) {
                    domain.stored = Some(without(&text, &found.place));
                }
                return Ok(alias);
            }
            // What QEMU does not have any more is as good as removed (qemuDomainDeleteDevice).
            match world.execute(uuid, Step::DeviceDel, &alias, &Value::Null) {
                Err(refusal) if refusal.message.as_ref().is_some_and(|why| why.ends_with("not found")) => {
                    world.unplug(uuid, &alias);
                }
                asked => asked?,
            }
            Ok(alias)
        })
        .map(|alias| {
            let begun = Instant::now();
            let there = || self.by_uuid(uuid, |d| d.xml.contains(&format!("<alias name='{alias}'/>"))).unwrap_or(false);
            while call == "detach" && !stored && there() && begun.elapsed() < DETACH_WAIT {
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    }

    /// An event of a domain's QEMU, or its end. Its work is done elsewhere: the monitor must be read meanwhile.
    fn heard(self: &Arc<Self>, uuid: [u8; 16], event: Value) {
        let world = Arc::clone(self);
        std::thread::spawn(move || {
            let alias = event["alias"].as_str().unwrap_or_default();
            match event["event"].as_str() {
                // processDeviceDeletedEvent: a job, and the rest of the device.
                Some("DEVICE_DELETED") => {
                    let removed = world.job(uuid, |world| {
                        world.unplug(uuid, alias);
                        Ok(())
                    });
                    if removed.is_ok() && world.script.detach.event {
                        world.tell(uuid, DEVICE_REMOVED, |out| out.text(alias));
                    }
                }
                Some("DEVICE_UNPLUG_GUEST_ERROR") => world.tell(uuid, REMOVAL_FAILED, |out| out.text(alias)),
                Some("SHUTDOWN") => world.stopped(uuid, &[(6, 2), (5, 1)]),
                Some("PRETENDS") => world.tell(uuid, DEVICE_REMOVED, |out| out.text(alias)),
                Some("HIDES") => world.change(uuid, |domain| domain.forget(alias)),
                // It was killed: the end of the monitor.
                _ => world.stopped(uuid, &[(5, 5)]),
            }
        });
    }

    /// A domain has stopped; `events` of its life tell of it, the last one when no call finds it running.
    fn stopped(&self, uuid: [u8; 16], events: &[(i32, i32)]) {
        let Some(((event, detail), before)) = events.split_last() else { return };
        let Ok(0..) = self.by_uuid(uuid, |domain| domain.id) else { return };
        for (event, detail) in before {
            self.tell(uuid, LIFECYCLE, |out| out.word(*event).word(*detail));
        }
        self.change(uuid, |domain| {
            (domain.id, domain.state, domain.gone) = (-1, 5, domain.stored.is_none());
            domain.monitor = None;
        });
        self.tell(uuid, LIFECYCLE, |out| out.word(*event).word(*detail));
    }

    /// What libvirt does once the guest has released a device (`qemuDomainRemoveNetDevice`).
    fn unplug(&self, uuid: [u8; 16], alias: &str) {
        // QEMU may have gone meanwhile.
        let _ = self.execute(uuid, Step::NetdevDel, alias, &Value::Null);
        self.change(uuid, |domain| domain.forget(alias));
    }
}
