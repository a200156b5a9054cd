//! The plugin out of the chain, and its binary away once nobody can call it any more.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Error, Journal, NAME, Places, binary, chain, remembered};
use crate::conflist::THEIRS;
use crate::file;
use crate::record::{Record, Store};

/// How many of those who may still call are named.
const NAMED: usize = 3;

/// Uninstalls. A binary that sandboxes may still call stays, and answers their DEL; another run removes it when they are
/// gone.
///
/// # Errors
/// See [`Error`]. With the chain unchanged, the binary stays.
pub fn uninstall(places: &Places, journal: &mut Journal) -> Result<(), Error> {
    chain::leave(places, journal)?;
    let installed = places.binary();
    if !installed.exists() {
        journal.say(&installed, "not there");
        return Ok(());
    }
    let _lock = if journal.is_dry() { None } else { Some(binary::lock(places)?) };
    if !journal.is_dry() && places.state_dir == Path::new(STATE) {
        bury(&installed, &records(places));
    }
    let sandboxes = remembered::sandboxes(&places.cache_dir);
    let records = records(places);
    if sandboxes.is_empty() && records.is_empty() {
        if !journal.is_dry() {
            file::remove(&installed)?;
            file::sync_directory(&places.bin_dir)?;
        }
        journal.did(&installed, "removed");
        return Ok(());
    }
    let some = |names: Vec<String>| {
        let more = if names.len() > NAMED { ", …" } else { "" };
        format!("{}{more}", names.into_iter().take(NAMED).collect::<Vec<_>>().join(", "))
    };
    let mut who = Vec::new();
    if !sandboxes.is_empty() {
        let names = sandboxes.iter().map(|path| path.display().to_string()).collect();
        who.push(format!("sandboxes made with it in the chain: {} ({})", sandboxes.len(), some(names)));
    }
    if !records.is_empty() {
        let names = records.iter().map(|record| format!("{} {}", record.pod, record.ifname)).collect();
        who.push(format!("attachments not undone: {} ({})", records.len(), some(names)));
    }
    journal.say(
        &installed,
        format_args!(
            "left for now: {}. Without it their pods could not end. When they are gone, uninstall again",
            who.join("; ")
        ),
    );
    Ok(())
}

/// The plugin's own directory of records where no configuration says otherwise.
const STATE: &str = "/run/vhostuser-hotplug";

fn records(places: &Places) -> Vec<Record> {
    let store = Store::new(&places.state_dir);
    store.pods().iter().flat_map(|uid| store.of_pod(uid)).collect()
}

/// Lets the plugin remove what pods that are gone have left. No DEL comes for them where the runtime undoes a sandbox by
/// the list of today, as containerd does. That it could not is told by its records, which are still there then.
fn bury(installed: &Path, records: &[Record]) {
    if records.is_empty() {
        return;
    }
    let attachment = |record: &Record| json!({"containerID": record.container_id, "ifname": record.ifname});
    let all: Vec<Value> = records.iter().map(attachment).collect();
    let conf = json!({"cniVersion": "1.1.0", "name": THEIRS, "type": NAME, "cni.dev/valid-attachments": all});
    let mut command = Command::new(installed);
    let command = command.env("CNI_COMMAND", "GC").env("CNI_PATH", "/opt/cni/bin").stdin(Stdio::piped());
    if let Ok(mut plugin) = command.stdout(Stdio::null()).spawn() {
        if let Some(mut stdin) = plugin.stdin.take() {
            let _ = stdin.write_all(conf.to_string().as_bytes());
        }
        let _ = plugin.wait();
    }
}
