//! JSON objects read as the text that they are: which member stands where.
//!
//! What the plugin doesn't understand it must hand on to the letter, so an object is not decoded into a tree but split
//! into the places of its members; only those that are asked for are decoded. Nesting costs no stack here: serde_json
//! skips over values without recursion. Length and count are the caller's to bound: stdin has 4 MiB at most
//! ([`serve()`](super::serve())), and a member costs 40 bytes and its key.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one JSON object: each key, decoded, with the place of its value in the object's text.
#[derive(Clone, Debug, Default)]
pub struct Members(Vec<(String, Range<usize>)>);

impl Members {
    /// The members of the object that is all of `text`.
    ///
    /// # Errors
    /// `text` isn't one JSON object and nothing else.
    pub fn of(text: &str) -> serde_json::Result<Self> {
        let mut json = serde_json::Deserializer::from_str(text);
        let members = json.deserialize_map(Collector { text })?;
        json.end()?;
        Ok(Self(members))
    }

    /// The places in the text of all values with this key, which in a sound object is one at most.
    pub fn places<'a>(&'a self, key: &'a str) -> impl DoubleEndedIterator<Item = Range<usize>> + 'a {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, place)| place.clone())
    }

    /// The value with this key, as it stands in `text`, the text that these members were read from; absent if it is
    /// `null`. Of doubles the last one counts, as in Go.
    #[must_use]
    pub fn value<'a>(&self, text: &'a str, key: &str) -> Option<&'a str> {
        let place = self.places(key).next_back()?;
        text.get(place).filter(|value| *value != "null")
    }

    /// Whether the object has no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The member `key` of the object `text`, as it stands there; absent if `text` is no object or the member is `null`.
#[must_use]
pub fn member<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    Members::of(text).ok()?.value(text, key)
}

/// Where `part`, which was borrowed from `text`, stands in it: as far behind its start as their addresses are apart.
#[must_use]
pub fn place(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    start..start.saturating_add(part.len())
}

/// What kind of JSON value `text` starts with, in words.
#[must_use]
pub fn kind(text: &str) -> &'static str {
    match text.trim_start().as_bytes().first() {
        None => "nothing",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(_) => "no JSON",
    }
}

struct Collector<'a> {
    text: &'a str,
}

impl<'de> Visitor<'de> for Collector<'de> {
    type Value = Vec<(String, Range<usize>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(16);
        while let Some((key, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
            // A key that is no text, such as one with half a surrogate pair, stays as it is spelt, in quotes: nobody
            // asks for it, and it breaks nothing.
            let name = serde_json::from_str(key.get()).unwrap_or_else(|_| key.get().to_owned());
            members.push((name, place(self.text, value.get())));
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_where_they_stand() {
        let text = "\n{ \"a\" : 1e400 ,\t\"b\\u0063\":[ {\"a\":2} ] , \"n\": null,\"d\":1,\"d\":\"ü\" }\n";
        let members = Members::of(text).unwrap();
        assert_eq!(members.value(text, "a"), Some("1e400"));
        assert_eq!(members.value(text, "bc"), Some("[ {\"a\":2} ]"));
        assert_eq!(members.value(text, "n"), None);
        assert_eq!(members.value(text, "d"), Some("\"ü\""));
        assert_eq!(members.value(text, "absent"), None);
        assert_eq!(members.places("d").count(), 2);
    }

    #[test]
    fn only_one_object_is_an_object() {
        for text in
            ["", " ", "null", "[]", "{}x", "{} {}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "\u{feff}{}", "{\"a\":\"\n\"}"]
        {
            assert!(Members::of(text).is_err(), "{text:?}");
        }
        assert!(Members::of(" {} \n").unwrap().is_empty());
    }

    #[test]
    fn odd_keys_and_deep_nesting_break_nothing() {
        let deep = format!(r#"{{"\ud800":1,"deep":{}{},"a":7}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(member(&deep, "a"), Some("7"));
    }
}
