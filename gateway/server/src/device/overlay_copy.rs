//! Copying within a read/write image: whole blocks come to show what others show, and no content is read or written. What a copy
//! cuts at its ends is moved as bytes.

use bytes::Bytes;
use tap_block::{BLOCK_SIZE, BlockNo, DeviceError, Extent};

use super::overlay::Layers;

/// So much is shared in one go; others come in between.
pub(super) const SHARED_AT_ONCE: u64 = 16 << 20;

impl Layers {
    /// Makes `to` and on show what `from` shows. What is copied onto itself further on or back comes out as it was.
    pub(super) fn copy(&self, from: Extent, to: u64) -> Result<(), DeviceError> {
        let whole = whole_blocks(from).filter(|_| from.offset() % BLOCK_SIZE == to % BLOCK_SIZE);
        let whole = whole.ok_or_else(|| {
            DeviceError::Unsupported("no whole blocks are copied onto whole blocks".to_owned())
        })?;
        let place = |offset: u64| to + (offset - from.offset());
        // Read before anything is copied over them.
        let ends = [(from.offset(), whole.offset()), (whole.end(), from.end())];
        let [head, tail] = ends.map(|(start, end)| self.read_end(Extent::between(start, end)));
        let (head, tail) = (head?, tail?);
        self.share(whole, place(whole.offset()))?;
        self.write_end(to, &head)?;
        self.write_end(place(whole.end()), &tail)
    }

    fn read_end(&self, extent: Extent) -> Result<Bytes, DeviceError> {
        if extent.is_empty() {
            return Ok(Bytes::new());
        }
        Ok(self.read_blocking(extent)?.into_bytes())
    }

    fn write_end(&self, offset: u64, data: &Bytes) -> Result<(), DeviceError> {
        if data.is_empty() {
            return Ok(());
        }
        self.write_with_room(offset, data)
    }

    fn share(&self, whole: Extent, to: u64) -> Result<(), DeviceError> {
        let mut parts: Vec<Extent> = whole.split_at_multiples(SHARED_AT_ONCE).collect();
        // A copy onto itself further on goes from the end.
        if to > whole.offset() {
            parts.reverse();
        }
        parts.into_iter().try_for_each(|part| {
            let to = BlockNo::holding(to + (part.offset() - whole.offset()));
            let _nothing_lent = self.nothing_lent();
            let mut overlay = self.write_lock();
            let changes = overlay.copied(part, to);
            self.say(&changes)?;
            overlay.show(&changes);
            Ok(())
        })
    }
}

/// The whole blocks in it, if there are any.
fn whole_blocks(extent: Extent) -> Option<Extent> {
    let start = extent.offset().checked_next_multiple_of(BLOCK_SIZE)?;
    let end = extent.end() / BLOCK_SIZE * BLOCK_SIZE;
    (start < end).then(|| Extent::between(start, end))
}
