//! Settling: old history is rewritten in block order, without the versions that no kept point shows, and the files it
//! lay in are used again.
//!
//! ```text
//!   log    [ g1 g2 g3 | g4 g5 ...                     a window of old groups (trail.rs)
//!   settled  G1  G2 ┘                                 + the youngest generations, when they are small beside it (plan.rs)
//!              └────► region by region: versions that kept points tell apart (gateway_image::retention)
//!                        └────► new segments in block order (rewrite.rs) ─► index rows
//!                                 └────► manifest, synced: from here on it counts (publish.rs)
//!                                          └────► old rows removed, old files recycled
//! ```
//!
//! Nothing is overwritten in place, and nothing goes before the manifest is durable: a crash at any step leaves the old
//! arrangement or the new one. Readers that hold on to places of the old one find their segment gone and look again.

mod plan;
mod publish;
mod rewrite;
mod trail;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gateway_image::Catalogue;
use gateway_image::catalogue::Volume;
use gateway_image::retention::{Special, Thinner};
use gateway_journal::{
    Generation, Kept, KeptPoint, Manifest, RegionPlace, RegionRange, RetentionPolicy, Tier, WhenFull,
};
use tap_block::units::count;
use tap_block::{Lsn, VolumeId, WallTime};
use tracing::{info, warn};

use crate::error::StoreError;
use crate::store::Shared;
use crate::sync::{lock, read, wait_for};

use plan::Plan;
use publish::publish;
use rewrite::{Rewriter, merge};
pub(crate) use trail::Trail;

/// What a settle did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SettleReport {
    /// Its number.
    pub settle: u64,
    /// Groups of the log that it settled.
    pub groups: u64,
    /// Generations of settled history that it rewrote.
    pub generations: u64,
    /// Versions that it found there.
    pub versions_read: u64,
    /// Versions that are left of them.
    pub versions_kept: u64,
    /// Bytes of settled segments that it wrote.
    pub bytes_written: u64,
    /// Segment files that it gave back.
    pub segments_freed: u64,
    /// Points that can be opened no more.
    pub points_dropped: u64,
}

/// How hard room is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    /// Not at all: policies are followed.
    None,
    /// History is thinned sooner than policies say.
    Thin,
    /// The oldest points go as well.
    Purge,
}

/// Settles, one pass at a time.
pub(crate) struct Settler {
    trail: Trail,
    /// No settle ever had this number or a later one.
    next: u64,
    /// Under [`Pressure::Purge`]: ordinary points received before are let go.
    floor: Option<WallTime>,
    /// Settled history is being gone through; the region to go on with.
    cycle: Option<RegionPlace>,
    /// Points of settled history that went since it was last gone through: what they alone showed is still there.
    dropped: usize,
    /// The last pass settled a part of the log.
    log_last: bool,
}

/// Points that have to be gone before settled history is gone through for their sake: this many, and a quarter of all.
const WORTH_A_CYCLE: usize = 32;

impl Settler {
    pub(crate) const fn new(trail: Trail, next: u64) -> Self {
        Self { trail, next, floor: None, cycle: None, dropped: 0, log_last: false }
    }

    /// One pass; `None` when there is nothing to do.
    pub(crate) fn settle(
        &mut self,
        shared: &Shared,
        pressure: Pressure,
    ) -> Result<Option<SettleReport>, StoreError> {
        let now = shared.age.now();
        // A log that fills quickly must not keep old history from being let go.
        let crowded = pressure == Pressure::Purge && Plan::is_crowded(shared);
        if pressure == Pressure::Purge
            && (std::mem::take(&mut self.log_last) || crowded)
            && let Some(report) = self.compact(shared, now, pressure, crowded)?
        {
            return Ok(Some(report));
        }
        if let Some(plan) = Plan::window(shared, now, pressure) {
            let terms = Terms { now, pressure, floor: self.floor };
            let report = self.pass(shared, plan, terms)?;
            self.log_last = true;
            return Ok(Some(report));
        }
        self.compact(shared, now, pressure, false)
    }

    /// Goes on through settled history, or begins to when that is worth it or has to be.
    fn compact(
        &mut self,
        shared: &Shared,
        now: WallTime,
        pressure: Pressure,
        must: bool,
    ) -> Result<Option<SettleReport>, StoreError> {
        let mut terms = Terms { now, pressure, floor: self.floor };
        let from = match self.cycle {
            Some(from) => from,
            None => {
                let worth = self.find_worth(shared, &mut terms);
                if !worth && !must {
                    return Ok(None);
                }
                RegionRange::ALL.first
            }
        };
        let Some(plan) = Plan::compaction(shared, from) else {
            self.cycle = None;
            return Ok(None);
        };
        let begins = self.cycle.is_none() && plan.is_stretch();
        let outcome = self.pass(shared, plan, terms);
        if matches!(outcome, Err(StoreError::NoSpace(_))) && pressure == Pressure::Purge {
            // What is left of one region is more than there is room for: less has to be left.
            self.floor = Some(self.next_floor(shared, now));
        }
        let report = outcome?;
        if begins {
            // What goes from here on is found the next time.
            (self.dropped, self.floor) = (0, terms.floor);
        }
        self.log_last = false;
        Ok(Some(report))
    }

    /// Is it worth going through settled history? Under [`Pressure::Purge`] the floor rises until it is, or until there is
    /// nothing older than now that may go.
    fn find_worth(&self, shared: &Shared, terms: &mut Terms) -> bool {
        if terms.pressure < Pressure::Purge {
            return self.is_worth_it(shared, *terms);
        }
        let mut floor = self.next_floor(shared, terms.now);
        loop {
            terms.floor = Some(floor);
            if self.is_worth_it(shared, *terms) {
                return true;
            }
            let left = terms.now.since(floor);
            if left < Duration::from_secs(1) {
                terms.floor = self.floor;
                return false;
            }
            floor = floor.plus(left / 4);
        }
    }

    /// Would going through settled history free anything to speak of?
    fn is_worth_it(&self, shared: &Shared, terms: Terms) -> bool {
        let (catalogue, layout) = {
            let published = read(&shared.published);
            (Arc::clone(&published.catalogue), Arc::clone(&published.layout))
        };
        let mut gone = self.dropped;
        for (id, kept) in &layout.kept {
            let Some(volume) = catalogue.volume(*id) else { continue };
            let left = thinned(&catalogue, volume, kept, &[], BTreeSet::new(), terms);
            gone += kept.points.len().saturating_sub(left.points.len());
        }
        let enough = if terms.pressure > Pressure::None { 1 } else { WORTH_A_CYCLE };
        gone >= enough && (terms.pressure > Pressure::None || gone >= points(&layout.kept) / 4)
    }

    /// Decides what is kept, rewrites, publishes.
    fn pass(&mut self, shared: &Shared, plan: Plan, terms: Terms) -> Result<SettleReport, StoreError> {
        let decision = self.decide(shared, &plan, terms)?;
        let mut undecided = false;
        let outcome = self.rewrite(shared, plan, &decision, &mut undecided);
        if outcome.is_err() && !undecided {
            shared.points.call_off();
        }
        let report = outcome?;
        self.trail = decision.trail;
        self.dropped += decision.gone;
        Ok(report)
    }

    /// Follows the log to the end of the plan's groups and decides which points are left.
    fn decide(&self, shared: &Shared, plan: &Plan, terms: Terms) -> Result<Decision, StoreError> {
        let mut trail = self.trail.clone();
        let window = trail.advance(shared, &plan.groups)?;
        let (catalogue, layout) = {
            let published = read(&shared.published);
            (Arc::clone(&published.catalogue), Arc::clone(&published.layout))
        };
        let kept = shared.points.decide(|open| {
            let known = trail.catalogue().volumes();
            let volumes = known.map(|known| catalogue.volume(known.id()).unwrap_or(known));
            let of = |volume: &Arc<Volume>| {
                let settled = trail.last(volume.stream())?;
                let before = layout.kept.get(&volume.id()).cloned().unwrap_or_default();
                let before = Kept { settled, points: before.points };
                let fresh = window.points.get(&volume.stream()).map_or(&[][..], Vec::as_slice);
                let left = thinned(&catalogue, volume, &before, fresh, open(volume.id()), terms);
                Some((volume.id(), left))
            };
            volumes.filter_map(of).collect()
        });
        let offered = points(&layout.kept) + window.points.values().map(Vec::len).sum::<usize>();
        let gone = lost_points(&layout.kept, &kept);
        Ok(Decision {
            at: terms.now,
            dropped: offered.saturating_sub(points(&kept)),
            trail,
            window,
            kept,
            gone,
        })
    }

    /// Writes what is left and makes it count. `undecided` becomes true when nobody knows whether it does.
    fn rewrite(
        &mut self,
        shared: &Shared,
        mut plan: Plan,
        decision: &Decision,
        undecided: &mut bool,
    ) -> Result<SettleReport, StoreError> {
        let settle = self.next;
        self.next += 1;
        let mut rewriter = Rewriter::new(shared, decision.trail.store(), settle);
        let merged = merge(shared, &plan, &decision.window, &decision.kept, &mut rewriter)?;
        let written = rewriter.finish()?;
        let manifest = decision.manifest(settle, plan.arrange(merged.last, written.generation()));
        let report = SettleReport {
            settle,
            groups: count(plan.groups.len()),
            generations: count(plan.merged.len()),
            versions_read: merged.seen,
            versions_kept: written.versions(),
            bytes_written: written.bytes(),
            segments_freed: 0,
            points_dropped: count(decision.dropped),
        };
        let segments_freed = publish(shared, &plan, &manifest, written, undecided)?;
        if plan.is_stretch() {
            self.cycle = merged.last.and_then(RegionRange::after);
        }
        Ok(SettleReport { segments_freed, ..report })
    }

    /// A tenth of the window goes each time, until there is room.
    fn next_floor(&self, shared: &Shared, now: WallTime) -> WallTime {
        let published = read(&shared.published);
        let oldest =
            published.layout.kept.values().filter_map(|k| k.points.first()).map(|p| p.received_at).min();
        let from = self.floor.max(oldest).unwrap_or(now);
        from.plus(now.since(from) / 10)
    }
}

/// What a pass leaves, before any of it is written.
struct Decision {
    /// When it was taken.
    at: WallTime,
    /// Behind the groups that it settles.
    trail: Trail,
    window: trail::Window,
    kept: BTreeMap<VolumeId, Kept>,
    /// Points that cannot be opened any more.
    dropped: usize,
    /// Those of them that were settled before.
    gone: usize,
}

impl Decision {
    fn manifest(&self, settle: u64, generations: Vec<Generation>) -> Manifest {
        Manifest {
            store: self.trail.store(),
            settle,
            at: self.at,
            generations,
            through: self.trail.at(),
            group: self.trail.group(),
            kept: self.kept.iter().map(|(v, k)| (*v, k.clone())).collect(),
            state: self.trail.encode(),
        }
    }
}

/// How many points of `before` are not in `after`.
fn lost_points(before: &BTreeMap<VolumeId, Kept>, after: &BTreeMap<VolumeId, Kept>) -> usize {
    let gone = |(id, kept): (&VolumeId, &Kept)| {
        let left = after.get(id);
        let there =
            |p: &&KeptPoint| left.is_some_and(|l| l.points.binary_search_by_key(&p.lsn, |q| q.lsn).is_ok());
        kept.points.len() - kept.points.iter().filter(there).count()
    };
    before.iter().map(gone).sum()
}

fn points(kept: &BTreeMap<VolumeId, Kept>) -> usize {
    kept.values().map(|k| k.points.len()).sum()
}

/// On what terms a pass decides.
#[derive(Debug, Clone, Copy)]
struct Terms {
    now: WallTime,
    pressure: Pressure,
    /// Ordinary points received before go.
    floor: Option<WallTime>,
}

impl Terms {
    /// What a policy comes to: when room is needed and it allows it, the tiers begin at once.
    fn of(self, policy: RetentionPolicy) -> (RetentionPolicy, Option<WallTime>) {
        if self.pressure == Pressure::None || policy.when_full == WhenFull::Stop {
            return (policy, None);
        }
        let mut tiers = policy.tiers;
        if tiers.is_empty() {
            // Thinner, not nothing.
            tiers.push(Tier { each: SPARSE, keep: policy.every_write });
        }
        let floor = self.floor.filter(|_| self.pressure == Pressure::Purge);
        (RetentionPolicy { every_write: Duration::ZERO, tiers, ..policy }, floor)
    }
}

/// The distance of points, when there is no room, of a policy that names none.
const SPARSE: Duration = Duration::from_secs(60);

/// What is left of a volume's points: those kept before and the fresh ones, thinned out.
fn thinned(
    catalogue: &Catalogue,
    volume: &Volume,
    before: &Kept,
    fresh: &[KeptPoint],
    open: BTreeSet<Lsn>,
    terms: Terms,
) -> Kept {
    let (id, settled) = (volume.id(), before.settled);
    let rules = catalogue.rules();
    let (policy, floor) = terms.of(rules.policy_of(id));
    let mut special = Special { always: open, bookmarks: BTreeSet::new() };
    special.always.extend(rules.pinned(id));
    special.always.extend(catalogue.images().filter(|i| i.volume == id).map(|i| i.point));
    // Whatever is asked for between this one and the next is what it shows; in a sync, what was sound before it.
    special.always.insert(settled);
    special.always.extend(volume.sound_at_or_before(settled));
    special.bookmarks.extend(volume.bookmarks().map(|(_, mark)| mark.at.lsn));
    let held = |p: &&KeptPoint| {
        rules.holds_of(id, terms.now).any(|h| h.from <= p.received_at && p.received_at <= h.to)
    };
    special.always.extend(before.points.iter().chain(fresh).filter(held).map(|p| p.lsn));
    let mut thinner = Thinner::new(&policy, &special, terms.now, floor);
    let selectable = fresh.iter().filter(|p| volume.selectable(p.lsn).is_ok());
    let offered: Vec<KeptPoint> = before.points.iter().chain(selectable).copied().collect();
    offered.iter().for_each(|point| thinner.offer(*point));
    let mut points = thinner.finish();
    let sound = |lsn: &Lsn| volume.selectable(*lsn).is_ok();
    add_between(&mut points, &offered, special.always.range(..=settled).copied().filter(sound));
    Kept { settled, points }
}

/// Points that somebody holds and that are no record (a run may begin with a jump) show what the record before shows.
fn add_between(points: &mut Vec<KeptPoint>, offered: &[KeptPoint], always: impl Iterator<Item = Lsn>) {
    for lsn in always {
        let Err(at) = points.binary_search_by_key(&lsn, |p| p.lsn) else { continue };
        let n = offered.partition_point(|p| p.lsn <= lsn);
        if let Some(before) = n.checked_sub(1).and_then(|i| offered.get(i)) {
            points.insert(at, KeptPoint { lsn, ..*before });
        }
    }
}

/// When passes are made, and what came of them.
pub(crate) struct Settling {
    settler: Mutex<Settler>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    last: Option<SettleReport>,
    failing: Option<String>,
}

impl Settling {
    pub(crate) fn new(settler: Settler) -> Self {
        Self { settler: Mutex::new(settler), state: Mutex::default(), changed: Condvar::new() }
    }

    /// One pass now.
    pub(crate) fn pass(&self, shared: &Shared) -> Result<Option<SettleReport>, StoreError> {
        let outcome = lock(&self.settler).settle(shared, shared.pressure());
        let mut state = lock(&self.state);
        match &outcome {
            Ok(Some(report)) => (state.last, state.failing) = (Some(*report), None),
            Ok(None) => state.failing = None,
            Err(e) => state.failing = Some(e.to_string()),
        }
        outcome
    }

    /// Works until it is stopped.
    pub(crate) fn run(&self, shared: &Shared) {
        let Some(each) = shared.config.settle_each else { return };
        loop {
            let state = lock(&self.state);
            if state.stopped {
                return;
            }
            let state = wait_for(&self.changed, state, each);
            if state.stopped {
                return;
            }
            drop(state);
            self.catch_up(shared);
        }
    }

    fn catch_up(&self, shared: &Shared) {
        shared.end_old_group();
        loop {
            match self.pass(shared) {
                Ok(Some(report)) => info!(
                    "settle {}: {} of {} versions kept, {} bytes written, {} segments freed, {} points dropped",
                    report.settle,
                    report.versions_kept,
                    report.versions_read,
                    report.bytes_written,
                    report.segments_freed,
                    report.points_dropped
                ),
                Ok(None) => return,
                Err(e) => return warn!("history is not settled, trying again: {e}"),
            }
            if lock(&self.state).stopped {
                return;
            }
        }
    }

    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }

    /// There is no room: look now.
    pub(crate) fn hurry(&self) {
        self.changed.notify_all();
    }

    /// A pass under way ends without having done anything.
    pub(crate) fn is_stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    pub(crate) fn last(&self) -> Option<SettleReport> {
        lock(&self.state).last
    }

    pub(crate) fn failing(&self) -> Option<String> {
        lock(&self.state).failing.clone()
    }
}

/// A group that fills slowly is closed when its first record is so much older than all that policies keep whole.
const SLACK: Duration = Duration::from_secs(3600);

impl Shared {
    /// The index takes versions by the group. One that would still be filling when its records may go is closed early, and
    /// one that is all that a full log holds.
    pub(crate) fn end_old_group(&self) {
        let now = self.age.now();
        let due = {
            let published = read(&self.published);
            let rules = published.catalogue.rules();
            let whole = published.active.volumes().map(|v| rules.policy_of(v).every_write).max();
            let begun = published.active.begun.filter(|_| published.active.versions() > 0);
            let filled = published.ingested.is_empty() && self.pressure() == Pressure::Purge;
            whole
                .zip(begun)
                .is_some_and(|(whole, begun)| filled || now.since(begun) > whole + whole.min(SLACK))
        };
        if due {
            let (told, ended) = std::sync::mpsc::channel();
            self.queue.end_group(Box::new(move |_| {
                // Whoever waited may be gone.
                let _ = told.send(());
            }));
            // The sender is dropped if the store stops.
            if ended.recv().is_ok() {
                self.wait_for_index();
            }
        }
    }

    /// Until no group waits for the index, or it fails.
    fn wait_for_index(&self) {
        let mut state = lock(&self.ingest);
        while !read(&self.published).frozen.is_empty() && state.failing.is_none() && !state.stopped {
            state = wait_for(&self.ingest_changed, state, Duration::from_millis(200));
        }
    }

    /// Segments that can still be begun; `None` when nothing limits it.
    fn free_segments(&self) -> Option<usize> {
        let used = self.segments.count() + self.segments.settled_count();
        let limit = self.config.max_segments;
        let by_count = (limit != usize::MAX).then(|| limit.saturating_sub(used));
        let len = u64::from(self.config.segment_len);
        let by_space = (self.free)().map(|free| {
            let left = free.saturating_sub(self.config.keep_free) / len;
            usize::try_from(left).unwrap_or(usize::MAX).saturating_add(self.segments.pool().spare())
        });
        [by_count, by_space].into_iter().flatten().min()
    }

    /// Segments that the log can still begin, leaving what settling needs; `None` when nothing limits it.
    pub(crate) fn log_room(&self) -> Option<usize> {
        let free = self.free_segments()?;
        // A small disk is for history too.
        let all = self.segments.count() + self.segments.settled_count() + free;
        Some(free.saturating_sub(self.config.settle_reserve.min(all / 2)))
    }

    /// Bytes that a pass may write that leaves `kept` segments of what it rewrites behind: one more is for the manifest,
    /// and frames do not fill segments to the last byte.
    fn settle_room(&self, kept: usize) -> u64 {
        let Some(free) = self.free_segments() else { return u64::MAX };
        let segments = count(free.saturating_sub(kept).saturating_sub(1));
        (segments * u64::from(self.config.segment_len) / 8).saturating_mul(7)
    }

    /// How hard room is needed.
    pub(crate) fn pressure(&self) -> Pressure {
        let Some(room) = self.log_room() else { return Pressure::None };
        let all = self.segments.count() + self.segments.settled_count() + room;
        match room {
            room if room < (all / 20).max(2) => Pressure::Purge,
            room if room < (all / 10).max(4) => Pressure::Thin,
            _ => Pressure::None,
        }
    }
}
