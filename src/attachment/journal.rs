//! What a call tells the log: one line for each step that changed something, one at its end.
//!
//! A line begins with the call, as `key=value`, and ends that head with a colon; the words follow. What others chose is
//! quoted in both ([`crate::quote`]), so that neither can be forged.

use std::fmt::{self, Write as _};
use std::time::Instant;

use log::{Level, debug, error, info, log};

use crate::cni::{Error, Request};
use crate::pod::identity::PodUid;
use crate::quote;

/// The story of one call, as it goes.
pub struct Journal {
    call: String,
    uid: String,
    begun: Instant,
    step_begun: Instant,
    steps: String,
}

impl Journal {
    /// Begins the story.
    pub fn new(request: &Request) -> Self {
        let mut call = request.command.to_string();
        if !request.container_id.is_empty() {
            let pod = |key| request.args.get(key).unwrap_or("-");
            // Writing to a string cannot fail.
            let _ = write!(
                call,
                " containerid={} ifname={} netns={} pod={}",
                quote::value(&request.container_id),
                quote::value(&request.ifname),
                request.netns.as_deref().map_or("-".into(), |path| quote::value(&path.to_string_lossy())),
                quote::value(&format!("{}/{}", pod("K8S_POD_NAMESPACE"), pod("K8S_POD_NAME"))),
            );
        }
        Self::begin(call, quote::value(request.args.get("K8S_POD_UID").unwrap_or("-")))
    }

    /// Begins the log of a person's command about a pod.
    pub fn of_command(command: &str, uid: &PodUid) -> Self {
        Self::begin(command.to_owned(), uid.to_string())
    }

    fn begin(call: String, uid: String) -> Self {
        let now = Instant::now();
        Self { call, uid, begun: now, step_begun: now, steps: String::new() }
    }

    /// Which pod it is turned out.
    pub fn set_pod(&mut self, uid: &PodUid) {
        self.uid = uid.to_string();
    }

    /// A step that changed something is done.
    pub fn changed(&mut self, step: impl fmt::Display) {
        let took = self.lap();
        info!("{} uid={}: {step} ({took} ms)", self.call, self.uid);
        let _ = write!(self.steps, "; {step} {took} ms");
    }

    /// A step that only looked is done.
    pub fn checked(&mut self, step: impl fmt::Display) {
        let took = self.lap();
        debug!("{} uid={}: {step} ({took} ms)", self.call, self.uid);
        let _ = write!(self.steps, "; {step} {took} ms");
    }

    /// Something that an operator may want to know, though the call goes on.
    pub fn warn(&self, what: impl fmt::Display) {
        log::warn!("{} uid={}: {what}", self.call, self.uid);
    }

    /// Ends the story. Calls that had nothing to do, as nearly all have, are told only at level debug.
    pub fn close(self, failure: Option<&Error>) {
        let took = self.begun.elapsed().as_millis();
        let Self { call, uid, steps, .. } = self;
        match failure {
            Some(failure) => error!("{call} uid={uid}: failed after {took} ms{steps}: {failure}"),
            None => {
                let level = if steps.is_empty() { Level::Debug } else { Level::Info };
                log!(level, "{call} uid={uid}: done in {took} ms{steps}");
            }
        }
    }

    /// Milliseconds since the last step, with their tenths: a call has steps enough for whole ones to add up wrongly.
    fn lap(&mut self) -> String {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.step_begun).as_secs_f64() * 1000.0;
        self.step_begun = now;
        format!("{took:.1}")
    }
}
