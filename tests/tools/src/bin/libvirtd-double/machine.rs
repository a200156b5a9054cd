//! QEMU: a process of its own, as in life, so that it can be stopped while libvirtd runs, and go on while libvirtd is stopped.
//!
//! It reads libvirt's commands from its monitor, one JSON document a line, and answers each; events go the same way. As in
//! QEMU there is one big lock: while a command waits for a back end (`net_vhost_user_init` loops until one is accepted), no
//! other command is read, no vCPU gets to its devices, and the guest removes nothing.
//!
//! Its ways are those of QEMU 10.0. Each command, each wait for a back end and each back end that it drops becomes a line
//! in the script's log.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use serde_json::{Value, json};

use crate::log::Log;
use crate::script::{Guest, Script, Step, Stopped};
use crate::socket::Socket;

const PAUSE: Duration = Duration::from_millis(5);

struct Machine {
    script: Script,
    log: Log,
    monitor: Mutex<UnixStream>,
    /// The big lock.
    devices: Mutex<Devices>,
    /// Where it has yet to stop itself.
    stop: Mutex<Option<Step>>,
}

#[derive(Default)]
struct Devices {
    sockets: HashMap<String, Socket>,
    /// How often the guest was asked to release a device.
    asks: HashMap<String, u32>,
    /// What the guest has released, and was not plugged again.
    released: HashSet<String>,
}

/// Runs the machine until libvirt's end of the monitor closes. Its standard input is the monitor.
pub fn run(script: Script) {
    // Without libvirtd nobody would ever end it. libvirt's own QEMU outlives libvirtd; this one is part of a test.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::Kill)).expect("prctl");
    // By that a QEMU is known.
    std::fs::write("/proc/self/comm", "qemu-system-x86").expect("a process may name itself");
    let monitor = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor"));
    let commands = BufReader::new(monitor.try_clone().expect("a descriptor"));
    let stop = match script.stop {
        Some(Stopped::Qemu(step)) => Some(step),
        _ => None,
    };
    let machine = Arc::new(Machine {
        log: Log::open(&script),
        script,
        monitor: Mutex::new(monitor),
        devices: Mutex::default(),
        stop: Mutex::new(stop),
    });
    machine.say(&json!({"QMP": {}}));
    for line in commands.lines() {
        let Ok(line) = line else { break };
        let command: Value = serde_json::from_str(&line).expect("libvirt writes JSON");
        let answer = match machine.execute(&command) {
            Ok(()) => json!({"return": {}}),
            Err(why) => json!({"error": why}),
        };
        machine.say(&answer);
    }
}

impl Machine {
    fn say(&self, what: &Value) {
        // libvirtd may be gone.
        let _ = self.monitor.lock().unwrap().write_all(format!("{what}\n").as_bytes());
    }

    /// Stops the process here, if the script says so.
    fn stop_at(&self, step: Step) {
        let mut stop = self.stop.lock().unwrap();
        if *stop == Some(step) {
            *stop = None;
            drop(stop);
            raise(Signal::SIGSTOP).expect("a process may stop itself");
        }
    }

    fn execute(self: &Arc<Self>, command: &Value) -> Result<(), String> {
        let text = |key: &str| command[key].as_str().unwrap_or_default();
        let step: Step = serde_json::from_value(command["execute"].clone()).expect("a command of libvirt's");
        let alias = text("alias");
        let mut devices = self.devices.lock().unwrap();
        self.log.note(json!({"qemu": command["execute"], "alias": alias}));
        self.stop_at(step);
        match step {
            Step::ChardevAdd => {
                let failed = |why| format!("Failed to add chardev 'char{alias}': {why}");
                let socket = Socket::listen(text("path"), &self.script.attach).map_err(failed)?;
                devices.sockets.insert(alias.to_owned(), socket);
            }
            Step::NetdevAdd => {
                let queues = command["queues"].as_u64().unwrap_or(1);
                let socket = devices.sockets.get_mut(alias).ok_or("no such chardev")?;
                self.log.note(json!({"vm": "waits", "alias": alias}));
                let in_handshake = || self.stop_at(Step::Handshake);
                let dropped = |why: &str| self.log.note(json!({"qemu": "drops its back end", "why": why}));
                socket.wait_connected(queues, in_handshake, dropped);
                self.log.note(json!({"vm": "runs", "alias": alias}));
                self.keep(alias);
            }
            Step::DeviceAdd => {
                devices.released.remove(alias);
                if let Some(socket) = devices.sockets.get(alias) {
                    socket.enable();
                }
            }
            Step::DeviceDel => {
                if devices.released.contains(alias) {
                    return Err(format!("Device '{alias}' not found"));
                }
                let asks = devices.asks.entry(alias.to_owned()).or_default();
                *asks += 1;
                self.ask_guest(alias, *asks);
            }
            Step::NetdevDel => {
                if let Some(socket) = devices.sockets.remove(alias)
                    && self.script.detach.leave_socket
                {
                    socket.leave();
                }
            }
            Step::Handshake => return Err("no command".to_owned()),
        }
        Ok(())
    }

    /// Serves a NIC's socket from now on: takes the next back end when one has gone (`net_vhost_user_event`). The main loop
    /// does that in QEMU, so it holds the big lock while it speaks with one.
    fn keep(self: &Arc<Self>, alias: &str) {
        let (machine, alias) = (Arc::clone(self), alias.to_owned());
        std::thread::spawn(move || {
            loop {
                let mut devices = machine.devices.lock().unwrap();
                let Some(socket) = devices.sockets.get_mut(&alias) else { break };
                if socket.is_called() {
                    machine.log.note(json!({"vm": "waits", "alias": alias}));
                    socket.take_next(|why| machine.log.note(json!({"qemu": "drops its back end", "why": why})));
                    machine.log.note(json!({"vm": "runs", "alias": alias}));
                }
                drop(devices);
                std::thread::sleep(PAUSE);
            }
        });
    }

    /// Asks the guest to release a device. A request that it does not answer stays pending, and nothing shows it.
    fn ask_guest(self: &Arc<Self>, alias: &str, asks: u32) {
        let detach = &self.script.detach;
        let answer = match (detach.guest, asks) {
            (Guest::Never, _) | (Guest::SecondAsk, 1) => return,
            (Guest::SecondAsk, _) => Guest::Obeys,
            (Guest::RefusesOnce, 1) => Guest::Refuses,
            (Guest::RefusesOnce, _) => Guest::Obeys,
            (guest, _) => guest,
        };
        let (machine, alias, after) = (Arc::clone(self), alias.to_owned(), Duration::from_millis(detach.after_ms));
        std::thread::spawn(move || {
            std::thread::sleep(after);
            while machine.guest_is_deaf() {
                std::thread::sleep(PAUSE);
            }
            machine.answered(&alias, answer);
        });
    }

    /// Whether the guest neither runs nor listens: it is paused, or boots.
    fn guest_is_deaf(&self) -> bool {
        self.script.is_paused() || self.script.detach.deaf_while.as_ref().is_some_and(|file| file.exists())
    }

    /// The guest has made up its mind.
    fn answered(&self, alias: &str, answer: Guest) {
        let mut devices = self.devices.lock().unwrap();
        let event = match answer {
            Guest::Refuses => "DEVICE_UNPLUG_GUEST_ERROR",
            Guest::Pretends => "PRETENDS",
            Guest::Hides => "HIDES",
            Guest::Stops => {
                devices.sockets.clear();
                self.say(&json!({"event": "SHUTDOWN", "alias": alias}));
                std::process::exit(0);
            }
            // It was asked several times, and has answered already.
            _ if !devices.released.insert(alias.to_owned()) => return,
            _ => "DEVICE_DELETED",
        };
        self.log.note(json!({"qemu": event, "alias": alias}));
        self.say(&json!({"event": event, "alias": alias}));
    }
}

/// What a descriptor is made of that only has to be one.
pub fn any_file() -> File {
    File::open("/dev/null").expect("/dev/null is there")
}
