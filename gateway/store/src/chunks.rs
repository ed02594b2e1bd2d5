//! Reading a segment from front to back.

use std::sync::Arc;

use tap_block::units::{count, index};
use tap_disk::SegmentFile;
use tracing::warn;

/// Reads ahead in pieces that suit small frames, and takes what cannot be read for zeroes: whether that is damage
/// the checksums decide.
pub(crate) struct ChunkReader {
    file: Arc<SegmentFile>,
    at: u64,
    bytes: Vec<u8>,
}

const CHUNK: u64 = 128 << 10;
const SECTOR: usize = 4096;

impl ChunkReader {
    pub(crate) const fn new(file: Arc<SegmentFile>) -> Self {
        Self { file, at: 0, bytes: Vec::new() }
    }

    /// The bytes asked for, or fewer where the file ends.
    pub(crate) fn fetch(&mut self, at: u32, len: u32) -> &[u8] {
        let (at, len) = (u64::from(at), u64::from(len));
        let len = len.min(self.file.len().saturating_sub(at));
        if at < self.at || at + len > self.at + count(self.bytes.len()) {
            self.load(at, len.max(CHUNK).min(self.file.len().saturating_sub(at)));
        }
        let from = index(at.saturating_sub(self.at));
        self.bytes.get(from..from + index(len)).unwrap_or_default()
    }

    fn load(&mut self, at: u64, len: u64) {
        self.at = at;
        self.bytes.clear();
        self.bytes.resize(index(len), 0);
        read_what_can_be(&self.file, at, &mut self.bytes);
    }
}

/// Reads, sector by sector if need be, and takes what cannot be read for zeroes.
pub(crate) fn read_what_can_be(file: &SegmentFile, at: u64, into: &mut [u8]) {
    if file.read_at(at, into).is_ok() {
        return;
    }
    let mut from = at;
    let mut rest = into;
    while !rest.is_empty() {
        // Up to the next border of a sector of the file.
        let len = (SECTOR - index(from % count(SECTOR))).min(rest.len());
        let (sector, behind) = rest.split_at_mut(len);
        if let Err(e) = file.read_at(from, sector) {
            warn!("{e}");
            sector.fill(0);
        }
        (from, rest) = (from + count(len), behind);
    }
}
