//! Where each block of a 16 MiB region lies at one moment.
//!
//! A map is built from versions in any order and never changes afterwards, so any number of images share it.

use gateway_journal::{Location, Place, REGION_BLOCKS, Version};
use tap_block::{Lsn, Position};

/// A region at one point: for each block its unit, or zeroes (blocks never written are zeroes too).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionMap {
    units: Box<[Option<Location>]>,
}

impl RegionMap {
    /// The unit of block `in_region` (counted from the region's start); `None` reads as zeroes.
    #[must_use]
    pub fn unit(&self, in_region: u16) -> Option<Location> {
        self.units.get(usize::from(in_region)).copied().flatten()
    }

    /// How many blocks have a unit.
    #[must_use]
    pub fn stored_blocks(&self) -> usize {
        self.units.iter().flatten().count()
    }

    /// Bytes it takes in a cache.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.units)
    }
}

/// Gathers the versions of a region.
///
/// For each block the greatest position visible at the point wins; among equal positions (a copy delivered
/// twice) the one applied later. But for that last rule the order does not matter.
#[derive(Debug, Clone)]
pub struct RegionMapBuilder {
    point: Lsn,
    slots: Vec<Option<(Position, Place)>>,
}

impl RegionMapBuilder {
    /// Nothing known yet of the region at `point`.
    #[must_use]
    pub fn new(point: Lsn) -> Self {
        Self { point, slots: vec![None; usize::from(REGION_BLOCKS)] }
    }

    /// Takes a version in. Blocks past the region's end are left out: a version comes from disk.
    pub fn apply(&mut self, version: &Version) {
        if !version.position.visible_at(self.point) {
            return;
        }
        let first = usize::from(version.first);
        let end = (first + usize::from(version.blocks)).min(self.slots.len());
        let Some(slots) = self.slots.get_mut(first..end) else { return };
        for slot in slots {
            if slot.is_none_or(|(known, _)| known <= version.position) {
                *slot = Some((version.position, version.place));
            }
        }
    }

    /// All that is known so far as versions in block order: applied to a new builder they give the same map,
    /// so a region with a long history need not be gathered from its beginning again.
    #[must_use]
    pub fn versions(&self) -> Vec<Version> {
        let mut versions: Vec<Version> = Vec::new();
        for (first, slot) in (0u16..).zip(&self.slots) {
            let Some((position, place)) = *slot else { continue };
            match versions.last_mut() {
                Some(last) if extends(last, first, position, place) => last.blocks += 1,
                _ => versions.push(Version { first, blocks: 1, position, place }),
            }
        }
        versions
    }

    /// The map.
    #[must_use]
    pub fn build(self) -> RegionMap {
        let unit = |slot: Option<(Position, Place)>| match slot {
            Some((_, Place::Unit(location))) => Some(location),
            Some((_, Place::Zero)) | None => None,
        };
        RegionMap { units: self.slots.into_iter().map(unit).collect() }
    }
}

/// Only zeroes are versions of several blocks: each unit has a location of its own.
fn extends(last: &Version, first: u16, position: Position, place: Place) -> bool {
    let zeroes = matches!((last.place, place), (Place::Zero, Place::Zero));
    zeroes && last.position == position && last.first.checked_add(last.blocks) == Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_journal::SegmentId;

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n).unwrap()
    }

    fn unit(n: u32) -> Place {
        Place::Unit(Location { segment: SegmentId::new(n), offset: 0, len: 20 })
    }

    fn version(first: u16, blocks: u16, at: u64, place: Place) -> Version {
        Version { first, blocks, position: Position::record(lsn(at)), place }
    }

    #[test]
    fn the_newest_visible_version_wins_in_any_order() {
        let versions = [
            version(3, 1, 5, unit(5)),
            version(3, 1, 7, unit(7)),
            version(0, 10, 6, Place::Zero),
            version(3, 1, 9, unit(9)),
        ];
        let mut forward = RegionMapBuilder::new(lsn(8));
        let mut backward = RegionMapBuilder::new(lsn(8));
        versions.iter().for_each(|v| forward.apply(v));
        versions.iter().rev().for_each(|v| backward.apply(v));
        let map = forward.build();
        assert_eq!(map, backward.build());
        assert_eq!(map.unit(3), Some(Location { segment: SegmentId::new(7), offset: 0, len: 20 }));
        assert_eq!(map.stored_blocks(), 1);
    }

    #[test]
    fn a_copy_hides_its_own_lsn_and_nothing_newer() {
        let copy = Version { position: Position::copy_as_of(lsn(5)), ..version(0, 1, 5, unit(50)) };
        let mut builder = RegionMapBuilder::new(lsn(6));
        builder.apply(&copy);
        builder.apply(&version(0, 1, 5, unit(5)));
        assert_eq!(builder.clone().build().unit(0).unwrap().segment, SegmentId::new(50));
        builder.apply(&version(0, 1, 6, Place::Zero));
        builder.apply(&copy);
        assert_eq!(builder.build().unit(0), None);
    }

    #[test]
    fn a_checkpoint_gives_the_same_map() {
        let mut builder = RegionMapBuilder::new(lsn(8));
        builder.apply(&version(0, 4096, 1, Place::Zero));
        builder.apply(&version(7, 1, 2, unit(2)));
        builder.apply(&version(4095, 1, 3, unit(3)));
        let checkpoint = builder.versions();
        assert_eq!(checkpoint.len(), 4);
        let mut again = RegionMapBuilder::new(lsn(8));
        checkpoint.iter().for_each(|v| again.apply(v));
        assert_eq!(again.build(), builder.build());
    }

    #[test]
    fn versions_past_the_end_do_no_harm() {
        let mut builder = RegionMapBuilder::new(lsn(8));
        builder.apply(&version(4095, 10, 1, unit(1)));
        builder.apply(&version(5000, 10, 1, unit(1)));
        assert_eq!(builder.build().stored_blocks(), 1);
    }
}
