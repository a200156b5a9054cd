//! `inspect POD [NIC]`: a pod's attachments, with what its libvirt says. Looks as CHECK does, but for people.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use super::Answer;
use super::attachment::{Ask, Attachments, CheckedPart, Mtu, ShownAttachment, ShownNic};
use super::list::unreadable;
use super::node_args::{self, NodeArgs};
use super::screen::{age, clean, json};
use crate::attachment::record::Record;
use crate::deadline::Deadline;

/// How long to wait for libvirt in all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shortest beginning of a uid that is accepted, in characters.
const UID_PART: usize = 4;

#[derive(Debug, Args)]
pub struct InspectOptions {
    /// The pod: NAMESPACE/NAME, its uid, or as much of the uid as no other pod shares
    pod: String,
    /// The NIC, if not all of the pod's
    nic: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Shows the attachments that are meant. Exit status 0 if there are any, and all is as ADD left it.
pub fn run(options: &InspectOptions) -> Answer {
    let look = |()| {
        let ask = Ask::Libvirt(Deadline::after(PATIENCE));
        let found = Attachments::look(&options.node.config(), |record| options.means(record), ask)?;
        options.one_pod(found)
    };
    let found = match node_args::enter_host_to_look().and_then(look) {
        Ok(found) => found,
        Err(why) => return Answer::failure(why),
    };
    let sound = found.attachments.iter().all(ShownAttachment::is_sound);
    let notes = found.unreadable.iter().map(unreadable).collect();
    if options.json {
        return Answer { text: json(&found), notes, sound };
    }
    let texts: Vec<String> = found.attachments.iter().map(described).collect();
    Answer { text: texts.join("\n"), notes, sound }
}

impl InspectOptions {
    fn means(&self, record: &Record) -> bool {
        let is_pod = if self.pod.contains('/') {
            record.pod == self.pod
        } else {
            self.pod.len() >= UID_PART && record.uid.starts_with(&self.pod)
        };
        is_pod && self.nic.as_ref().is_none_or(|nic| record.ifname == *nic)
    }

    /// Refuses no attachment at all, and attachments of several pods.
    fn one_pod(&self, found: Attachments) -> Result<Attachments, String> {
        let mut uids: Vec<&str> = found.attachments.iter().map(|one| one.uid.as_str()).collect();
        uids.dedup();
        match uids[..] {
            [] => {
                let nic = self.nic.as_ref().map_or(String::new(), |nic| format!(" {}", clean(nic)));
                let whole = found.unreadable.iter().map(unreadable).collect::<String>();
                Err(format!("{whole}no attachment{nic} of a pod {} is recorded on this node", clean(&self.pod)))
            }
            [_, _, ..] if !self.pod.contains('/') => {
                Err(format!("{} is the beginning of several pods' uids: {}", clean(&self.pod), uids.join(", ")))
            }
            _ => Ok(found),
        }
    }
}

fn described(one: &ShownAttachment) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<13}{value}", format!("{name}:"));
    };
    line("Pod", &format!("{} (uid {})", clean(&one.pod), clean(&one.uid)));
    line("NIC", &clean(&one.interface));
    line("Network", &clean(&one.network));
    line("Sandbox", &format!("{} ({})", clean(&one.container_id), clean(&one.netns.to_string_lossy())));
    line("Age", &age(one.age));
    // A missing mount's problem names the path itself.
    let state = if one.mount.needed {
        "shows the pod's volume"
    } else {
        "not mounted, and not needed: no vhost-user NIC of the pod is recorded"
    };
    let shown = format!("{}: {state}", one.mount.path.display());
    line("Mount", &judged(&one.mount.part, &shown, ""));
    let Some(nic) = &one.nic else {
        line("Plugged", "no: the attachment is the mount alone");
        return text;
    };
    let unfinished = if nic.attached { "" } else { " (ADD was cut short)" };
    let queues = nic.queues.map_or(String::new(), |queues| format!(", {queues} queue pairs"));
    line("Plugged", &format!("{}, MAC {}{queues}{unfinished}", clean(&nic.alias), clean(&nic.mac)));
    line("Socket", &judged(&nic.socket.part, "there", &nic.socket.path));
    line("On the host", &clean(&nic.socket.host_path.to_string_lossy()));
    line("VM", &vm(nic));
    if let Some(version) = &nic.vm.libvirt {
        line("libvirt", version);
    }
    if let Some(mtu) = nic.mtu {
        line("MTU", &describe_mtu(mtu));
    }
    line("Data plane", &judged(&nic.data_plane.part, "connected", ""));
    text
}

fn describe_mtu(Mtu { network, guest }: Mtu) -> String {
    match guest.cmp(&network) {
        Ordering::Equal => format!("{network}"),
        Ordering::Less => format!("{network} in the network, {guest} in the guest unless set there"),
        Ordering::Greater => {
            format!(
                "{network} in the network, {guest} in the guest: larger packets are lost until {network} is set there"
            )
        }
    }
}

fn vm(nic: &ShownNic) -> String {
    let name = nic.vm.name.as_ref().map_or_else(|| "not found".to_owned(), |name| clean(name));
    let state = nic.vm.state.map_or(String::new(), |state| format!(", {state}"));
    judged(&nic.vm.part, "has the NIC", &format!("{name} (uuid {}){state}", clean(&nic.vm.uuid)))
}

/// Returns `what`, if it isn't empty, and how that is: `sound` or the problem.
fn judged(part: &CheckedPart, sound: &str, what: &str) -> String {
    let wrong = if part.is_known { "MISSING" } else { "UNKNOWN" };
    let problem = |problem: &String| format!("{wrong}: {}", clean(problem));
    let verdict = part.problem.as_ref().map_or_else(|| sound.to_owned(), problem);
    if what.is_empty() { verdict } else { format!("{}: {verdict}", clean(what)) }
}
