//! Settled segments of which something is gone: what lay there is named at once, and whether the newest points need it. Where they
//! do, and the protected disk cannot be shown to hold just that, only a copy of the whole disk makes later points whole.

use std::collections::{BTreeMap, BTreeSet};

use gateway_journal::RegionNo;
use tap_block::{BlockNo, Lsn, VolumeId};

use super::hidden::Stretch;
use super::judge::{shown, versions};
use super::{Finding, FindingKind, Scope, Step, Verifier};
use crate::error::StoreError;
use crate::recover::Torn;
use crate::store::Shared;

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
        let mut found = verifier.blocks_of(torn)?;
        // There may be more than are listed: what the newest points show comes first.
        found.sort_by_key(|f| f.points.is_some_and(|(_, last)| last.is_some()));
        for damaged in found.iter().filter_map(|f| Some((f.volume?, f.extent?.offset(), f.position?))) {
            let (volume, offset, position) = damaged;
            self.proving.note_unproven((volume, BlockNo::holding(offset), position));
        }
        verifier.list(found);
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
        for (region, findings) in by_region {
            let blocks: BTreeSet<u16> = findings.iter().map(|(within, _)| *within).collect();
            let (versions, _) = versions(self, volume, region, &blocks)?;
            for (within, finding) in findings {
                let here = |v: &gateway_journal::Version| {
                    v.range().contains(&within) && Some(v.position) == finding.position
                };
                // Of equal positions the one delivered last is shown.
                let points = versions.iter().rposition(here).and_then(|n| shown(&versions, n, within));
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

impl Verifier<'_, '_> {
    /// Blocks that some point shows and that are not what was written, of those that lay in these segments.
    fn blocks_of(&mut self, torn: &[Torn]) -> Result<Vec<Finding>, StoreError> {
        let (mut step, layout) = (Step::default(), self.layout());
        let settles: BTreeSet<u64> = layout.generations.iter().map(|g| g.settle).collect();
        for settle in settles {
            let of = layout.generations.iter().filter(|g| g.settle == settle).flat_map(|g| &g.segments);
            let ids: BTreeSet<_> = of.map(|s| s.segment).collect();
            let here = torn.iter().filter(|t| ids.contains(&t.segment));
            let stretches: Vec<Stretch> =
                here.map(|t| Stretch { segment: t.segment, from: 0, to: t.end }).collect();
            if !stretches.is_empty() {
                self.hidden_in_settled(&stretches, settle, &mut step)?;
            }
        }
        self.judge_all(step.suspects)
    }
}
