//! Whether the VM has a NIC: the one answer for ADD, DEL, CHECK, GC, `list` and `inspect`. CHECK, `list` and `inspect` always
//! need it; ADD and DEL only if libvirt does not show the NIC.
//!
//! ```text
//!            ADD sends the attach       libvirt shows the NIC          DEL asks the guest        libvirt stops showing it
//!   Absent ───────────────────▶ Opening ─────────────────────▶ Plugged ─────────────────▶ Leaving ──────────────────▶ Absent
//!      ▲                           │                                                         │
//!      └───── the attach failed ───┘                      ADD finishes the removal first ────┘
//! ```
//!
//! There are three sources. The record says what libvirt and the guest were asked for. libvirt says what the VM's
//! description shows. The kernel says whether a process of the pod listens at the NIC's socket, as QEMU does while it has
//! the NIC. If none of them gives an answer, it is [`NicState::Unknown`], which never counts as gone.

use crate::attachment::record::{Nic, Record};
use crate::cni::Error;
use crate::pod::running::RunningPod;
use crate::pod::unix_path::UnixPath;

use super::errors;

/// The answer.
#[derive(Debug)]
pub enum NicState {
    /// The VM has it as requested.
    Plugged,
    /// The VM has it, but not as requested: what differs.
    Different(String),
    /// An attach was sent, and libvirt may still carry it out.
    Opening,
    /// The VM does not have it and won't get it, but a process of the pod listens at its socket: QEMU, which keeps the
    /// socket if libvirt ended in the middle of an attach, or another process.
    LeftOver,
    /// The VM has it, and the guest was asked to release it, or must be: it may go at any time. If the guest refused, the
    /// next DEL or ADD asks again.
    Leaving,
    /// The VM does not have it, and won't get it.
    Absent,
    /// Why it can't be known.
    Unknown(Error),
}

/// What the records say of a NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// An attach may have been sent, and nobody has seen its end.
    pub opening: bool,
    /// The guest may have been asked to release it, and nobody has seen its answer.
    pub leaving: bool,
}

impl Recorded {
    /// Returns what these records of a pod say of the NIC at this path, as QEMU knows it. An earlier sandbox of the pod may
    /// have plugged it.
    #[must_use]
    pub fn of(records: &[Record], path: &UnixPath) -> Self {
        let nics = records.iter().filter_map(|record| record.nic.as_ref()).filter(|nic| path.is(&nic.path));
        nics.map(Self::from).fold(Self::default(), |all, one| Self {
            opening: all.opening || one.opening,
            leaving: all.leaving || one.leaving,
        })
    }
}

impl From<&Nic> for Recorded {
    fn from(nic: &Nic) -> Self {
        Self { opening: !nic.attached, leaving: nic.detaching }
    }
}

/// What libvirt says of a NIC. If an attach may be under way, it was asked after [`crate::vm::attach::settle`].
#[derive(Debug)]
pub enum Heard {
    /// A VM has the NIC as requested.
    Same,
    /// A VM has the NIC, but not as requested: what differs.
    Different(String),
    /// No VM has it. If a process listens at its socket, each VM was asked after [`crate::vm::attach::settle`].
    Nothing,
    /// libvirt answers, but not about every VM.
    NoAnswer(Error),
    /// No libvirt answers.
    Unreached(Error),
    /// libvirt was not asked.
    Unasked,
}

/// Returns true if a process of the pod listens on the unix socket that it bound to this path, or to one that may be the
/// same.
pub fn listens(running: &RunningPod, path: &str) -> Result<bool, Error> {
    running.listens(path).map_err(|error| errors::system("listing the pod's unix sockets", &error))
}

/// Decides. `listens` says whether a process of the pod listens at the NIC's socket; it is called only if that matters.
pub fn judge(recorded: Recorded, heard: Heard, listens: impl FnOnce() -> Result<bool, Error>) -> NicState {
    match heard {
        Heard::Same | Heard::Different(_) if recorded.leaving => NicState::Leaving,
        Heard::Same => NicState::Plugged,
        Heard::Different(difference) => NicState::Different(difference),
        Heard::NoAnswer(error) => NicState::Unknown(error),
        Heard::Nothing => match listens() {
            Ok(true) => NicState::LeftOver,
            Ok(false) => NicState::Absent,
            Err(error) => NicState::Unknown(error),
        },
        // QEMU listens at the socket of a NIC as long as it has it.
        Heard::Unreached(error) => match listens() {
            Ok(false) if !recorded.opening => NicState::Absent,
            _ => NicState::Unknown(error),
        },
        Heard::Unasked => match listens() {
            Ok(true) if recorded.leaving => NicState::Leaving,
            Ok(true) if !recorded.opening => NicState::Plugged,
            Ok(false) if !recorded.opening => NicState::Absent,
            Ok(_) => NicState::Opening,
            Err(error) => NicState::Unknown(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENING: Recorded = Recorded { opening: true, leaving: false };
    const LEAVING: Recorded = Recorded { opening: false, leaving: true };
    const DONE: Recorded = Recorded { opening: false, leaving: false };

    fn unknown() -> Error {
        Error::try_again("silent")
    }

    #[test]
    fn what_is_unknown_is_never_gone() {
        for recorded in [OPENING, LEAVING, DONE] {
            for listens in [Ok(true), Err(unknown())] {
                let state = judge(recorded, Heard::Unreached(unknown()), || listens);
                assert!(matches!(state, NicState::Unknown(_)), "{recorded:?}: {state:?}");
            }
            let state = judge(recorded, Heard::NoAnswer(unknown()), || Ok(false));
            assert!(matches!(state, NicState::Unknown(_)), "{recorded:?}: {state:?}");
            let state = judge(recorded, Heard::Unasked, || Err(unknown()));
            assert!(matches!(state, NicState::Unknown(_)), "{recorded:?}: {state:?}");
        }
        // An attach that may still come about has no listener yet.
        assert!(matches!(judge(OPENING, Heard::Unreached(unknown()), || Ok(false)), NicState::Unknown(_)));
        assert!(matches!(judge(OPENING, Heard::Unasked, || Ok(false)), NicState::Opening));
        assert!(matches!(judge(DONE, Heard::Unreached(unknown()), || Ok(false)), NicState::Absent));
    }

    #[test]
    fn a_nic_whose_removal_was_asked_for_is_not_plugged() {
        assert!(matches!(judge(LEAVING, Heard::Same, || Ok(true)), NicState::Leaving));
        assert!(matches!(judge(LEAVING, Heard::Different(String::new()), || Ok(true)), NicState::Leaving));
        assert!(matches!(judge(LEAVING, Heard::Unasked, || Ok(true)), NicState::Leaving));
        assert!(matches!(judge(LEAVING, Heard::Nothing, || Ok(false)), NicState::Absent));
        assert!(matches!(judge(LEAVING, Heard::Unasked, || Ok(false)), NicState::Absent));
    }

    #[test]
    fn a_socket_that_is_listened_on_is_not_free() {
        for recorded in [OPENING, LEAVING, DONE] {
            assert!(matches!(judge(recorded, Heard::Nothing, || Ok(true)), NicState::LeftOver));
        }
    }
}
