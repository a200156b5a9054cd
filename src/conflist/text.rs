//! A list's text, edited by splicing: what is not ours stays as it is written, to the byte.

use std::fmt;
use std::ops::Range;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{KUBE_OVN, PLUGIN, SHARED_KEYS, is_closed};
use crate::cni::json::{Members, kind, member};
use crate::quote;

/// Why a list cannot be edited, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotEditable(String);

impl fmt::Display for NotEditable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotEditable {}

fn not_editable<T>(why: impl Into<String>) -> Result<T, NotEditable> {
    Err(NotEditable(why.into()))
}

/// A list, and where its plugins stand in its text.
#[derive(Debug)]
pub struct List<'a> {
    text: &'a str,
    members: Members,
    plugins: Vec<Plugin>,
}

#[derive(Debug)]
struct Plugin {
    kind: String,
    place: Range<usize>,
}

impl<'a> List<'a> {
    /// Reads a list.
    ///
    /// # Errors
    /// That it is none, or that runtimes and this plugin might understand different things by it.
    pub fn parse(text: &'a str) -> Result<Self, NotEditable> {
        if text.starts_with('\u{feff}') {
            return not_editable("it starts with a byte order mark, with which no runtime reads it");
        }
        let members = Members::of(text)
            .or_else(|error| not_editable(format!("it is not one JSON object: {}", quote::words(&error))))?;
        let place = match members.places("plugins").collect::<Vec<_>>().as_slice() {
            [place] => place.clone(),
            [] => return not_editable("it has no \"plugins\""),
            _ => return not_editable("it has \"plugins\" more than once"),
        };
        let array = text.get(place).unwrap_or_default();
        let Ok(entries) = serde_json::from_str::<Vec<&RawValue>>(array) else {
            return not_editable(format!("its \"plugins\" are {}, not an array", kind(array)));
        };
        let mut plugins = Vec::with_capacity(entries.len());
        for (number, entry) in entries.iter().enumerate() {
            let kinds = Members::of(entry.get()).map(|members| members.places("type").count());
            let name = member(entry.get(), "type").and_then(|name| serde_json::from_str::<String>(name).ok());
            match (kinds, name) {
                (Ok(1), Some(kind)) if !kind.is_empty() => {
                    // The entry is borrowed from the text, so the distance of their addresses is its place.
                    let start = entry.get().as_ptr().addr().saturating_sub(text.as_ptr().addr());
                    plugins.push(Plugin { kind, place: start..start.saturating_add(entry.get().len()) });
                }
                _ => return not_editable(format!("plugin {number} has no \"type\", or more than one")),
            }
        }
        Ok(Self { text, members, plugins })
    }

    /// The network's name; empty if it has none.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.members.value(self.text, "name");
        name.and_then(|name| serde_json::from_str(name).ok()).unwrap_or_default()
    }

    /// The types of its plugins, in order.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|plugin| plugin.kind.as_str())
    }

    /// Whether a plugin of this type is in it.
    #[must_use]
    pub fn has(&self, kind: &str) -> bool {
        self.kinds().any(|other| other == kind)
    }

    /// Whether it keeps plugins from being added by files beside it (libcni 1.3).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        serde_json::from_str(self.text).is_ok_and(|list| is_closed(&list) == Ok(true))
    }

    /// The text of our entry, if there is one.
    #[must_use]
    pub fn ours(&self) -> Option<&'a str> {
        self.first(PLUGIN)
    }

    /// Our entry as the list would get it. A plugin sees its own object alone, so what kube-ovn's says of the socket is
    /// said again.
    #[must_use]
    pub fn new_entry(&self) -> String {
        let theirs = self.first(KUBE_OVN).unwrap_or_default();
        let keys = SHARED_KEYS.iter().filter_map(|key| Some(format!(",\"{key}\":{}", member(theirs, key)?)));
        format!("{{\"type\":\"{PLUGIN}\"{}}}", keys.collect::<String>())
    }

    fn first(&self, kind: &str) -> Option<&'a str> {
        let place = self.plugins.iter().find(|plugin| plugin.kind == kind)?.place.clone();
        self.text.get(place)
    }

    /// The list with our entry in it, once and after kube-ovn's, and `keys` in the entry. Keys of an entry that is there
    /// already stay unless `keys` has them too, and so does its place if it is a possible one.
    ///
    /// A new entry is the last. A plugin of another that changes the result (tuning's MAC address) has then done so, and
    /// libcni adds files beside the list in the same place; the chain is undone backwards, so kube-ovn's port goes after
    /// our NIC whatever stands between them.
    ///
    /// # Errors
    /// That there is no kube-ovn in the list to stand behind.
    pub fn with_ours(&self, keys: &Map<String, Value>) -> Result<String, NotEditable> {
        let Some(theirs) = self.plugins.iter().position(|plugin| plugin.kind == KUBE_OVN) else {
            return not_editable(format!("no plugin of it is {KUBE_OVN}, which {PLUGIN} is to be chained after"));
        };
        let ours = |plugin: &Plugin| plugin.kind == PLUGIN;
        let kept = self.plugins.iter().enumerate().position(|(at, plugin)| at > theirs && ours(plugin));
        let first = self.plugins.iter().position(ours);
        let entry = match kept.or(first).and_then(|at| self.plugins.get(at)) {
            Some(plugin) => self.text.get(plugin.place.clone()).unwrap_or_default().to_owned(),
            None => self.new_entry(),
        };
        let entry = with_keys(&entry, keys)?;
        // Backwards, so that the numbers of those to come stay what they are.
        let mut text = self.text.to_owned();
        for (at, _) in self.plugins.iter().enumerate().rev().filter(|(at, plugin)| ours(plugin) && Some(*at) != kept) {
            text = List::parse(&text)?.without(at)?;
        }
        let rest = List::parse(&text)?;
        match rest.plugins.iter().find(|plugin| ours(plugin)) {
            Some(kept) => Ok(spliced(rest.text, kept.place.clone(), &entry)),
            None => rest.with_last(&entry),
        }
    }

    /// The list without our entry, however often it is there.
    ///
    /// # Errors
    /// That nothing would be left, which is no list.
    pub fn without_ours(&self) -> Result<String, NotEditable> {
        let mut text = self.text.to_owned();
        for (at, _) in self.plugins.iter().enumerate().rev().filter(|(_, plugin)| plugin.kind == PLUGIN) {
            text = List::parse(&text)?.without(at)?;
        }
        Ok(text)
    }

    /// The text without a plugin and its comma.
    fn without(&self, at: usize) -> Result<String, NotEditable> {
        let before = at.checked_sub(1).and_then(|at| self.plugins.get(at));
        let after = at.checked_add(1).and_then(|at| self.plugins.get(at));
        let place = self.plugins.get(at).map(|plugin| plugin.place.clone()).unwrap_or_default();
        match (before, after) {
            (Some(before), None) => Ok(spliced(self.text, before.place.end..place.end, "")),
            (_, Some(after)) => Ok(spliced(self.text, place.start..after.place.start, "")),
            (None, None) => not_editable(format!("{PLUGIN} is its only plugin; remove the file itself")),
        }
    }

    /// The text with one more plugin at the end, set off as the last one is.
    fn with_last(&self, entry: &str) -> Result<String, NotEditable> {
        let Some(last) = self.plugins.last() else { return not_editable("it has no plugins") };
        let before = self.text.get(..last.place.start).unwrap_or_default();
        let space = before.get(before.trim_end_matches([' ', '\t', '\r', '\n']).len()..).unwrap_or_default();
        Ok(spliced(self.text, last.place.end..last.place.end, &format!(",{space}{entry}")))
    }
}

/// An entry's text with these keys in it, in the place of those that it has.
fn with_keys(entry: &str, keys: &Map<String, Value>) -> Result<String, NotEditable> {
    let mut entry = entry.to_owned();
    for (key, value) in keys {
        if key == "type" && value != PLUGIN {
            return not_editable(format!("an entry of type {value} is not {PLUGIN}'s"));
        }
        let members = Members::of(&entry).or_else(|error| not_editable(error.to_string()))?;
        let place = members.places(key).next_back();
        match place {
            // As it is written, if it says the same.
            Some(place)
                if entry
                    .get(place.clone())
                    .is_some_and(|old| serde_json::from_str(old).ok().as_ref() == Some(value)) => {}
            Some(place) => entry = spliced(&entry, place, &value.to_string()),
            None => {
                let guest_path = entry.trim_start_matches('{');
                let space = guest_path
                    .get(..guest_path.len().saturating_sub(guest_path.trim_start().len()))
                    .unwrap_or_default();
                let end = entry.trim_end_matches('}').trim_end().len();
                let comma = if members.is_empty() { "" } else { "," };
                entry = spliced(&entry, end..end, &format!("{comma}{space}{}:{value}", Value::from(key.as_str())));
            }
        }
    }
    Ok(entry)
}

fn spliced(text: &str, place: Range<usize>, with: &str) -> String {
    let (before, after) = (text.get(..place.start), text.get(place.end..));
    [before.unwrap_or_default(), with, after.unwrap_or_default()].concat()
}
