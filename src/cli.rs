//! What a person types. A runtime gives no arguments: it speaks through the environment.

use std::fmt::Write as _;
use std::io::{Write as _, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

use crate::{conflist, sys};

const HELP: &str = "\
vhostuser-hotplug, a CNI plugin chained after kube-ovn: shares a pod's vhost-user sockets with the data plane
and plugs vhost-user NICs into the pod's running VM. A container runtime calls it with CNI_COMMAND.

    vhostuser-hotplug validate FILE   judge a conflist: exit status 0 if a runtime can use it
    vhostuser-hotplug --version
    vhostuser-hotplug --help
";

/// Longest conflist that is read, in bytes: as much as a plugin takes on stdin.
const CONFLIST_LIMIT: u64 = 4 << 20;

/// Does what the words ask for.
#[must_use]
pub fn run(words: &[String]) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (text, status) = match words.as_slice() {
        ["--help" | "-h" | "help"] => (HELP.to_owned(), ExitCode::SUCCESS),
        ["--version" | "-V"] => {
            (concat!("vhostuser-hotplug ", env!("CARGO_PKG_VERSION"), "\n").to_owned(), ExitCode::SUCCESS)
        }
        ["validate", file] => validate(Path::new(file)),
        _ => {
            let _ = stderr().write_all(HELP.as_bytes());
            return ExitCode::from(2);
        }
    };
    // Not println!, which panics where nobody reads.
    if stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()).is_err() {
        ExitCode::FAILURE
    } else {
        status
    }
}

fn validate(file: &Path) -> (String, ExitCode) {
    let faults = match sys::read_text(file, CONFLIST_LIMIT) {
        Ok(text) => conflist::faults(&text),
        Err(error) => vec![format!("it cannot be read: {error}")],
    };
    if faults.is_empty() {
        return (format!("{}: sound\n", file.display()), ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for fault in faults {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}: {fault}", file.display());
    }
    (text, ExitCode::FAILURE)
}
