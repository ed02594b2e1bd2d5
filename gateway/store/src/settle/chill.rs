//! Passes over a stretch of settled history for its own sake: what has become old and unread since it was written is
//! packed, and what was offered in place of damaged packs is put in.

use gateway_journal::{Generation, RegionNo, RegionRange, SettledSegment};
use tap_block::{VolumeId, WallTime};

use super::keep::Terms;
use super::plan::Plan;
use super::{Pressure, SettleReport, Settler};
use crate::config::Cold;
use crate::error::StoreError;
use crate::store::Shared;
use crate::sync::read;

/// A stretch is rewritten when this share of it, at least, has become cold.
const WORTH: u64 = 4;

impl Settler {
    /// Packs what has become cold, a stretch at a time; `None` when nothing has that is worth it.
    pub(super) fn chill(
        &mut self,
        shared: &Shared,
        terms: Terms,
    ) -> Result<Option<SettleReport>, StoreError> {
        let Some(cold) = shared.config.cold.filter(|_| terms.strain.pressure == Pressure::None) else {
            return Ok(None);
        };
        let Some(range) = cold_stretch(shared, cold, terms.now) else { return Ok(None) };
        self.stretch(shared, range, terms)
    }

    /// Writes a region anew: contents that were offered for its damaged packs count from then on.
    ///
    /// # Errors
    /// When it cannot be written, or there is no room.
    pub(crate) fn renew_region(
        &mut self,
        shared: &Shared,
        volume: VolumeId,
        region: RegionNo,
    ) -> Result<SettleReport, StoreError> {
        let place = (volume, region);
        let terms = self.terms(shared, Pressure::None);
        let none = || StoreError::NoSpace("there is no room to write the region anew".to_owned());
        self.stretch(shared, RegionRange { first: place, last: place }, terms)?.ok_or_else(none)
    }

    /// One pass over a stretch, whatever else is being gone through.
    fn stretch(
        &mut self,
        shared: &Shared,
        range: RegionRange,
        terms: Terms,
    ) -> Result<Option<SettleReport>, StoreError> {
        let Some(plan) = Plan::compaction(shared, range) else { return Ok(None) };
        let under_way = self.own_cycle;
        let outcome = self.pass(shared, plan, terms);
        self.own_cycle = under_way;
        outcome.map(Some)
    }
}

/// Neighbouring segments that may be packed, if that is worth it beside what else lies there.
fn cold_stretch(shared: &Shared, cold: Cold, now: WallTime) -> Option<RegionRange> {
    let layout = std::sync::Arc::clone(&read(&shared.published).layout);
    let generations = &layout.generations;
    let is_due = |g: &Generation, s: &SettledSegment| {
        let unread = || now.since(shared.heat.last(s.segment)) >= cold.unread;
        now.since(g.at) >= cold.after && s.warm > s.end / 2 && unread()
    };
    let most = shared.config.settle_at_once;
    let runs = generations.iter().flat_map(|g| runs_of(g, most, |s| is_due(g, s)));
    runs.into_iter().find_map(|(range, bytes)| {
        let overlaps = |g: &Generation, s: &SettledSegment| {
            range.first <= s.last.min(g.range.last) && s.first.max(g.range.first) <= range.last
        };
        let there: u64 = generations
            .iter()
            .flat_map(|g| g.segments.iter().filter(move |s| overlaps(g, s)))
            .map(|s| u64::from(s.end))
            .sum();
        (bytes >= there / WORTH).then_some(range)
    })
}

/// Runs of neighbouring segments that are due: where they lie, and their warm bytes, `most` of them about.
fn runs_of(g: &Generation, most: u64, is_due: impl Fn(&SettledSegment) -> bool) -> Vec<(RegionRange, u64)> {
    let mut runs: Vec<(RegionRange, u64)> = Vec::new();
    let mut goes_on = false;
    for segment in &g.segments {
        let due = is_due(segment);
        let range =
            RegionRange { first: segment.first.max(g.range.first), last: segment.last.min(g.range.last) };
        match runs.last_mut().filter(|(_, bytes)| goes_on && *bytes < most) {
            Some((run, bytes)) if due => {
                run.last = range.last;
                *bytes += u64::from(segment.warm);
            }
            _ if due && range.first <= range.last => runs.push((range, u64::from(segment.warm))),
            _ => {}
        }
        goes_on = due;
    }
    runs
}

#[cfg(test)]
mod tests {
    use gateway_journal::SegmentId;

    use super::*;

    fn at(region: u32) -> (VolumeId, RegionNo) {
        (VolumeId::new(1), RegionNo::new(region))
    }

    #[test]
    fn neighbours_that_are_due_are_one_run() {
        let segment = |n: u32, warm| SettledSegment {
            segment: SegmentId::new(n),
            end: 100,
            frames: 1,
            first: at(n * 10),
            last: at(n * 10 + 9),
            warm,
        };
        let segments = [90, 80, 10, 70, 60, 99].iter().zip(0..).map(|(&warm, n)| segment(n, warm)).collect();
        let range = RegionRange { first: at(5), last: at(52) };
        let g =
            Generation { settle: 1, range, segments, shares: Vec::new(), at: WallTime::EPOCH, packs: false };
        let runs = runs_of(&g, 150, |s| s.warm > 50);
        let run = |first, last, bytes| (RegionRange { first: at(first), last: at(last) }, bytes);
        assert_eq!(runs, [run(5, 19, 170), run(30, 52, 229)]);
        let runs = runs_of(&g, 100, |s| s.warm > 50);
        assert_eq!(runs, [run(5, 19, 170), run(30, 49, 130), run(50, 52, 99)], "no longer than it has to be");
    }
}
