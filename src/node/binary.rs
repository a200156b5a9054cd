//! The plugin's binary: this very program, in the runtime's directory of plugins.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{ChangeLog, Error, NodePaths, PLUGIN};
use crate::conflist::file::LOCK_PATIENCE;
use crate::deadline::Deadline;
use crate::file::{self, Attributes, Lock};
use crate::sys;

const MODE: u32 = 0o755;

/// How long the installed binary may take to print its version.
const VERSION_PATIENCE: Duration = Duration::from_secs(5);

/// Keeps other installers out until it is dropped.
///
/// # Errors
/// Another installer keeps the lock for long, or the directory can't be opened.
pub fn lock(paths: &NodePaths) -> Result<Lock, Error> {
    let lock = file::lock(&paths.bin_dir, LOCK_PATIENCE)?;
    lock.ok_or_else(|| Error::Refused(format!("another installer is at work in {}", paths.bin_dir.display())))
}

/// Puts this program in place, unless it is there. Returns the lock under which that was done, for the next steps; a dry run
/// takes none.
///
/// # Errors
/// Those of the files.
pub fn place(paths: &NodePaths, log: &mut ChangeLog) -> Result<Option<Lock>, Error> {
    let installed = paths.binary();
    if !log.is_dry() {
        file::create_directories(&paths.bin_dir, 0o755)?;
    }
    let lock = if log.is_dry() { None } else { Some(lock(paths)?) };
    let this = Path::new("/proc/self/exe");
    let failed = |error: std::io::Error| sys::Error::of("open", this, &error);
    if is_executable(&installed) && same(this, &installed).map_err(failed)? {
        log.say(&installed, "already this version");
        return Ok(lock);
    }
    if !log.is_dry() {
        let content = File::open(this).map_err(failed)?;
        let unfinished = file::unfinished(&installed, &paths.bin_dir);
        file::replace(&installed, &unfinished, content, Attributes::of_root(MODE), || true)?;
    }
    log.changed(&installed, format_args!("installed ({PLUGIN} {})", env!("CARGO_PKG_VERSION")));
    Ok(lock)
}

/// Returns true if any user may execute it. Follows symbolic links, as a runtime does.
#[must_use]
pub fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.mode() & 0o111 == 0o111)
}

/// Returns who else than root may change the binary, in a phrase that goes on after "is".
#[must_use]
pub fn writable_by_others(path: &Path) -> Option<String> {
    let file = path.metadata().ok()?;
    let mode = file.mode() & 0o7777;
    (file.uid() != 0 || mode & 0o022 != 0)
        .then(|| format!("owned by uid {} with mode {mode:04o}: others may change it", file.uid()))
}

/// Returns true if both files have the same bytes. `other` may be anything.
fn same(one: &Path, other: &Path) -> std::io::Result<bool> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let length = one.read(&mut left)?;
        let (Some(left), Some(right)) = (left.get(..length), right.get_mut(..length)) else { return Ok(false) };
        match other.read_exact(right) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            outcome => outcome?,
        }
        if left != right || length == 0 {
            return Ok(left == right);
        }
    }
}

/// Runs an installed plugin, which is root's own, and returns its version.
///
/// # Errors
/// Why it doesn't run, in a phrase that goes on after its path.
pub fn version(path: &Path) -> Result<String, String> {
    let mut command = Command::new(path);
    command.arg("--version").env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("can't be started: {error}"))?;
    let deadline = Deadline::after(VERSION_PATIENCE);
    // It prints less than a pipe holds, so it can exit before its output is read.
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if deadline.passed() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("does not tell its version within {} s", VERSION_PATIENCE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text: String = String::from_utf8_lossy(&output.stdout).trim().chars().take(80).collect();
    match text.strip_prefix(PLUGIN) {
        Some(version) if output.status.success() => Ok(version.trim().to_owned()),
        _ => Err(format!("does not run as {PLUGIN} does ({})", output.status)),
    }
}
