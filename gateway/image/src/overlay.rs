//! The writes on a read/write image: which blocks left the image, and where their content lies now.
//!
//! ```text
//!   block ──► slot of the data file (with the checksum of its content)   changed
//!         ──► zero                                                       zeroed or trimmed
//!         ──► the image, at another block                                copied from there
//!         ──► the image                                                  none of these
//! ```
//!
//! A copy moves no bytes: what it makes shows what its source shows, a slot that both share or the same place of the image. A
//! shared slot is never written again, counts once against the quota, and is given out again when nobody has it any more.
//!
//! Pure: the driver moves the bytes. What makes it safe over a crash is the rule for slots: once a mapping is
//! on its way into the log its slot is *sealed* and never written again; content that changes later takes a
//! new slot, and the old one is given out again only when the mapping that replaced it is durable. So whatever
//! was last recorded is still in the data file, whatever came after. That is for a machine that loses power. A gateway that is
//! killed keeps all that it answered: before content is written, what is about to change goes into a file that nobody syncs.

mod copy;
mod gather;
mod log;
mod noted;
mod recent;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use tap_block::units::count;
use tap_block::{BLOCK_SIZE, BlockNo, Extent, ExtentMap, ExtentSet};
use thiserror::Error;

use copy::{Shift, Users};
pub use log::{LogError, Scan, encode_group, group_len, has_references, scan};
pub use noted::{Begun, Noted, SaidSoFar};
pub use recent::{Claims, LogPlace, Recent, RecentError, Said, all_unrecorded, furthest, stood, unrecorded};

/// A block-sized place in the data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotNo(u64);

impl SlotNo {
    /// The slot with this number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Its first byte in the data file.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0.saturating_mul(BLOCK_SIZE)
    }
}

/// The checksum of a block's content, bound to the number of the block that it was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentSum {
    sum: u64,
    of: BlockNo,
}

impl ContentSum {
    /// Of this content.
    #[must_use]
    pub fn of(block: BlockNo, content: &[u8]) -> Self {
        Self { sum: xxhash_rust::xxh3::xxh3_64_with_seed(content, block.get()), of: block }
    }

    /// Is it the content's, wherever that is shown?
    #[must_use]
    pub fn is_of(self, content: &[u8]) -> bool {
        Self::of(self.of, content) == self
    }

    /// As it is stored.
    #[must_use]
    pub const fn bytes(self) -> [u8; 8] {
        self.sum.to_le_bytes()
    }
}

/// Where a block's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// In the image below, at this block: its own unless it was copied from there.
    Image(BlockNo),
    /// Zeroes.
    Zero,
    /// In the data file.
    Slot(SlotNo, ContentSum),
}

/// A change of the mapping, as the log keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The block's content lies in a slot.
    Slot {
        /// Which block.
        block: BlockNo,
        /// Where.
        slot: SlotNo,
        /// Of its content.
        sum: ContentSum,
    },
    /// Whole blocks are zeroes.
    Zero(Extent),
    /// Whole blocks show what the image below has.
    Image(FromImage),
}

/// Whole blocks, and where what they show begins in the image below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FromImage {
    /// Where it is shown.
    pub extent: Extent,
    /// Where the image has it.
    pub at: u64,
}

/// What stands somewhere on the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Content of its own.
    Data,
    /// Zeroes.
    Zeroes,
    /// What the image below has, from this place on.
    Image(u64),
}

impl Change {
    /// The blocks that it is about.
    #[must_use]
    pub fn extent(&self) -> Extent {
        match *self {
            Self::Slot { block, .. } => extent_of(block),
            Self::Zero(extent) | Self::Image(FromImage { extent, .. }) => extent,
        }
    }

    /// Does it speak of content that was written elsewhere?
    #[must_use]
    pub fn is_reference(&self) -> bool {
        match *self {
            Self::Slot { block, sum, .. } => sum.of != block,
            Self::Zero(_) => false,
            Self::Image(_) => true,
        }
    }
}

impl FromImage {
    /// Its place in the image.
    #[must_use]
    pub const fn source(&self) -> Extent {
        Extent::between(self.at, self.at.saturating_add(self.extent.length()))
    }

    /// Do the blocks show what they would show anyway?
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.at == self.extent.offset()
    }
}

/// Changes on their way into the log.
#[derive(Debug)]
#[must_use = "changes are either recorded or failed"]
pub struct Changes {
    list: Vec<Change>,
    dirty: ExtentSet,
    replaced: Vec<SlotNo>,
}

impl Changes {
    /// The changes, in any order: no two are about the same block.
    #[must_use]
    pub fn list(&self) -> &[Change] {
        &self.list
    }

    /// Nothing to record?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// No room for more changed blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the image has reached its quota of {quota} bytes: discard blocks on it, or go on with a larger one on an image of it \
     (`chronogate image clone IMAGE --rw --quota SIZE`)"
)]
pub struct QuotaReached {
    /// The quota in bytes.
    pub quota: u64,
}

/// The mapping; see the module.
#[derive(Debug, Clone)]
pub struct Overlay {
    slots: BTreeMap<BlockNo, Slot>,
    users: Users,
    zeroes: ExtentSet,
    /// What shows the image at another place; or at its own, until that is recorded.
    images: ExtentMap<Shift>,
    free: Vec<SlotNo>,
    next: u64,
    /// Changed since the last [`Overlay::take_changes`].
    dirty: ExtentSet,
    /// Sealed slots replaced since then.
    replaced: Vec<SlotNo>,
    quota_blocks: u64,
    /// Slots lent for blocks that have none.
    growing: u64,
}

/// Slots that are wanted for the new content of blocks.
#[derive(Debug)]
pub struct Asked {
    loans: Vec<Loan>,
    /// Side by side, behind all others.
    is_gathered: bool,
}

impl Asked {
    /// Blocks that have none for themselves yet.
    fn new_blocks(&self) -> u64 {
        count(self.loans.iter().filter(|loan| loan.kind == Lent::First).count())
    }

    /// Slots that are not the blocks' own already.
    fn slots(&self) -> usize {
        self.loans.iter().filter(|loan| loan.kind != Lent::Own).count()
    }
}

/// A slot lent for the new content of a block. Nobody else gets it, and unless it is the block's own nobody reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loan {
    block: BlockNo,
    slot: SlotNo,
    kind: Lent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lent {
    /// What the block has now is overwritten.
    Own,
    /// The block has one already.
    Another,
    /// The block has none, or not for itself.
    First,
}

impl Loan {
    /// For `block`, which has this slot now; which it is comes later if not that.
    fn of(block: BlockNo, has: Option<&Slot>, users: &Users) -> Self {
        match has {
            Some(slot) if !slot.sealed => Self { block, slot: slot.no, kind: Lent::Own },
            Some(slot) if !users.are_many(slot.no) => Self { block, slot: slot.no, kind: Lent::Another },
            _ => Self { block, slot: SlotNo(0), kind: Lent::First },
        }
    }

    /// Where the content goes.
    #[must_use]
    pub const fn slot(&self) -> SlotNo {
        self.slot
    }

    /// Does the content replace one that is read from the same place?
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.kind == Lent::Own
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    no: SlotNo,
    sum: ContentSum,
    sealed: bool,
}

impl Overlay {
    /// Nothing changed yet; at most `quota` bytes of changed blocks (rounded down to blocks).
    #[must_use]
    pub fn new(quota: u64) -> Self {
        Self {
            slots: BTreeMap::new(),
            users: Users::default(),
            zeroes: ExtentSet::new(),
            images: ExtentMap::new(),
            free: Vec::new(),
            next: 0,
            dirty: ExtentSet::new(),
            replaced: Vec::new(),
            quota_blocks: quota / BLOCK_SIZE,
            growing: 0,
        }
    }

    /// The mapping that these changes, in the order of the log, lead to.
    pub fn restore(quota: u64, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut overlay = Self::new(quota);
        for change in changes {
            overlay.replay(change);
        }
        overlay.next = overlay.slots.values().map(|s| s.no.0 + 1).max().unwrap_or(0);
        let mut used: Vec<SlotNo> = overlay.slots.values().map(|s| s.no).collect();
        used.sort_unstable();
        overlay.users = Users::of(&used);
        used.dedup();
        let mut used = used.into_iter().rev().peekable();
        let all = (0..overlay.next).rev().map(SlotNo);
        overlay.free = all.filter(|no| used.next_if_eq(no).is_none()).collect();
        overlay
    }

    fn replay(&mut self, change: Change) {
        let extent = change.extent();
        self.zeroes.remove(extent);
        self.images.remove(extent);
        if let Change::Slot { block, slot, sum } = change {
            self.slots.insert(block, Slot { no: slot, sum, sealed: true });
            return;
        }
        for block in self.mapped_within(extent) {
            self.slots.remove(&block);
        }
        match change {
            Change::Image(part) if !part.is_own() => self.images.insert(extent, Shift::of(part)),
            Change::Zero(_) => self.zeroes.insert(extent),
            Change::Image(_) | Change::Slot { .. } => {}
        }
    }

    /// Where the content of `block` is.
    #[must_use]
    pub fn content(&self, block: BlockNo) -> Content {
        match self.slots.get(&block) {
            Some(slot) => Content::Slot(slot.no, slot.sum),
            None if self.zeroes.overlaps(extent_of(block)) => Content::Zero,
            None => Content::Image(self.shown_of(block)),
        }
    }

    /// Is everything in `extent` unchanged?
    #[must_use]
    pub fn is_untouched(&self, extent: Extent) -> bool {
        let blocks = extent.to_blocks();
        !self.zeroes.overlaps(blocks)
            && !self.images.overlaps(blocks)
            && self.slots_within(blocks).next().is_none()
    }

    /// What was written within `extent`, in order, block by block and all else by the stretch.
    pub fn written(&self, extent: Extent) -> impl Iterator<Item = (Extent, Written)> {
        let slots = self.slots_within(extent.to_blocks());
        let slots = slots.filter_map(move |(&block, _)| extent_of(block).intersection(extent));
        let zeroes = self.zeroes.within(extent).map(|e| (e, Written::Zeroes));
        let images =
            self.images.within(extent).map(|(e, shift)| (e, Written::Image(shift.place(e.offset()))));
        in_order(in_order(slots.map(|e| (e, Written::Data)), zeroes), images)
    }

    /// Is there room to write all of `extent`, and all that slots are lent for?
    ///
    /// # Errors
    /// [`QuotaReached`]; nothing is changed.
    pub fn admit(&self, extent: Extent) -> Result<(), QuotaReached> {
        let slots = self.slots_within(extent.to_blocks());
        let held = count(slots.filter(|(_, slot)| !self.users.are_many(slot.no)).count());
        self.admit_new(extent.block_count().saturating_sub(held))
    }

    fn admit_new(&self, new: u64) -> Result<(), QuotaReached> {
        let used = self.used_slots().saturating_add(self.growing);
        match new == 0 || used.saturating_add(new) <= self.quota_blocks {
            true => Ok(()),
            false => Err(QuotaReached { quota: self.quota_blocks * BLOCK_SIZE }),
        }
    }

    /// What it takes to give these blocks, which come in ascending order, new content: a block's own slot while that is not sealed,
    /// else another.
    ///
    /// # Errors
    /// [`QuotaReached`].
    pub fn ask(&self, blocks: &[BlockNo]) -> Result<Asked, QuotaReached> {
        let loans = walk(&self.slots, blocks).map(|(block, slot)| Loan::of(block, slot, &self.users));
        let asked = Asked { loans: loans.collect(), is_gathered: false };
        self.admit_new(asked.new_blocks())?;
        Ok(asked)
    }

    /// Bytes by which the data file grows when that is written.
    #[must_use]
    pub fn growth(&self, asked: &Asked) -> u64 {
        let free = if asked.is_gathered { 0 } else { self.free.len() };
        count(asked.slots().saturating_sub(free)) * BLOCK_SIZE
    }

    /// The slots that were asked for; nothing was changed since. Once written, [`Overlay::map`] them, or give them back with
    /// [`Overlay::unused`].
    pub fn lend(&mut self, asked: Asked) -> Vec<Loan> {
        let free = if asked.is_gathered { 0 } else { asked.slots() };
        let mut others = self.take_free(free).into_iter();
        self.growing += asked.new_blocks();
        let mut loans = asked.loans;
        for loan in loans.iter_mut().filter(|loan| loan.kind != Lent::Own) {
            loan.slot = others.next().unwrap_or_else(|| {
                self.next += 1;
                SlotNo(self.next - 1)
            });
        }
        loans
    }

    /// Behind the last slot that was ever given out.
    #[must_use]
    pub const fn end(&self) -> u64 {
        SlotNo(self.next).offset()
    }

    /// Those that came free last, in ascending order: neighbours are written in one go.
    fn take_free(&mut self, most: usize) -> Vec<SlotNo> {
        let mut taken = self.free.split_off(self.free.len().saturating_sub(most));
        taken.sort_unstable();
        taken
    }

    /// Slots from [`Overlay::slots_for`] were not written, or not all of them.
    pub fn unused(&mut self, loans: &[Loan]) {
        for loan in loans {
            self.returned(loan);
            if loan.kind != Lent::Own {
                self.free.push(loan.slot);
            }
        }
    }

    fn returned(&mut self, loan: &Loan) {
        self.growing = self.growing.saturating_sub(u64::from(loan.kind == Lent::First));
    }

    /// The contents of blocks, which ascend, are in the slots that were lent for them now.
    pub fn map(&mut self, placed: &[(Loan, ContentSum)]) {
        let changed: Vec<BlockNo> =
            placed.iter().filter_map(|(loan, sum)| self.map_one(loan, *sum)).collect();
        for run in changed.chunk_by(|a, b| a.get() + 1 == b.get()) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                let extent = Extent::between(first.offset(), extent_of(*last).end());
                self.zeroes.remove(extent);
                self.images.remove(extent);
                self.dirty.insert(extent);
            }
        }
    }

    /// The block, unless it was among what changed already.
    fn map_one(&mut self, loan: &Loan, sum: ContentSum) -> Option<BlockNo> {
        self.returned(loan);
        let new = Slot { no: loan.slot, sum, sealed: false };
        let old = self.slots.insert(loan.block, new);
        // What is not sealed is among what changed.
        if old.is_some_and(|old| old.no == loan.slot && !old.sealed) {
            return None;
        }
        self.let_go(old);
        Some(loan.block)
    }

    /// Whole blocks are zeroes now. Needs no room.
    pub fn zero(&mut self, extent: Extent) {
        self.clear(extent);
        self.zeroes.insert(extent);
    }

    /// Nothing is written there any more; what is to stand there instead comes next.
    fn clear(&mut self, extent: Extent) {
        for block in self.mapped_within(extent) {
            let old = self.slots.remove(&block);
            self.let_go(old);
        }
        self.zeroes.remove(extent);
        self.images.remove(extent);
        self.dirty.insert(extent);
    }

    fn let_go(&mut self, old: Option<Slot>) {
        match old {
            Some(slot) if self.users.one_less(slot.no) => {}
            Some(slot) if slot.sealed => self.replaced.push(slot.no),
            Some(slot) => self.free.push(slot.no),
            None => {}
        }
    }

    /// What changed since the last time; seals the slots in it. The content must have been made durable
    /// before the changes are written to the log.
    pub fn take_changes(&mut self) -> Changes {
        let dirty = std::mem::take(&mut self.dirty);
        let replaced = std::mem::take(&mut self.replaced);
        let mut list = Vec::new();
        for extent in dirty.iter() {
            list.extend(self.zeroes.within(extent).map(Change::Zero));
            list.extend(self.images.within(extent).map(|(e, shift)| Change::Image(shift.to(e))));
            let range = BlockNo::holding(extent.offset())..BlockNo::holding(extent.end());
            for (&block, slot) in self.slots.range_mut(range) {
                slot.sealed = true;
                list.push(Change::Slot { block, slot: slot.no, sum: slot.sum });
            }
        }
        Changes { list, dirty, replaced }
    }

    /// The changes are durable in the log: slots they replaced can be used again.
    pub fn recorded(&mut self, changes: Changes) {
        self.free.extend(changes.replaced);
    }

    /// The changes did not reach the log: they are still to be recorded.
    pub fn failed(&mut self, changes: Changes) {
        for extent in changes.dirty.iter() {
            self.dirty.insert(extent);
        }
        self.replaced.extend(changes.replaced);
    }

    /// The whole mapping as changes: a log that begins with them needs nothing older.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Change> {
        let slots = self.slots.iter().map(|(&block, s)| Change::Slot { block, slot: s.no, sum: s.sum });
        let images = self.images.iter().map(|(e, shift)| shift.to(e)).filter(|part| !part.is_own());
        images.map(Change::Image).chain(self.zeroes.iter().map(Change::Zero)).chain(slots).collect()
    }

    /// The whole mapping, sealed, on its way into a log of its own.
    pub fn seal_all(&mut self) -> Vec<Change> {
        self.slots.values_mut().for_each(|slot| slot.sealed = true);
        self.snapshot()
    }

    /// Bytes of content that was written, which count against the quota: what several blocks share counts once.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used_slots() * BLOCK_SIZE
    }

    fn used_slots(&self) -> u64 {
        count(self.slots.len()).saturating_sub(self.users.besides())
    }

    /// Bytes that it puts onto a flat copy of the image below, for each block that shows them.
    #[must_use]
    pub fn laid_out(&self) -> u64 {
        let images = self.images.iter().map(|(e, shift)| shift.to(e)).filter(|part| !part.is_own());
        count(self.slots.len()) * BLOCK_SIZE + images.map(|part| part.extent.length()).sum::<u64>()
    }

    /// Bytes of slots that wait for changes to be recorded before they can be used again. The driver flushes
    /// when they grow many, for they do not count against the quota.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        count(self.replaced.len()) * BLOCK_SIZE
    }

    /// How many entries the mapping has.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.slots.len() + self.zeroes.count() + self.images.len()
    }

    fn slots_within(&self, extent: Extent) -> impl Iterator<Item = (&BlockNo, &Slot)> {
        self.slots.range(BlockNo::holding(extent.offset())..BlockNo::holding(extent.end()))
    }

    fn mapped_within(&self, extent: Extent) -> Vec<BlockNo> {
        self.slots_within(extent).map(|(&block, _)| block).collect()
    }
}

/// What each of `blocks`, which ascend, has. What lies between those that are no neighbours is not looked at: it may be all there is.
fn walk<'a>(
    slots: &'a BTreeMap<BlockNo, Slot>,
    blocks: &'a [BlockNo],
) -> impl Iterator<Item = (BlockNo, Option<&'a Slot>)> {
    let runs = blocks.chunk_by(|a, b| a.get() + 1 == b.get());
    runs.flat_map(|run| {
        let first = run.first().and_then(|block| slots.get_key_value(block));
        let others = run.get(1).zip(run.last()).map(|(second, last)| slots.range(second..=last));
        let mut there = first.into_iter().chain(others.into_iter().flatten()).peekable();
        run.iter().map(move |&block| (block, there.next_if(|(at, _)| **at == block).map(|(_, slot)| slot)))
    })
}

/// Both, each in order, as one.
fn in_order<T>(
    a: impl Iterator<Item = (Extent, T)>,
    b: impl Iterator<Item = (Extent, T)>,
) -> impl Iterator<Item = (Extent, T)> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some((first, _)), Some((second, _))) if second.offset() < first.offset() => b.next(),
        (Some(_), _) => a.next(),
        (None, _) => b.next(),
    })
}

fn extent_of(block: BlockNo) -> Extent {
    Extent::between(block.offset(), block.offset().saturating_add(BLOCK_SIZE))
}
