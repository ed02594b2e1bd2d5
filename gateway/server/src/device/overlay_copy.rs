//! Copying within a read/write image: whole blocks come to show what others show, and no content is read or written. What a copy
//! cuts at its ends is moved as bytes.
//!
//! Between two of them what both stand above is shown by either. Each refers to nothing but its own base, which it keeps as long as
//! it lasts; content that was written on one is never referred to from another, for it is that one's to write over and throw away.

use bytes::Bytes;
use gateway_image::overlay::{Change, FromImage, Written};
use tap_block::{BLOCK_SIZE, Base, BlockNo, DeviceError, Extent, Shown, Ticket};

use super::overlay::Layers;

/// So much is shared in one go; others come in between.
pub(super) const SHARED_AT_ONCE: u64 = 16 << 20;

/// Looked at for one question of what is shown.
const MOST_RUNS: usize = 256;

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

    /// What is shown at the start of `extent`, up to where that changes.
    pub(super) fn shown(&self, extent: Extent) -> Option<Shown> {
        let (runs, about) = self.written(extent, MOST_RUNS);
        let own = |at: u64| Some((self.below().base(), at));
        let Some((first, what)) = runs.first().copied() else {
            return Some(Shown { length: about.length(), from: own(extent.offset()) });
        };
        if first.offset() > extent.offset() {
            return Some(Shown { length: first.offset() - extent.offset(), from: own(extent.offset()) });
        }
        Some(match what {
            Written::Image(at) => Shown { length: first.length(), from: own(at) },
            Written::Data | Written::Zeroes => Shown { length: own_length(&runs), from: None },
        })
    }

    /// Answers whoever wants what `base` has at `from` to be shown at `to`, on the device.
    pub(super) fn serve_base(&self, base: Base, from: Extent, to: u64, ticket: Ticket) {
        match self.show_base(base, from, to) {
            Ok(()) if self.is_slack() => self.flush_for(ticket),
            done => ticket.answer(done.map(|()| Bytes::new().into())),
        }
    }

    fn show_base(&self, base: Base, from: Extent, to: u64) -> Result<(), DeviceError> {
        if base != self.below().base() || !from.is_block_aligned() || !to.is_multiple_of(BLOCK_SIZE) {
            let text = "no whole blocks of what the image stands above are shown elsewhere on it";
            return Err(DeviceError::Unsupported(text.to_owned()));
        }
        if from.is_empty() {
            return Ok(());
        }
        let extent = Extent::between(to, to + from.length());
        let change = [Change::Image(FromImage { extent, at: from.offset() })];
        // Neither to what is lent, nor to a block whose edges were read.
        let _nothing_lent = self.nothing_lent();
        let mut overlay = self.write_lock();
        self.say(&change)?;
        overlay.show(&change);
        Ok(())
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

/// From the first run on, which is written on the image, as far as that goes on.
fn own_length(runs: &[(Extent, Written)]) -> u64 {
    let mut end = None;
    for (run, what) in runs {
        if matches!(what, Written::Image(_)) || end.is_some_and(|end| end != run.offset()) {
            break;
        }
        end = Some(run.end());
    }
    end.zip(runs.first()).map_or(0, |(end, (first, _))| end - first.offset())
}

/// The whole blocks in it, if there are any.
fn whole_blocks(extent: Extent) -> Option<Extent> {
    let start = extent.offset().checked_next_multiple_of(BLOCK_SIZE)?;
    let end = extent.end() / BLOCK_SIZE * BLOCK_SIZE;
    (start < end).then(|| Extent::between(start, end))
}
