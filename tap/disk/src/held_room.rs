//! Room on a disk that a file of nothing holds, so that nobody else can take it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::retry_on_intr;

/// Such a file. Its content is nobody's, and it may be removed while nobody uses it.
#[derive(Debug)]
pub struct HeldRoom {
    file: File,
}

impl HeldRoom {
    /// The file at `path`, which is made if it is missing.
    ///
    /// # Errors
    /// What the operating system says, with the path.
    pub fn open(path: &Path) -> io::Result<Self> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot open {}: {e}", path.display()));
        let options = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = options.map_err(named)?;
        let about = file.metadata().map_err(named)?;
        // A copy of a file that holds room holds none.
        if about.blocks().saturating_mul(512) < about.len() {
            file.set_len(0).map_err(named)?;
        }
        Ok(Self { file })
    }

    /// Bytes that it holds.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// From here on it holds so many: what it gives up is free for anybody when this returns. It holds what it held if there is no
    /// room for more.
    ///
    /// # Errors
    /// When there is no room, where the file system holds none for files ([`io::ErrorKind::Unsupported`]), and what else the
    /// operating system says.
    pub fn hold(&self, bytes: u64) -> io::Result<()> {
        let held = self.bytes()?;
        if bytes <= held {
            return self.file.set_len(bytes);
        }
        let more = || fallocate(&self.file, FallocateFlags::empty(), held, bytes - held);
        retry_on_intr(more).map_err(|e| {
            // Some of it may have been taken.
            let _ = self.file.set_len(held);
            io::Error::from(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::free_space;
    use crate::testing::SmallDisk;

    #[test]
    fn what_is_held_nobody_else_can_take_until_it_is_given_up() {
        let Some(disk) = SmallDisk::new(4 << 20) else { return };
        let room = HeldRoom::open(&disk.path().join("held")).unwrap();
        room.hold(1 << 20).unwrap();
        let before = free_space(disk.path()).unwrap();
        assert!(before <= 3 << 20, "{before}");
        assert_eq!(room.hold(16 << 20).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!((room.bytes().unwrap(), free_space(disk.path()).unwrap()), (1 << 20, before));
        let room = HeldRoom::open(&disk.path().join("held")).unwrap();
        assert_eq!(room.bytes().unwrap(), 1 << 20, "it is there at the next start");
        room.hold(256 << 10).unwrap();
        assert_eq!(free_space(disk.path()).unwrap(), before + (768 << 10));
    }

    #[test]
    fn a_copy_that_holds_no_room_is_not_taken_for_one_that_does() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("held");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(HeldRoom::open(&path).unwrap().bytes().unwrap(), 0);
    }
}
