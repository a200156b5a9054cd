//! Finds QEMUs of a pod that wait in an attach for a back end, whoever sent the attach.

use std::path::Path;

use nix::errno::Errno;

use super::poll;
use super::process::{self, Process};
use crate::deadline::Deadline;
use crate::sys;

use super::running::RunningPod;

/// A process that waits for a client to connect.
pub struct Waiting<'a> {
    pub process: &'a Process,
    /// The socket's path, as the process bound it.
    pub path: String,
    /// The socket's descriptor in the process.
    descriptor: i32,
}

impl Waiting<'_> {
    /// Returns true if it waits now. It does not while it is refusing a back end.
    pub fn is_now(&self) -> bool {
        let polled = poll::descriptors(&self.process.path(""), self.process.pid());
        polled.is_ok_and(|polled| polled.contains(&self.descriptor))
    }
}

impl RunningPod {
    /// Returns the processes that wait for a back end, as far as they are found by the deadline.
    ///
    /// # Errors
    /// That of listing the pod's sockets; `EPERM` or `EACCES` if none is found and the plugin may not trace some
    /// process; `ETIMEDOUT` if none is found by the deadline.
    pub fn waiting<'a>(
        &self,
        processes: impl Iterator<Item = &'a Process>,
        deadline: Deadline,
    ) -> Result<Vec<Waiting<'a>>, sys::Error> {
        let (mut polled, mut refused) = (Vec::new(), None);
        for process in processes.take_while(|_| !deadline.passed()) {
            match poll::descriptors(&process.path(""), process.pid()) {
                Ok(descriptors) => polled.extend(descriptors.into_iter().filter_map(|descriptor| {
                    let inode = inode_of(process, descriptor)?;
                    Some((inode, process, descriptor))
                })),
                Err(error) if matches!(error.errno(), Errno::EPERM | Errno::EACCES) => refused = Some(error),
                // It has ended or no longer waits.
                Err(_) => {}
            }
        }
        let mut found = Vec::new();
        if !polled.is_empty() {
            self.find_socket(|socket| {
                let its = polled.iter().filter(|(inode, ..)| socket.listens && *inode == socket.inode);
                found.extend(its.filter_map(|(_, process, descriptor)| {
                    let path = String::from_utf8(socket.path.to_owned()).ok()?;
                    Some(Waiting { process, path, descriptor: *descriptor })
                }));
                None::<()>
            })?;
        }
        if deadline.passed() {
            refused = Some(sys::Error::of("read", Path::new("/proc"), &Errno::ETIMEDOUT.into()));
        }
        refused.filter(|_| found.is_empty()).map_or(Ok(found), Err)
    }

    /// Returns the known processes that wait for a back end at this path. Each may mean another file, because
    /// containers have their own mounts.
    pub fn wait_at(&self, path: &str, deadline: Deadline) -> Vec<i32> {
        let path = self.path(path);
        let waiting = self.waiting(self.everyone(), deadline).unwrap_or_default().into_iter();
        waiting.filter(|waiting| path.is(&waiting.path)).map(|waiting| waiting.process.pid()).collect()
    }
}

fn inode_of(process: &Process, descriptor: i32) -> Option<u64> {
    let link = std::fs::read_link(process.path(&format!("fd/{descriptor}"))).ok()?;
    process::socket_inode(link.to_str()?)
}
