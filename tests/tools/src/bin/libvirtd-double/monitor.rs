//! libvirt's end of QEMU's monitor.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::sys::signal::{Signal, raise};
use serde_json::{Value, json};

use crate::script::Step;

/// Every QEMU that was started.
static QEMUS: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Ends every QEMU, and waits until it has ended: what it listened on is free then.
pub fn end_all() {
    for qemu in QEMUS.lock().unwrap().iter_mut() {
        let _ = qemu.kill();
        let _ = qemu.wait();
    }
}

/// A QEMU that runs, as libvirt sees it.
pub struct Monitor {
    /// A command holds it until it is answered.
    ends: Mutex<(UnixStream, Receiver<Value>)>,
    /// Where libvirtd has yet to stop itself.
    stop: Mutex<Option<Step>>,
}

impl Monitor {
    /// Starts a QEMU. `heard` is told each of its events, and its end (null) if it did not tell that itself. Only the first thread of the process
    /// may do this: QEMU ends with the thread that started it.
    pub fn start(script: &Path, stop: Option<Step>, heard: impl Fn(Value) + Send + 'static) -> Self {
        let (here, there) = UnixStream::pair().expect("two descriptors");
        let program = std::env::current_exe().expect("the double is a file");
        let mut qemu = Command::new(program);
        let qemu = qemu.arg("--qemu").arg(script).stdin(Stdio::from(OwnedFd::from(there))).stdout(Stdio::null());
        QEMUS.lock().unwrap().push(qemu.spawn().expect("the double can be started as QEMU"));
        let (sender, answers) = channel();
        // Its greeting: from here on it needs nothing of the test's any more.
        let mut lines = BufReader::new(here.try_clone().expect("a descriptor"));
        lines.read_line(&mut String::new()).expect("QEMU greets");
        std::thread::spawn(move || listen(lines, &sender, &heard));
        Self { ends: Mutex::new((here, answers)), stop: Mutex::new(stop) }
    }

    /// Has QEMU execute a command about a device, and waits for its answer without end, as libvirt does.
    pub fn execute(&self, step: Step, alias: &str, arguments: &Value) -> Result<(), String> {
        let mut ends = self.ends.lock().unwrap();
        if self.stop.lock().unwrap().take_if(|stop| *stop == step).is_some() {
            raise(Signal::SIGSTOP).expect("a process may stop itself");
        }
        let mut command = json!({"execute": step, "alias": alias});
        command.as_object_mut().unwrap().extend(arguments.as_object().cloned().unwrap_or_default());
        let gone = || "internal error: End of file from qemu monitor".to_owned();
        ends.0.write_all(format!("{command}\n").as_bytes()).map_err(|_| gone())?;
        let answer = ends.1.recv().map_err(|_| gone())?;
        let name = command["execute"].as_str().unwrap_or_default();
        let failed = |why: &str| format!("internal error: unable to execute QEMU command '{name}': {why}");
        answer["error"].as_str().map_or(Ok(()), |why| Err(failed(why)))
    }
}

fn listen(lines: impl BufRead, answers: &Sender<Value>, heard: &impl Fn(Value)) {
    let mut said_so = false;
    for line in lines.lines() {
        let Ok(line) = line else { break };
        let line: Value = serde_json::from_str(&line).expect("QEMU writes JSON");
        if line["event"].is_string() {
            said_so |= line["event"] == "SHUTDOWN";
            heard(line);
        } else if answers.send(line).is_err() {
            break;
        }
    }
    if !said_so {
        heard(Value::Null);
    }
}
