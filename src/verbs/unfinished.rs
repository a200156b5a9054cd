//! An attach that was sent, and whose end nobody has seen: the ADD that sent it ran out of time, or was killed.
//!
//! libvirt carries it out whenever it can, whoever has given up meanwhile. So its NIC is not gone before libvirt has answered a
//! call that needs the VM's job, and a QEMU that waits for a back end by then is given one.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::cni::Error;
use crate::dataplane::seat::Seat;
use crate::dataplane::standin;
use crate::deadline::Deadline;
use crate::libvirt::{Client, Domain};
use crate::pod::volume::Volume;
use crate::quote;
use crate::vm::attach;

use super::fault;
use super::journal::Journal;
use super::sandbox::Living;

/// The socket of a NIC.
pub struct SocketName<'a> {
    /// The pod's volume.
    pub volume: &'a Volume,
    /// Its name in that.
    pub name: &'a str,
    /// Its path as QEMU knows it.
    pub path: &'a str,
}

/// Waits for the attach's end, and does some work then. A QEMU that waits for a back end is freed by a stand-in, whose NIC the
/// data plane can't serve: the work is told of it, and has the NIC unplugged while the stand-in is still there.
///
/// # Errors
/// That libvirt is still at work, or doesn't answer; the work's.
pub fn end<T>(
    socket: &SocketName<'_>,
    living: &Living,
    (client, domain): (&mut Client, &Domain),
    deadline: Deadline,
    journal: &mut Journal,
    work: impl FnOnce(&mut Client, &mut Journal, bool) -> Result<T, Error>,
) -> Result<T, Error> {
    let path = socket.volume.path().join(socket.name);
    let seat = Seat::new(socket.volume.fd(), socket.name, &path);
    let freed = AtomicBool::new(false);
    let waits = || living.waits_at(socket.path, deadline);
    let worked = standin::free(seat, waits, &freed, deadline, || {
        attach::settle(client, domain, deadline).map_err(|error| fault::held(&error))?;
        let freed = freed.load(Ordering::Acquire);
        if freed {
            journal.warn(format_args!("QEMU waited at {} for a back end, and was freed", quote::value(socket.path)));
        }
        journal.saw("attach ended");
        work(client, journal, freed)
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
