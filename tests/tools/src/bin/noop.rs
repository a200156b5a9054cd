//! The least that a chained plugin can do: it reads its configuration and prints prevResult. The overhead of the real ones
//! is measured against this one, which is built like ours.

use std::io::{Read, Write, stdin, stdout};
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Configuration<'a> {
    #[serde(borrow, rename = "prevResult")]
    prev_result: Option<&'a RawValue>,
}

fn main() -> ExitCode {
    let mut text = String::new();
    let read = stdin().lock().read_to_string(&mut text);
    let Ok(configuration) = serde_json::from_str::<Configuration<'_>>(&text) else { return ExitCode::FAILURE };
    let result = configuration.prev_result.map_or("", RawValue::get);
    let written = stdout().lock().write_all(result.as_bytes());
    if read.is_ok() && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
