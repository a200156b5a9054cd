//! The plugin's binary: this very program, put where the runtime looks for plugins.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Error, Journal, NAME, NodePaths};
use crate::file::{self, Access, Lock};
use crate::sys;

/// Permissions of a plugin.
const MODE: u32 = 0o755;

/// Keeps other installers out until it is dropped; nothing to hold where nothing is changed.
///
/// # Errors
/// That one is at work for long, or that the directory cannot be opened.
pub fn lock(places: &NodePaths) -> Result<Lock, Error> {
    let lock = file::lock(&places.bin_dir)?;
    lock.ok_or_else(|| Error::Refused(format!("another installer is at work in {}", places.bin_dir.display())))
}

/// Puts this program in its place, unless it is there. Returns the lock under which that was done, for the rest.
///
/// # Errors
/// Those of the files.
pub fn place(places: &NodePaths, journal: &mut Journal) -> Result<Option<Lock>, Error> {
    let installed = places.binary();
    if !journal.is_dry() {
        file::make_directory(&places.bin_dir)?;
    }
    let lock = if journal.is_dry() { None } else { Some(lock(places)?) };
    let this = Path::new("/proc/self/exe");
    let failed = |error: std::io::Error| sys::Error::of("open", this, &error);
    if is_executable(&installed) && same(this, &installed).map_err(failed)? {
        journal.say(&installed, "already this version");
        return Ok(lock);
    }
    if !journal.is_dry() {
        let content = File::open(this).map_err(failed)?;
        file::replace(&installed, &places.bin_dir, content, Access::of_root(MODE), || true)?;
    }
    journal.changed(&installed, format_args!("installed ({NAME} {})", env!("CARGO_PKG_VERSION")));
    Ok(lock)
}

/// Whether a runtime could start it. Symbolic links are followed, as a runtime does.
#[must_use]
pub fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.mode() & 0o111 == 0o111)
}

/// Whether two files are alike, the second of which may be anything.
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

/// The version of an installed plugin, if it runs at all.
///
/// # Errors
/// Why it does not run, in words.
pub fn version(path: &Path) -> Result<String, String> {
    let mut command = Command::new(path);
    let output = command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.map_err(|error| format!("it cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().strip_prefix(NAME) {
        Some(version) if output.status.success() => Ok(version.trim().to_owned()),
        _ => Err(format!("it does not run as {NAME} does ({})", output.status)),
    }
}
