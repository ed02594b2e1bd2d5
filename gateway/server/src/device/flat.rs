//! A flat copy of an image's blocks under the image: a plain sparse disk image, and a checksum of each block.
//!
//! ```text
//!   content   the blocks, where they are on the disk; holes where the image is zeroes
//!   sums      eight bytes for each block; zero: not here
//!   note      which image, and how far it is copied (durably)
//! ```
//!
//! The image never changes, so neither does the copy: whatever of it is sound is right. What is not copied yet, left out, or
//! rotten is read from the journal, which keeps the image's moment as long as the image is there.

use std::fs::{self, OpenOptions};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use gateway_image::overlay::ContentSum;
use gateway_store::ReadMode;
use serde::{Deserialize, Serialize};
use tap_block::stored::is_zero;
use tap_block::units::{count, index};
use tap_block::{BLOCK_SIZE, BlockNo, Extent};
use tap_disk::{SegmentFile, ensure_dir, small_file};

use super::room::RoomLeft;

const CONTENT: &str = "content";
const SUMS: &str = "sums";
const NOTE: &str = "note";
const VERSION: u32 = 1;
/// Bytes of a checksum.
const SUM: u64 = 8;

/// A flat copy.
#[derive(Debug)]
pub(crate) struct Flat {
    dir: PathBuf,
    image: u64,
    size: u64,
    content: SegmentFile,
    sums: SegmentFile,
    /// Bytes from the start that are copied; not all of it need be durable.
    done: AtomicU64,
    /// What was not written is a hole: nobody but this process has had the file.
    fresh: AtomicBool,
}

/// Where an image finds its flat copy, once it has one. All who have the image open share it.
#[derive(Debug, Default)]
pub(crate) struct FlatSlot(RwLock<Option<Arc<Flat>>>);

/// What became of a read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FlatRead {
    /// All is there.
    Done,
    /// Not all of it is here: ask the journal.
    Elsewhere,
    /// It would have to wait for the disk.
    NotCached,
    /// It is not what was copied: ask the journal, and put it right.
    Rotten,
}

/// Where flat copies are kept.
#[derive(Clone)]
pub(crate) struct FlatDir {
    path: PathBuf,
    room: Arc<RoomLeft>,
    /// Bytes of that room that copies leave to others.
    leave: u64,
}

#[derive(Serialize, Deserialize)]
struct Note {
    chronogate_flat: u32,
    image: u64,
    size: u64,
    done: u64,
}

impl FlatSlot {
    pub(crate) fn get(&self) -> Option<Arc<Flat>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, flat: Option<Arc<Flat>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = flat;
    }
}

impl FlatDir {
    pub(crate) fn new(path: PathBuf, room: RoomLeft, leave: u64) -> Self {
        Self { path, room: Arc::new(room), leave }
    }

    /// Bytes that copies may still take.
    ///
    /// # Errors
    /// When nobody knows.
    pub(crate) fn free_beyond_reserve(&self) -> io::Result<u64> {
        let left =
            (self.room)().ok_or_else(|| io::Error::other("it is not known how much of the disk is free"))?;
        Ok(left.saturating_sub(self.leave))
    }

    pub(crate) fn of(&self, image: u64) -> PathBuf {
        self.path.join(image.to_string())
    }

    /// Where the blocks of an image's copy lie: a plain disk image, once it is whole.
    pub(crate) fn content_of(&self, image: u64) -> PathBuf {
        self.of(image).join(CONTENT)
    }

    /// Begins a copy of an image of `size` bytes, durably.
    pub(crate) fn create(&self, image: u64, size: u64) -> io::Result<Arc<Flat>> {
        self.remove(image)?;
        let dir = self.of(image);
        ensure_dir(&dir)?;
        let blocks = size.div_ceil(BLOCK_SIZE);
        make_sparse(&dir.join(CONTENT), blocks.saturating_mul(BLOCK_SIZE))?;
        make_sparse(&dir.join(SUMS), blocks.saturating_mul(SUM))?;
        let flat = Flat::over(dir, image, size, 0)?;
        flat.fresh.store(true, Ordering::Relaxed);
        flat.checkpoint()?;
        Ok(Arc::new(flat))
    }

    /// The copy of an image, as far as it was made; what is not sound is thrown away.
    pub(crate) fn open(&self, image: u64, size: u64) -> io::Result<Option<Arc<Flat>>> {
        let dir = self.of(image);
        if !dir.exists() {
            return Ok(None);
        }
        let note = small_file::read(&dir.join(NOTE))?.and_then(|bytes| Note::accept(&bytes, image, size));
        let flat = match note.map(|note| Flat::over(dir, image, size, note.done)).transpose() {
            // A commit moves the content away before the image is gone.
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            flat => flat?,
        };
        match flat.filter(Flat::fits) {
            Some(flat) => Ok(Some(Arc::new(flat))),
            None => self.remove(image).map(|()| None),
        }
    }

    /// Throws a copy away.
    pub(crate) fn remove(&self, image: u64) -> io::Result<()> {
        match fs::remove_dir_all(self.of(image)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// The copies there are.
    pub(crate) fn list(&self) -> io::Result<Vec<u64>> {
        ensure_dir(&self.path)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            found.extend(entry?.file_name().to_str().and_then(|n| n.parse::<u64>().ok()));
        }
        Ok(found)
    }
}

impl Flat {
    fn over(dir: PathBuf, image: u64, size: u64, done: u64) -> io::Result<Self> {
        let content = SegmentFile::open(&dir.join(CONTENT))?;
        let sums = SegmentFile::open(&dir.join(SUMS))?;
        let (done, fresh) = (AtomicU64::new(done), AtomicBool::new(false));
        Ok(Self { dir, image, size, content, sums, done, fresh })
    }

    fn fits(&self) -> bool {
        let blocks = self.size.div_ceil(BLOCK_SIZE);
        (self.content.len(), self.sums.len()) == (blocks * BLOCK_SIZE, blocks * SUM)
    }

    /// Bytes from the start that are copied.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.done() >= self.size
    }

    /// Reads whole `blocks`; `out` holds them if the answer is [`FlatRead::Done`], else anything.
    pub(crate) fn read(&self, blocks: Extent, mode: ReadMode, out: &mut [u8]) -> io::Result<FlatRead> {
        if blocks.end().min(self.size) > self.done() {
            return Ok(FlatRead::Elsewhere);
        }
        let mut sums = vec![0; sums_of(blocks)];
        if !fetch(&self.sums, sums_at(blocks), mode, &mut sums)? {
            return Ok(FlatRead::NotCached);
        }
        let (sums, _) = sums.as_chunks::<8>();
        if sums.contains(&[0; 8]) {
            return Ok(FlatRead::Elsewhere);
        }
        if !fetch(&self.content, blocks.offset(), mode, out)? {
            return Ok(FlatRead::NotCached);
        }
        let mut sound = numbered(blocks, out).zip(sums);
        if sound.all(|((block, content), sum)| ContentSum::of(block, content).bytes() == *sum) {
            Ok(FlatRead::Done)
        } else {
            Ok(FlatRead::Rotten)
        }
    }

    /// Is there nothing in it but what was written since it began?
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::Relaxed)
    }

    /// From here on anything may stand where nothing was written.
    pub(crate) fn distrust(&self) {
        self.fresh.store(false, Ordering::Relaxed);
    }

    /// Makes sure that whole `blocks` that were not written are zeroes: a crash, or somebody who had the file, may have left
    /// something. Holes are read without a disk, and stay.
    pub(crate) fn clear(&self, blocks: Extent) -> io::Result<()> {
        if self.is_fresh() {
            return Ok(());
        }
        let mut there = vec![0; index(blocks.length())];
        self.content.read_at(blocks.offset(), &mut there)?;
        for run in runs(blocks, &there, Of::Data) {
            self.content.write_at(run.offset(), &[IoSlice::new(&vec![0; index(run.length())])])?;
        }
        Ok(())
    }

    /// Keeps `data`, the content of whole `blocks`. Zero blocks take no room.
    pub(crate) fn put(&self, blocks: Extent, data: &[u8]) -> io::Result<()> {
        runs(blocks, data, Of::Zeroes).into_iter().try_for_each(|hole| self.clear(hole))?;
        let mut sums = Vec::with_capacity(sums_of(blocks));
        for (block, content) in numbered(blocks, data) {
            sums.extend(ContentSum::of(block, content).bytes());
        }
        for run in runs(blocks, data, Of::Data) {
            let from = index(run.offset() - blocks.offset());
            let part = data.get(from..from + index(run.length())).unwrap_or_default();
            self.content.write_at(run.offset(), &[IoSlice::new(part)])?;
        }
        self.sums.write_at(sums_at(blocks), &[IoSlice::new(&sums)])
    }

    /// Puts right what has rotted: it may be a hole that has.
    pub(crate) fn heal(&self, blocks: Extent, data: &[u8]) -> io::Result<()> {
        self.distrust();
        self.put(blocks, data)
    }

    /// All before `done` is copied, or left out for good.
    pub(crate) fn reached(&self, done: u64) {
        self.done.store(done, Ordering::Release);
    }

    /// Makes what is copied durable, then the note of how far that is.
    pub(crate) fn checkpoint(&self) -> io::Result<()> {
        let done = self.done();
        self.content.sync()?;
        self.sums.sync()?;
        let note = Note { chronogate_flat: VERSION, image: self.image, size: self.size, done };
        small_file::write_atomic(&self.dir.join(NOTE), &serde_json::to_vec(&note)?)
    }
}

impl Note {
    fn accept(bytes: &[u8], image: u64, size: u64) -> Option<Self> {
        let note: Self = serde_json::from_slice(bytes).ok()?;
        let ours = note.chronogate_flat == VERSION && (note.image, note.size) == (image, size);
        (ours && note.done <= size).then_some(note)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Data,
    Zeroes,
}

/// Runs of blocks of one kind.
fn runs(blocks: Extent, data: &[u8], of: Of) -> Vec<Extent> {
    let mut runs: Vec<Extent> = Vec::new();
    for (block, content) in numbered(blocks, data) {
        if is_zero(content) != (of == Of::Zeroes) {
            continue;
        }
        let end = block.offset() + count(content.len());
        match runs.last_mut() {
            Some(last) if last.end() == block.offset() => *last = Extent::between(last.offset(), end),
            _ => runs.push(Extent::between(block.offset(), end)),
        }
    }
    runs
}

fn numbered(blocks: Extent, data: &[u8]) -> impl Iterator<Item = (BlockNo, &[u8])> {
    blocks.blocks().zip(data.chunks(index(BLOCK_SIZE)))
}

fn sums_of(blocks: Extent) -> usize {
    index(blocks.length() / BLOCK_SIZE * SUM)
}

fn sums_at(blocks: Extent) -> u64 {
    blocks.offset() / BLOCK_SIZE * SUM
}

fn fetch(file: &SegmentFile, at: u64, mode: ReadMode, into: &mut [u8]) -> io::Result<bool> {
    match mode {
        ReadMode::Cached => file.read_cached(at, into),
        ReadMode::Blocking => file.read_at(at, into).map(|()| true),
    }
}

fn make_sparse(path: &Path, len: u64) -> io::Result<()> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot make {}: {e}", path.display()));
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(named)?;
    file.set_len(len).map_err(named)
}
