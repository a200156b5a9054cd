//! `conflist show|add|remove FILE`: the plugin's entry in a list.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Map, Value};

use super::Answer;
use crate::conflist::PLUGIN;
use crate::conflist::file::{Edit, Error, ListFile, edit, lock};
use crate::conflist::text::ListText;

/// What to do with the list.
#[derive(Debug, Subcommand)]
pub enum ConflistAction {
    /// Print the types of its plugins in their order, and the plugin's entry
    Show {
        /// The list
        file: PathBuf,
    },
    /// Put the plugin into it, once and after kube-ovn; nothing else in it changes
    Add {
        /// The list
        file: PathBuf,
        /// Keys for the plugin's entry, as a JSON object; the entry keeps its other keys
        #[arg(long, value_name = "JSON", value_parser = keys)]
        config: Option<Map<String, Value>>,
    },
    /// Take the plugin out of it; nothing else in it changes
    Remove {
        /// The list
        file: PathBuf,
    },
}

fn keys(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

/// Runs `conflist`.
pub fn run(action: ConflistAction) -> Answer {
    let (file, outcome) = match action {
        ConflistAction::Show { file } => {
            let shown = show(&file);
            (file, shown)
        }
        ConflistAction::Add { file, config } => {
            let changed = under_lock(&file, &Edit::Add(config.unwrap_or_default()));
            let done = format!("edited: plugin {PLUGIN} added");
            (file, changed.map(|changed| if changed { done } else { "has the plugin already".to_owned() }))
        }
        ConflistAction::Remove { file } => {
            let changed = under_lock(&file, &Edit::Remove);
            let done = format!("edited: plugin {PLUGIN} removed");
            (file, changed.map(|changed| if changed { done } else { "does not have the plugin".to_owned() }))
        }
    };
    match outcome {
        Ok(text) => Answer::of(format!("{}: {text}\n", file.display()), true),
        Err(error) => Answer::of(format!("{}: {error}\n", file.display()), false),
    }
}

fn under_lock(file: &Path, what: &Edit) -> Result<bool, Error> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _lock = lock(directory)?;
    edit(file, what, false)
}

fn show(file: &Path) -> Result<String, Error> {
    let found = ListFile::read(file)?;
    let list = ListText::parse(&found.text)?;
    let chain = list.types().collect::<Vec<_>>().join(", ");
    Ok(list.entry().map_or_else(|| chain.clone(), |entry| format!("{chain}\n{entry}")))
}
