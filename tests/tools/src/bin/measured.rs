//! `measured FILE PROGRAM [ARGUMENT…]` runs a program and writes into FILE the most memory that it had resident, in
//! KiB.
//!
//! It is a process of its own, and a small one, because the kernel counts what a child shares with its parent before it
//! becomes another program (`ru_maxrss`, getrusage(2)).

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use nix::sys::resource::{UsageWho, getrusage};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let (Some(file), Some(program)) = (words.next(), words.next()) else {
        eprintln!("usage: measured FILE PROGRAM [ARGUMENT…]");
        return ExitCode::from(2);
    };
    let status = Command::new(program).args(words).status().expect("the program starts");
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the kernel counts");
    std::fs::write(file, usage.max_rss().to_string()).expect("the file can be written");
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
