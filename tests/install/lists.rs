//! Real lists and odd ones: what they are with the plugin in them, to the byte, and which are left as they are.
//! lists/NAME.conflist becomes lists/NAME.expected; those in lists/refused are not touched.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::{BINARY, CHAINED, SHIPPED, told};

/// The lists that have the plugin before.
const HAD_IT: [&str; 3] = ["before-istio.conflist", "first.conflist", "twice.conflist"];

/// A directory of one test's own.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vhu-lists-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join("10-kube-ovn.conflist");
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn conflist(words: &[&str], file: &Path) -> (bool, String) {
    told(Command::new(BINARY).arg("conflist").args(words).arg(file).output().unwrap())
}

fn lists(directory: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/install").join(directory);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|kind| kind == "conflist")).collect();
    files.sort();
    assert!(files.len() > 10, "{files:?}");
    files
}

#[test]
fn each_list_gets_the_plugin_and_nothing_else_of_it_changes() {
    let directory = Directory::new("golden");
    for path in lists("lists") {
        let name = path.display();
        let before = std::fs::read(&path).unwrap();
        let file = directory.file(&before);
        let (ok, text) = conflist(&["add"], &file);
        assert!(ok, "{name}: {text}");
        let after = std::fs::read(&file).unwrap();
        let expected = std::fs::read(path.with_extension("expected")).unwrap();
        assert_eq!(String::from_utf8_lossy(&after), String::from_utf8_lossy(&expected), "{name}");

        // Twice is once: not even the file is another one.
        let inode = std::fs::metadata(&file).unwrap().ino();
        assert!(conflist(&["add"], &file).0);
        assert_eq!((std::fs::read(&file).unwrap(), std::fs::metadata(&file).unwrap().ino()), (after, inode), "{name}");
        assert!(told(Command::new(BINARY).arg("validate").arg(&file).output().unwrap()).0, "{name}");

        assert!(conflist(&["remove"], &file).0);
        let removed = std::fs::read(&file).unwrap();
        if HAD_IT.iter().any(|list| path.ends_with(list)) {
            assert!(!String::from_utf8_lossy(&removed).contains("vhostuser-hotplug"), "{name}");
        } else {
            assert_eq!(String::from_utf8_lossy(&removed), String::from_utf8_lossy(&before), "{name}");
        }
        assert_eq!(std::fs::read_dir(&directory.0).unwrap().count(), 1, "{name}: nothing is left beside");
    }
}

#[test]
fn a_list_that_cannot_be_edited_is_left_as_it_is_and_the_reason_told() {
    let directory = Directory::new("refused");
    let reasons = [
        ("array", "not one JSON object"),
        ("byte-order-mark", "byte order mark"),
        ("calico", "no plugin of it is kube-ovn"),
        ("comments", "not one JSON object"),
        ("cut", "EOF"),
        ("empty", "EOF"),
        ("no-name", "name"),
        ("no-object", "plugin 0"),
        ("no-type", "plugin 1"),
        ("not-utf-8", "UTF-8"),
        ("number-too-large", "number out of range"),
        ("our-key-wrong", "queues"),
        ("plugins-nested", "no \"plugins\""),
        ("plugins-none", "no plugin of it is kube-ovn"),
        ("plugins-object", "an object, not an array"),
        ("plugins-twice", "more than once"),
        ("single", "no \"plugins\""),
        ("trailing-comma", "not one JSON object"),
        ("two-documents", "trailing characters"),
        ("type-twice", "plugin 0"),
    ];
    let files = lists("lists/refused");
    assert_eq!(files.len(), reasons.len());
    for (path, (name, reason)) in files.iter().zip(reasons) {
        assert_eq!(path.file_stem().unwrap(), name);
        is_refused(&directory, &std::fs::read(path).unwrap(), reason);
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    is_refused(&directory, SHIPPED.replacen("true", &deep, 1).as_bytes(), "recursion");
    let huge = SHIPPED.replacen("true", &format!("\"{}\"", "x".repeat(2 << 20)), 1);
    is_refused(&directory, huge.as_bytes(), "no list has more than");
}

fn is_refused(directory: &Directory, before: &[u8], reason: &str) {
    let file = directory.file(before);
    let inode = std::fs::metadata(&file).unwrap().ino();
    let (ok, text) = conflist(&["add"], &file);
    assert!(!ok && text.contains(reason), "{reason}: {text}");
    assert!(std::fs::read(&file).unwrap() == before, "{reason}: it was changed");
    assert_eq!(std::fs::metadata(&file).unwrap().ino(), inode, "{reason}: it was replaced");
    assert_eq!(std::fs::read_dir(&directory.0).unwrap().count(), 1, "{reason}: nothing is left beside");
}

#[test]
fn a_large_list_is_edited_within_the_bound() {
    let directory = Directory::new("large");
    let large = SHIPPED.replacen("true", &format!("\"{}\"", "x".repeat(1000 << 10)), 1);
    let file = directory.file(&large);
    assert!(conflist(&["add"], &file).0);
    assert!(conflist(&["remove"], &file).0);
    assert!(std::fs::read(&file).unwrap() == large.as_bytes());
}

#[test]
fn mode_and_owner_stay_and_what_was_there_is_kept_beside() {
    let directory = Directory::new("owner");
    for (mode, owner) in [(0o600, 0), (0o644, 0), (0o640, 1234)] {
        let file = directory.file(SHIPPED);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&file, Some(owner), Some(owner)).unwrap();
        assert!(conflist(&["add"], &file).0);
        let backup = directory.0.join(".10-kube-ovn.conflist.before-vhostuser-hotplug");
        for path in [&file, &backup] {
            let metadata = std::fs::metadata(path).unwrap();
            assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (mode, owner, owner), "{path:?}");
        }
        assert_eq!(std::fs::read_to_string(&backup).unwrap(), SHIPPED);
        assert!(conflist(&["remove"], &file).0);
    }
}

#[test]
fn keys_are_put_into_the_entry_and_those_that_it_has_stay() {
    let directory = Directory::new("keys");
    let file = directory.file(SHIPPED);
    let config = |text: &str| conflist(&["add", "--config", text], &file);
    assert!(config(r#"{"queues":4,"log_level":"debug"}"#).0);
    let entry = r#"{"type":"vhostuser-hotplug","log_level":"debug","queues":4}"#;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), CHAINED.replace(r#"{"type":"vhostuser-hotplug"}"#, entry));

    let by_hand = "{ \"type\" : \"vhostuser-hotplug\",\n  \"queues\" :\t2, \"x\": {\"a\": 1.0} }";
    std::fs::write(&file, CHAINED.replace(r#"{"type":"vhostuser-hotplug"}"#, by_hand)).unwrap();
    assert!(config(r#"{"queues":8,"attach":"never"}"#).0);
    let merged = "{ \"type\" : \"vhostuser-hotplug\",\n  \"queues\" :\t8, \"x\": {\"a\": 1.0}, \"attach\":\"never\" }";
    assert_eq!(std::fs::read_to_string(&file).unwrap(), CHAINED.replace(r#"{"type":"vhostuser-hotplug"}"#, merged));
    assert!(config(r#"{"queues":8}"#).1.contains("already"));

    for (wrong, reason) in
        [("{\"queues\":0}", "queues"), ("{\"type\":\"calico\"}", "calico"), ("7", "not a JSON object")]
    {
        let before = std::fs::read(&file).unwrap();
        let (ok, text) = config(wrong);
        assert!(!ok && text.contains(reason), "{wrong}: {text}");
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }
    let (ok, text) = conflist(&["show"], &file);
    assert!(ok && text.contains("kube-ovn, portmap, vhostuser-hotplug\n{ \"type\""), "{text}");
}

#[test]
fn what_is_no_ordinary_file_is_left_alone() {
    let directory = Directory::new("odd");
    let file = directory.file(SHIPPED);
    let other = directory.0.join("other.conflist");
    symlink(&file, &other).unwrap();
    let (ok, text) = conflist(&["add"], &other);
    assert!(!ok && text.contains("symbolic link") && text.contains("10-kube-ovn.conflist where"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), SHIPPED);

    std::fs::remove_file(&other).unwrap();
    assert!(Command::new("mkfifo").arg(&other).status().unwrap().success());
    assert!(conflist(&["add"], &other).1.contains("no file"));
    let (ok, text) = conflist(&["add"], &directory.0.join("absent.conflist"));
    assert!(!ok && text.contains("No such file"), "{text}");
    let (ok, text) = conflist(&["add"], &directory.0.join("absent/absent.conflist"));
    assert!(!ok && text.contains("No such file"), "{text}");
}

#[test]
fn the_only_plugin_of_a_list_is_not_removed() {
    let directory = Directory::new("only");
    let file = directory.file(r#"{"name":"kube-ovn","cniVersion":"0.3.1","plugins":[{"type":"vhostuser-hotplug"}]}"#);
    let (ok, text) = conflist(&["remove"], &file);
    assert!(!ok && text.contains("only plugin"), "{text}");
}
