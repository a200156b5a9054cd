//! What a person types. A runtime gives no arguments: it speaks through the environment.

mod attachment;
mod conflist;
mod doctor;
mod inspect;
mod install;
mod list;
mod place;
mod rescue;
mod screen;
mod validate;

use std::ffi::OsString;
use std::io::{self, Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A CNI plugin chained after kube-ovn: shares a pod's vhost-user sockets with the data plane and plugs vhost-user NICs
/// into the pod's running VM. A container runtime calls it with CNI_COMMAND, and without arguments.
#[derive(Debug, Parser)]
#[command(name = "vhostuser-hotplug", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Judge a conflist: exit status 0 if a runtime can use it
    Validate {
        /// The conflist
        file: PathBuf,
    },
    /// The attachments of this node
    List(list::List),
    /// A pod's attachments, with what its libvirt says: exit status 0 if all is as ADD left it
    Inspect(inspect::Inspect),
    /// Free a VM that stands still in an attach of a vhost-user NIC, whoever sent it; the NIC is unplugged
    Rescue(rescue::Options),
    /// Is this node fit for the plugin? Exit status 0 if nothing is wrong
    Doctor(doctor::Doctor),
    /// See, put or remove the plugin in a conflist
    #[command(subcommand)]
    Conflist(conflist::Verb),
    /// Install this program on the node and put it into kube-ovn's chain. DESTDIR is put before absolute paths
    Install {
        #[command(flatten)]
        place: install::Where,
        #[command(flatten)]
        what: install::What,
    },
    /// Install, and put back what others take away, until SIGTERM
    Keep {
        #[command(flatten)]
        place: install::Where,
        /// What becomes of the chain at the end
        #[arg(long, value_enum, default_value = "stay")]
        at_end: install::AtEnd,
    },
}

/// What a verb found: what to print, and whether all is as it should be.
struct Answer {
    /// Goes to stdout.
    text: String,
    /// Goes to stderr.
    notes: String,
    /// Exit status 0, or 1.
    sound: bool,
}

/// Does what the words ask for. Exit status 2 for words that make no sense, as is the custom.
#[must_use]
pub fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(words) {
        Ok(cli) => answer(cli.verb),
        // Also what --help and --version print, which is no error.
        Err(told) if told.use_stderr() => {
            let _ = write(stderr(), &told.to_string());
            ExitCode::from(2)
        }
        Err(told) => exit_status(write(stdout(), &told.to_string()).is_ok()),
    }
}

fn answer(verb: Verb) -> ExitCode {
    let Answer { text, notes, sound } = match verb {
        Verb::Validate { file } => validate::run(&file),
        Verb::List(list) => list::run(&list),
        Verb::Inspect(inspect) => inspect::run(&inspect),
        Verb::Rescue(options) => rescue::run(&options),
        Verb::Doctor(doctor) => doctor::run(&doctor),
        Verb::Conflist(verb) => conflist::run(verb),
        Verb::Install { place, what } => install::run(&place, &what),
        Verb::Keep { place, at_end } => install::keep(&place, at_end),
    };
    let written = write(stdout(), &text).is_ok();
    let _ = write(stderr(), &notes);
    exit_status(written && sound)
}

impl Answer {
    /// All that there is to say goes to stdout.
    fn of(text: String, sound: bool) -> Self {
        Self { text, notes: String::new(), sound }
    }

    /// Nothing could be found out: why, in words.
    fn failure(why: impl std::fmt::Display) -> Self {
        Self { text: String::new(), notes: format!("vhostuser-hotplug: {why}\n"), sound: false }
    }
}

/// Not println!, which panics where nobody reads.
fn write(mut stream: impl Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

fn exit_status(sound: bool) -> ExitCode {
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
