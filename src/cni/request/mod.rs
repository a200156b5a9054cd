//! What the runtime asks for: the environment and the configuration, checked.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::command::{Command, Verb};
use super::names::{container_id_fault, ifname_fault};
use super::netconf::Undecided;
use super::{Error, NetConf, PrevResult, Version};
use crate::{quote, sys};

/// How much of an invalid variable an error quotes, in bytes.
const QUOTED_MAX: usize = 80;

/// One call, every part of it checked as far as the specification tells.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty for GC and STATUS, which concern no container.
    pub container_id: String,
    /// `CNI_IFNAME`; empty for GC and STATUS.
    pub ifname: String,
    /// `CNI_NETNS`, any path to a network namespace; always there for ADD and CHECK, perhaps for DEL.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`; empty for GC and STATUS.
    pub args: Args,
    /// The configuration on stdin.
    pub conf: NetConf,
}

/// `CNI_ARGS`: `KEY=VALUE` pairs, separated by semicolons.
///
/// Users can put anything there, so what is no pair is passed over rather than refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args(String);

impl Args {
    /// The pairs in the variable's value; those that aren't UTF-8 are left out.
    #[must_use]
    pub fn new(variable: &OsStr) -> Self {
        let pairs = variable.as_bytes().split(|byte| *byte == b';').filter_map(|pair| std::str::from_utf8(pair).ok());
        Self(pairs.collect::<Vec<_>>().join(";"))
    }

    /// The value of `key`; of doubles the last one, as in libcni. An empty one counts as absent. A pair with more than
    /// one `=` is none, as in libcni.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let pairs = self.0.split(';').rev().filter_map(|pair| pair.split_once('='));
        let mut values = pairs.filter(|(name, value)| *name == key && !value.contains('=')).map(|(_, value)| value);
        values.next().filter(|value| !value.is_empty())
    }
}

/// The variables of the protocol. An empty one counts as unset, since libcni always exports them all.
///
/// None is longer than 128 KiB, which is the kernel's limit (execve(2), `MAX_ARG_STRLEN`); no more than 80 bytes of one are
/// quoted in an error.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    command: Option<OsString>,
    container_id: Option<OsString>,
    netns: Option<OsString>,
    ifname: Option<OsString>,
    args: Option<OsString>,
    netns_override: Option<OsString>,
}

impl Variables {
    /// The variables as `lookup` finds them. `CNI_PATH` isn't among them: this plugin delegates to no other.
    pub fn new(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let variable = |name| lookup(name).filter(|value| !value.is_empty());
        Self {
            command: variable("CNI_COMMAND"),
            container_id: variable("CNI_CONTAINERID"),
            netns: variable("CNI_NETNS"),
            ifname: variable("CNI_IFNAME"),
            args: variable("CNI_ARGS"),
            netns_override: variable("CNI_NETNS_OVERRIDE"),
        }
    }

    /// Whether there is a command at all; if not, it is hardly a runtime that calls.
    pub(super) fn has_command(&self) -> bool {
        self.command.is_some()
    }

    /// The command.
    ///
    /// # Errors
    /// There is none, or one that no version of the specification has: code 4.
    pub fn verb(&self) -> Result<Verb, Error> {
        const KNOWN: &str = "ADD, DEL, CHECK, GC, STATUS or VERSION";
        let Some(name) = &self.command else {
            return Err(Error::invalid_environment(format!(
                "CNI_COMMAND is not set: this is a CNI plugin, which a container runtime starts with CNI_COMMAND={KNOWN}."
            )));
        };
        match name.to_str() {
            Some("GC") => return Ok(Verb::Call(Command::Gc)),
            Some("STATUS") => return Ok(Verb::Call(Command::Status)),
            _ => {}
        }
        match name.to_str().and_then(|name| name.parse().ok()) {
            Some(cni_plugin::Command::Add) => Ok(Verb::Call(Command::Add)),
            Some(cni_plugin::Command::Del) => Ok(Verb::Call(Command::Del)),
            Some(cni_plugin::Command::Check) => Ok(Verb::Call(Command::Check)),
            Some(cni_plugin::Command::Version) => Ok(Verb::Version),
            None => Err(Error::invalid_environment(format!("CNI_COMMAND is {}, not {KNOWN}.", quoted(name)))),
        }
    }

    /// The container id and the interface's name, or one error that names every variable at fault.
    fn attachment(&self, command: Command) -> Result<(String, String), Error> {
        if matches!(command, Command::Gc | Command::Status) {
            return Ok(Default::default());
        }
        let mut faults = Vec::new();
        let mut text = |name: &str, value: &Option<OsString>, fault: fn(&str) -> Option<&'static str>| {
            let Some(value) = value else {
                faults.push(format!("{name} is not set"));
                return String::new();
            };
            match value.to_str().map(|text| (text, fault(text))) {
                None => faults.push(format!("{name} is {}, which isn't UTF-8", quoted(value))),
                Some((_, Some(fault))) => faults.push(format!("{name} is {}, which {fault}", quoted(value))),
                Some((text, None)) => return text.to_owned(),
            }
            String::new()
        };
        let container_id = text("CNI_CONTAINERID", &self.container_id, container_id_fault);
        let ifname = text("CNI_IFNAME", &self.ifname, ifname_fault);
        if command != Command::Del && self.netns.is_none() {
            faults.push("CNI_NETNS is not set".to_owned());
        }
        if faults.is_empty() {
            Ok((container_id, ifname))
        } else {
            Err(Error::invalid_environment(format!("{command} can't go on: {}.", faults.join("; "))))
        }
    }

    /// Refuses an ADD into the plugin's own network namespace: it would change the host's network, not a container's.
    /// `CNI_NETNS_OVERRIDE` allows it, as in libcni's `pkg/skel`.
    fn refuse_own_namespace(&self, netns: &Path) -> Result<(), Error> {
        let allowed =
            self.netns_override.as_ref().is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"));
        // A namespace that can't be looked at isn't judged here: whoever enters it will find the error.
        let theirs = sys::object_at(netns);
        if !allowed && theirs.is_some() && theirs == sys::object_at(Path::new("/proc/self/ns/net")) {
            return Err(Error::invalid_environment(format!(
                "CNI_NETNS is {}, the network namespace that the plugin itself runs in, not a container's \
                 (CNI_NETNS_OVERRIDE=1 allows it).",
                quoted(netns.as_os_str())
            )));
        }
        Ok(())
    }
}

impl Request {
    /// The call, from the variables, the command that they name, and what stdin held; with the version to answer in,
    /// which is known for many a call that is refused.
    ///
    /// # Errors
    /// Of more than one fault the first in the order of libcni's `pkg/skel`: variables (code 4), stdin (5), its
    /// decoding (6), the network's name (7), the version (1); then the namespace (4).
    pub fn read(
        variables: &Variables,
        command: Command,
        stdin: Result<Vec<u8>, Error>,
    ) -> (Version, Result<Self, Error>) {
        let undecided = stdin.and_then(Undecided::of);
        let version = undecided.as_ref().ok().and_then(Undecided::version).unwrap_or(Version::NEWEST);
        (version, Self::check(variables, command, undecided))
    }

    fn check(variables: &Variables, command: Command, undecided: Result<Undecided, Error>) -> Result<Self, Error> {
        let (container_id, ifname) = variables.attachment(command)?;
        let conf = undecided?.judged(command)?;
        let concerns_a_container = !matches!(command, Command::Gc | Command::Status);
        let netns = variables.netns.as_ref().filter(|_| concerns_a_container).map(PathBuf::from);
        let args = variables.args.as_deref().filter(|_| concerns_a_container).map(Args::new).unwrap_or_default();
        if let (Command::Add, Some(netns)) = (command, &netns) {
            variables.refuse_own_namespace(netns)?;
        }
        Ok(Self { command, container_id, ifname, netns, args, conf })
    }

    /// Returns the result of the plugins before this one.
    ///
    /// # Errors
    /// There is none, or one that can't be used: code 7.
    pub fn prev_result(&self) -> Result<PrevResult<'_>, Error> {
        self.conf.prev_result()?.ok_or_else(|| {
            Error::invalid_config(
                "There is no prevResult: vhostuser-hotplug must be called as a chained plugin, after the one that makes the \
                 port.",
            )
        })
    }
}

fn quoted(value: &OsStr) -> String {
    quote::cut(&value.to_string_lossy(), QUOTED_MAX)
}

#[cfg(test)]
mod tests;
