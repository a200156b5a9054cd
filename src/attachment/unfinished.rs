//! An attach that was sent, and whose end nobody has seen: the ADD that sent it ran out of time, or was killed.
//!
//! libvirt carries the attach out whenever it can, even if the caller has given up. So the NIC can't be taken for gone
//! before libvirt has answered a call that needs the VM's job. If a QEMU waits for a back end by then, it is given one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::cni::Error;
use crate::dataplane::socket_path::SocketPath;
use crate::dataplane::standin;
use crate::pod::running::RunningPod;
use crate::pod::volume::Volume;
use crate::quote;

use super::context::Context;
use super::errors;

/// How long a stand-in may take to get QEMU out of its wait, and the pause between two looks.
const FREED: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The socket of a NIC.
pub struct SocketName<'a> {
    pub volume: &'a Volume,
    /// The name of its file in the volume.
    pub name: &'a str,
    /// Its path as QEMU knows it.
    pub path: &'a str,
}

/// Does `work`, which ends the attach. Meanwhile a stand-in frees a QEMU that waits for a back end, whether libvirt answers
/// or not. The data plane can't serve the NIC that comes of it, so `mark` records that it must go. The flag that `work`
/// gets says whether a QEMU was freed.
pub fn end<T>(
    context: &Context<'_>,
    socket: &SocketName<'_>,
    running: &RunningPod,
    mark: impl Fn() -> Result<(), Error>,
    work: impl FnOnce(&AtomicBool) -> Result<T, Error>,
) -> Result<T, Error> {
    let Context { journal, deadline, .. } = *context;
    let path = socket.volume.path().join(socket.name);
    let socket_path = SocketPath::new(socket.volume.fd(), socket.name, &path);
    let freed = AtomicBool::new(false);
    let waits = || running.wait_at(socket.path, deadline);
    let is_waiting = !waits().is_empty();
    if is_waiting {
        mark()?;
    }
    let worked = standin::free(socket_path, waits, &freed, deadline, || {
        let patience = deadline.at_most(FREED);
        while is_waiting && !freed.load(Ordering::Acquire) && !patience.passed() {
            thread::sleep(LOOK_AGAIN);
        }
        let outcome = work(&freed);
        if freed.load(Ordering::Acquire) {
            journal.warn(format_args!("QEMU waited at {} for a back end, and was freed", quote::value(socket.path)));
            mark()?;
        }
        outcome
    });
    worked.map_err(|error| errors::system("starting the stand-in", &error))?.0
}

/// Says who listens at the socket of a NIC that no VM has, with no attach under way, and how to end that. `domain` is the
/// UUID of the VM that should have the NIC, 32 hexadecimal digits, if it is known; QEMU's own says which VM it is.
///
/// QEMU keeps what it made for a libvirt that ended in the middle of an attach, and no later libvirt knows of that. Only
/// QEMU's monitor removes it. A command to the monitor makes libvirt mark the domain as tainted for good, so this is left
/// to a person. What QEMU has kept may also be another client's.
pub fn left_over(running: &RunningPod, path: &str, alias: &str, domain: &str) -> String {
    let listener = running.listener(path);
    let name = listener.and_then(|process| process.name().ok()).unwrap_or_default();
    let who = match listener {
        Some(process) if name.starts_with("qemu") => format!("QEMU (process {})", process.pid()),
        Some(process) => format!("process {} ({})", process.pid(), quote::value(&name)),
        None => "a process of the pod".to_owned(),
    };
    let problem = format!("the VM does not have the NIC, but {who} listens at its socket {}", quote::value(path));
    if listener.is_some() && !name.starts_with("qemu") {
        return format!("{problem}: end that process, or let it listen elsewhere");
    }
    // The alias may be the tenant's, and an operator types the commands.
    let is_plain = alias.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let own = listener.and_then(|process| process.option("-uuid")).map(|uuid| uuid.replace('-', ""));
    let own = own.filter(|uuid| uuid.len() == 32 && uuid.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let monitor = format!("virsh qemu-monitor-command {} --hmp", dashed(own.as_deref().unwrap_or(domain)));
    let commands = match is_plain {
        true => {
            let of_alias = [
                format!("device_del {alias}"),
                format!("netdev_del host{alias}"),
                format!("chardev-remove char{alias}"),
            ];
            of_alias.map(|command| format!("{monitor} '{command}'")).join("; ")
        }
        false => format!("{monitor}, device_del, netdev_del and chardev-remove"),
    };
    format!(
        "{problem}: QEMU keeps it where libvirt ended in the middle of an attach. Run {commands} (what is not found is gone; if another \
         client's attach gave it another id, {monitor} 'info chardev' shows it next to the path), or restart the VM"
    )
}

/// A UUID as virsh takes it; what stands for one if it is not known.
fn dashed(digits: &str) -> String {
    match [digits.get(..8), digits.get(8..12), digits.get(12..16), digits.get(16..20), digits.get(20..)] {
        [Some(a), Some(b), Some(c), Some(d), Some(e)] if e.len() == 12 => [a, b, c, d, e].join("-"),
        _ => "DOMAIN".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::dashed;

    #[test]
    fn a_uuid_is_written_as_virsh_takes_it() {
        assert_eq!(dashed("11111111222233334444555555555555"), "11111111-2222-3333-4444-555555555555");
        assert_eq!(dashed(""), "DOMAIN");
        assert_eq!(dashed("ä"), "DOMAIN");
    }
}
