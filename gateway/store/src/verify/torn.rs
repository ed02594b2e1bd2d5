//! Settled segments of which something is gone: what lay there is named at once, and whether the newest points need it. Where they
//! do, and the protected disk cannot be shown to hold just that, only a copy of the whole disk makes later points whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_journal::RegionNo;
use tap_block::units::count;
use tap_block::{BlockNo, Extent, Lsn, Position, VolumeId};

use super::hidden::Stretch;
use super::judge::{reached, shown, versions};
use super::{Finding, FindingKind, MOST_FINDINGS, Scope, Step, Verifier};
use crate::error::StoreError;
use crate::recover::Torn;
use crate::store::Shared;
use crate::sync::read;

impl Shared {
    /// Notes what is torn since the store was closed, and every block that lay there. As much as that is read.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(crate) fn note_torn(&self, torn: &[Torn]) -> Result<(), StoreError> {
        if torn.is_empty() {
            return Ok(());
        }
        let gone = torn.iter().filter_map(|t| {
            let place = (0, t.end);
            let why = t.found.clone()?;
            Some(Finding::of_store(FindingKind::Missing, t.segment, place, why, self.age.now()))
        });
        let gone: Vec<Finding> = gone.collect();
        self.proving.note_all(&gone);
        if !gone.is_empty() {
            self.proving.doubt();
        }
        let mut watch = |_| true;
        let mut verifier = Verifier::new(self, Scope::default(), &mut watch);
        let found = verifier.blocks_of(torn)?;
        for finding in found.values().flat_map(|found| &found.kept) {
            if let Some((volume, extent, position)) = of_block(finding) {
                self.proving.note_unproven((volume, BlockNo::holding(extent.offset()), position));
            }
        }
        for (volume, Found { kept, more }) in found {
            verifier.list(kept);
            if more > 0 {
                *verifier.report.unlisted.entry(Some(volume)).or_default() += more;
            }
        }
        self.proving.add(&verifier.report);
        Ok(())
    }

    /// The last record before a block that the newest point shows, and that only a copy of the whole disk makes up for.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(crate) fn head_wound(&self, volume: VolumeId) -> Result<Option<Lsn>, StoreError> {
        let mut by_region: BTreeMap<RegionNo, Vec<(u16, Finding)>> = BTreeMap::new();
        for finding in self.proving.head_wounds(volume) {
            let block = finding.extent.map(|e| BlockNo::holding(e.offset()));
            if let Some((region, within)) = block.and_then(RegionNo::holding) {
                by_region.entry(region).or_default().push((within, finding));
            }
        }
        let mut hidden = Vec::new();
        let catalogue = Arc::clone(&read(&self.published).catalogue);
        let known = catalogue.volume(volume).map(|known| &**known);
        for (region, findings) in by_region {
            let blocks: BTreeSet<u16> = findings.iter().map(|(within, _)| *within).collect();
            let (versions, _) = versions(self, volume, region, &blocks)?;
            for (within, finding) in findings {
                let here = |v: &gateway_journal::Version| {
                    v.range().contains(&within) && Some(v.position) == finding.position
                };
                // Of equal positions the one delivered last is shown.
                let points = versions.iter().rposition(here).and_then(|n| shown(&versions, n, within));
                let points = points.and_then(|points| reached(known, region.block(within), points));
                match points {
                    Some((first, None)) => {
                        // What is known so far need not be found out again.
                        self.proving.note_all(&hidden);
                        return Ok(Some(first.previous()));
                    }
                    Some(points) => hidden.push(Finding { points: Some(points), ..finding }),
                    None => {}
                }
            }
        }
        self.proving.note_all(&hidden);
        Ok(None)
    }
}

/// Suspects that are judged together, at least: there may be more than memory takes.
const AT_ONCE: usize = 4096;

/// What is found of a volume: no more than is listed, and what the newest points show before all else.
#[derive(Default)]
struct Found {
    kept: Vec<Finding>,
    /// So many more.
    more: u64,
}

impl Found {
    fn take(&mut self, finding: Finding) {
        self.kept.push(finding);
        if self.kept.len() >= MOST_FINDINGS * 2 {
            self.trim();
        }
    }

    fn trim(&mut self) {
        self.kept.sort_by_key(|f| f.points.is_some_and(|(_, last)| last.is_some()));
        self.more += count(self.kept.len().saturating_sub(MOST_FINDINGS));
        self.kept.truncate(MOST_FINDINGS);
    }
}

fn of_block(finding: &Finding) -> Option<(VolumeId, Extent, Position)> {
    Some((finding.volume?, finding.extent?, finding.position?))
}

impl Verifier<'_, '_> {
    /// Blocks that some point shows and that are not what was written, of those that lay in these segments.
    fn blocks_of(&self, torn: &[Torn]) -> Result<BTreeMap<VolumeId, Found>, StoreError> {
        let (mut found, layout) = (BTreeMap::<VolumeId, Found>::new(), self.layout());
        for generation in &layout.generations {
            let here = |t: &&Torn| generation.segments.iter().any(|s| s.segment == t.segment);
            let stretch = |t: &Torn| Stretch { segment: t.segment, from: 0, to: t.end };
            let stretches: Vec<Stretch> = torn.iter().filter(here).map(stretch).collect();
            let mut left = Some(generation.range).filter(|_| !stretches.is_empty());
            while let Some(range) = left {
                let mut step = Step::default();
                left = self.hidden_in_range(&stretches, (generation.settle, range), AT_ONCE, &mut step)?;
                for finding in self.judge_all(step.suspects)? {
                    if let Some(volume) = finding.volume {
                        found.entry(volume).or_default().take(finding);
                    }
                }
            }
        }
        found.values_mut().for_each(Found::trim);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use tap_block::WallTime;

    use super::*;

    #[test]
    fn of_more_than_memory_takes_what_the_newest_points_show_is_kept_and_the_rest_counted() {
        let lsn = |n| Lsn::new(n).unwrap();
        let segment = gateway_journal::SegmentId::new(1);
        let of = |newest: bool| {
            let last = (!newest).then(|| lsn(5));
            let finding =
                Finding::of_store(FindingKind::Block, segment, (0, 1), String::new(), WallTime::EPOCH);
            Finding { points: Some((lsn(4), last)), ..finding }
        };
        let mut found = Found::default();
        let (all, newest) = (MOST_FINDINGS * 7, MOST_FINDINGS / 2);
        for n in 0..all {
            found.take(of(n >= all - newest));
            assert!(found.kept.len() < MOST_FINDINGS * 2);
        }
        found.trim();
        assert_eq!((found.kept.len(), found.more), (MOST_FINDINGS, count(all - MOST_FINDINGS)));
        assert_eq!(found.kept.iter().filter(|f| f.points.unwrap().1.is_none()).count(), newest);
    }
}
