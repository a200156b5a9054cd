//! One call of the runtime, from the first byte to the exit status.

use std::io;
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::process::{self, ExitCode};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::{read, write};

use super::command::Verb;
use super::netconf::version_asked_for;
use super::request::Variables;
use super::{Error, Request, Version, reply};
use crate::deadline::Deadline;

/// Largest configuration that is read, in bytes. A chain's results seldom reach a hundredth of it.
const STDIN_MAX: usize = 4 << 20;
/// How long a runtime may take to hand over the configuration and close stdin.
const STDIN_TIME: Duration = Duration::from_secs(30);
/// The same for VERSION, which can be answered without.
const STDIN_TIME_VERSION: Duration = Duration::from_secs(2);

/// The version to answer in, once it is known; for an answer from the panic hook.
static SPOKEN: OnceLock<Version> = OnceLock::new();
/// Whether something went to stdout; a second document must not follow it.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// Serves the one call that this process was started for: reads it, has `run` do it unless it is VERSION, prints the
/// result or the error, and says whether that succeeded. `run` returns what to print, if anything.
pub fn serve(run: impl FnOnce(&Request) -> Result<Option<Vec<u8>>, Error>) -> ExitCode {
    answer_even_to_a_panic();
    let variables = Variables::new(|name| std::env::var_os(name));
    let outcome = match variables.verb() {
        Ok(Verb::Version) => {
            // Nothing on stdin can make this fail, not even that it can't be read.
            let stdin = read_stdin(STDIN_TIME_VERSION).unwrap_or_default();
            Ok(Some(reply::versions(&stdin).into_bytes()))
        }
        Ok(Verb::Call(command)) => {
            let (version, request) = Request::read(&variables, command, read_stdin(STDIN_TIME));
            SPOKEN.get_or_init(|| version);
            // Once there is a request, `run` tells the log how it ended.
            request.inspect_err(|error| log::error!("{command} refused: {error}")).and_then(|request| run(&request))
        }
        Err(error) => {
            // A runtime newer than this plugin gets its answer in its own version; who sets no command at all may be a
            // person at a terminal, whose input nobody should wait for.
            if variables.has_command() {
                let stdin = read_stdin(STDIN_TIME_VERSION).unwrap_or_default();
                SPOKEN.get_or_init(|| version_asked_for(stdin));
            }
            log::error!("refused: {error}");
            Err(error)
        }
    };
    conclude(outcome)
}

/// Prints the result or the error; the exit status is success only if there is one and all of it was written.
fn conclude(outcome: Result<Option<Vec<u8>>, Error>) -> ExitCode {
    let (answer, status) = match outcome {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => (Some(error.to_json(spoken()).into_bytes()), ExitCode::FAILURE),
    };
    match answer.map(print).unwrap_or(Ok(())) {
        Ok(()) => status,
        Err(error) => {
            log::error!("The answer could not be written to stdout, so the call counts as failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn spoken() -> Version {
    SPOKEN.get().copied().unwrap_or(Version::NEWEST)
}

/// Ends the process with this error at the deadline, if nothing has been answered by then: for a call that waits for what
/// has no deadline of its own, such as a file system of the pod that does not answer. Whatever the call was about to do
/// is then left as a SIGKILL would leave it. For a thread of its own.
pub fn end_at(deadline: Deadline, error: &Error) {
    std::thread::sleep(deadline.remaining());
    if !ANSWERED.swap(true, Ordering::Relaxed) {
        fail_at_once(error);
    }
}

/// Ends the process with this error; the answer is this caller's to give.
fn fail_at_once(error: &Error) -> ! {
    // Whether it could be written or not, all that is left is to fail.
    let _ = write_all(error.to_json(spoken()).into_bytes());
    log::error!("{error}");
    process::exit(1);
}

/// Writes the process' one document to stdout.
fn print(document: Vec<u8>) -> nix::Result<()> {
    if ANSWERED.swap(true, Ordering::Relaxed) {
        // Another thread gives the answer and ends the process.
        loop {
            std::thread::park();
        }
    }
    write_all(document)
}

/// Writes a document to stdout, which is not buffered here: a write that failed must be known before the exit.
fn write_all(mut document: Vec<u8>) -> nix::Result<()> {
    document.push(b'\n');
    let mut left = document.as_slice();
    while !left.is_empty() {
        match write(io::stdout(), left) {
            Ok(written) => left = left.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// All of stdin; nothing if it is a terminal.
fn read_stdin(time: Duration) -> Result<Vec<u8>, Error> {
    let stdin = io::stdin();
    if io::IsTerminal::is_terminal(&stdin) {
        return Ok(Vec::new());
    }
    read_to_end(&stdin, Deadline::after(time))
}

/// All that comes from `source`, unless that is more than [`STDIN_MAX`] or its end doesn't come in time.
fn read_to_end(source: &impl AsFd, deadline: Deadline) -> Result<Vec<u8>, Error> {
    let unreadable =
        |error: Errno| Error::io("The network configuration can't be read from stdin.").with_details(error);
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        let mut ready = [PollFd::new(source.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, deadline.poll_timeout()) {
            // Also where there is always a little more to read.
            _ if deadline.passed() => {
                return Err(Error::io("The network configuration on stdin did not end in time."));
            }
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(unreadable(error)),
        }
        match read(source, &mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes.extend(chunk.iter().take(length)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(unreadable(error)),
        }
        if bytes.len() > STDIN_MAX {
            return Err(Error::io(format!("The network configuration on stdin is larger than {STDIN_MAX} bytes.")));
        }
    }
}

/// From here on a panic, which is a defect of this plugin, ends the process with an error object like any other
/// failure, and not with a signal.
fn answer_even_to_a_panic() {
    panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let error = Error::internal("The plugin met a state that it takes for impossible; please report this defect.")
            .with_details(info);
        if !ANSWERED.swap(true, Ordering::Relaxed) {
            fail_at_once(&error);
        }
        log::error!("{error}");
        process::exit(1);
    }));
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Instant;

    use super::*;

    #[test]
    fn input_is_read_to_its_end_and_no_further() {
        let (reader, mut writer) = io::pipe().unwrap();
        let sender = std::thread::spawn(move || writer.write_all(&[b'x'; 1 << 20]).unwrap());
        assert_eq!(read_to_end(&reader, Deadline::after(STDIN_TIME)).unwrap().len(), 1 << 20);
        sender.join().unwrap();

        let (reader, mut writer) = io::pipe().unwrap();
        let sender = std::thread::spawn(move || writer.write_all(&vec![b'x'; STDIN_MAX + (1 << 20)]));
        assert_eq!(read_to_end(&reader, Deadline::after(STDIN_TIME)).unwrap_err().code, 5);
        drop(reader);
        assert!(sender.join().unwrap().is_err(), "nobody should have read it all");
    }

    #[test]
    fn input_without_an_end_is_not_waited_for_long() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"{}").unwrap();
        let start = Instant::now();
        assert_eq!(read_to_end(&reader, Deadline::after(Duration::from_millis(50))).unwrap_err().code, 5);
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn input_that_trickles_is_not_waited_for_long() {
        let (reader, mut writer) = io::pipe().unwrap();
        let sender = std::thread::spawn(move || {
            while writer.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let start = Instant::now();
        let error = read_to_end(&reader, Deadline::after(Duration::from_millis(50))).unwrap_err();
        assert!(error.code == 5 && error.msg.contains("in time"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30));
        drop(reader);
        sender.join().unwrap();
    }

    #[test]
    fn a_directory_is_no_input() {
        let directory = std::fs::File::open("/").unwrap();
        assert_eq!(read_to_end(&directory, Deadline::after(STDIN_TIME)).unwrap_err().code, 5);
    }
}
