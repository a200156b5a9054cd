//! The log of one call: one line for each step that changed something, and one at the end.
//!
//! A line begins with the call, as `key=value`, and ends that head with a colon; the message follows. Untrusted names are
//! quoted in both ([`crate::quote`]), so that neither can be forged.

use std::fmt::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use log::{Level, debug, error, info, log};

use crate::cni::Error;
use crate::pod::identity::PodUid;

/// The log of one call, as it goes on.
pub struct Journal {
    call: String,
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    uid: String,
    step_begun: Instant,
    steps: String,
}

impl Journal {
    /// Begins the log. `call` and `uid`, the pod's, are the head of every line: what is untrusted in them is quoted.
    pub fn new(call: String, uid: String) -> Self {
        let now = Instant::now();
        Self { call, begun: now, state: Mutex::new(State { uid, step_begun: now, steps: String::new() }) }
    }

    /// Begins the log of a command that a person typed.
    pub fn of_command(command: &str, uid: &PodUid) -> Self {
        Self::new(command.to_owned(), uid.to_string())
    }

    /// Sets the pod's UID once it is known.
    pub fn set_pod(&self, uid: &PodUid) {
        self.state().uid = uid.to_string();
    }

    /// Logs a step that changed something.
    pub fn changed(&self, step: impl fmt::Display) {
        let mut state = self.state();
        let took = state.lap(&step);
        info!("{} uid={}: {step} ({took} ms)", self.call, state.uid);
    }

    /// Logs a step that only looked.
    pub fn checked(&self, step: impl fmt::Display) {
        let mut state = self.state();
        let took = state.lap(&step);
        debug!("{} uid={}: {step} ({took} ms)", self.call, state.uid);
    }

    /// Logs something that an operator may want to know, though the call goes on.
    pub fn warn(&self, what: impl fmt::Display) {
        log::warn!("{} uid={}: {what}", self.call, self.state().uid);
    }

    /// Logs the end. Nearly all calls have nothing to do: those are logged at level debug only.
    pub fn close(self, failure: Option<&Error>) {
        let took = self.begun.elapsed().as_millis();
        let State { uid, steps, .. } = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let call = self.call;
        match failure {
            Some(failure) => error!("{call} uid={uid}: failed after {took} ms{steps}: {failure}"),
            None => {
                let level = if steps.is_empty() { Level::Debug } else { Level::Info };
                log!(level, "{call} uid={uid}: done in {took} ms{steps}");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Adds a step to those that the last line lists. Returns how long it took, in milliseconds with their tenths: a call
    /// has so many steps that whole milliseconds would add up wrongly.
    fn lap(&mut self, step: &impl fmt::Display) -> String {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.step_begun).as_secs_f64() * 1000.0;
        self.step_begun = now;
        let took = format!("{took:.1}");
        // Writing to a string cannot fail.
        let _ = write!(self.steps, "; {step} {took} ms");
        took
    }
}
