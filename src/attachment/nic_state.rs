//! Whether the VM has a NIC: the one answer that ADD, DEL, CHECK, GC, `list` and `inspect` go by. CHECK, `list` and `inspect` ask
//! for it always, ADD and DEL where libvirt does not show the NIC.
//!
//! ```text
//!            ADD sends the attach       libvirt shows the NIC          DEL asks the guest        libvirt shows it no more
//!   Absent ───────────────────▶ Opening ─────────────────────▶ Plugged ─────────────────▶ Leaving ──────────────────▶ Absent
//!      ▲                           │                                                         │
//!      └───── the attach failed ───┘                      ADD finishes the removal first ────┘
//! ```
//!
//! Three know a part of it: the record, what was asked of libvirt and the guest; libvirt, what the VM's description shows;
//! the kernel, whether a process of the pod listens at the NIC's socket, as QEMU does while it has the NIC. What none of them
//! can tell is [`NicState::Unknown`], which is never taken for the NIC's being gone.

use crate::attachment::record::{Nic, Record};
use crate::cni::Error;
use crate::pod::unix_path::UnixPath;

/// The answer.
#[derive(Debug)]
pub enum NicState {
    /// The VM has it, as asked for.
    Plugged,
    /// The VM has it, but not as asked for: what differs.
    Different(String),
    /// An attach was sent, and may still be carried out.
    Opening,
    /// The VM does not have it, nothing is under way that would change that, and a process of the pod listens at its socket: QEMU,
    /// which keeps it where libvirt ended in the middle of an attach, or somebody else.
    LeftOver,
    /// The VM has it, and the guest was asked to release it, or must be: it may go at any time. If the guest refused, the next DEL
    /// or ADD asks again.
    Leaving,
    /// The VM does not have it, and nothing is under way that would change that.
    Absent,
    /// It cannot be known: why.
    Unknown(Error),
}

/// What the records say of a NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// An attach may have been sent, and nobody has seen its end.
    pub opening: bool,
    /// The guest may have been asked to release it, and nobody has seen the end of that.
    pub leaving: bool,
}

impl Recorded {
    /// What these records of a pod say of the NIC at this path, as QEMU knows it. An earlier sandbox of the pod may have
    /// plugged it.
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

/// What libvirt says of a NIC. Where an attach may be under way, it was asked after [`crate::vm::attach::settle`].
#[derive(Debug)]
pub enum Heard {
    /// A VM has the NIC as asked for.
    Same,
    /// A VM has the NIC, otherwise than asked for.
    Different(String),
    /// No VM has it. If somebody listens at its socket, each was asked after [`crate::vm::attach::settle`].
    Nothing,
    /// It answers, and says nothing of some VM.
    NoWord(Error),
    /// There is no libvirt that answers.
    Unreached(Error),
    /// It was not asked.
    Unasked,
}

/// Judges. `listens` says whether a process of the pod listens at the NIC's socket, and is called only where that matters.
pub fn judge(recorded: Recorded, heard: Heard, listens: impl FnOnce() -> Result<bool, Error>) -> NicState {
    match heard {
        Heard::Same | Heard::Different(_) if recorded.leaving => NicState::Leaving,
        Heard::Same => NicState::Plugged,
        Heard::Different(difference) => NicState::Different(difference),
        Heard::NoWord(error) => NicState::Unknown(error),
        Heard::Nothing => match listens() {
            Ok(true) => NicState::LeftOver,
            Ok(false) => NicState::Absent,
            Err(error) => NicState::Unknown(error),
        },
        // A NIC that has come about has a listener as long as it is there.
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
            let state = judge(recorded, Heard::NoWord(unknown()), || Ok(false));
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
