//! The rows of the database `Open_vSwitch` about vhost-user ports (ovs-vswitchd.conf.db(5)).

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::rpc::{Connection, Error};
use crate::deadline::Deadline;

/// The type of a vhost-user port for which OVS connects to the socket.
pub const CLIENT: &str = "dpdkvhostuserclient";
/// The deprecated type for which OVS listens at the socket. QEMU in server mode can't use it.
pub const SERVER: &str = "dpdkvhostuser";

/// The keys that are read of the columns `options`, `external_ids` and `other_config`.
const KEYS: [&str; 10] = [
    "vhost-server-path",
    "iface-id",
    "ovn-installed",
    "pod_name",
    "pod_namespace",
    "pod_netns",
    "system-id",
    "vhost-sock-dir",
    "dpdk-init",
    "ovn-remote",
];
/// The prefix of a key that takes precedence over `ovn-remote` if several OVN controllers share a node; the chassis'
/// name follows.
const REMOTE_OF_CHASSIS: &str = "ovn-remote-";

/// A column of key-value pairs, reduced to `KEYS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map(BTreeMap<String, String>);

impl Map {
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn as_json(&self) -> Value {
        json!(["map", self.0.iter().collect::<Vec<_>>()])
    }
}

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (tag, mut pairs) = <(String, Vec<(String, String)>)>::deserialize(deserializer)?;
        if tag != "map" {
            return Err(de::Error::custom("expected a map"));
        }
        pairs.retain(|(key, _)| KEYS.contains(&key.as_str()) || key.starts_with(REMOTE_OF_CHASSIS));
        Ok(Self(pairs.into_iter().collect()))
    }
}

/// An optional column: a value, or `["set", []]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Optional<T>(Option<T>);

impl<T> Default for Optional<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Optional<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either<T> {
            One(T),
            Set(String, Vec<T>),
        }
        match Either::deserialize(deserializer)? {
            Either::One(value) => Ok(Self(Some(value))),
            Either::Set(tag, values) if tag == "set" => Ok(Self(values.into_iter().next())),
            Either::Set(..) => Err(de::Error::custom("expected a set")),
        }
    }
}

fn optional<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Optional::deserialize(deserializer).map(|optional| optional.0)
}

/// As [`optional`]; an empty text counts as none.
fn optional_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(optional(deserializer)?.filter(|text: &String| !text.is_empty()))
}

/// A row's id: `["uuid", "…"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uuid(String);

impl Uuid {
    fn as_json(&self) -> Value {
        json!(["uuid", self.0])
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (tag, id) = <(String, String)>::deserialize(deserializer)?;
        if tag == "uuid" { Ok(Self(id)) } else { Err(de::Error::custom("expected a uuid")) }
    }
}

/// A row of the table `Interface`, usually called a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Interface {
    #[serde(rename = "_uuid")]
    uuid: Uuid,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub options: Map,
    pub external_ids: Map,
    /// OVS's error when it made the port; never empty.
    #[serde(deserialize_with = "optional_text")]
    pub error: Option<String>,
    /// Its number; -1 if OVS could not make it, `None` if OVS has not tried.
    #[serde(deserialize_with = "optional")]
    pub ofport: Option<i64>,
    /// "up" while a virtual machine uses it.
    #[serde(deserialize_with = "optional")]
    pub link_state: Option<String>,
}

/// The only row of the table `Open_vSwitch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Switch {
    pub external_ids: Map,
    pub other_config: Map,
    /// Whether DPDK is available; ovs-vswitchd sets it when it starts.
    pub dpdk_initialized: bool,
    #[serde(deserialize_with = "optional")]
    pub ovs_version: Option<String>,
    #[serde(deserialize_with = "optional")]
    pub dpdk_version: Option<String>,
}

impl Switch {
    /// Returns whether OVN manages this OVS.
    #[must_use]
    pub fn has_ovn(&self) -> bool {
        let of_chassis = |chassis| self.external_ids.get(&format!("{REMOTE_OF_CHASSIS}{chassis}"));
        let remote = self.external_ids.get("system-id").and_then(of_chassis);
        remote.or_else(|| self.external_ids.get("ovn-remote")).is_some()
    }
}

/// The rows of OVSDB at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub switch: Switch,
    /// All its vhost-user ports.
    pub ports: Vec<Interface>,
}

/// A connection to OVSDB.
#[derive(Debug)]
pub struct Database(Connection);

impl Database {
    /// Connects to OVSDB.
    ///
    /// # Errors
    /// Those of connecting; [`Error::Absent`] if there is no OVSDB.
    pub fn open(socket: &Path, deadline: Deadline) -> Result<Self, Error> {
        Connection::open(socket, deadline).map(Self)
    }

    /// Takes over a connected socket, which must be non-blocking.
    #[must_use]
    pub fn over(stream: UnixStream) -> Self {
        Self(Connection::new(stream))
    }

    /// Reads the switch and its vhost-user ports.
    ///
    /// # Errors
    /// Those of [`Connection::call`].
    pub fn snapshot(&mut self, deadline: Deadline) -> Result<Snapshot, Error> {
        let columns = ["_uuid", "name", "type", "options", "external_ids", "error", "ofport", "link_state"];
        let ports_of = |kind: &str| json!({"op": "select", "table": "Interface", "where": [["type", "==", kind]], "columns": columns});
        let columns = ["external_ids", "other_config", "dpdk_initialized", "ovs_version", "dpdk_version"];
        let switch = json!({"op": "select", "table": "Open_vSwitch", "where": [], "columns": columns});
        let text = self.transact(&[switch, ports_of(CLIENT), ports_of(SERVER)], deadline)?;
        parse(&text)
    }

    /// Removes a port from its bridge, if its row has not changed. Returns true if it did.
    ///
    /// # Errors
    /// Those of [`Connection::call`].
    pub fn remove(&mut self, port: &Interface, deadline: Deadline) -> Result<bool, Error> {
        let by = |column: &str, function: &str, value: &Value| json!([[column, function, value]]);
        let select = |table: &str, column: &str, value: &Uuid| {
            let filter = by(column, "includes", &value.as_json());
            json!({"op": "select", "table": table, "where": filter, "columns": ["_uuid"]})
        };
        let text = self.transact(&[select("Port", "interfaces", &port.uuid)], deadline)?;
        let Some(owner) = only_row(&text)? else { return Ok(false) };
        let text = self.transact(&[select("Bridge", "ports", &owner)], deadline)?;
        let Some(bridge) = only_row(&text)? else { return Ok(false) };
        let same = |column: &str, until: &str, value: &Value| {
            json!({"op": "wait", "timeout": 0, "table": "Interface", "where": by("_uuid", "==", &port.uuid.as_json()),
                   "columns": [column], "until": until, "rows": [{column: value}]})
        };
        // "==" would compare the whole column, but only some keys were read: other keys may change meanwhile.
        let keys = |column: &str, map: &Map| {
            json!({"op": "wait", "timeout": 0, "table": "Interface", "columns": ["name"], "until": "==",
                   "where": [["_uuid", "==", port.uuid.as_json()], [column, "includes", map.as_json()]],
                   "rows": [{"name": port.name}]})
        };
        let bond = json!({"op": "wait", "timeout": 0, "table": "Port", "where": by("_uuid", "==", &owner.as_json()),
                          "columns": ["interfaces"], "until": "==", "rows": [{"interfaces": port.uuid.as_json()}]});
        let operations = [
            same("name", "==", &json!(port.name)),
            same("link_state", "!=", &json!("up")),
            keys("options", &port.options),
            keys("external_ids", &port.external_ids),
            bond,
            json!({"op": "mutate", "table": "Bridge", "where": by("_uuid", "==", &bridge.as_json()),
                   "mutations": [["ports", "delete", owner.as_json()]]}),
            json!({"op": "comment", "comment": format!("vhostuser-hotplug: removes the stale port {}", port.name)}),
        ];
        match self.transact(&operations, deadline) {
            Ok(_) => Ok(true),
            // A `wait` that doesn't hold.
            Err(Error::Refused(why)) if why.contains("timed out") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Runs operations and returns their results, if none failed.
    fn transact(&mut self, operations: &[Value], deadline: Deadline) -> Result<String, Error> {
        let params: Value = [json!("Open_vSwitch")].into_iter().chain(operations.iter().cloned()).collect();
        let text = self.0.call("transact", &params, deadline)?;
        let results: Vec<&RawValue> = serde_json::from_str(&text).map_err(unreadable)?;
        // After a failed one all others are null. A failed commit adds one more result.
        let failed = results.iter().find(|result| serde_json::from_str::<Failed<'_>>(result.get()).is_ok());
        let failed = failed.or_else(|| results.get(operations.len())).map(|failed| failed.get().to_owned());
        match failed {
            Some(error) => Err(Error::Refused(error)),
            None if results.len() < operations.len() => {
                Err(Error::Protocol("fewer results than operations".to_owned()))
            }
            None => Ok(text),
        }
    }
}

/// The result of an operation that failed.
#[derive(Deserialize)]
struct Failed<'a> {
    #[serde(borrow, rename = "error")]
    _error: &'a RawValue,
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::Protocol(error.to_string())
}

/// The rows that a `select` found.
#[derive(Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
struct Rows<T> {
    rows: Vec<T>,
}

/// Returns the only row that one `select` found.
fn only_row(text: &str) -> Result<Option<Uuid>, Error> {
    #[derive(Deserialize)]
    struct Row {
        #[serde(rename = "_uuid")]
        uuid: Uuid,
    }
    let (Rows { mut rows },): (Rows<Row>,) = serde_json::from_str(text).map_err(unreadable)?;
    Ok(rows.pop().filter(|_| rows.is_empty()).map(|row| row.uuid))
}

/// Parses the answer to [`Database::snapshot`].
///
/// # Errors
/// [`Error::Protocol`] for an invalid answer.
pub fn parse(text: &str) -> Result<Snapshot, Error> {
    let answers: Answers = serde_json::from_str(text).map_err(unreadable)?;
    Ok(answers.0)
}

/// The results of the three queries.
struct Answers(Snapshot);

impl<'de> Deserialize<'de> for Answers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Three;
        impl<'de> Visitor<'de> for Three {
            type Value = Answers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the rows of three questions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Answers, A::Error> {
                let missing = || de::Error::custom("fewer results than questions");
                let switches: Rows<Switch> = seq.next_element()?.ok_or_else(missing)?;
                let clients: Rows<Interface> = seq.next_element()?.ok_or_else(missing)?;
                let servers: Rows<Interface> = seq.next_element()?.ok_or_else(missing)?;
                let switch = switches.rows.into_iter().next().unwrap_or_default();
                let mut ports = clients.rows;
                ports.extend(servers.rows);
                Ok(Answers(Snapshot { switch, ports }))
            }
        }
        deserializer.deserialize_seq(Three)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"[{"rows":[{"dpdk_initialized":true,"dpdk_version":"DPDK 24.11.8","ovs_version":"3.5.0",
        "external_ids":["map",[["system-id","n1"],["ovn-remote-n1","ssl:[::1]:6642"]]],"other_config":["map",[["dpdk-init","true"]]]}]},
        {"rows":[{"_uuid":["uuid","7a"],"name":"4f3c2b1a_net1_h","type":"dpdkvhostuserclient","error":["set",[]],"ofport":3,
        "link_state":"down","options":["map",[["vhost-server-path","/var/run/x"],["n_rxq","1"]]],
        "external_ids":["map",[["iface-id","vm.default"],["ip","172.18.0.9"]]]}]},{"rows":[]}]"#;

    #[test]
    fn an_answer_is_read() {
        let snapshot = parse(ANSWER).unwrap();
        assert!(snapshot.switch.has_ovn() && snapshot.switch.dpdk_initialized);
        assert_eq!(snapshot.switch.dpdk_version.as_deref(), Some("DPDK 24.11.8"));
        let [port] = &snapshot.ports[..] else { panic!("{snapshot:?}") };
        assert_eq!((port.name.as_str(), port.ofport, &port.error), ("4f3c2b1a_net1_h", Some(3), &None));
        assert_eq!(port.options.get("vhost-server-path"), Some("/var/run/x"));
        assert_eq!((port.options.get("n_rxq"), port.external_ids.get("ip")), (None, None));
        let empty = parse(&ANSWER.replace(r#""error":["set",[]]"#, r#""error":"""#)).unwrap();
        assert_eq!(empty.ports[0].error, None);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for text in
            ["", "[]", "{}", "[{\"rows\":[]},{\"rows\":[]}]", "[null,null,null]", "[{\"rows\":[{}]},{\"rows\":[]}]"]
        {
            assert!(matches!(parse(text), Err(Error::Protocol(_))), "{text}");
        }
        assert!(parse(&ANSWER.replace("\"map\"", "\"set\"")).is_err());
    }

    #[test]
    fn a_probe_interval_is_no_remote() {
        let ids = Map([("ovn-remote-probe-interval".to_owned(), "1000".to_owned())].into());
        assert!(!Switch { external_ids: ids, ..Switch::default() }.has_ovn());
    }
}
