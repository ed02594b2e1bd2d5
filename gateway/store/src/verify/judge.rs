//! Which points show a block that is not what was written: those from its version up to the next of the same block.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_image::catalogue::Volume;
use gateway_journal::{Kept, Place, RegionNo, Version};
use tap_block::{BLOCK_SIZE, BlockNo, Extent, Lsn, Position, VolumeId};

use super::{Finding, FindingKind, Suspect, Verifier};
use crate::error::StoreError;
use crate::layout::Gather;
use crate::store::Shared;
use crate::sync::read;
use crate::times::under_one_layout;

impl Verifier<'_, '_> {
    /// Suspects that some point shows become findings. The others are of no use to anybody.
    pub(super) fn judge(&mut self, suspects: Vec<Suspect>) -> Result<(), StoreError> {
        let found = self.judge_all(suspects)?;
        self.list(found);
        Ok(())
    }

    /// The findings, in the order of their regions.
    pub(super) fn judge_all(&self, suspects: Vec<Suspect>) -> Result<Vec<Finding>, StoreError> {
        let mut found = Vec::new();
        let catalogue = Arc::clone(&read(&self.shared.published).catalogue);
        let mut by_region: BTreeMap<(VolumeId, RegionNo), Vec<Suspect>> = BTreeMap::new();
        for suspect in suspects {
            if let Some((region, _)) = RegionNo::holding(suspect.block) {
                by_region.entry((suspect.volume, region)).or_default().push(suspect);
            }
        }
        for ((volume, region), suspects) in by_region {
            let blocks: BTreeSet<u16> =
                suspects.iter().filter_map(|s| Some(RegionNo::holding(s.block)?.1)).collect();
            let (versions, kept) = versions(self.shared, volume, region, &blocks)?;
            let known = catalogue.volume(volume).map(|known| &**known);
            found.extend(suspects.iter().filter_map(|s| self.judged(s, &versions, (known, &kept))));
        }
        Ok(found)
    }

    fn judged(
        &self,
        suspect: &Suspect,
        versions: &[Version],
        (known, kept): (Option<&Volume>, &Kept),
    ) -> Option<Finding> {
        let Suspect { volume, block, position, at, detail } = suspect;
        let (_, within) = RegionNo::holding(*block)?;
        let here = |v: &Version| v.first == within && v.position == *position && v.place == Place::Unit(*at);
        let n = versions.iter().position(here)?;
        let (first, last) = reached(known, *block, shown(versions, n, within)?)?;
        let beyond = self.report.scope.to.is_some_and(|to| first > to);
        if beyond || !is_kept(kept, first, last) {
            return None;
        }
        let end = at.end();
        let finding = self.finding(FindingKind::Block, at.segment, (at.offset, end), detail.clone());
        Some(Finding {
            volume: Some(*volume),
            extent: Some(Extent::between(block.offset(), block.offset() + BLOCK_SIZE)),
            position: Some(*position),
            points: Some((first, last)),
            ..finding
        })
    }
}

/// Every version of these blocks of a region, in the order of delivery, and which points of the volume are kept.
pub(super) fn versions(
    shared: &Shared,
    volume: VolumeId,
    region: RegionNo,
    blocks: &BTreeSet<u16>,
) -> Result<(Vec<Version>, Kept), StoreError> {
    let wanted = |v: &Version| blocks.range(v.range()).next().is_some();
    under_one_layout(shared, |layout| {
        let (last, frozen, active) = {
            let published = read(&shared.published);
            let frozen: Vec<_> = published.frozen.iter().cloned().collect();
            let last = published.ingested.last().map(|g| g.no);
            (last, frozen, published.active.of(volume, region).to_vec())
        };
        let mut found = Vec::new();
        let (index, segments) = (&shared.index, &shared.segments);
        let gather = Gather { index, layout, segments, volume, region };
        gather.all(last, &mut |v| found.extend(Some(*v).filter(wanted)))?;
        found.extend(frozen.iter().flat_map(|f| f.group.of(volume, region)).filter(|v| wanted(v)));
        found.extend(active.into_iter().filter(wanted));
        Ok((found, layout.kept.get(&volume).cloned().unwrap_or_default()))
    })
}

/// The first and the last point that show block `within` of the `n`-th version; `None` when none does.
pub(super) fn shown(versions: &[Version], n: usize, within: u16) -> Option<(Lsn, Option<Lsn>)> {
    let place = |(n, v): (usize, &Version)| (v.position, n);
    let own = place((n, versions.get(n)?));
    let others = versions.iter().enumerate().filter(|(_, v)| v.range().contains(&within)).map(place);
    let next: Option<Position> = others.filter(|other| *other > own).min().map(|(position, _)| position);
    let first = own.0.lsn();
    let Some(next) = next else { return Some((first, None)) };
    // A copy is shown from the record on that it stands behind, as the next record is from its own.
    let last = next.lsn().previous();
    (first <= last).then_some((first, Some(last)))
}

/// Of the points that show a block, those at which the disk reaches it: one that became smaller since has newer ones without it.
pub(super) fn reached(
    known: Option<&Volume>,
    block: BlockNo,
    (first, last): (Lsn, Option<Lsn>),
) -> Option<(Lsn, Option<Lsn>)> {
    let Some(since) = known.and_then(|volume| volume.beyond_end_since(block.offset())) else {
        return Some((first, last));
    };
    let end = since.previous();
    let last = last.map_or(end, |last| last.min(end));
    (first <= last).then_some((first, Some(last)))
}

/// Can any point from the first to the last be opened?
pub(super) fn is_kept(kept: &Kept, first: Lsn, last: Option<Lsn>) -> bool {
    let after = last.is_none_or(|last| last >= kept.settled);
    after || kept.any(first, last)
}

#[cfg(test)]
mod tests {
    use gateway_journal::{Location, SegmentId};

    use super::*;

    fn version(first: u16, blocks: u16, position: u64, offset: u32) -> Version {
        let at = Location { segment: SegmentId::new(1), offset, len: 20 };
        let place = if blocks == 1 { Place::Unit(at) } else { Place::Zero };
        Version { first, blocks, position: Position::from_raw(position).unwrap(), place }
    }

    fn lsn(raw: u64) -> Lsn {
        Lsn::new(raw).unwrap()
    }

    #[test]
    fn a_version_is_shown_up_to_the_next_of_its_block() {
        let versions =
            [version(5, 1, 10, 0), version(6, 1, 12, 20), version(4, 9, 20, 0), version(5, 1, 11, 40)];
        assert_eq!(shown(&versions, 1, 6), Some((lsn(6), Some(lsn(9)))), "up to the zeroes at 10");
        assert_eq!(shown(&versions, 0, 5), None, "a copy as of the same record hides it");
        assert_eq!(shown(&versions, 3, 5), Some((lsn(5), Some(lsn(9)))));
        assert_eq!(shown(&versions, 2, 5), Some((lsn(10), None)));
        let twice = [version(5, 1, 10, 0), version(5, 1, 10, 20)];
        assert_eq!(shown(&twice, 0, 5), None, "the later delivered wins");
        assert_eq!(shown(&twice, 1, 5), Some((lsn(5), None)));
    }
}
