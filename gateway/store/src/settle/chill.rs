//! Passes over a stretch of settled history for its own sake: what has become old and unread since it was written is
//! packed, and what was offered in place of damaged packs is put in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gateway_journal::{Generation, Kept, RegionNo, RegionRange, SettledSegment};
use tap_block::units::count;
use tap_block::{VolumeId, WallTime};
use tracing::warn;

use super::blocked::{Blocked, Wait, first_part};
use super::keep::Terms;
use super::plan::{End, Plan};
use super::{Pressure, SettleReport, Settler};
use crate::config::Cold;
use crate::error::StoreError;
use crate::store::Shared;
use crate::sync::read;

/// A stretch is rewritten when this share of it, at least, has become cold.
const WORTH: u64 = 4;
/// Fewer segments than these are not worth a rewrite, unless they are all of a generation.
const FEWEST: u64 = 4;
/// A pass that packs writes no more than this: nothing waits for it.
const AT_ONCE: u64 = 1 << 30;
/// A stretch that could not be packed is tried again after this.
const AGAIN: Duration = Duration::from_secs(24 * 3600);

/// Where packing is.
#[derive(Debug)]
pub(super) struct Chilling {
    /// When a stretch was gone through last.
    last: Option<WallTime>,
    /// What could not be packed, and until when it is left alone.
    failed: Vec<(RegionRange, WallTime)>,
}

impl Chilling {
    pub(super) const fn new() -> Self {
        Self { last: None, failed: Vec::new() }
    }

    /// The first part of a stretch in which nothing has failed lately; `None` when there is none.
    fn untried(&self, range: RegionRange, blocked: &[RegionRange]) -> Option<RegionRange> {
        let failed = self.failed.iter().map(|(failed, _)| *failed);
        first_part(range, &failed.chain(blocked.iter().copied()).collect::<Vec<_>>())
    }
}

impl Settler {
    /// Packs what has become cold, a stretch at a time; `None` when nothing has that is worth it, or one was packed just now.
    /// What cannot be packed stays as it is.
    pub(super) fn chill(
        &mut self,
        shared: &Shared,
        terms: Terms,
    ) -> Result<Option<SettleReport>, StoreError> {
        let now = terms.now;
        let Some(cold) = shared.config.cold.filter(|_| terms.strain.pressure == Pressure::None) else {
            return Ok(None);
        };
        if self.chilling.last.is_some_and(|last| now.since(last) < cold.pause) {
            return Ok(None);
        }
        self.chilling.failed.retain(|(_, until)| now < *until);
        let Some(range) = cold_stretch(shared, cold, now, &self.chilling) else { return Ok(None) };
        let Some(mut plan) = Plan::compaction(shared, range, Wait::Always).filter(Plan::is_stretch) else {
            return Ok(None);
        };
        // The log is to have room whatever this does.
        let half =
            shared.log_room().map_or(u64::MAX, |left| count(left / 2) * u64::from(shared.config.segment_len));
        plan.end = End::Strict(plan.end.budget().unwrap_or(u64::MAX).min(AT_ONCE).min(half));
        self.chilling.last = Some(now);
        match self.stretch(shared, plan, terms) {
            Err(StoreError::Stopped) => Err(StoreError::Stopped),
            Err(e) => {
                // What lies behind a region that is too large can be packed all the same.
                let one = matches!(e, StoreError::RegionTooLarge { .. });
                let failed = if one { RegionRange { first: range.first, last: range.first } } else { range };
                warn!(
                    "history of {}, region {} and behind it is not packed, and left alone for a day: {e}",
                    range.first.0,
                    range.first.1.get()
                );
                self.chilling.failed.push((failed, now.plus(AGAIN)));
                Ok(None)
            }
            Ok(report) => Ok(Some(report)),
        }
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
        let range = RegionRange { first: place, last: place };
        let none = || StoreError::NoSpace("there is no room to write the region anew".to_owned());
        // What somebody puts right from elsewhere is not waited for.
        let blocked = Blocked::of(shared, &read(&shared.published), range, Wait::Never).ranges();
        if blocked.iter().any(|of| of.holds(place)) {
            let text = "something of the region is missing, and it is not written anew before that is back";
            return Err(StoreError::Damaged(text.to_owned()));
        }
        let plan = Plan::compaction(shared, range, Wait::Never).filter(Plan::is_stretch).ok_or_else(none)?;
        self.stretch(shared, plan, terms)
    }

    /// One pass over a stretch, whatever else is being gone through.
    fn stretch(&mut self, shared: &Shared, plan: Plan, terms: Terms) -> Result<SettleReport, StoreError> {
        let under_way = self.own_cycle;
        let outcome = self.pass(shared, plan, terms);
        self.own_cycle = under_way;
        outcome
    }
}

/// Neighbouring segments that may be packed, if that is worth it beside what else lies there.
fn cold_stretch(shared: &Shared, cold: Cold, now: WallTime, chilling: &Chilling) -> Option<RegionRange> {
    let (layout, blocked) = {
        let published = read(&shared.published);
        (
            Arc::clone(&published.layout),
            Blocked::of(shared, &published, RegionRange::ALL, Wait::Always).ranges(),
        )
    };
    let generations = &layout.generations;
    // Of a volume without a point so old nobody knows what is.
    let has_old = |kept: &Kept| kept.points.first().is_some_and(|p| now.since(p.received_at) >= cold.after);
    let old: BTreeSet<VolumeId> = layout.kept.iter().filter(|(_, k)| has_old(k)).map(|(v, _)| *v).collect();
    let is_due = |g: &Generation, s: &SettledSegment| {
        let unread = || now.since(shared.heat.last(s.segment)) >= cold.unread;
        let is_old = || old.range(s.first.0..=s.last.0).next().is_some();
        now.since(g.at) >= cold.after && s.warm > s.end / 2 && is_old() && unread()
    };
    let fewest = FEWEST * u64::from(shared.config.segment_len) / 2;
    generations
        .iter()
        .flat_map(|g| {
            let runs = runs_of(g, AT_ONCE, |s| is_due(g, s));
            let whole = |run: &Run| run.segments == g.segments.len();
            runs.into_iter().filter(move |run| run.bytes >= fewest || whole(run))
        })
        .find_map(|run| {
            let range = chilling.untried(run.range, &blocked)?;
            let overlaps = |g: &Generation, s: &SettledSegment| {
                range.first <= s.last.min(g.range.last) && s.first.max(g.range.first) <= range.last
            };
            let there: u64 = generations
                .iter()
                .flat_map(|g| g.segments.iter().filter(move |s| overlaps(g, s)))
                .map(|s| u64::from(s.end))
                .sum();
            (run.bytes >= there / WORTH).then_some(range)
        })
}

/// Neighbouring segments of a generation.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    range: RegionRange,
    /// Of units that may be packed.
    bytes: u64,
    segments: usize,
}

/// Runs of neighbouring segments that are due, of `most` bytes about.
fn runs_of(g: &Generation, most: u64, is_due: impl Fn(&SettledSegment) -> bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut goes_on = false;
    for segment in &g.segments {
        let due = is_due(segment);
        let range =
            RegionRange { first: segment.first.max(g.range.first), last: segment.last.min(g.range.last) };
        let bytes = u64::from(segment.warm);
        match runs.last_mut().filter(|run| goes_on && run.bytes < most) {
            Some(run) if due => {
                run.range.last = range.last;
                (run.bytes, run.segments) = (run.bytes + bytes, run.segments + 1);
            }
            _ if due && range.first <= range.last => runs.push(Run { range, bytes, segments: 1 }),
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
        let run = |first, last, bytes, segments| {
            let range = RegionRange { first: at(first), last: at(last) };
            Run { range, bytes, segments }
        };
        assert_eq!(runs, [run(5, 19, 170, 2), run(30, 52, 229, 3)]);
        let runs = runs_of(&g, 100, |s| s.warm > 50);
        let short = [run(5, 19, 170, 2), run(30, 49, 130, 2), run(50, 52, 99, 1)];
        assert_eq!(runs, short, "no longer than it has to be");
    }

    #[test]
    fn what_could_not_be_packed_is_passed_over() {
        let range = |first, last| RegionRange { first: at(first), last: at(last) };
        let failed = vec![
            (range(3, 3), WallTime::EPOCH),
            (range(4, 6), WallTime::EPOCH),
            (range(9, 20), WallTime::EPOCH),
        ];
        let chilling = Chilling { last: None, failed };
        assert_eq!(chilling.untried(range(0, 12), &[]), Some(range(0, 2)));
        assert_eq!(chilling.untried(range(3, 12), &[]), Some(range(7, 8)));
        assert_eq!(chilling.untried(range(9, 12), &[]), None);
        assert_eq!(chilling.untried(range(21, 30), &[]), Some(range(21, 30)));
        assert_eq!(chilling.untried(range(21, 30), &[range(25, 26)]), Some(range(21, 24)));
    }
}
