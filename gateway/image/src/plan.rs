//! What to read, and from where, to answer a read of an image.

use gateway_journal::{Location, REGION_BYTES, RegionNo};
use tap_block::{BLOCK_SIZE, BlockNo, Extent};

use crate::region::RegionMap;

/// A part of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where on the image, cut to what was asked for.
    pub extent: Extent,
    /// What is there.
    pub source: Source,
}

/// Where a piece's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Zeroes.
    Zero,
    /// The unit of one block.
    Unit(BlockNo, Location),
}

/// The regions a read needs, in order.
pub fn regions(extent: Extent) -> impl Iterator<Item = RegionNo> {
    let parts = extent.split_at_multiples(REGION_BYTES);
    parts.filter_map(|e| Some(RegionNo::holding(BlockNo::holding(e.offset()))?.0))
}

/// The pieces of `extent`, in order and without holes; neighbouring zeroes are one piece. A region without a
/// map, and all that lies past `size`, is zeroes.
pub fn plan_read<'a>(
    extent: Extent,
    size: u64,
    map: impl Fn(RegionNo) -> Option<&'a RegionMap>,
) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for part in extent.split_at_multiples(REGION_BYTES) {
        let region = RegionNo::holding(BlockNo::holding(part.offset()));
        let known = region.and_then(|(no, _)| map(no));
        for piece in part.split_at_multiples(BLOCK_SIZE) {
            let block = BlockNo::holding(piece.offset());
            let within = RegionNo::holding(block).filter(|_| piece.offset() < size);
            let unit = known.zip(within).and_then(|(m, (_, within))| m.unit(within));
            push(&mut pieces, piece, unit.map_or(Source::Zero, |l| Source::Unit(block, l)));
        }
    }
    pieces
}

fn push(pieces: &mut Vec<Piece>, extent: Extent, source: Source) {
    match pieces.last_mut() {
        Some(last) if last.source == Source::Zero && source == Source::Zero => {
            last.extent = Extent::between(last.extent.offset(), extent.end());
        }
        _ => pieces.push(Piece { extent, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::RegionMapBuilder;
    use gateway_journal::{Place, SegmentId, Version};
    use tap_block::{Lsn, Position};

    #[test]
    fn a_plan_covers_the_read_and_cuts_blocks() {
        let at = Lsn::new(1).unwrap();
        let location = Location { segment: SegmentId::new(1), offset: 64, len: 30 };
        let mut builder = RegionMapBuilder::new(at);
        builder.apply(&Version {
            first: 1,
            blocks: 1,
            position: Position::record(at),
            place: Place::Unit(location),
        });
        let map = builder.build();
        let asked = Extent::between(100, 5 * BLOCK_SIZE);
        let plan = plan_read(asked, 1 << 30, |_| Some(&map));
        let unit = Source::Unit(BlockNo::new(1), location);
        assert_eq!(
            plan,
            [
                Piece { extent: Extent::between(100, 4096), source: Source::Zero },
                Piece { extent: Extent::between(4096, 8192), source: unit },
                Piece { extent: Extent::between(8192, 5 * BLOCK_SIZE), source: Source::Zero },
            ]
        );
        let shrunk = plan_read(asked, 4096, |_| Some(&map));
        assert_eq!(shrunk, [Piece { extent: asked, source: Source::Zero }]);
        assert!(plan_read(Extent::between(9, 9), 1 << 30, |_| Some(&map)).is_empty());
    }

    #[test]
    fn regions_are_the_ones_touched() {
        let two = Extent::between(REGION_BYTES - 1, REGION_BYTES + 1);
        assert_eq!(regions(two).collect::<Vec<_>>(), [RegionNo::new(0), RegionNo::new(1)]);
    }
}
