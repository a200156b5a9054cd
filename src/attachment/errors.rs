//! Maps the errors of the lower modules to CNI codes and messages. What only this module's neighbours find out, such as a NIC
//! that another client plugged, gets its code where it is found.
//!
//! An error's text contains that of its cause. `source()` is for code that looks for the cause, not for printing.

use nix::errno::Errno;

use crate::cni::Error;
use crate::cni::error::code;
use crate::libvirt;
use crate::pod::{daemon, identity, volume};
use crate::{dataplane, quote, sys, vm};

use super::{hypervisor, record, share};

/// Makes a text a sentence: the lower modules write theirs as parts of one.
pub fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let stop = if text.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{first}{}{stop}", characters.as_str())
}

/// Maps the error of a system call on the host's own files.
pub fn system(doing: &str, error: &sys::Error) -> Error {
    if error.is_without_openat2() {
        let what =
            "The plugin does nothing for this pod: its files can be touched safely only with the system call openat2.";
        return Error::io(what).with_details(error);
    }
    let what = sentence(doing);
    let what = what.trim_end_matches('.');
    if error.errno() == Errno::ETIMEDOUT {
        // One of the kernel's lists is long, or the machine is busy: no fault of the files.
        return Error::try_again(format!("{what} took too long. The next call may succeed.")).with_details(error);
    }
    Error::io(format!("{what} failed.")).with_details(error)
}

/// CNI_NETNS can't be used.
pub fn netns(error: &sys::Error) -> Error {
    Error::invalid_environment("CNI_NETNS does not name a network namespace that can be used.").with_details(error)
}

/// CNI_NETNS is the host's.
pub fn netns_of_host() -> Error {
    Error::invalid_environment("CNI_NETNS names the host's own network namespace: it must be the pod's.")
}

/// Maps an error of the pod's volume.
pub fn volume(error: &volume::Error) -> Error {
    match error {
        volume::Error::Untrusted { .. } => Error::untrusted_files(sentence(&error.to_string())),
        volume::Error::System(error) => system("looking at the pod's volume", error),
    }
}

/// Maps an error of identifying the pod.
pub fn identity(error: &identity::Error) -> Error {
    match error {
        identity::Error::Ambiguous(_) => Error::invalid_environment(format!(
            "CNI_NETNS does not identify the pod: {}. Set K8S_POD_UID in CNI_ARGS.",
            error
        )),
        identity::Error::System(error) => system("looking for the processes of CNI_NETNS", error),
    }
}

/// Maps an error of the share.
pub fn share(error: &share::Error) -> Error {
    if error.is_untrusted() {
        return Error::untrusted_files(format!(
            "Something is in the way of the pod's share, or moves while it is made: {error}."
        ));
    }
    Error::io("The pod's volume could not be shared with the data plane.").with_details(error)
}

/// Maps an error of the records or the lock.
pub fn record(error: &record::Error) -> Error {
    match error {
        record::Error::LockTimedOut(_) => Error::try_again(sentence(&error.to_string())),
        record::Error::System(error) => system("keeping the record of the attachment", error),
    }
}

/// Maps an error of finding the pod's libvirt daemon.
pub fn daemon(error: &daemon::Error) -> Error {
    match error {
        daemon::Error::Absent { .. } => Error::try_again(
            "The pod has no libvirt daemon that answers (yet), so there is no VM to plug the NIC into.",
        )
        .with_details(error),
        daemon::Error::Untrusted { .. } => Error::untrusted_files(sentence(&error.to_string())),
        daemon::Error::System(error) => system("looking for the pod's libvirt daemon", error),
    }
}

impl From<hypervisor::Error> for Error {
    fn from(error: hypervisor::Error) -> Self {
        match error {
            hypervisor::Error::Daemon(error) => daemon(&error),
            hypervisor::Error::Libvirt(error) => libvirt(&error),
        }
    }
}

/// Maps an error of the connection to libvirt, before a call on a VM.
pub fn libvirt(error: &libvirt::Error) -> Error {
    let retry = error.is_retryable();
    let broken = "The pod's libvirt daemon cannot be spoken to.";
    if error.is_authentication() {
        Error::libvirt(sentence(&error.to_string()))
    } else {
        Error::new(if retry { code::TRY_AGAIN } else { code::LIBVIRT }, broken).with_details(error)
    }
}

/// Maps an error of the probe, before the VM was touched. `host_path` is the socket's path for the data plane; `why`
/// returns the reason, if OVS knows it.
pub fn data_plane(error: &dataplane::probe::Error, host_path: &str, why: impl FnOnce() -> Option<String>) -> Error {
    use dataplane::probe::Error as E;
    let host_path = quote::value(host_path);
    let why = if matches!(error, E::System(_)) { None } else { why() };
    match (error, why) {
        (E::Nobody { .. }, Some(why)) => {
            Error::try_again(format!("No data plane connected to {host_path}, so the VM was left as it is. {why}"))
                .with_details(error)
        }
        (E::Answer { .. }, Some(why)) => Error::try_again(format!(
            "What connected to {host_path} did not answer as a data plane does, so the VM was left as it is. {why}"
        ))
        .with_details(error),
        (E::Gone { .. }, Some(why)) => Error::try_again(format!(
            "A data plane connected to {host_path} and answered, and then did not connect again, so the VM was left as it is. \
             {why}"
        ))
        .with_details(error),
        (error, _) => data_plane_unknown(error, &host_path),
    }
}

/// As [`data_plane`], without a reason.
fn data_plane_unknown(error: &dataplane::probe::Error, host_path: &str) -> Error {
    use dataplane::probe::Error as E;
    match error {
        E::Nobody { .. } => Error::try_again(format!(
            "No data plane connected to {host_path}, so the VM was left as it is. Does OVS run (ovs-vsctl show), does it have a port \
             with that vhost-server-path (ovs-vsctl find Interface type=dpdkvhostuserclient), and does it see the path (ls \
             -l, in its own container)?"
        ))
        .with_details(error),
        E::Answer { .. } => Error::try_again(format!(
            "What connected to {host_path} did not answer as a data plane does, so the VM was left as it is. Does OVS hang?"
        ))
        .with_details(error),
        E::Gone { .. } => Error::try_again(format!(
            "A data plane connected to {host_path} and answered, and then did not connect again, so the VM was left as it is. \
             Was OVS stopped, or its port removed (ovs-vsctl find Interface type=dpdkvhostuserclient)?"
        ))
        .with_details(error),
        E::System(cause) if error.is_untrusted() => Error::untrusted_files(format!(
            "Something is at the NIC's socket {host_path}, or is put there again and again, that is not a socket of QEMU."
        ))
        .with_details(cause),
        E::System(cause) => system("listening at the NIC's socket", cause),
    }
}

/// Maps an error of plugging or unplugging.
pub fn vm(error: &vm::error::Error) -> Error {
    use vm::error::Error as E;
    match error {
        E::SeveralDomains(_) => Error::invalid_config(sentence(&error.to_string())),
        E::Conflict(_) => Error::conflict(sentence(&error.to_string())),
        E::Libvirt(error) => refused(error),
        E::Explained { why, refusal } => vm(why).with_details(refusal),
        error if error.is_retryable() => Error::try_again(sentence(&error.to_string())),
        error => Error::libvirt(sentence(&error.to_string())),
    }
}

/// Maps an error of a call that libvirt answers at once, unless another operation holds the VM (after 30 s that is
/// error 68).
pub fn held(error: &vm::error::Error) -> Error {
    match error {
        vm::error::Error::Libvirt(error @ libvirt::Error::TimedOut { .. }) => busy(error),
        _ => vm(error),
    }
}

fn busy(error: &libvirt::Error) -> Error {
    Error::try_again(
        "Another operation on the VM is stuck or still at work, such as a migration. If it is another client's attach of a \
         vhost-user NIC, the VM stands still until the NIC's data plane connects: run vhostuser-hotplug rescue, \
         which frees such a VM.",
    )
    .with_details(error)
}

/// Maps a refusal of libvirt.
fn refused(error: &libvirt::Error) -> Error {
    if error.is_no_domain() || error.is_wrong_state() {
        return Error::try_again("The VM is not running (any more), or has not arrived from another host yet.")
            .with_details(error);
    }
    if error.is_busy() {
        return busy(error);
    }
    if error.refusal().is_none() {
        return libvirt(error);
    }
    Error::libvirt("libvirt refused; its message is in the details.").with_details(error)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_list_that_takes_too_long_may_be_read_by_the_next_call() {
        let error = |errno: Errno| sys::Error::of("read", Path::new("/proc/1/net/unix"), &errno.into());
        let timed_out = system("listing the pod's unix sockets", &error(Errno::ETIMEDOUT));
        assert_eq!(timed_out.code, code::TRY_AGAIN);
        assert_eq!(timed_out.msg, "Listing the pod's unix sockets took too long. The next call may succeed.");
        assert_eq!(system("listing the pod's unix sockets", &error(Errno::EIO)).code, code::IO);
    }
}
