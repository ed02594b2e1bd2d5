//! Segments in memory, for tests: power cuts, full disks and failing syncs on demand.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tap_block::units::{BLOCK_SIZE, count, index};

use super::{Medium, SegmentDir, SegmentFile};
use crate::segment_pool::FileNo;

const PAGE: usize = 4096;

/// A directory in memory that knows which of its bytes are durable. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDir {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<FileNo, Content>,
    capacity: Option<u64>,
    failing: Failing,
    longest_write: Option<usize>,
    cached: bool,
    syncs: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Failing {
    writes: bool,
    syncs: bool,
    reads: bool,
}

/// What a reader sees, and what a power cut leaves.
#[derive(Debug, Clone)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
}

struct MemoryFile {
    dir: MemoryDir,
    no: FileNo,
}

impl MemoryDir {
    /// An empty directory without limits, whose reads are all cached.
    #[must_use]
    pub fn new() -> Self {
        let made = Self::default();
        made.lock().cached = true;
        made
    }

    /// What is there after a power cut now: all that was synced and, page by page as `keep` says, some of
    /// what was not. The file number and the page's number go into `keep`.
    #[must_use]
    pub fn after_power_cut(&self, mut keep: impl FnMut(FileNo, u64) -> bool) -> Self {
        let cut = Self::new();
        for (no, content) in &self.lock().files {
            let mut left = content.durable.clone();
            let pages = left.chunks_mut(PAGE).zip(content.now.chunks(PAGE));
            for (n, (old, new)) in (0_u64..).zip(pages) {
                if old != new && keep(*no, n) {
                    old.copy_from_slice(new);
                }
            }
            cut.lock().files.insert(*no, Content { now: left.clone(), durable: left });
        }
        cut
    }

    /// No room for more than `bytes` in all files together.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = Some(bytes);
    }

    /// Writes fail from here on, or work again.
    pub fn fail_writes(&self, fail: bool) {
        self.lock().failing.writes = fail;
    }

    /// Reads fail from here on, or work again.
    pub fn fail_reads(&self, fail: bool) {
        self.lock().failing.reads = fail;
    }

    /// Syncs fail from here on, and what they were for is not durable; or they work again.
    pub fn fail_syncs(&self, fail: bool) {
        self.lock().failing.syncs = fail;
    }

    /// No write call takes more than this at once.
    pub fn shorten_writes(&self, longest: usize) {
        self.lock().longest_write = Some(longest.max(1));
    }

    /// Non-blocking reads find everything, or nothing.
    pub fn set_cached(&self, cached: bool) {
        self.lock().cached = cached;
    }

    /// How many syncs there were.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Changes stored bytes behind everybody's back, as a failing disk does.
    pub fn corrupt(&self, no: FileNo, offset: u64, change: impl FnOnce(&mut [u8])) {
        if let Some(content) = self.lock().files.get_mut(&no) {
            change(content.now.get_mut(index(offset)..).unwrap_or_default());
            content.durable.clone_from(&content.now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, no: FileNo, len: u64) -> SegmentFile {
        let medium = MemoryFile { dir: self.clone(), no };
        SegmentFile::over(Box::new(medium), format!("memory/{no}.seg"), len)
    }
}

impl SegmentDir for MemoryDir {
    fn list(&self) -> io::Result<Vec<FileNo>> {
        Ok(self.lock().files.keys().copied().collect())
    }

    fn create(&self, no: FileNo, len: u64) -> io::Result<SegmentFile> {
        let mut state = self.lock();
        let used: u64 = state.files.values().map(|content| count(content.now.len())).sum();
        if state.capacity.is_some_and(|capacity| used + len > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let zeroes = vec![0; index(len)];
        if state.files.contains_key(&no) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.files.insert(no, Content { now: zeroes.clone(), durable: zeroes });
        drop(state);
        Ok(self.file(no, len))
    }

    fn open(&self, no: FileNo) -> io::Result<SegmentFile> {
        let len = self.lock().files.get(&no).map(|content| count(content.now.len()));
        len.map(|len| self.file(no, len)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove(&self, no: FileNo) -> io::Result<()> {
        self.lock().files.remove(&no).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl MemoryFile {
    fn read_now(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let state = self.dir.lock();
        if state.failing.reads {
            return Err(io::Error::other("reads fail on purpose"));
        }
        let content = state.files.get(&self.no).ok_or(io::ErrorKind::NotFound)?;
        let mut from = content.now.get(index(offset)..).unwrap_or_default();
        io::Read::read(&mut from, into)
    }
}

impl Medium for MemoryFile {
    fn write(&self, offset: u64, data: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.dir.lock();
        if state.failing.writes {
            return Err(io::Error::other("writes fail on purpose"));
        }
        let longest = state.longest_write.unwrap_or(usize::MAX);
        let content = state.files.get_mut(&self.no).ok_or(io::ErrorKind::NotFound)?;
        let mut room = content.now.get_mut(index(offset)..).unwrap_or_default();
        let longest = longest.min(room.len());
        room = room.get_mut(..longest).unwrap_or_default();
        io::Write::write_vectored(&mut room, data)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.read_now(offset, into)
    }

    fn read_cached(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        if self.dir.lock().cached { self.read_now(offset, into) } else { Ok(0) }
    }

    fn will_need(&self, _: u64, _: u64) {}

    fn sync(&self) -> io::Result<()> {
        let mut state = self.dir.lock();
        state.syncs += 1;
        if state.failing.syncs {
            return Err(io::Error::other("syncs fail on purpose"));
        }
        let content = state.files.get_mut(&self.no).ok_or(io::ErrorKind::NotFound)?;
        content.durable.clone_from(&content.now);
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

const _: () = assert!(PAGE as u64 == BLOCK_SIZE);
