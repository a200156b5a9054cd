//! A judge of documents that knows nothing of the plugin's own reader.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// The value of `text`, which must be one JSON document and nothing else, with no key twice in an object.
pub fn document(text: &[u8]) -> Value {
    let text = std::str::from_utf8(text).unwrap_or_else(|error| panic!("not UTF-8: {error}: {text:?}"));
    if let Err(error) = serde_json::from_str::<Unique>(text) {
        panic!("not one JSON document without double keys: {error}: {text}");
    }
    serde_json::from_str(text).unwrap_or_else(|error| panic!("not one JSON document: {error}: {text}"))
}

/// Any value of JSON whose objects name no key twice. Numbers aren't looked at, so they may be of any size.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        let mut inner = serde_json::Deserializer::from_str(raw.get());
        match raw.get().as_bytes().first() {
            Some(b'{') => inner.deserialize_map(Unique),
            Some(b'[') => inner.deserialize_seq(Unique),
            _ => Ok(Unique),
        }
        .map_err(serde::de::Error::custom)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without double keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<Unique>()?;
            if let Some(double) = keys.replace(key) {
                return Err(serde::de::Error::custom(format!("the key {double:?} is there twice")));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Unique>()?.is_some() {}
        Ok(self)
    }
}

#[test]
fn the_judge_sees_double_keys_and_trailing_garbage() {
    assert!(serde_json::from_str::<Unique>(r#"{"a":[{"b":1,"c":1e999,"b":2}]}"#).is_err());
    assert!(serde_json::from_str::<Unique>(r#"{"a":{"a":{}}} {}"#).is_err());
    assert!(serde_json::from_str::<Unique>(r#"[{"a":1},{"a":1}]"#).is_ok());
}
