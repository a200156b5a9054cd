//! The network configuration, as a runtime hands it to one plugin of a chain.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::command::Command;
use super::json::{Members, kind, member};
use super::names::is_identifier;
use super::{Error, PrevResult, Version};
use crate::quote;

/// How much of a wrong value an error quotes, in bytes.
const QUOTED_MAX: usize = 100;

/// The two names of GC's list: the specification's, and the one that its tag 1.1.0 was released with. libcni 1.2.0 to
/// 1.2.2 sends the first alone, later ones both.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// A network configuration that passed the checks which every command makes: it is an object of JSON, its network has
/// a name, and its version is one that this plugin and the command know.
///
/// Other keys are decoded when they are asked for, and not before: well-known keys of a form that this plugin doesn't
/// know must not break it (`"ipam": {}`, nulls, capabilities of others).
#[derive(Clone, Debug)]
pub struct NetConf {
    /// The version of the protocol that this call speaks.
    pub version: Version,
    /// The network's name.
    pub name: String,
    text: String,
    members: Members,
}

/// An attachment: one interface of one container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// `CNI_CONTAINERID` of its ADD.
    pub container_id: String,
    /// `CNI_IFNAME` of its ADD.
    pub ifname: String,
}

/// A configuration of which no more is known than that it is an object.
#[derive(Debug)]
pub(super) struct Undecided {
    text: String,
    members: Members,
}

impl Undecided {
    /// The object that is all of `bytes`.
    pub(super) fn of(bytes: Vec<u8>) -> Result<Self, Error> {
        let text = String::from_utf8(bytes).map_err(|error| {
            Error::decoding("The network configuration on stdin isn't UTF-8.").with_details(error.utf8_error())
        })?;
        if text.trim().is_empty() {
            return Err(Error::decoding("There is no network configuration on stdin."));
        }
        let members = Members::of(&text).map_err(|error| {
            Error::decoding("The network configuration on stdin isn't one JSON object.")
                .with_details(format!("{error}; it starts with {}", kind(&text)))
        })?;
        Ok(Self { text, members })
    }

    /// The version that it asks for, if that is one of ours.
    pub(super) fn version(&self) -> Option<Version> {
        version_of(&self.string("cniVersion").ok()?)
    }

    /// The checks of every command, in the order of the reference implementation (libcni's `pkg/skel`).
    pub(super) fn judged(self, command: Command) -> Result<NetConf, Error> {
        // The reference implementation decodes `type` without use, and so refuses what isn't a string.
        self.string("type")?;
        let (asked, name) = (self.string("cniVersion")?, self.string("name")?);
        if !is_identifier(&name) {
            let reason = if name.is_empty() { "is missing or empty" } else { "is invalid" };
            return Err(Error::invalid_config(format!(
                "The network's name {reason} (key \"name\", value {}): it must start with a letter or digit and go on \
                 with letters, digits, '_', '.' and '-'.",
                quote::cut(&name, QUOTED_MAX)
            )));
        }
        let version = version_of(&asked).ok_or_else(|| {
            Error::incompatible_version(format!(
                "cniVersion {} of network {} isn't supported.",
                quote::cut(&asked, QUOTED_MAX),
                quote::value(&name)
            ))
            .with_details(format!("supported are {}", Version::ALL.map(Version::as_str).join(", ")))
        })?;
        if version < command.since() {
            return Err(Error::incompatible_version(format!(
                "{command} came with CNI {}, but the configuration's cniVersion is {version}.",
                command.since()
            )));
        }
        Ok(NetConf { version, name, text: self.text, members: self.members })
    }

    /// A member that must be a string; empty if it is absent or null.
    fn string(&self, key: &str) -> Result<String, Error> {
        let Some(raw) = self.members.value(&self.text, key) else { return Ok(String::new()) };
        serde_json::from_str(raw).map_err(|error| {
            Error::decoding(format!("{key} must be a string, not {} ({}).", kind(raw), shown(raw))).with_details(error)
        })
    }
}

/// The version that the configuration in `bytes` asks for, or the newest where that isn't one of ours.
pub(super) fn version_asked_for(bytes: Vec<u8>) -> Version {
    Undecided::of(bytes).ok().as_ref().and_then(Undecided::version).unwrap_or(Version::NEWEST)
}

fn version_of(name: &str) -> Option<Version> {
    if name.is_empty() { Some(Version::UNNAMED) } else { Version::named(name) }
}

impl NetConf {
    /// The configuration that is all of `bytes`, as far as every command checks it.
    ///
    /// # Errors
    /// It isn't an object of JSON, or `cniVersion`, `name` or `type` isn't a string (code 6); the network has no name
    /// or an invalid one (7); its version is unknown, or older than `command` (1).
    pub fn parse(bytes: Vec<u8>, command: Command) -> Result<Self, Error> {
        Undecided::of(bytes)?.judged(command)
    }

    /// A configuration of no network, without any key.
    #[must_use]
    pub fn empty() -> Self {
        Self { version: Version::NEWEST, name: String::new(), text: String::new(), members: Members::default() }
    }

    /// A configuration of no network with these keys.
    #[must_use]
    pub fn of_keys(keys: &Map<String, Value>) -> Self {
        // `Value` is displayed as JSON.
        let text = json!(keys).to_string();
        let members = Members::of(&text).unwrap_or_default();
        Self { text, members, ..Self::empty() }
    }

    /// The value of `key` as it stands in the configuration; absent if it is `null`.
    #[must_use]
    pub fn raw(&self, key: &str) -> Option<&str> {
        self.members.value(&self.text, key)
    }

    /// The member at the end of this path of objects, such as `["args", "cni", "labels"]`; absent if anything on the
    /// way to it is missing, `null` or no object.
    #[must_use]
    pub fn at(&self, path: &[&str]) -> Option<&str> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.raw(first)?, |object, key| member(object, key))
    }

    /// The result of the plugins before this one, if the runtime gave one.
    ///
    /// # Errors
    /// It is no object: code 7.
    pub fn prev_result(&self) -> Result<Option<PrevResult<'_>>, Error> {
        self.raw("prevResult").map(PrevResult::new).transpose()
    }

    /// The attachments of this network that are valid, which is what GC goes by; `None` if the runtime gave no list.
    ///
    /// # Errors
    /// The list isn't one of objects with `containerID` and `ifname`: code 7.
    pub fn valid_attachments(&self) -> Result<Option<Vec<Attachment>>, Error> {
        let Some((key, raw)) = VALID_ATTACHMENTS.into_iter().find_map(|key| Some((key, self.raw(key)?))) else {
            return Ok(None);
        };
        let list: Vec<&RawValue> = decoded(key, raw)?;
        let attachment = |entry: &RawValue| {
            let field = |name| -> Option<String> { serde_json::from_str(member(entry.get(), name)?).ok() };
            let found = field("containerID").zip(field("ifname"));
            found.map(|(container_id, ifname)| Attachment { container_id, ifname }).ok_or_else(|| {
                Error::invalid_config(format!(
                    "{key} must list objects with the strings containerID and ifname, but has {}.",
                    shown(entry.get())
                ))
            })
        };
        list.into_iter().map(attachment).collect::<Result<_, _>>().map(Some)
    }
}

/// `raw` as a `T`, or code 7 with the key and the value.
///
/// # Errors
/// It is of another type.
pub fn decoded<'a, T: Deserialize<'a>>(key: &str, raw: &'a str) -> Result<T, Error> {
    serde_json::from_str(raw).map_err(|error| wrong_value(key, raw, &error.to_string()))
}

/// The error for a value that can't be: code 7, with the key, the value as it stands in the configuration, and what
/// would be right.
#[must_use]
pub fn wrong_value(key: &str, raw: &str, reason: &str) -> Error {
    Error::invalid_config(format!("Wrong value for {key}: {}: {reason}.", shown(raw)))
}

/// JSON as it stands, which quotes its own strings; in quotes once more where that would be cut.
fn shown(raw: &str) -> String {
    if raw.len() <= QUOTED_MAX { raw.to_owned() } else { quote::cut(raw, QUOTED_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(members: &str) -> NetConf {
        let text = format!(r#"{{"cniVersion":"1.1.0","name":"net","type":"t"{members}}}"#);
        NetConf::parse(text.into_bytes(), Command::Add).unwrap()
    }

    fn refusal(text: &str, command: Command) -> u32 {
        NetConf::parse(text.as_bytes().to_vec(), command).unwrap_err().code
    }

    #[test]
    fn values_are_decoded_when_asked_for() {
        let conf = conf(r#","n":null,"i":3,"args":{"cni":{"x":[1]}},"odd":1e999"#);
        assert_eq!((conf.raw("n"), conf.raw("i"), conf.raw("odd")), (None, Some("3"), Some("1e999")));
        assert_eq!(conf.at(&["args", "cni", "x"]), Some("[1]"));
        assert_eq!(conf.at(&["i", "cni", "x"]), None);
        assert_eq!(conf.at(&[]), None);
        let error = decoded::<bool>("i", "3").unwrap_err();
        assert!(error.code == 7 && error.msg.contains(" i: 3"), "{error}");
    }

    #[test]
    fn the_order_of_the_checks_is_the_reference_implementations() {
        assert_eq!(refusal(r#"{"cniVersion":"9","name":"?"}"#, Command::Add), 7);
        assert_eq!(refusal(r#"{"cniVersion":9,"name":"?"}"#, Command::Add), 6);
        assert_eq!(refusal(r#"{"cniVersion":"9","name":"a"}"#, Command::Check), 1);
        assert_eq!(refusal(r#"{"name":"a"}"#, Command::Check), 1);
        assert_eq!(refusal(r#"{"name":"a","cniVersion":"1.0.0"}"#, Command::Gc), 1);
    }

    #[test]
    fn attachments_have_two_names_and_one_form() {
        assert_eq!(conf("").valid_attachments().unwrap(), None);
        assert_eq!(conf(r#","cni.dev/valid-attachments":null"#).valid_attachments().unwrap(), None);
        assert_eq!(conf(r#","cni.dev/attachments":[]"#).valid_attachments().unwrap(), Some(vec![]));
        let both = conf(
            r#","cni.dev/attachments":[],"cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0","x":1}]"#,
        );
        let one = Attachment { container_id: "c".into(), ifname: "eth0".into() };
        assert_eq!(both.valid_attachments().unwrap(), Some(vec![one]));
        for bad in ["{}", "\"c\"", "[1]", r#"[{"containerID":"c"}]"#, r#"[{"containerID":1,"ifname":"a"}]"#] {
            let conf = conf(&format!(r#","cni.dev/valid-attachments":{bad}"#));
            assert_eq!(conf.valid_attachments().unwrap_err().code, 7, "{bad}");
        }
    }
}
