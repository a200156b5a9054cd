//! `conflist show|add|remove FILE`: our entry in a list.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Map, Value};

use super::Answer;
use crate::conflist::PLUGIN;
use crate::conflist::file::{Edit, Error, Found, edit, lock};
use crate::conflist::text::List;

/// What to do with the list.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print the types of its plugins in their order, and our entry
    Show {
        /// The list
        file: PathBuf,
    },
    /// Put the plugin into it, once and after kube-ovn; all else in it stays as it is written
    Add {
        /// The list
        file: PathBuf,
        /// Keys for the plugin's entry, as a JSON object; those that it has besides stay
        #[arg(long, value_name = "JSON", value_parser = keys)]
        config: Option<Map<String, Value>>,
    },
    /// Take the plugin out of it; all else in it stays as it is written
    Remove {
        /// The list
        file: PathBuf,
    },
}

fn keys(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

/// Does it.
pub fn run(verb: Verb) -> Answer {
    let (file, outcome) = match verb {
        Verb::Show { file } => {
            let shown = show(&file);
            (file, shown)
        }
        Verb::Add { file, config } => {
            let changed = under_lock(&file, &Edit::Add(config.unwrap_or_default()));
            let words = (format!("given the plugin {PLUGIN}"), "has the plugin already".to_owned());
            (file, changed.map(|changed| if changed { words.0 } else { words.1 }))
        }
        Verb::Remove { file } => {
            let changed = under_lock(&file, &Edit::Remove);
            let words = (format!("freed of the plugin {PLUGIN}"), "does not have the plugin".to_owned());
            (file, changed.map(|changed| if changed { words.0 } else { words.1 }))
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
    let found = Found::read(file)?;
    let list = List::parse(&found.text)?;
    let chain = list.kinds().collect::<Vec<_>>().join(", ");
    Ok(list.ours().map_or_else(|| chain.clone(), |ours| format!("{chain}\n{ours}")))
}
