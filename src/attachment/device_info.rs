//! The device-information file, from which a NIC's socket gets into the pod's network-status annotation (Network
//! Plumbing Working Group, Device Information Specification 1.1.0; `runtimeConfig.CNIDeviceInfoFile`).
//!
//! Mode and path are those for the application in the pod (section 3.1.5, and app-netutil, which opens the path there):
//! QEMU makes the socket, so the mode is "server". The runtime names the file and deletes it after DEL. It may have
//! contents of a device plugin, which stay (section 5.1.2).

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::file::{self, Attributes};
use crate::sys;

/// The specification's version.
const VERSION: &str = "1.1.0";

/// Longest file that is compared with what was written, in bytes.
const FILE_LIMIT: u64 = 64 << 10;

/// The device information of a NIC, and its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The file, an absolute path that the runtime gave.
    pub file: PathBuf,
    /// Path of the socket as QEMU knows it.
    pub socket: String,
}

impl DeviceInfo {
    /// Writes the file atomically, unless it exists. Returns true if it now describes this NIC, false if it is
    /// another's.
    ///
    /// # Errors
    /// Those of the files.
    pub fn write(&self) -> Result<bool, sys::Error> {
        if let Some(parent) = self.file.parent() {
            file::create_directories(parent, 0o755)?;
        }
        let beside = self.beside();
        // Readable for all, as the specification's own library does: it has no secrets.
        file::write(&beside, self.text().as_bytes(), Attributes::mode(0o444))?;
        // Not rename(2), which would replace another file.
        let linked = std::fs::hard_link(&beside, &self.file);
        file::remove(&beside)?;
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => self.is_there(),
            Err(error) => Err(sys::Error::of("link", &self.file, &error)),
        }
    }

    /// Removes the file if its contents are what was written. Returns true if it did.
    ///
    /// # Errors
    /// Those of reading and removing it.
    pub fn remove(&self) -> Result<bool, sys::Error> {
        file::remove(&self.beside())?;
        let ours = self.is_there()?;
        if ours {
            file::remove(&self.file)?;
        }
        Ok(ours)
    }

    fn text(&self) -> String {
        let info =
            json!({"type": "vhost-user", "version": VERSION, "vhost-user": {"mode": "server", "path": self.socket}});
        info.to_string()
    }

    /// Returns true if the file exists and describes this NIC.
    fn is_there(&self) -> Result<bool, sys::Error> {
        let file = match File::open(&self.file) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(sys::Error::of("open", &self.file, &error)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_LIMIT).read_to_end(&mut bytes).map_err(|error| sys::Error::of("read", &self.file, &error))?;
        Ok(bytes == self.text().as_bytes())
    }

    fn beside(&self) -> PathBuf {
        let mut name = self.file.file_name().unwrap_or_default().to_owned();
        name.push(".vhostuser-hotplug");
        self.file.with_file_name(name)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn only_what_was_written_is_removed_and_nothing_is_replaced() {
        let root = std::env::temp_dir().join(format!("vhu-info-{}", std::process::id()));
        let info = DeviceInfo { file: root.join("devinfo/cni/net1"), socket: "/run/vm/\"net1".into() };
        assert!(!info.remove().unwrap(), "there is none");
        for _ in 0..2 {
            assert!(info.write().unwrap());
            assert_eq!(std::fs::metadata(&info.file).unwrap().mode() & 0o7777, 0o444);
            let text = std::fs::read_to_string(&info.file).unwrap();
            let expected =
                r#"{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"server","path":"/run/vm/\"net1"}}"#;
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), {
                serde_json::from_str::<serde_json::Value>(expected).unwrap()
            });
        }
        // Killed before it had removed the other name.
        std::fs::hard_link(&info.file, info.beside()).unwrap();
        assert!(info.write().unwrap() && info.is_there().unwrap());
        assert_eq!(std::fs::read_dir(root.join("devinfo/cni")).unwrap().count(), 1);
        assert!(info.remove().unwrap() && !info.remove().unwrap());

        std::fs::write(&info.file, "{}").unwrap();
        assert!(!info.write().unwrap() && !info.remove().unwrap());
        assert_eq!(std::fs::read_to_string(&info.file).unwrap(), "{}");
        std::fs::remove_dir_all(root).unwrap();
    }
}
