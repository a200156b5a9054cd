//! QEMUs of a pod that wait in an attach for a back end, whoever sent it.

use std::cell::OnceCell;

use nix::errno::Errno;

use crate::dataplane::{connected, waiting};
use crate::deadline::Deadline;
use crate::pod::process::{self, Process};
use crate::sys;

use super::sandbox::Living;

/// A process that waits for somebody to connect.
pub struct Waiting<'a> {
    /// The process.
    pub process: &'a Process,
    /// The socket's path, as the process bound it.
    pub path: String,
}

impl Living {
    /// Returns the processes of the pod that wait for a back end, as far as can be seen by the deadline.
    ///
    /// # Errors
    /// That of listing the pod's sockets; `EPERM` or `EACCES` if none is found and some process may not be looked at, since the
    /// plugin may not trace it.
    pub fn waiting(&self, deadline: Deadline) -> Result<Vec<Waiting<'_>>, sys::Error> {
        let (mut found, mut refused, sockets) = (Vec::new(), None, OnceCell::new());
        for process in self.everyone().take_while(|_| !deadline.passed()) {
            match waiting::descriptors(&process.path(""), process.pid()) {
                Ok(polled) if polled.is_empty() => {}
                Ok(polled) => {
                    if sockets.get().is_none() {
                        let _ = sockets.set(self.unix_sockets()?);
                    }
                    let list = sockets.get().map_or("", String::as_str);
                    let inodes = polled.iter().filter_map(|descriptor| inode_of(process, *descriptor));
                    let paths = inodes.filter_map(|inode| connected::path_of_listener(list, inode));
                    found.extend(paths.map(|path| Waiting { process, path: path.to_owned() }));
                }
                Err(error) if matches!(error.errno(), Errno::EPERM | Errno::EACCES) => refused = Some(error),
                // It has ended, or has gone on since.
                Err(_) => {}
            }
        }
        refused.filter(|_| found.is_empty()).map_or(Ok(found), Err)
    }

    /// Returns the process that waits for a back end at this path; `None` if there is none, or it cannot be known.
    pub fn waits_at(&self, path: &str, deadline: Deadline) -> Option<i32> {
        let waiting = self.waiting(deadline).ok()?;
        waiting.iter().find(|waiting| waiting.path == path).map(|waiting| waiting.process.pid())
    }
}

fn inode_of(process: &Process, descriptor: i32) -> Option<u64> {
    let link = std::fs::read_link(process.path(&format!("fd/{descriptor}"))).ok()?;
    process::socket_inode(link.to_str()?)
}
