//! `list`: the attachments of this node. Asks no pod's libvirt, and takes no lock.

use clap::Args;

use super::Answer;
use super::attachment::{Ask, Attachments, Mtu, ShownAttachment, UnreadableRecord};
use super::node_args::{self, NodeArgs};
use super::screen::{age, clean, json, table};

#[derive(Debug, Args)]
pub struct ListOptions {
    /// As JSON, with more fields
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Shows all attachments. Records that cannot be read make the exit status 1.
pub fn run(options: &ListOptions) -> Answer {
    let found =
        node_args::enter_host_to_look().and_then(|()| Attachments::look(&options.node.config(), |_| true, Ask::Kernel));
    let found = match found {
        Ok(found) => found,
        Err(why) => return Answer::failure(why),
    };
    let sound = found.unreadable.is_empty();
    if options.json {
        return Answer::of(json(&found), sound);
    }
    let mut notes: String = found.unreadable.iter().map(unreadable).collect();
    if found.attachments.is_empty() && sound {
        notes.push_str("No attachments on this node.\n");
        return Answer { text: String::new(), notes, sound };
    }
    let rows: Vec<_> = found.attachments.iter().map(row).collect();
    let header = ["POD", "NIC", "MAC", "SOCKET", "MOUNT", "VM", "DATA PLANE", "MTU", "AGE"];
    let text = if rows.is_empty() { String::new() } else { table(header, &rows) };
    Answer { text, notes, sound }
}

/// Returns the line on stderr about an unreadable record.
pub fn unreadable(record: &UnreadableRecord) -> String {
    format!("{} {}\n", clean(&record.path.display().to_string()), clean(&record.problem))
}

fn row(one: &ShownAttachment) -> [String; 9] {
    let word = |ok, yes: &str, no: &str| if ok { yes } else { no }.to_owned();
    let (mac, socket, vm, data_plane) = match &one.nic {
        Some(nic) => (
            clean(&nic.mac),
            clean(&nic.socket.path),
            if nic.vm.part.ok { "up" } else { nic.vm.nic }.to_owned(),
            match (nic.data_plane.part.ok, nic.data_plane.connected) {
                (true, _) => "connected",
                (false, true) => "cut off",
                (false, false) => "none",
            }
            .to_owned(),
        ),
        None => ("-".to_owned(), "-".to_owned(), "-".to_owned(), "-".to_owned()),
    };
    let mount = if one.mount.needed { word(one.mount.part.ok, "ok", "missing") } else { "not needed".to_owned() };
    let mtu = match one.nic.as_ref().and_then(|nic| nic.mtu) {
        Some(Mtu { network, guest }) if guest > network => format!("{network}, guest {guest}"),
        Some(Mtu { network, .. }) => network.to_string(),
        None => "-".to_owned(),
    };
    [clean(&one.pod), clean(&one.interface), mac, socket, mount, vm, data_plane, mtu, age(one.age)]
}
