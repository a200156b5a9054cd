//! Identifies the object at a path of the runtime, without entering a pod's files.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

/// Returns device and inode of a path; `None` if unknown. No magic link of `/proc` is followed.
#[must_use]
pub fn object_at(path: &Path) -> Option<(u64, u64)> {
    if may_lead_into_a_process(path) {
        return super::open_no_magiclinks(path).and_then(|handle| super::object(handle.as_fd())).ok();
    }
    path.metadata().ok().map(|file| (file.dev(), file.ino()))
}

/// Returns true if a path leads, or may lead, through a process' files in `/proc`. A pod may have put anything there,
/// such as a file system that never answers, so not even stat(2) may follow it. Resolving every path without magic
/// links would cost two more system calls in every pod's ADD. A symbolic link to there that is not visible in the path
/// is the host's own.
fn may_lead_into_a_process(path: &Path) -> bool {
    let is_process =
        |name: &OsStr| name == "self" || name == "thread-self" || name.as_bytes().iter().all(u8::is_ascii_digit);
    let is_magic = |name: &OsStr| ["root", "cwd", "exe", "fd", "map_files"].iter().any(|magic| name == *magic);
    let names = || path.components().map(Component::as_os_str);
    names().zip(names().skip(1)).any(|(above, name)| is_process(above) && is_magic(name))
        || path.components().any(|part| part == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_by_the_way_of_a_process_files_is_known_by_its_names() {
        for path in
            ["/proc/1/root/x", "/proc/./1//cwd/x", "/proc/self/task/2/root", "/proc/thread-self/fd/3", "/run/../x"]
        {
            assert!(may_lead_into_a_process(Path::new(path)), "{path}");
        }
        for path in ["/proc/1/ns/net", "/run/netns/cni-1", "/var/run/netns/root", "/root/netns/1", "/proc/self/ns/net"]
        {
            assert!(!may_lead_into_a_process(Path::new(path)), "{path}");
        }
    }
}
