//! Writing on a read/write image.
//!
//! A write is cut into batches. Content that goes into slots which nobody reads yet is written on the spot, beside other writers;
//! only then is it said where it lies, and mapped. Content that takes the place of what is there is said first and written under
//! the lock: nobody reads half a block, and whoever finds the overlay after a kill can tell which of the two it holds.
//!
//! Small writes that a client sent together are done as one: what they write lies side by side in the data file, and where is said
//! once for all of them.

use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use gateway_image::overlay::{Asked, Change, Content, ContentSum, Loan, Overlay};
use gateway_store::ReadMode;
use tap_block::stored::is_zero;
use tap_block::units::{count, index};
use tap_block::{BLOCK_SIZE, BlockDevice as _, BlockNo, DeviceError, Extent, Outcome};

use super::overlay::{Layers, extent_of, put};

/// Written at a time.
pub(super) const BATCH: u64 = 1 << 20;

/// New content of a block, or of a part of it.
struct Piece {
    extent: Extent,
    content: Bytes,
    /// `None`: zeroes that take no room.
    sum: Option<ContentSum>,
}

/// Content of a block, and the slot that it goes to.
struct Lent {
    block: BlockNo,
    content: Bytes,
    sum: ContentSum,
    loan: Loan,
}

/// The content, in the image below, of the blocks that a write covers only in part: its first, its last.
type Edges = Vec<(BlockNo, Bytes)>;

impl Piece {
    fn block(&self) -> BlockNo {
        BlockNo::holding(self.extent.offset())
    }

    fn is_whole(&self) -> bool {
        self.extent.length() == BLOCK_SIZE
    }

    /// The content is as it stays. With `kept`, zeroes have room of their own.
    fn seal(&mut self, kept: bool) {
        self.sum = (kept || !is_zero(&self.content)).then(|| ContentSum::of(self.block(), &self.content));
    }
}

impl Layers {
    /// Writes `data`; `false` when that needs content of the image below that is not at hand.
    pub(super) fn write(&self, offset: u64, data: &Bytes, mode: ReadMode) -> Result<bool, DeviceError> {
        self.write_kept(offset, data, mode, false)
    }

    /// The same; zeroes take no room unless they are to be `kept`.
    pub(super) fn write_kept(
        &self,
        offset: u64,
        data: &Bytes,
        mode: ReadMode,
        kept: bool,
    ) -> Result<bool, DeviceError> {
        let extent = Extent::between(offset, offset + count(data.len()));
        // No copy comes between: neither to what is lent, nor to a block whose edges were read.
        let _lending = self.lending();
        let Some(edges) = self.edges(extent, mode)? else { return Ok(false) };
        if extent.length() > BATCH && !is_zero(data) {
            // Rather nothing of it than its beginning.
            self.read_lock().admit(extent).map_err(no_space)?;
        }
        for batch in extent.split_at_multiples(BATCH) {
            let from = index(batch.offset() - offset);
            self.write_batch(batch, &data.slice(from..from + index(batch.length())), &edges, kept)?;
        }
        Ok(true)
    }

    /// `None`: not at hand without waiting.
    fn edges(&self, extent: Extent, mode: ReadMode) -> Result<Option<Edges>, DeviceError> {
        let mut edges = Edges::new();
        if extent.is_block_aligned() {
            return Ok(Some(edges));
        }
        for block in [BlockNo::holding(extent.offset()), BlockNo::holding(extent.end().saturating_sub(1))] {
            let whole = extent_of(block).intersection(Extent::between(0, self.below().size()));
            let covered = whole.is_none_or(|whole| extent.contains(whole));
            if covered {
                continue;
            }
            let Content::Image(at) = self.read_lock().content(block) else { continue };
            let Some(content) = self.below().read(extent_of(at), mode)? else { return Ok(None) };
            edges.push((block, content));
        }
        Ok(Some(edges))
    }

    fn write_batch(
        &self,
        extent: Extent,
        data: &Bytes,
        edges: &Edges,
        kept: bool,
    ) -> Result<(), DeviceError> {
        let mut pieces = cut(extent, data);
        pieces.iter_mut().filter(|piece| piece.is_whole()).for_each(|piece| piece.seal(kept));
        let mut overlay = self.write_lock();
        for piece in pieces.iter_mut().filter(|piece| !piece.is_whole()) {
            piece.content = self.patched(&overlay, piece, edges)?;
            piece.seal(kept);
        }
        let lent = self.lend(&mut overlay, &pieces, true)?;
        // Nobody may come between what was there and the part that was put into it.
        let is_of_parts = !pieces.iter().all(Piece::is_whole);
        if is_of_parts || lent.iter().any(|one| one.loan.is_in_place()) {
            return self.write_in_place(&mut overlay, &pieces, &lent);
        }
        drop(overlay);
        self.write_beside(&pieces, &lent)
    }

    /// Writes whole blocks here and there, none of them twice. After an error some of it may be written, and each can be tried
    /// again by itself.
    pub(super) fn write_together(&self, writes: &[(Extent, Bytes)]) -> Result<(), DeviceError> {
        let mut pieces: Vec<Piece> = writes.iter().flat_map(|(extent, data)| cut(*extent, data)).collect();
        pieces.sort_unstable_by_key(Piece::block);
        pieces.iter_mut().for_each(|piece| piece.seal(false));
        let _lending = self.lending();
        let mut overlay = self.write_lock();
        let lent = self.lend(&mut overlay, &pieces, false)?;
        let (own, others): (Vec<Lent>, Vec<Lent>) = lent.into_iter().partition(|one| one.loan.is_in_place());
        if !own.is_empty() {
            let done = self.write_in_place(&mut overlay, &[], &own);
            done.inspect_err(|_| overlay.unused(&loans_of(&others)))?;
        }
        drop(overlay);
        self.write_beside(&pieces, &others)
    }

    /// Slots for what is not zero, if there is room. What `goes_on` from block to block may be gathered.
    fn lend(&self, overlay: &mut Overlay, pieces: &[Piece], goes_on: bool) -> Result<Vec<Lent>, DeviceError> {
        let taking: Vec<BlockNo> = pieces.iter().filter(|p| p.sum.is_some()).map(Piece::block).collect();
        let asked = overlay.ask(&taking).map_err(no_space)?;
        let gathered = if goes_on { overlay.gathered(&asked) } else { None };
        let has_room = |gathered: &Asked| {
            let growth = overlay.growth(gathered);
            self.fits(overlay, growth) && self.room().has(growth)
        };
        let asked = gathered.filter(has_room).unwrap_or(asked);
        if !taking.is_empty() {
            let growth = overlay.growth(&asked);
            if !self.fits(overlay, growth) {
                return Err(no_space(
                    "what was replaced on the image takes all room until it is flushed: flush it, then write again",
                ));
            }
            self.room().take(self.image(), growth).map_err(no_space)?;
        }
        let contents = pieces.iter().filter_map(|piece| Some((piece.block(), &piece.content, piece.sum?)));
        let lent = contents.zip(overlay.lend(asked)).map(|((block, content, sum), loan)| Lent {
            block,
            content: content.clone(),
            sum,
            loan,
        });
        Ok(lent.collect())
    }

    /// Is there so much of the data file behind what was ever used of it?
    fn fits(&self, overlay: &Overlay, growth: u64) -> bool {
        overlay.end().saturating_add(growth) <= self.data().geometry().size
    }

    /// Into slots that nobody reads yet: written, then said.
    fn write_beside(&self, pieces: &[Piece], lent: &[Lent]) -> Result<(), DeviceError> {
        let (_, written) = self.put_all(lent);
        let mut overlay = self.write_lock();
        match written.and_then(|()| self.say(&changes_of(pieces, lent))) {
            Ok(()) => map(&mut overlay, pieces, lent),
            Err(e) => {
                overlay.unused(&loans_of(lent));
                return Err(e);
            }
        }
        Ok(())
    }

    /// Over what is read from the same places: said, then written, and nobody reads meanwhile. Zeroes are said when all else is
    /// there.
    fn write_in_place(
        &self,
        overlay: &mut Overlay,
        pieces: &[Piece],
        lent: &[Lent],
    ) -> Result<(), DeviceError> {
        let (written, done) = match self.say(&slots_of(lent).collect::<Vec<_>>()) {
            Ok(()) => self.put_all(lent),
            Err(e) => (0, Err(e)),
        };
        // Only now: of zeroes nobody could tell whether they came to be or failed.
        let done = done.and_then(|()| self.say(&zeroes_of(pieces).map(Change::Zero).collect::<Vec<_>>()));
        if written < lent.len() {
            self.take_back();
        }
        let (done_with, left) = lent.split_at_checked(written).unwrap_or((lent, &[]));
        overlay.unused(&loans_of(left));
        map(overlay, if done.is_ok() { pieces } else { &[] }, done_with);
        done
    }

    /// How many of them are written, and what stopped the next one.
    fn put_all(&self, lent: &[Lent]) -> (usize, Result<(), DeviceError>) {
        let mut written = 0;
        for run in lent.chunk_by(|a, b| a.loan.slot().get() + 1 == b.loan.slot().get()) {
            // What a failed write left of a run nobody knows: one after the other, as far as it goes.
            let mut done = self.put(run);
            let singly = if done.is_err() && run.len() > 1 { run } else { &[] };
            if done.is_ok() {
                written += run.len();
            }
            for one in singly.chunks(1) {
                done = self.put(one);
                if done.is_err() {
                    break;
                }
                written += 1;
            }
            if done.is_err() {
                return (written, done);
            }
        }
        (written, Ok(()))
    }

    /// Writes contents whose slots are neighbours.
    fn put(&self, run: &[Lent]) -> Result<(), DeviceError> {
        let Some(first) = run.first() else { return Ok(()) };
        let mut contents: Vec<IoSlice<'_>> = run.iter().map(|one| IoSlice::new(&one.content)).collect();
        self.data().write_all_at(first.loan.slot().offset(), &mut contents)
    }

    /// The block's present content with the piece put in.
    fn patched(&self, overlay: &Overlay, piece: &Piece, edges: &Edges) -> Outcome {
        let block = piece.block();
        let mut content = BytesMut::zeroed(index(BLOCK_SIZE));
        match overlay.content(block) {
            Content::Zero => {}
            Content::Slot(slot, sum) => put(&mut content, 0, &self.read_slot(block, slot, sum)?),
            Content::Image(_) => {
                // No edge: the write covers all of the block that is on the disk.
                if let Some((_, old)) = edges.iter().find(|(b, _)| *b == block) {
                    put(&mut content, 0, old);
                }
            }
        }
        put(&mut content, piece.extent.offset() - block.offset(), &piece.content);
        Ok(content.freeze())
    }
}

/// Block by block.
fn cut(extent: Extent, data: &Bytes) -> Vec<Piece> {
    let pieces = extent.split_at_multiples(BLOCK_SIZE).map(|piece| {
        let from = index(piece.offset() - extent.offset());
        Piece { extent: piece, content: data.slice(from..from + index(piece.length())), sum: None }
    });
    pieces.collect()
}

/// What is said of them.
fn changes_of(pieces: &[Piece], lent: &[Lent]) -> Vec<Change> {
    zeroes_of(pieces).map(Change::Zero).chain(slots_of(lent)).collect()
}

fn slots_of(lent: &[Lent]) -> impl Iterator<Item = Change> {
    lent.iter().map(|one| Change::Slot { block: one.block, slot: one.loan.slot(), sum: one.sum })
}

fn loans_of(lent: &[Lent]) -> Vec<Loan> {
    lent.iter().map(|one| one.loan).collect()
}

/// The blocks that become zeroes, merged.
fn zeroes_of(pieces: &[Piece]) -> impl Iterator<Item = Extent> {
    let runs =
        pieces.chunk_by(|a, b| a.sum.is_none() == b.sum.is_none() && a.extent.end() == b.extent.offset());
    let zeroes = runs.filter(|run| run.iter().all(|piece| piece.sum.is_none()));
    zeroes.filter_map(|run| {
        let (first, last) = (run.first()?.extent, run.last()?.extent);
        Some(Extent::between(first.offset(), last.end()).to_blocks())
    })
}

/// From now on this is what is read.
fn map(overlay: &mut Overlay, pieces: &[Piece], lent: &[Lent]) {
    let placed: Vec<_> = lent.iter().map(|one| (one.loan, one.sum)).collect();
    overlay.map(&placed);
    zeroes_of(pieces).for_each(|zeroes| overlay.zero(zeroes));
}

fn no_space(reason: impl std::fmt::Display) -> DeviceError {
    DeviceError::NoSpace(reason.to_string())
}
