//! QEMUs of a pod that wait in an attach for a back end, whoever sent it.

use std::path::Path;

use nix::errno::Errno;

use super::poll;
use super::process::{self, Process};
use crate::deadline::Deadline;
use crate::sys;

use super::running::RunningPod;

/// A process that waits for somebody to connect.
pub struct Waiting<'a> {
    /// The process.
    pub process: &'a Process,
    /// The socket's path, as the process bound it.
    pub path: String,
    /// The socket's descriptor in the process.
    descriptor: i32,
}

impl Waiting<'_> {
    /// Whether it waits now. One that is in the midst of refusing a back end does not.
    pub fn is_now(&self) -> bool {
        let polled = poll::descriptors(&self.process.path(""), self.process.pid());
        polled.is_ok_and(|polled| polled.contains(&self.descriptor))
    }
}

impl RunningPod {
    /// Returns those of these processes that wait for a back end, as far as can be seen by the deadline.
    ///
    /// # Errors
    /// That of listing the pod's sockets; `EPERM` or `EACCES` if none is found and some process may not be looked at, since the
    /// plugin may not trace it; `ETIMEDOUT` if none is found and there was no time to look at all.
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
                // It has ended, or has gone on since.
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

    /// Returns the processes that wait for a back end at this path, as far as can be known. Each may mean a file of its own: a
    /// container has its own mounts.
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
