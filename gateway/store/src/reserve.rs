//! Room that segments leave free: a full journal must not take the index's and the overlays' last bytes.

use std::io;

use tap_disk::{FileNo, SegmentDir, SegmentFile};

use crate::store::FreeSpace;

/// Segment files in a directory; none is made when that would leave too little free.
pub(crate) struct Reserving<D> {
    pub(crate) dir: D,
    pub(crate) keep_free: u64,
    pub(crate) free: FreeSpace,
}

impl<D: SegmentDir> SegmentDir for Reserving<D> {
    fn list(&self) -> io::Result<Vec<FileNo>> {
        self.dir.list()
    }

    fn create(&self, no: FileNo, len: u64) -> io::Result<SegmentFile> {
        let needed = len.saturating_add(self.keep_free);
        match (self.free)() {
            Some(free) if free < needed => {
                let text = format!("{free} bytes are free, a segment and the reserve need {needed}");
                Err(io::Error::new(io::ErrorKind::StorageFull, text))
            }
            _ => self.dir.create(no, len),
        }
    }

    fn open(&self, no: FileNo) -> io::Result<SegmentFile> {
        self.dir.open(no)
    }

    fn remove(&self, no: FileNo) -> io::Result<()> {
        self.dir.remove(no)
    }

    fn holds(&self, no: FileNo, file: &SegmentFile) -> io::Result<bool> {
        self.dir.holds(no, file)
    }

    /// The reserve may be taken for it: as much comes free when nobody has the old one open any more.
    fn restore(&self, no: FileNo, open: &SegmentFile) -> io::Result<SegmentFile> {
        self.dir.restore(no, open)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tap_disk::{MemoryDir, PoolOptions, SegmentPool};

    use super::*;

    #[test]
    fn spares_are_taken_to_the_last_and_none_is_made_from_the_reserve() {
        let free = Arc::new(AtomicU64::new(300));
        let seen = Arc::clone(&free);
        let free_now: FreeSpace = Box::new(move || Some(seen.load(Ordering::Relaxed)));
        let dir = Reserving { dir: MemoryDir::new(), keep_free: 100, free: free_now };
        let options = PoolOptions { ready: 0, ..PoolOptions::default() };
        let pool = SegmentPool::over(Box::new(dir), 150, options).unwrap();
        let (no, _file) = pool.take().unwrap();
        free.store(249, Ordering::Relaxed);
        assert_eq!(pool.take().unwrap_err().kind(), io::ErrorKind::StorageFull);
        pool.give_back(no).unwrap();
        assert!(pool.take().is_ok(), "it is there already");
        free.store(250, Ordering::Relaxed);
        assert!(pool.take().is_ok());
    }
}
