//! The commands of the runtime, each the sequence of one call.

mod add;
mod call;
mod check;
mod del;
mod gc;
mod host;

use crate::attachment::journal::Journal;
use crate::cni::{Command, Error, Request};
use crate::config::Config;

use call::Call;

/// Runs the command of the request. Returns what to print, if anything.
pub fn run(request: &Request, config: &Config) -> Result<Option<Vec<u8>>, Error> {
    let journal = call::journal(request);
    let outcome = dispatch(request, config, &journal);
    journal.close(outcome.as_ref().err());
    outcome
}

fn dispatch(request: &Request, config: &Config, journal: &Journal) -> Result<Option<Vec<u8>>, Error> {
    let call = || Call::of(request, config, journal);
    match request.command {
        Command::Add => {
            let result = request.prev_result()?;
            add::add(&call(), &result, journal).map(Some)
        }
        Command::Del => del::del(&call(), request.prev_result().ok().as_ref(), journal).map(|()| None),
        Command::Check => {
            request.prev_result()?;
            check::check(&call(), journal).map(|()| None)
        }
        Command::Gc => gc::gc(&request.conf, config, journal).map(|()| None),
        // Always ready: nothing can keep the plugin from passing a result on, and a runtime that reads an error turns the
        // whole node NotReady (containerd 2.0 and later).
        Command::Status => Ok(None),
    }
}
