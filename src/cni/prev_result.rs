//! The result of the plugins before this one in the chain.

use super::json::{Members, member};
use super::{Error, Version};
use serde_json::value::RawValue;

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
    /// The network namespace that it is in; absent or empty for one on the host.
    pub sandbox: Option<String>,
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
    /// since a result's version must be the configuration's and results from before 1.0.0 may lack it.
    #[must_use]
    pub fn answer(&self, version: Version) -> String {
        let quoted = format!("\"{version}\"");
        let mut answer = String::with_capacity(self.text.len().saturating_add(quoted.len()));
        let mut rest = self.text;
        let mut places = self.members.places("cniVersion").peekable();
        if places.peek().is_none() {
            // The text of a value starts with its brace.
            rest = rest.strip_prefix('{').unwrap_or(rest);
            let comma = if self.members.is_empty() { "" } else { "," };
            answer.push_str(&format!("{{\"cniVersion\":{quoted}{comma}"));
        }
        // In one pass: a result may have as many of them as it has room for.
        let mut kept = 0;
        for place in places {
            let raw = self.text.get(place.clone()).unwrap_or_default();
            if serde_json::from_str::<String>(raw).is_ok_and(|name| name == version.as_str()) {
                continue;
            }
            answer.push_str(self.text.get(kept..place.start).unwrap_or_default());
            answer.push_str(&quoted);
            kept = place.end;
            rest = self.text.get(kept..).unwrap_or_default();
        }
        answer.push_str(rest);
        answer
    }

    /// The interfaces of the result, in order; what isn't readable is left out. Results before 0.3.0 have none.
    #[must_use]
    pub fn interfaces(&self) -> Vec<Interface> {
        let interface = |raw: &RawValue| {
            let field = |key| member(raw.get(), key).and_then(|value| serde_json::from_str(value).ok());
            Interface { name: field("name"), mac: field("mac"), sandbox: field("sandbox") }
        };
        self.list("interfaces").into_iter().map(interface).collect()
    }

    /// The addresses of the result, for logs: `ips[].address`, or `ip4.ip` and `ip6.ip` before 0.3.0.
    #[must_use]
    pub fn ips(&self) -> Vec<String> {
        let string = |object, key| member(object, key).and_then(|value| serde_json::from_str(value).ok());
        let old = ["ip4", "ip6"].into_iter().filter_map(|key| string(self.members.value(self.text, key)?, "ip"));
        let new = self.list("ips").into_iter().filter_map(|raw| string(raw.get(), "address"));
        old.chain(new).collect()
    }

    fn list(&self, key: &str) -> Vec<&'a RawValue> {
        self.members.value(self.text, key).and_then(|value| serde_json::from_str(value).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> String {
        PrevResult::new(text).unwrap().answer(Version::V1_0_0)
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
            {"name":"veth"},{"name":7,"mac":null},"odd"],"ips":[{"address":"10.0.0.2/24"},{}],"ip4":{"ip":"10.0.0.3/24"}}"#;
        let result = PrevResult::new(text).unwrap();
        let interfaces = result.interfaces();
        assert_eq!(interfaces.len(), 4);
        assert_eq!(interfaces.first().unwrap().mac.as_deref(), Some("0A:00:00:00:00:01"));
        assert_eq!(interfaces.get(1).unwrap().name.as_deref(), Some("veth"));
        assert_eq!(interfaces.get(2), interfaces.get(3));
        assert_eq!(result.ips(), ["10.0.0.3/24", "10.0.0.2/24"]);
        for text in ["{}", r#"{"interfaces":null}"#, r#"{"interfaces":{},"ips":"x"}"#] {
            let result = PrevResult::new(text).unwrap();
            assert!(result.interfaces().is_empty() && result.ips().is_empty(), "{text}");
        }
    }
}
