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
        if self.file.read_at(at, &mut self.bytes).is_ok() {
            return;
        }
        for (n, sector) in (0u64..).zip(self.bytes.chunks_mut(SECTOR)) {
            if let Err(e) = self.file.read_at(at + n * count(SECTOR), sector) {
                warn!("{e}");
                sector.fill(0);
            }
        }
    }
}
