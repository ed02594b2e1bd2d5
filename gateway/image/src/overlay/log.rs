//! The mapping log of an overlay as bytes: groups of changes, each with its number and checksum.
//!
//! ```text
//!  ┌────────────┬─────────┬───────────┬───────────────────┬─────────────┐
//!  │ magic  u32 │ no  u64 │ count u32 │ count × 25 bytes  │ xxh3-64 u64 │   little endian
//!  └────────────┴─────────┴───────────┴───────────────────┴─────────────┘
//!    row: kind u8, then u64 × 3
//!      1  slot   block, slot, sum
//!      2  zero   offset, length, 0
//!      3  image  block, block in the image below, how many
//!      4  bound  block, block that it was written to, how many: the rows behind this one are slots of these blocks, whose content
//!                was written to those
//! ```
//!
//! A group with rows of kinds 3 and 4 has a magic of its own, and so has the first group of a file with any. A program that does
//! not know them finds no log at all in such a file and refuses the image, instead of showing what was there before a copy.
//!
//! The checksum covers all before it and is seeded with the image's number, so that the log of another image
//! is no log. Groups count up from the first: bytes of an older log behind the end are no group.
//!
//! A file is zeroes before it is written. So a group that the power cut off lacks a sector at least, and that is zeroes; one that
//! is there in full and is not sound has rotted, or is another image's.

use tap_block::units::{count, index};
use tap_block::{BLOCK_SIZE, BlockNo, Extent};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Change, ContentSum, FromImage, SlotNo};

const MAGIC: [u8; 4] = *b"CGO1";
/// Of a group with references.
const MAGIC_REFERENCES: [u8; 4] = *b"CGO2";
const HEAD: usize = 16;
const CHANGE: usize = 25;
const SUM: usize = 8;
const SLOT: u8 = 1;
const ZERO: u8 = 2;
const IMAGE: u8 = 3;
const BOUND: u8 = 4;
/// Written whole or not at all.
const SECTOR: usize = 512;

/// What a log holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scan {
    /// Its changes, in order.
    pub changes: Vec<Change>,
    /// The number of the next group.
    pub next_group: u64,
    /// Where the next group goes: bytes behind are a torn tail.
    pub end: u64,
    /// Bytes of the first group; 0 when there is none.
    pub first: u64,
    /// Does the file say from its start on that there are references in it?
    pub has_references: bool,
    /// Is there anything behind the end?
    pub is_torn: bool,
}

/// The log is damaged, not merely torn at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the overlay's mapping log is damaged at byte {at}, or is another image's: what was written on the image \
         since cannot be trusted; put its own files back as they were, or remove the image and create it again"
)]
pub struct LogError {
    /// Where.
    pub at: u64,
}

/// Bytes of a group of these changes.
#[must_use]
pub fn group_len(changes: &[Change]) -> usize {
    HEAD + rows(changes).count() * CHANGE + SUM
}

/// Group `no` of `image`'s log.
#[must_use]
pub fn encode_group(image: u64, no: u64, changes: &[Change]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + changes.len() * CHANGE + SUM);
    out.extend_from_slice(if has_references(changes) { &MAGIC_REFERENCES } else { &MAGIC });
    out.extend_from_slice(&no.to_le_bytes());
    put_changes(&mut out, changes);
    let sum = xxh3_64_with_seed(&out, image);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// Is there anything among them that programs before references do not know?
#[must_use]
pub fn has_references(changes: &[Change]) -> bool {
    changes.iter().any(Change::is_reference)
}

/// How many, then each.
pub(super) fn put_changes(out: &mut Vec<u8>, changes: &[Change]) {
    let many = rows(changes).count();
    out.extend_from_slice(&u32::try_from(many).unwrap_or(u32::MAX).to_le_bytes());
    for (kind, numbers) in rows(changes) {
        out.push(kind);
        numbers.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    }
}

type Row = (u8, [u64; 3]);

fn rows(changes: &[Change]) -> impl Iterator<Item = Row> {
    changes.chunk_by(are_bound_alike).flat_map(|run| bound(run).into_iter().chain(run.iter().map(row)))
}

fn row(change: &Change) -> Row {
    match *change {
        Change::Slot { block, slot, sum } => (SLOT, [block.get(), slot.get(), sum.sum]),
        Change::Zero(extent) => (ZERO, [extent.offset(), extent.length(), 0]),
        Change::Image(FromImage { extent, at }) => {
            (IMAGE, [extent.offset() / BLOCK_SIZE, at / BLOCK_SIZE, extent.block_count()])
        }
    }
}

/// The row before slots whose content was written to other blocks.
fn bound(run: &[Change]) -> Option<Row> {
    let Change::Slot { block, sum, .. } = run.first()? else { return None };
    (sum.of != *block).then_some((BOUND, [block.get(), sum.of.get(), count(run.len())]))
}

/// Neighbours whose content was written to neighbours?
fn are_bound_alike(a: &Change, b: &Change) -> bool {
    let (Change::Slot { block, sum, .. }, Change::Slot { block: next, sum: next_sum, .. }) = (a, b) else {
        return false;
    };
    sum.of != *block && block.get() + 1 == next.get() && sum.of.get() + 1 == next_sum.of.get()
}

/// Reads a whole log.
///
/// # Errors
/// [`LogError`] when a later group is sound behind an unsound one, or an unsound one is there in full.
pub fn scan(image: u64, log: &[u8]) -> Result<Scan, LogError> {
    let (mut found, mut rest) = (Scan::default(), log);
    while let Some((changes, len)) = decode_group(image, Some(found.next_group), rest) {
        found.has_references |= found.end == 0 && rest.starts_with(&MAGIC_REFERENCES);
        found.changes.extend(changes);
        found.next_group += 1;
        found.end += count(len);
        if found.first == 0 {
            found.first = found.end;
        }
        rest = rest.get(len..).unwrap_or_default();
    }
    found.is_torn = rest.iter().any(|b| *b != 0);
    let is_damaged = found.is_torn
        && (later_group(image, found.next_group, rest)
            || is_whole(image, found.next_group, index(found.end % count(SECTOR)), rest));
    if is_damaged { Err(LogError { at: found.end }) } else { Ok(found) }
}

/// Is what begins `bytes`, which is no sound group `no`, there in full all the same? Its first sector begins so many bytes before.
fn is_whole(image: u64, no: u64, before: usize, bytes: &[u8]) -> bool {
    if decode_group(image, None, bytes).is_some() {
        // An older one.
        return false;
    }
    let there = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let is_begun = is_magic(bytes) && group_no(bytes) == Some(no);
    let len = match row_count(bytes).filter(|_| is_begun) {
        _ if is_sound_but_for_its_head(image, no, bytes.get(..there + SUM).unwrap_or(bytes)) => there,
        Some(rows) => HEAD + rows * CHANGE + SUM,
        // What is left of a longer one that was torn, and written over.
        None if no > 0 => return false,
        None => there.max(HEAD),
    };
    bytes.get(..len).is_some_and(|group| !has_blank_sector(before, group))
}

/// Does a head of so many rows as end where `bytes` do, but for zeroes, make it sound?
fn is_sound_but_for_its_head(image: u64, no: u64, bytes: &[u8]) -> bool {
    let there = bytes.iter().rposition(|b| *b != 0).unwrap_or(0);
    let Some(rows) = there.checked_sub(HEAD).map(|rows| rows / CHANGE) else { return false };
    let rows = u32::try_from(rows).unwrap_or(u32::MAX).to_le_bytes();
    [MAGIC, MAGIC_REFERENCES].iter().any(|magic| {
        let group = [magic, &no.to_le_bytes()[..], &rows, bytes.get(HEAD..).unwrap_or_default()].concat();
        changes_behind(image, HEAD, &group).is_some()
    })
}

fn has_blank_sector(before: usize, group: &[u8]) -> bool {
    let (first, others) = group.split_at((SECTOR - before).min(group.len()));
    std::iter::once(first).chain(others.chunks(SECTOR)).any(|sector| sector.iter().all(|b| *b == 0))
}

/// Is there a sound group numbered `from` or above anywhere in `bytes`?
fn later_group(image: u64, from: u64, bytes: &[u8]) -> bool {
    let starts =
        bytes.windows(MAGIC.len()).enumerate().filter(|(_, w)| *w == MAGIC || *w == MAGIC_REFERENCES);
    let mut numbered = starts.filter_map(|(at, _)| bytes.get(at..)).filter(|b| group_no(b) >= Some(from));
    numbered.any(|b| decode_group(image, None, b).is_some())
}

fn is_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC) || bytes.starts_with(&MAGIC_REFERENCES)
}

fn row_count(bytes: &[u8]) -> Option<usize> {
    Some(index(u64::from(u32::from_le_bytes(*bytes.get(HEAD - 4..)?.first_chunk()?))))
}

fn group_no(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(4..)?.first_chunk()?))
}

/// The group at the start of `bytes`, and its length, if it is sound (and has the number `no`).
fn decode_group(image: u64, no: Option<u64>, bytes: &[u8]) -> Option<(Vec<Change>, usize)> {
    let magic = bytes.get(..4)?;
    if (magic != MAGIC && magic != MAGIC_REFERENCES) || no.is_some_and(|no| group_no(bytes) != Some(no)) {
        return None;
    }
    changes_behind(image, HEAD, bytes)
}

/// The changes of the group at the start of `bytes`, which begin at `head` behind their number, and the group's length, if its
/// checksum is right.
pub(super) fn changes_behind(image: u64, head: usize, bytes: &[u8]) -> Option<(Vec<Change>, usize)> {
    let changes = u32::from_le_bytes(*bytes.get(head.checked_sub(4)?..)?.first_chunk()?);
    let body = head + index(u64::from(changes)) * CHANGE;
    let sum = u64::from_le_bytes(*bytes.get(body..)?.first_chunk()?);
    if xxh3_64_with_seed(bytes.get(..body)?, image) != sum {
        return None;
    }
    Some((decode_changes(bytes.get(head..body)?.as_chunks::<CHANGE>().0)?, body + SUM))
}

/// So many rows that come are slots whose content was written to blocks from `of` on.
#[derive(Clone, Copy, Default)]
struct Bound {
    of: u64,
    rows: u64,
}

impl Bound {
    /// For the next slot, of `block`.
    fn next(&mut self, block: u64) -> BlockNo {
        if self.rows == 0 {
            return BlockNo::new(block);
        }
        let of = self.of;
        (self.of, self.rows) = (of.saturating_add(1), self.rows - 1);
        BlockNo::new(of)
    }
}

fn decode_changes(rows: &[[u8; CHANGE]]) -> Option<Vec<Change>> {
    let (mut changes, mut bound) = (Vec::with_capacity(rows.len()), Bound::default());
    for row in rows {
        let (&kind, numbers) = row.split_first()?;
        let [a, b, c] = *numbers.as_chunks::<8>().0 else { return None };
        let [a, b, c] = [a, b, c].map(u64::from_le_bytes);
        changes.push(match kind {
            SLOT => Change::Slot {
                block: BlockNo::new(a),
                slot: SlotNo(b),
                sum: ContentSum { sum: c, of: bound.next(a) },
            },
            ZERO => Extent::new(a, b).filter(|e| e.is_block_aligned()).map(Change::Zero)?,
            IMAGE => Change::Image(FromImage { extent: blocks(a, c)?, at: blocks(b, c)?.offset() }),
            BOUND => {
                bound = Bound { of: b, rows: c };
                continue;
            }
            _ => return None,
        });
    }
    Some(changes)
}

fn blocks(first: u64, many: u64) -> Option<Extent> {
    Extent::new(first.checked_mul(BLOCK_SIZE)?, many.checked_mul(BLOCK_SIZE)?)
}
