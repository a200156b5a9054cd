//! The log: a line of JSON for what happens, written by libvirtd and by QEMU, each line at once.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::script::Script;

/// The log, if the script names one.
pub struct Log(Option<File>);

impl Log {
    pub fn open(script: &Script) -> Self {
        let open = |path| OpenOptions::new().create(true).append(true).open(path).expect("the log can be written");
        Self(script.log.as_ref().map(open))
    }

    /// Writes one line: what happened, and when, in microseconds since 1970.
    pub fn note(&self, mut what: Value) {
        if let Some(mut log) = self.0.as_ref() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            what["t_us"] = json!(u64::try_from(now.as_micros()).unwrap());
            log.write_all(format!("{what}\n").as_bytes()).unwrap();
        }
    }
}
