//! A list's text, edited by splicing: everything but the plugin's entry keeps its bytes.

use std::ops::Range;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{KUBE_OVN, PLUGIN, SHARED_KEYS};
use crate::cni::json::{Members, kind, member};
use crate::quote;

/// Why a list can't be edited, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotEditable(String);

fn not_editable<T>(why: impl Into<String>) -> Result<T, NotEditable> {
    Err(NotEditable(why.into()))
}

/// A list, and where its plugins are in its text.
#[derive(Debug)]
pub struct ListText<'a> {
    text: &'a str,
    members: Members,
    plugins: Vec<Plugin>,
}

#[derive(Debug)]
struct Plugin {
    kind: String,
    place: Range<usize>,
}

impl<'a> ListText<'a> {
    /// Parses a list.
    ///
    /// # Errors
    /// It is no list, or runtimes and this plugin could read it differently, as with a key that is there twice.
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

    /// Returns the network's name; an empty one if it has none.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.members.value(self.text, "name");
        name.and_then(|name| serde_json::from_str(name).ok()).unwrap_or_default()
    }

    /// Returns the types of its plugins, in order.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|plugin| plugin.kind.as_str())
    }

    /// Returns true if it has a plugin of this type.
    #[must_use]
    pub fn has(&self, kind: &str) -> bool {
        self.types().any(|other| other == kind)
    }

    /// Returns the text of the plugin's entry, if it has one.
    #[must_use]
    pub fn entry(&self) -> Option<&'a str> {
        self.first(PLUGIN)
    }

    /// Returns the entry that the list would get. A plugin sees its own object only, so kube-ovn's keys of the socket are
    /// copied.
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

    /// Returns the list with the plugin's entry in it, once and after kube-ovn's, and with `keys` in the entry. An entry that
    /// is there keeps its other keys, and its place if it is after kube-ovn's.
    ///
    /// A new entry is the last. Other plugins have then changed the result (tuning sets a MAC address), and libcni adds
    /// drop-ins at the end, too. DEL runs backwards, so that kube-ovn's port goes after the NIC whatever is between them.
    ///
    /// # Errors
    /// The list has no kube-ovn.
    pub fn with_entry(&self, keys: &Map<String, Value>) -> Result<String, NotEditable> {
        let Some(theirs) = self.plugins.iter().position(|plugin| plugin.kind == KUBE_OVN) else {
            return not_editable(format!("no plugin of it is {KUBE_OVN}, which {PLUGIN} must be chained after"));
        };
        let is_own = |plugin: &Plugin| plugin.kind == PLUGIN;
        let kept = self.plugins.iter().enumerate().position(|(at, plugin)| at > theirs && is_own(plugin));
        let first = self.plugins.iter().position(is_own);
        let entry = match kept.or(first).and_then(|at| self.plugins.get(at)) {
            Some(plugin) => self.text.get(plugin.place.clone()).unwrap_or_default().to_owned(),
            None => self.new_entry(),
        };
        let entry = with_keys(&entry, keys)?;
        // Backwards, so that the remaining positions stay valid.
        let mut text = self.text.to_owned();
        for (at, _) in self.plugins.iter().enumerate().rev().filter(|(at, plugin)| is_own(plugin) && Some(*at) != kept)
        {
            text = ListText::parse(&text)?.without(at)?;
        }
        let rest = ListText::parse(&text)?;
        match rest.plugins.iter().find(|plugin| is_own(plugin)) {
            Some(kept) => Ok(spliced(rest.text, kept.place.clone(), &entry)),
            None => rest.with_last(&entry),
        }
    }

    /// Returns the list without the plugin's entry, however often it is there.
    ///
    /// # Errors
    /// No plugin would be left.
    pub fn without_entry(&self) -> Result<String, NotEditable> {
        let mut text = self.text.to_owned();
        for (at, _) in self.plugins.iter().enumerate().rev().filter(|(_, plugin)| plugin.kind == PLUGIN) {
            text = ListText::parse(&text)?.without(at)?;
        }
        Ok(text)
    }

    /// Returns the text without a plugin and its comma.
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

    /// Returns the text with one more plugin at the end, after as much white space as the last one.
    fn with_last(&self, entry: &str) -> Result<String, NotEditable> {
        let Some(last) = self.plugins.last() else { return not_editable("it has no plugins") };
        let before = self.text.get(..last.place.start).unwrap_or_default();
        let space = before.get(before.trim_end_matches([' ', '\t', '\r', '\n']).len()..).unwrap_or_default();
        Ok(spliced(self.text, last.place.end..last.place.end, &format!(",{space}{entry}")))
    }
}

/// Returns an entry's text with these keys in it; keys that it has get the new values in place.
fn with_keys(entry: &str, keys: &Map<String, Value>) -> Result<String, NotEditable> {
    let mut entry = entry.to_owned();
    for (key, value) in keys {
        if key == "type" && value != PLUGIN {
            return not_editable(format!("an entry of type {value} is not {PLUGIN}'s"));
        }
        let members = Members::of(&entry).or_else(|error| not_editable(error.to_string()))?;
        let place = members.places(key).next_back();
        match place {
            // The same value keeps its spelling.
            Some(place)
                if entry
                    .get(place.clone())
                    .is_some_and(|old| serde_json::from_str(old).ok().as_ref() == Some(value)) => {}
            Some(place) => entry = spliced(&entry, place, &value.to_string()),
            None => {
                let members_text = entry.trim_start_matches('{');
                let space = members_text.len().saturating_sub(members_text.trim_start().len());
                let space = members_text.get(..space).unwrap_or_default();
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
