//! Having a disk to oneself: of two programs that protect one disk each would miss what the other writes to it.
//!
//! A file is locked (`flock`). A block device is opened with `O_EXCL` besides its ordinary opening, which the kernel refuses while
//! it is mounted, part of a volume group or RAID, or claimed in the same way; a lock would keep udev from looking at it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{FileDevice, FileIdentity, OpenError};

/// `O_EXCL`.
const EXCLUSIVE: i32 = 0o200;

/// A block device's second opening, while it is claimed.
#[derive(Debug, Default)]
pub(super) struct Exclusive(Mutex<Option<File>>);

impl FileDevice {
    /// Takes the disk for this device alone, until it is [released](FileDevice::release) or gone. Others may still open it; they
    /// cannot claim it.
    ///
    /// # Errors
    /// When somebody else has claimed it, or uses it so that it cannot be.
    pub fn claim(&self) -> Result<(), OpenError> {
        let (path, file) = (&self.disk.path, &self.disk.file);
        let io = |source| OpenError::Io { path: path.clone(), source };
        if self.disk.is_block_device {
            let exclusive = open_exclusive(path, file)?;
            *self.exclusive.lock() = Some(exclusive);
            return Ok(());
        }
        match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                Err(OpenError::Claimed { path: path.clone(), pid: holder(file) })
            }
            Err(TryLockError::Error(e)) => Err(io(e)),
        }
    }

    /// From here on somebody else may claim it, although it is still open here: for whoever writes to it no more.
    pub fn release(&self) {
        *self.exclusive.lock() = None;
        // One that is not locked is so already.
        let _ = self.disk.file.unlock();
    }
}

impl Exclusive {
    fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_exclusive(path: &Path, device: &File) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let opened = OpenOptions::new().read(true).write(true).custom_flags(EXCLUSIVE).open(path);
    let exclusive = opened.map_err(|e| match e.kind() {
        io::ErrorKind::ResourceBusy => OpenError::Busy { path: path.to_owned() },
        _ => io(e),
    })?;
    let is_it =
        FileIdentity::of(&exclusive).map_err(io)?.device == FileIdentity::of(device).map_err(io)?.device;
    is_it
        .then_some(exclusive)
        .ok_or_else(|| io(io::Error::other("the name was given to another disk meanwhile")))
}

/// The process that has locked this file, as far as the kernel tells us.
fn holder(file: &File) -> Option<u32> {
    let meta = file.metadata().ok()?;
    let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    holder_in(&fs::read_to_string("/proc/locks").ok()?, &place)
}

/// A line of the kernel's table reads `1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF`.
fn holder_in(locks: &str, place: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "FLOCK");
        let (pid, locked) = (words.nth(3)?, words.next()?);
        (locked == place).then(|| pid.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_lock_stands_in_the_kernels_table() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 08:01:7 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 08:01:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 08:01:7 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 14 08:01:7 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE -1 08:01:8 0 EOF\n5: FLOCK\n";
        assert_eq!(holder_in(locks, "08:01:7"), Some(13));
        assert_eq!(holder_in(locks, "08:01:8"), None, "of another container");
        assert_eq!(holder_in(locks, "08:01:9"), None);
    }
}
