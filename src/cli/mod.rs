//! What a person types. A runtime gives no arguments: it uses the environment.

mod attachment;
mod conflist;
mod doctor;
mod inspect;
mod install;
mod list;
mod node_args;
mod rescue;
mod screen;
mod validate;

use std::ffi::OsString;
use std::io::{self, Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::node::keep::AtEnd;

/// A CNI plugin chained after kube-ovn: shares a pod's vhost-user sockets with the data plane and plugs vhost-user NICs
/// into the pod's running VM. A container runtime calls it with CNI_COMMAND, and without arguments.
#[derive(Debug, Parser)]
#[command(name = "vhostuser-hotplug", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    invocation: Invocation,
}

#[derive(Debug, Subcommand)]
enum Invocation {
    /// Judge a conflist: exit status 0 if a runtime can use it
    Validate {
        /// The conflist
        file: PathBuf,
    },
    /// The attachments of this node
    List(list::ListOptions),
    /// A pod's attachments, with what its libvirt says: exit status 0 if all is as ADD left it
    Inspect(inspect::InspectOptions),
    /// Free a VM that stands still in an attach of a vhost-user NIC, whoever sent it; the NIC is unplugged
    Rescue(rescue::RescueOptions),
    /// Is this node fit for the plugin? Exit status 0 if nothing is wrong
    Doctor(doctor::DoctorOptions),
    /// Show, add or remove the plugin in a conflist
    #[command(subcommand)]
    Conflist(conflist::ConflistAction),
    /// Install this program on the node and put it into kube-ovn's chain. DESTDIR is put before absolute paths
    Install {
        #[command(flatten)]
        node: install::Where,
        #[command(flatten)]
        what: install::What,
    },
    /// Install, and put back what others remove, until SIGTERM
    Keep {
        #[command(flatten)]
        node: install::Where,
        /// What happens to the chain at the end
        #[arg(long, value_enum, default_value = "stay")]
        at_end: AtEnd,
    },
}

/// What a subcommand prints, and whether all is as it must be.
struct Answer {
    /// For stdout.
    text: String,
    /// For stderr.
    notes: String,
    /// Exit status 0, or 1.
    sound: bool,
}

/// Runs the subcommand. Returns exit status 2 for invalid arguments.
#[must_use]
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(arguments) {
        Ok(cli) => answer(cli.invocation),
        // What --help and --version print is no error.
        Err(error) if error.use_stderr() => {
            let _ = write(stderr(), &error.to_string());
            ExitCode::from(2)
        }
        Err(help) => exit_status(write(stdout(), &help.to_string()).is_ok()),
    }
}

fn answer(invocation: Invocation) -> ExitCode {
    let Answer { text, notes, sound } = match invocation {
        Invocation::Validate { file } => validate::run(&file),
        Invocation::List(options) => list::run(&options),
        Invocation::Inspect(options) => inspect::run(&options),
        Invocation::Rescue(options) => rescue::run(&options),
        Invocation::Doctor(options) => doctor::run(&options),
        Invocation::Conflist(action) => conflist::run(action),
        Invocation::Install { node, what } => install::run(&node, &what),
        Invocation::Keep { node, at_end } => install::keep(&node, at_end),
    };
    let written = write(stdout(), &text).is_ok();
    let _ = write(stderr(), &notes);
    exit_status(written && sound)
}

impl Answer {
    /// Prints everything on stdout.
    fn of(text: String, sound: bool) -> Self {
        Self { text, notes: String::new(), sound }
    }

    /// Prints on stderr why the subcommand failed.
    fn failure(why: impl std::fmt::Display) -> Self {
        Self { text: String::new(), notes: format!("vhostuser-hotplug: {why}\n"), sound: false }
    }
}

/// Unlike println!, returns an error if nobody reads.
fn write(mut stream: impl Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

fn exit_status(sound: bool) -> ExitCode {
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
