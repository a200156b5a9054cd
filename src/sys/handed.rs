//! Memory and events that are passed to another process.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use rustix::event::EventfdFlags;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::Error;

/// Makes anonymous memory of this size, in bytes, all zeros, that nobody can shrink (a process that maps it would get
/// SIGBUS), grow or execute (memfd_create(2); `MFD_NOEXEC_SEAL` since Linux 6.3).
///
/// # Errors
/// memfd_create(2)'s, ftruncate(2)'s and fcntl(2)'s.
pub fn sealed_memory(name: &str, size: u64) -> Result<OwnedFd, Error> {
    let failed = |call| move |errno: rustix::io::Errno| Error::new(call, name, Errno::from_raw(errno.raw_os_error()));
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => memfd_create(name, flags),
        other => other,
    };
    let memory = memory.map_err(failed("memfd_create"))?;
    ftruncate(&memory, size).map_err(failed("ftruncate"))?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&memory, seals).map_err(failed("fcntl"))?;
    Ok(memory)
}

/// Makes an event counter (eventfd(2)).
///
/// # Errors
/// eventfd(2)'s.
pub fn eventfd() -> Result<OwnedFd, Error> {
    let failed = |errno: rustix::io::Errno| Error::new("eventfd", "0", Errno::from_raw(errno.raw_os_error()));
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn memory_keeps_its_size_and_is_not_run() {
        let memory = sealed_memory("test", 8192).unwrap();
        for size in [0, 4096, 16384] {
            assert_eq!(ftruncate(&memory, size), Err(rustix::io::Errno::PERM), "{size}");
        }
        let file = File::from(memory);
        let mut bytes = [1; 8192];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [0; 8192]);
        assert_eq!(
            (file.metadata().unwrap().size(), fcntl_add_seals(&file, SealFlags::WRITE)),
            (8192, Err(rustix::io::Errno::PERM))
        );
    }
}
