//! Versions: what the index knows about the content of blocks, and how a journalled write becomes versions.

use tap_block::stored::StoredLen;
use tap_block::{Action, BlockNo, Extent, Position};

use crate::units::{Location, REGION_BLOCKS, REGION_BYTES, RegionNo, SegmentId, region_blocks};

/// Where a block's content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// It is all zeroes and has no stored form.
    Zero,
    /// In a segment, as one stored unit, or with others in a pack.
    Unit(Location),
}

/// Blocks of one region that took new content at one position.
///
/// Invariant: `blocks` is at least 1, `first + blocks` at most [`REGION_BLOCKS`], and a [`Place::Unit`] is the
/// content of exactly one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    /// The first block, counted within the region.
    pub first: u16,
    /// How many blocks.
    pub blocks: u16,
    /// When, in the stream's history.
    pub position: Position,
    /// The content.
    pub place: Place,
}

impl Version {
    /// Its blocks, counted within the region.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u16> {
        self.first..self.first.saturating_add(self.blocks)
    }

    /// Does the type's invariant hold? Decoders refuse versions for which it does not.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let end = self.first.checked_add(self.blocks);
        let whole = self.blocks > 0 && end.is_some_and(|e| e <= REGION_BLOCKS);
        match self.place {
            Place::Zero => whole,
            Place::Unit(at) => whole && self.blocks == 1 && at.bytes() > 0,
        }
    }
}

/// The versions that one journalled record makes, region by region, in block order.
///
/// `lens` are the stored lengths of the write's blocks, `units` where its first stored byte lies.
/// Blocks beyond the last region (2^56 bytes) make none; the store refuses such records on entry.
pub fn versions_of(
    action: &Action,
    position: Position,
    lens: &[StoredLen],
    units: (SegmentId, u32),
    mut each: impl FnMut(RegionNo, Version),
) {
    match *action {
        Action::Write { extent, .. } => written(extent, position, lens, units, &mut each),
        Action::Zero { extent, .. } => zeroed(extent, position, &mut each),
        Action::Resize { .. } | Action::Mark(_) => {}
    }
}

fn written(
    extent: Extent,
    position: Position,
    lens: &[StoredLen],
    (segment, mut offset): (SegmentId, u32),
    each: &mut impl FnMut(RegionNo, Version),
) {
    let mut zeroes: Option<(RegionNo, Version)> = None;
    for (block, &len) in extent.blocks().zip(lens) {
        let Some((region, first)) = RegionNo::holding(block) else { break };
        if len == 0 {
            zeroes = grown(zeroes, region, first, position, each);
            continue;
        }
        if let Some((region, version)) = zeroes.take() {
            each(region, version);
        }
        let place = Place::Unit(Location { segment, offset, len });
        each(region, Version { first, blocks: 1, position, place });
        offset = offset.saturating_add(u32::from(len));
    }
    if let Some((region, version)) = zeroes {
        each(region, version);
    }
}

/// The run of zero blocks so far with one more block; a run that ends at its region's end is handed on.
fn grown(
    run: Option<(RegionNo, Version)>,
    region: RegionNo,
    first: u16,
    position: Position,
    each: &mut impl FnMut(RegionNo, Version),
) -> Option<(RegionNo, Version)> {
    match run {
        Some((r, v)) if r == region => Some((r, Version { blocks: v.blocks + 1, ..v })),
        other => {
            if let Some((region, version)) = other {
                each(region, version);
            }
            Some((region, Version { first, blocks: 1, position, place: Place::Zero }))
        }
    }
}

fn zeroed(extent: Extent, position: Position, each: &mut impl FnMut(RegionNo, Version)) {
    for piece in extent.split_at_multiples(REGION_BYTES) {
        let Some((region, first)) = RegionNo::holding(BlockNo::holding(piece.offset())) else { break };
        let left = region_blocks() - usize::from(first);
        let blocks = usize::try_from(piece.block_count()).unwrap_or(left).min(left);
        let blocks = u16::try_from(blocks).unwrap_or(REGION_BLOCKS);
        each(region, Version { first, blocks, position, place: Place::Zero });
    }
}

#[cfg(test)]
mod tests {
    use tap_block::{BLOCK_SIZE, Lsn, VolumeId};

    use super::*;

    fn made(action: &Action, lens: &[StoredLen]) -> Vec<(u32, u16, u16, Option<u32>)> {
        let mut out = Vec::new();
        let at = Position::record(Lsn::new(5).unwrap());
        versions_of(action, at, lens, (SegmentId::new(1), 100), |region, v| {
            assert!(v.is_sound());
            let offset = match v.place {
                Place::Zero => None,
                Place::Unit(l) => Some(l.offset),
            };
            out.push((region.get(), v.first, v.blocks, offset));
        });
        out
    }

    fn blocks(first: u64, n: u64) -> Extent {
        Extent::new(first * BLOCK_SIZE, n * BLOCK_SIZE).unwrap()
    }

    #[test]
    fn a_write_over_a_region_boundary_is_cut_there() {
        let action = Action::Write { volume: VolumeId::new(1), extent: blocks(4093, 6) };
        assert_eq!(
            made(&action, &[10, 0, 0, 0, 0, 7]),
            [(0, 4093, 1, Some(100)), (0, 4094, 2, None), (1, 0, 2, None), (1, 2, 1, Some(110))]
        );
    }

    #[test]
    fn zeroes_are_one_version_per_region() {
        let action = Action::Zero { volume: VolumeId::new(1), extent: blocks(4095, 4098) };
        assert_eq!(made(&action, &[]), [(0, 4095, 1, None), (1, 0, 4096, None), (2, 0, 1, None)]);
    }
}
