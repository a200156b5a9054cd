//! The plugin's binary: one call of the container runtime, or of a person.

use std::process::ExitCode;

use vhostuser_hotplug::cni::{self, Command};
use vhostuser_hotplug::config::Config;
use vhostuser_hotplug::{cli, commands, logging};

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        return cli::run(std::env::args_os());
    }
    logging::start();
    cni::serve(|request| {
        let config = match request.command {
            Command::Add | Command::Check | Command::Status => Config::parse(&request.conf)?,
            // A runtime repeats a DEL until it passes, and a pod can't go before: a slip in the configuration must not
            // keep it. What can be read is used, and defaults stand in for the rest.
            Command::Del | Command::Gc => Config::parse_lenient(&request.conf),
        };
        logging::set_level(config.log_level);
        commands::run(request, &config)
    })
}
