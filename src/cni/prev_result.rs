//! The result of the plugins before this one in the chain.

use std::ops::Range;

use serde_json::value::RawValue;

use super::json::{Members, member, place};
use super::{Error, Version};

/// The key of an interface's socket.
const SOCKET_PATH: &str = "socketPath";

/// What is to stand where in a text.
type Edit = (Range<usize>, String);

/// `prevResult`: kept as the text that it came as, so that what is printed is what was given.
///
/// A chained plugin that changes nothing must answer with an equivalent result (specification 1.0.0, section 2). Equal
/// text is the only equivalence that holds for unknown fields, big numbers and odd spellings alike.
#[derive(Clone, Debug)]
pub struct PrevResult<'a> {
    text: &'a str,
    members: Members,
}

/// What a result tells of one interface. Every field may be missing, or be something else than text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The interface's name.
    pub name: Option<String>,
    /// Its MAC address, as it is spelt there.
    pub mac: Option<String>,
    /// The MTU of its network (from 1.1.0 on; kube-ovn tells it before, too).
    pub mtu: Option<u32>,
    /// The network namespace that it is in; absent or empty for one on the host.
    pub sandbox: Option<String>,
}

/// A NIC's socket, for the result.
#[derive(Clone, Copy, Debug)]
pub struct Socket<'a> {
    /// The NIC's name.
    pub ifname: &'a str,
    /// The absolute path of its socket on the host.
    pub path: &'a str,
}

impl<'a> PrevResult<'a> {
    /// The result that is all of `text`.
    ///
    /// # Errors
    /// It is no JSON object.
    pub(super) fn new(text: &'a str) -> Result<Self, Error> {
        let members = Members::of(text).map_err(|error| {
            Error::invalid_config(format!("prevResult must be an object, not {}.", super::json::kind(text)))
                .with_details(error)
        })?;
        Ok(Self { text, members })
    }

    /// The result as it was given.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The result to print: the text as given, with `cniVersion` set to `version` where it is missing or another one,
    /// since a result's version must be the configuration's and results from before 1.0.0 may lack it; and with the path
    /// of a NIC's socket, if there is one to tell.
    #[must_use]
    pub fn answer(&self, version: Version, socket: Option<Socket<'_>>) -> String {
        let mut edits = self.edits_of_version(version);
        // The key came with 1.1.0 (specification, "Success result types").
        if let Some(socket) = socket.filter(|_| version >= Version::V1_1_0) {
            edits.extend(self.edit_of_socket(socket));
        }
        edits.sort_by_key(|(place, _)| place.start);
        // In one pass: a result may have as many versions as it has room for.
        let mut answer = String::with_capacity(self.text.len().saturating_add(128));
        let mut kept = 0;
        for (place, replacement) in edits {
            answer.push_str(self.text.get(kept..place.start).unwrap_or_default());
            answer.push_str(&replacement);
            kept = place.end;
        }
        answer.push_str(self.text.get(kept..).unwrap_or_default());
        answer
    }

    fn edits_of_version(&self, version: Version) -> Vec<Edit> {
        let quoted = format!("\"{version}\"");
        let places: Vec<_> = self.members.places("cniVersion").collect();
        if places.is_empty() {
            return vec![new_member("cniVersion", &quoted, 0, &self.members)];
        }
        let is_same = |raw: &str| serde_json::from_str::<String>(raw).is_ok_and(|name| name == version.as_str());
        let others = places.into_iter().filter(|place| !self.text.get(place.clone()).is_some_and(is_same));
        others.map(|place| (place, quoted.clone())).collect()
    }

    /// A path that a plugin before this one told stays.
    fn edit_of_socket(&self, socket: Socket<'_>) -> Option<Edit> {
        let objects = self.list("interfaces");
        let raw = objects.get(position_of(&self.interfaces(), socket.ifname)?)?.get();
        let members = Members::of(raw).ok()?;
        let quoted = serde_json::to_string(socket.path).ok()?;
        let start = place(self.text, raw).start;
        let Some(told) = members.places(SOCKET_PATH).next_back() else {
            return Some(new_member(SOCKET_PATH, &quoted, start, &members));
        };
        let is_empty = matches!(raw.get(told.clone()), Some("null" | "\"\""));
        is_empty.then(|| (told.start.saturating_add(start)..told.end.saturating_add(start), quoted))
    }

    /// The interface that the call is about: the one named so; else the first in a sandbox, since kube-ovn before 1.12.4
    /// gives a vhost-user NIC no name; else the first.
    #[must_use]
    pub fn interface_of(&self, ifname: &str) -> Option<Interface> {
        let mut interfaces = self.interfaces();
        let at = position_of(&interfaces, ifname)?;
        Some(interfaces.swap_remove(at))
    }

    /// The interfaces of the result, in order; of what isn't readable nothing is known. Results before 0.3.0 have none.
    #[must_use]
    pub fn interfaces(&self) -> Vec<Interface> {
        let interface = |raw: &RawValue| {
            let field = |key| member(raw.get(), key).and_then(|value| serde_json::from_str(value).ok());
            let mtu = member(raw.get(), "mtu").and_then(|value| serde_json::from_str(value).ok());
            Interface {
                name: field("name"),
                mac: field("mac"),
                mtu: mtu.filter(|mtu| *mtu > 0),
                sandbox: field("sandbox"),
            }
        };
        self.list("interfaces").into_iter().map(interface).collect()
    }

    fn list(&self, key: &str) -> Vec<&'a RawValue> {
        self.members.value(self.text, key).and_then(|value| serde_json::from_str(value).ok()).unwrap_or_default()
    }
}

fn position_of(interfaces: &[Interface], ifname: &str) -> Option<usize> {
    let named = interfaces.iter().position(|interface| interface.name.as_deref() == Some(ifname));
    let guest_path = || interfaces.iter().position(|one| one.sandbox.as_ref().is_some_and(|path| !path.is_empty()));
    named.or_else(guest_path).or_else(|| (!interfaces.is_empty()).then_some(0))
}

/// A new first member of the object that starts at `start`, with its brace.
fn new_member(key: &str, value: &str, start: usize, members: &Members) -> Edit {
    let comma = if members.is_empty() { "" } else { "," };
    let behind = start.saturating_add(1);
    (behind..behind, format!("\"{key}\":{value}{comma}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> String {
        PrevResult::new(text).unwrap().answer(Version::V1_0_0, None)
    }

    fn with_socket(text: &str, version: Version) -> String {
        let socket = Socket { ifname: "net1", path: "/run/s \"/net1" };
        PrevResult::new(text).unwrap().answer(version, Some(socket))
    }

    #[test]
    fn the_socket_is_told_where_it_belongs_and_nothing_else_changes() {
        let quoted = r#""socketPath":"/run/s \"/net1""#;
        let around = |object: &str| {
            format!(
                r#"{{ "interfaces" : [{{"name":"eth0","sandbox":"/x"}} , {object}],"big":1.0e+400,"cniVersion":"1.1.0"}}"#
            )
        };
        for (before, after) in [
            (r#"{ "name":"net1" }"#, format!(r#"{{{quoted}, "name":"net1" }}"#)),
            (r#"{"name":"net1","mtu":1e3}"#, format!(r#"{{{quoted},"name":"net1","mtu":1e3}}"#)),
            (r#"{"name":"net1","socketPath": ""}"#, r#"{"name":"net1","socketPath": "/run/s \"/net1"}"#.to_owned()),
            (r#"{"name":"net1","socketPath":null}"#, r#"{"name":"net1","socketPath":"/run/s \"/net1"}"#.to_owned()),
            (r#"{"name":"net1","socketPath":"/theirs"}"#, r#"{"name":"net1","socketPath":"/theirs"}"#.to_owned()),
        ] {
            assert_eq!(with_socket(&around(before), Version::V1_1_0), around(&after));
        }
        // Nobody is named so: the first in a sandbox, else the first.
        let unnamed = r#"{"cniVersion":"1.1.0","interfaces":[{"name":"h"},{"name":"","sandbox":"/x"}]}"#;
        let told = unnamed.replace(r#"{"name":"","#, &format!(r#"{{{quoted},"name":"","#));
        assert_eq!(with_socket(unnamed, Version::V1_1_0), told);
        let empty = r#"{"cniVersion":"1.1.0","interfaces":[{}]}"#;
        assert_eq!(with_socket(empty, Version::V1_1_0), empty.replace("{}", &format!("{{{quoted}}}")));
    }

    #[test]
    fn the_socket_and_the_version_are_set_at_once_whichever_comes_first() {
        let quoted = r#""socketPath":"/run/s \"/net1""#;
        for (before, after) in [
            (
                r#"{"interfaces":[{"name":"net1"}]}"#,
                format!(r#"{{"cniVersion":"1.1.0","interfaces":[{{{quoted},"name":"net1"}}]}}"#),
            ),
            (
                r#"{"interfaces":[{"name":"net1"}],"cniVersion":""}"#,
                format!(r#"{{"interfaces":[{{{quoted},"name":"net1"}}],"cniVersion":"1.1.0"}}"#),
            ),
            (
                r#"{"cniVersion":null,"interfaces":[{"name":"net1"}]}"#,
                format!(r#"{{"cniVersion":"1.1.0","interfaces":[{{{quoted},"name":"net1"}}]}}"#),
            ),
        ] {
            assert_eq!(with_socket(before, Version::V1_1_0), after);
        }
    }

    #[test]
    fn no_socket_is_told_where_no_version_or_no_interface_has_a_place_for_it() {
        let older = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"net1"}]}"#;
        assert_eq!(with_socket(older, Version::V1_0_0), older);
        for interfaces in ["[]", "null", "7", "[\"odd\"]", "{}", "[null]"] {
            let text = format!(r#"{{"cniVersion":"1.1.0","interfaces":{interfaces}}}"#);
            assert_eq!(with_socket(&text, Version::V1_1_0), text);
        }
    }

    #[test]
    fn a_result_of_the_right_version_is_not_touched() {
        let text = "{ \"ips\":[ ],\"cniVersion\" : \"1.0.\\u0030\",\"x\":1.0e+400, \"cniVersion \":1 }";
        assert_eq!(answer(text), text);
    }

    #[test]
    fn only_the_version_is_set() {
        assert_eq!(answer("{}"), r#"{"cniVersion":"1.0.0"}"#);
        assert_eq!(answer("{ \"x\": 1 }"), "{\"cniVersion\":\"1.0.0\", \"x\": 1 }");
        assert_eq!(answer("{\"x\":{\"cniVersion\":\"9\"},\"cniVersion\":\"0.3.1\" }").as_str(), {
            "{\"x\":{\"cniVersion\":\"9\"},\"cniVersion\":\"1.0.0\" }"
        });
        assert_eq!(answer(r#"{"cniVersion":"","a":[],"cniVersion":null}"#), {
            r#"{"cniVersion":"1.0.0","a":[],"cniVersion":"1.0.0"}"#
        });
    }

    #[test]
    fn only_an_object_is_a_result() {
        for text in ["\"x\"", "[]", "1", "true", "{"] {
            assert_eq!(PrevResult::new(text).unwrap_err().code, 7, "{text}");
        }
    }

    #[test]
    fn odd_interfaces_are_read_as_far_as_they_go() {
        let text = r#"{"interfaces":[{"name":"eth0","mac":"0A:00:00:00:00:01","sandbox":"/run/netns/x","mtu":1},
            {"name":"veth"},{"name":7,"mac":null},"odd"]}"#;
        let result = PrevResult::new(text).unwrap();
        let interfaces = result.interfaces();
        assert_eq!(interfaces.len(), 4);
        assert_eq!(interfaces.first().unwrap().mac.as_deref(), Some("0A:00:00:00:00:01"));
        assert_eq!(interfaces.get(1).unwrap().name.as_deref(), Some("veth"));
        assert_eq!(interfaces.get(2), interfaces.get(3));
        for text in ["{}", r#"{"interfaces":null}"#, r#"{"interfaces":{}}"#] {
            assert!(PrevResult::new(text).unwrap().interfaces().is_empty(), "{text}");
        }
    }
}
