//! The page of `tests/matrix`: keeps the result of a row as JSON, and writes the page from all rows.

mod page;
mod row;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use row::{Given, Row};

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keeps a row, and says what came of it; fails if the row has failed
    Row {
        #[command(flatten)]
        given: Given,
        /// Where it is kept
        file: PathBuf,
    },
    /// Succeeds if this row is there, of so many rounds, and has not failed
    Passed {
        #[arg(long)]
        rounds: u32,
        /// Where it is kept
        file: PathBuf,
    },
    /// Prints the page
    Page {
        /// Where the rows are kept
        directory: PathBuf,
        /// Their names, in order
        rows: Vec<String>,
    },
}

fn main() -> ExitCode {
    match Options::parse().command {
        Command::Row { given, file } => {
            let row = Row::new(given);
            row.keep(&file);
            println!("{}: {}", row.row, row.outcome());
            success(row.failures().is_empty())
        }
        Command::Passed { rounds, file } => {
            let good = |row: Row| row.rounds == rounds && row.failures().is_empty();
            success(Row::kept(&file).is_some_and(good))
        }
        Command::Page { directory, rows } => {
            let rows: Vec<(String, Option<Row>)> = rows
                .into_iter()
                .map(|name| {
                    let file = directory.join(format!("{}.json", name.replace('/', "_")));
                    (name, Row::kept(&file))
                })
                .collect();
            print!("{}", page::text(&rows));
            ExitCode::SUCCESS
        }
    }
}

fn success(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
