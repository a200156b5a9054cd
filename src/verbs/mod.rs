//! The commands, each as the story of one call.

use crate::cni::{Command, Error, Request};
use crate::config::Config;

/// Does what the request asks for, and returns what is to be printed, if anything.
///
/// # Errors
/// What the runtime and the operator are to be told.
pub fn run(request: &Request, _config: &Config) -> Result<Option<Vec<u8>>, Error> {
    match request.command {
        Command::Add => {
            let result = request.conf.prev_result()?.ok_or_else(not_chained)?;
            Ok(Some(result.answer(request.conf.version).into_bytes()))
        }
        Command::Check => request.conf.prev_result()?.ok_or_else(not_chained).map(|_| None),
        Command::Gc => request.conf.valid_attachments().map(|_| None),
        Command::Del | Command::Status => Ok(None),
    }
}

fn not_chained() -> Error {
    Error::invalid_config(
        "There is no prevResult: vhostuser-hotplug must be called as a chained plugin, after the one that makes the port.",
    )
}
