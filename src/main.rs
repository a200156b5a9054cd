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
            // A runtime repeats a DEL until it succeeds, and the pod stays until then. So a wrong value must not make it
            // fail: its default is used.
            Command::Del | Command::Gc => Config::parse_lenient(&request.conf),
        };
        logging::set_level(config.log_level);
        commands::run(request, &config)
    })
}
