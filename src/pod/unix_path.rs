//! The path of a unix socket, compared by its file in the pod's containers: `/run/x`, `/var/run/x`, `/run//x`, a path
//! through a link and one through another mount of the same volume may all be the same socket.
//!
//! The last component of a bound socket's path is the file's own name, because bind(2) follows no link there. The rest
//! is a directory, identified by device and inode. It is resolved as the container's processes do, and never outside
//! the container.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::iter::once_with;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::process::Process;
use crate::deadline::Deadline;
use crate::sys::{self, Walk};

/// Most roots and working directories of a pod's processes that are used.
const VIEW_LIMIT: usize = 64;

/// Most directories that are resolved. A pod may bind any number of sockets of one name; one that hides a socket this
/// way could have moved it as well.
const DIRECTORY_LIMIT: usize = 256;

/// How long all lookups may take. A file system of the pod may never answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The device and inode of a directory.
type Object = (u64, u64);

/// How a pod's processes resolve paths.
#[derive(Debug)]
pub struct Views {
    views: Vec<View>,
    known: Mutex<Known>,
}

/// How a process resolves paths.
#[derive(Debug)]
struct View {
    root: Arc<OwnedFd>,
    /// Its working directory, relative to its root. Only the first process of a root is used for absolute paths.
    cwd: PathBuf,
    is_first: bool,
}

/// Cached lookups.
#[derive(Debug)]
struct Known {
    /// `None` if the lookup took too long.
    directories: BTreeMap<PathBuf, Option<BTreeSet<Object>>>,
    left: Duration,
}

impl Views {
    /// Returns the views of these processes. One that has ended is skipped.
    #[must_use]
    pub fn of(processes: &[Process]) -> Self {
        let (mut roots, mut seen, mut views) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        for process in processes {
            let Ok(namespace) = process.namespace("mnt") else { continue };
            let Some((place, cwd)) = process.directories() else { continue };
            if !seen.insert((namespace, place.clone(), cwd.clone())) {
                continue;
            }
            let known = roots.get(&(namespace, place.clone())).cloned();
            let is_first = known.is_none();
            let Some(root) = known.or_else(|| process.root().ok().map(Arc::new)) else { continue };
            roots.insert((namespace, place), Arc::clone(&root));
            views.push(View { root, cwd, is_first });
            if views.len() == VIEW_LIMIT {
                break;
            }
        }
        Self { views, known: Mutex::new(Known { directories: BTreeMap::new(), left: PATIENCE }) }
    }

    /// Returns true if both paths name one file. Processes may resolve a path to different files; one common file is
    /// enough. `None` if unknown.
    fn are_same(&self, one: &Path, other: &Path) -> Option<bool> {
        let (Some(name), true) = (one.file_name(), one.file_name() == other.file_name()) else { return Some(false) };
        // Such as "x/.", which can't be bound.
        let ends_so = |path: &Path| path.as_os_str().as_bytes().ends_with(name.as_bytes());
        if !ends_so(one) || !ends_so(other) {
            return Some(false);
        }
        Some(!self.directory(one)?.is_disjoint(&self.directory(other)?))
    }

    /// Returns the directories in which a path may be. `None` if the limit or the time is used up.
    fn directory(&self, path: &Path) -> Option<BTreeSet<Object>> {
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.directories.get(&parent) {
            return found.clone();
        }
        if known.left.is_zero() || known.directories.len() >= DIRECTORY_LIMIT {
            return None;
        }
        let begun = Instant::now();
        let views = self.views.iter().filter(|view| view.is_first || parent.is_relative());
        let candidates: Vec<_> = views.map(|view| (Arc::clone(&view.root), view.cwd.join(&parent))).collect();
        let look = move || {
            let opened =
                candidates.iter().filter_map(|(root, path)| sys::open_below(root.as_fd(), path, Walk::Rooted).ok());
            opened.filter_map(|directory| sys::object(directory.as_fd()).ok()).collect::<BTreeSet<_>>()
        };
        let found = Deadline::after(known.left).bound(once_with(look)).next().and_then(Result::ok);
        known.left = known.left.saturating_sub(begun.elapsed());
        known.directories.insert(parent, found.clone());
        found
    }
}

/// A unix socket's path, in one process' spelling.
#[derive(Clone, Debug)]
pub struct UnixPath {
    text: String,
    views: Option<Arc<Views>>,
}

impl UnixPath {
    /// Creates the path of a socket of these processes.
    #[must_use]
    pub fn new(text: &str, views: &Arc<Views>) -> Self {
        Self { text: text.to_owned(), views: Some(Arc::clone(views)) }
    }

    /// Returns true if `other` is known to name the same socket, perhaps in another spelling.
    #[must_use]
    pub fn is(&self, other: impl AsRef<[u8]>) -> bool {
        self.compare(other.as_ref()) == Some(true)
    }

    /// Returns true if `other` names the same socket, perhaps in another spelling, or if that is unknown.
    #[must_use]
    pub fn may_be(&self, other: impl AsRef<[u8]>) -> bool {
        self.compare(other.as_ref()) != Some(false)
    }

    fn compare(&self, other: &[u8]) -> Option<bool> {
        // An abstract socket (unix(7)) has no file; the kernel's list shows its name with an @.
        let is_file = |name: &[u8]| !matches!(name.first(), None | Some(b'@' | 0));
        if self.text.as_bytes() == other {
            return Some(true);
        }
        match &self.views {
            Some(views) if is_file(other) => views.are_same(Path::new(&self.text), Path::new(OsStr::from_bytes(other))),
            _ => Some(false),
        }
    }
}

/// A path that is compared as text.
impl From<&str> for UnixPath {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), views: None }
    }
}

/// The same.
impl From<String> for UnixPath {
    fn from(text: String) -> Self {
        Self { text, views: None }
    }
}

impl Deref for UnixPath {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl PartialEq for UnixPath {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for UnixPath {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Returns a directory of the test's own, with links in it.
    fn scratch(test: &str) -> PathBuf {
        let base = std::env::temp_dir().join(format!("vhu-unix-path-{}-{test}", std::process::id()));
        std::fs::create_dir_all(base.join("run/vm")).unwrap();
        std::fs::create_dir_all(base.join("other/vm")).unwrap();
        symlink("run", base.join("var")).unwrap();
        symlink(base.join("run/vm"), base.join("absolute")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        base
    }

    fn views() -> Arc<Views> {
        let own = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        Arc::new(Views::of(&[own]))
    }

    #[test]
    fn a_socket_is_known_by_its_file_whatever_its_spelling() {
        let base = scratch("spelling");
        let at = base.to_str().unwrap();
        let path = UnixPath::new(&format!("{at}/run/vm/net1"), &views());
        for same in
            ["run/vm/net1", "var/vm/net1", "run//vm/net1", "run/./vm/net1", "absolute/net1", "other/../run/vm/net1"]
        {
            assert!(path.is(format!("{at}/{same}")), "{same}");
        }
        for other in [
            "run/vm/net2",
            "run/vm/net1/",
            "run/vm/net1/.",
            "run/vm/net1\n",
            "other/vm/net1",
            "loop/net1",
            "gone/net1",
            "run/vm",
            "",
        ] {
            assert!(!path.is(format!("{at}/{other}")), "{other}");
        }
        for odd in ["", "net1", "@net1", "\0net1", "@/run/vm/net1", "../net1", "/", ".."] {
            assert!(!path.is(odd), "{odd:?}");
        }
        assert!(!path.is([at.as_bytes(), b"/\xff/net1"].concat()));
        assert!(!UnixPath::from(&*path).is(format!("{at}/var/vm/net1")), "nothing is known but the text");
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_relative_path_is_one_of_a_working_directory() {
        let base = scratch("relative");
        let mut child = std::process::Command::new("sleep").arg("60").current_dir(base.join("other")).spawn().unwrap();
        let process = Process::open(i32::try_from(child.id()).unwrap()).unwrap();
        let path = UnixPath::new(base.join("run/vm/net1").to_str().unwrap(), &Arc::new(Views::of(&[process])));
        for (relative, same) in
            [("../run/vm/net1", true), ("../var/vm/net1", true), ("vm/net1", false), ("net1", false)]
        {
            assert_eq!(path.is(relative), same, "{relative}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn no_more_directories_are_looked_up_than_are_allowed() {
        let views = views();
        let path = UnixPath::new("/tmp/net1", &views);
        for number in 0..2 * DIRECTORY_LIMIT {
            assert!(!path.is(format!("/tmp/gone-{number}/net1")));
        }
        assert!(path.may_be("/tmp/gone-last/net1") && !path.may_be("/tmp/gone-last/net2"), "it was not looked up");
        assert!(!path.may_be("/tmp/gone-0/net1"), "it was");
        assert_eq!(views.known.lock().unwrap().directories.len(), DIRECTORY_LIMIT);
        assert!(path.is("/tmp/net1"));
    }
}
