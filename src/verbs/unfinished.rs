//! An attach that was sent, and whose end nobody has seen: the ADD that sent it ran out of time, or was killed.
//!
//! libvirt carries it out whenever it can, whoever has given up meanwhile. So its NIC is not gone before libvirt has answered a
//! call that needs the VM's job, and a QEMU that waits for a back end by then is given one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::cni::Error;
use crate::dataplane::seat::Seat;
use crate::dataplane::standin;
use crate::deadline::Deadline;
use crate::pod::volume::Volume;
use crate::quote;

use super::fault;
use super::journal::Journal;
use super::sandbox::Living;

/// How long a stand-in may take to get QEMU out of its wait, and how often that is looked at.
const FREED: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The socket of a NIC.
pub struct SocketName<'a> {
    /// The pod's volume.
    pub volume: &'a Volume,
    /// Its name in that.
    pub name: &'a str,
    /// Its path as QEMU knows it.
    pub path: &'a str,
}

/// Does some work to end the attach, with a stand-in beside it that frees a QEMU which waits for a back end, whether libvirt answers
/// or not. The data plane can't serve the NIC that comes of it, so `mark` records that it must go. The work is given a flag that
/// says whether a QEMU was freed.
///
/// # Errors
/// Those of marking; the work's.
pub fn end<T>(
    socket: &SocketName<'_>,
    living: &Living,
    deadline: Deadline,
    journal: &mut Journal,
    mark: impl Fn() -> Result<(), Error>,
    work: impl FnOnce(&mut Journal, &AtomicBool) -> Result<T, Error>,
) -> Result<T, Error> {
    let path = socket.volume.path().join(socket.name);
    let seat = Seat::new(socket.volume.fd(), socket.name, &path);
    let freed = AtomicBool::new(false);
    let waits = || living.wait_at(socket.path, deadline);
    let is_waiting = !waits().is_empty();
    if is_waiting {
        mark()?;
    }
    let worked = standin::free(seat, waits, &freed, deadline, || {
        let patience = deadline.at_most(FREED);
        while is_waiting && !freed.load(Ordering::Acquire) && !patience.passed() {
            thread::sleep(LOOK_AGAIN);
        }
        let outcome = work(journal, &freed);
        if freed.load(Ordering::Acquire) {
            journal.warn(format_args!("QEMU waited at {} for a back end, and was freed", quote::value(socket.path)));
            mark()?;
        }
        outcome
    });
    worked.map_err(|error| fault::system("starting the stand-in", &error))?.0
}

/// Somebody listens at the socket of a NIC that the VM does not have, as after an attach in whose midst libvirt ended.
pub fn left_over(path: &str, alias: &str) -> Error {
    // The alias may be the tenant's, and an operator types the commands.
    let is_plain = alias.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let how = match is_plain {
        true => format!(
            "remove it with virsh qemu-monitor-command DOMAIN --hmp 'netdev_del host{alias}' and 'chardev-remove \
             char{alias}', or restart the VM"
        ),
        false => "restart the VM".to_owned(),
    };
    Error::try_again(format!(
        "The VM does not have the NIC, but a process of the pod still listens at its socket {}. If libvirt ended in the \
         middle of an attach, QEMU has kept the socket: {how}.",
        quote::value(path)
    ))
}
