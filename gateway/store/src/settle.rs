//! Settling: old history is rewritten in block order, without the versions that no kept point shows, and the files it
//! lay in are used again.
//!
//! ```text
//!   log    [ g1 g2 g3 | g4 g5 ...                     a window of old groups (trail.rs)
//!   settled  G1  G2 ┘                                 + the youngest generations, when they are small beside it (plan.rs)
//!              └────► region by region: versions that kept points (keep.rs) tell apart (gateway_image::retention)
//!                        └────► new segments in block order (rewrite.rs) ─► index rows
//!                                 └────► manifest, synced: from here on it counts (publish.rs)
//!                                          └────► old rows removed, old files recycled
//! ```
//!
//! What only dropped points showed in older generations goes when those are gone through, a stretch of regions at a time
//! and no more than there is room for (room.rs).
//!
//! Nothing is overwritten in place, and nothing goes before the manifest is durable: a crash at any step leaves the old
//! arrangement or the new one. Readers that hold on to places of the old one find their segment gone and look again.

mod chill;
mod cold;
mod gates;
mod held;
mod keep;
mod limits;
mod plan;
mod publish;
mod relief;
mod rewrite;
mod room;
mod trail;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use gateway_image::catalogue::Volume;
use gateway_image::group::CommonMarks;
use gateway_journal::{GateMove, Generation, Kept, Manifest, RegionPlace, RegionRange};
use tap_block::units::count;
use tap_block::{VolumeId, WallTime};
use tracing::{info, warn};

use crate::error::StoreError;
use crate::index::IndexStore as _;
use crate::store::Shared;
use crate::sync::{lock, read, wait_for};

use chill::Chilling;
pub use gates::AtGate;
pub(crate) use gates::{at_gates, at_gates_of};
use gates::{note_overruled, overruled};
pub use held::{HeldUp, HeldWhat};
use keep::{Terms, lost_points, points, thinned};
pub(crate) use limits::Limits;
pub use limits::{LimitState, VolumeLimit};
use plan::Plan;
use publish::publish;
use rewrite::{Rewriter, merge};
pub(crate) use room::Pressure;
pub(crate) use trail::{Met, PassedFrame, Trail};
use trail::{check_known, not_settled};

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

/// Settles, one pass at a time.
pub(crate) struct Settler {
    /// No settle ever had this number or a later one.
    next: u64,
    /// Under [`Pressure::Purge`]: ordinary points received before are let go.
    floor: Option<WallTime>,
    /// The same of volumes that are full.
    floors: BTreeMap<VolumeId, WallTime>,
    /// Settled history is being gone through; the region to go on with.
    cycle: Option<RegionPlace>,
    /// So is a full volume's.
    own_cycle: Option<RegionPlace>,
    /// The volume whose history was gone through last.
    relieved: Option<VolumeId>,
    /// Points of settled history that went since it was last gone through: what they alone showed is still there.
    dropped: BTreeMap<VolumeId, usize>,
    /// The last pass settled a part of the log.
    log_last: bool,
    chilling: Chilling,
}

/// Points that have to be gone before settled history is gone through for their sake: this many, and a quarter of all.
const WORTH_A_CYCLE: usize = 32;

impl Settler {
    pub(crate) const fn new(next: u64) -> Self {
        Self {
            next,
            floor: None,
            floors: BTreeMap::new(),
            cycle: None,
            own_cycle: None,
            relieved: None,
            dropped: BTreeMap::new(),
            log_last: false,
            chilling: Chilling::new(),
        }
    }

    /// One pass; `None` when there is nothing to do. `renew`: settled history is gone through whether it is worth it or not.
    pub(crate) fn settle(
        &mut self,
        shared: &Shared,
        pressure: Pressure,
        renew: bool,
    ) -> Result<Option<SettleReport>, StoreError> {
        shared.find_limits();
        let terms = self.terms(shared, pressure);
        if renew && self.cycle.is_none() {
            return self.compact(shared, terms, true);
        }
        // A log that fills quickly must not keep old history from being let go.
        let log_last = std::mem::take(&mut self.log_last);
        let crowded = pressure == Pressure::Purge && Plan::is_crowded(shared);
        if pressure == Pressure::Purge
            && (log_last || crowded)
            && let Some(report) = self.compact(shared, terms.clone(), crowded)?
        {
            return Ok(Some(report));
        }
        if log_last && let Some(report) = self.relieve(shared, terms.clone())? {
            return Ok(Some(report));
        }
        let mut waits_for = None;
        let plan = Plan::window(shared, terms.now, pressure, &mut waits_for);
        let is_held = waits_for.is_some() && plan.is_none();
        if let Some(hold) = waits_for.filter(|_| is_held) {
            shared.log_waits_for(hold);
        }
        if let Some(plan) = plan {
            shared.log_waits_for_none(false);
            let report = self.pass(shared, plan, terms)?;
            self.log_last = true;
            return Ok(Some(report));
        }
        if let Some(report) = self.compact(shared, terms.clone(), false)? {
            return Ok(Some(report));
        }
        if let Some(report) = self.relieve(shared, terms.clone())? {
            return Ok(Some(report));
        }
        if !is_held {
            shared.log_waits_for_none(pressure == Pressure::Purge);
        }
        self.chill(shared, terms)
    }

    /// Goes on through settled history, or begins to when that is worth it or has to be.
    fn compact(
        &mut self,
        shared: &Shared,
        mut terms: Terms,
        must: bool,
    ) -> Result<Option<SettleReport>, StoreError> {
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
        let range = RegionRange { first: from, ..RegionRange::ALL };
        let Some(plan) = Plan::compaction(shared, range) else {
            self.cycle = None;
            return Ok(None);
        };
        let begins = self.cycle.is_none() && plan.is_stretch();
        let (now, strain) = (terms.now, terms.strain);
        let outcome = self.pass(shared, plan, terms);
        if matches!(outcome, Err(StoreError::NoSpace(_))) && strain.pressure == Pressure::Purge {
            // What is left of one region is more than there is room for: less has to be left.
            self.floor = Some(self.next_floor(shared, now));
        }
        let report = outcome?;
        if begins {
            // What goes from here on is found the next time.
            self.dropped.clear();
            self.floor = strain.floor;
        }
        self.log_last = false;
        Ok(Some(report))
    }

    /// Is it worth going through settled history? Under [`Pressure::Purge`] the floor rises until it is, or until there is
    /// nothing older than now that may go.
    fn find_worth(&self, shared: &Shared, terms: &mut Terms) -> bool {
        if terms.strain.pressure < Pressure::Purge {
            return self.is_worth_it(shared, terms);
        }
        // Where nothing may go, that is found at once.
        terms.strain.floor = Some(terms.now);
        if !self.is_worth_it(shared, terms) {
            terms.strain.floor = self.floor;
            return false;
        }
        let mut floor = self.next_floor(shared, terms.now);
        loop {
            terms.strain.floor = Some(floor);
            if self.is_worth_it(shared, terms) {
                return true;
            }
            let left = terms.now.since(floor);
            if left < Duration::from_secs(1) {
                terms.strain.floor = self.floor;
                return false;
            }
            floor = floor.plus(left / 4);
        }
    }

    /// Would going through settled history free anything to speak of?
    fn is_worth_it(&self, shared: &Shared, terms: &Terms) -> bool {
        let (catalogue, layout) = {
            let published = read(&shared.published);
            (Arc::clone(&published.catalogue), Arc::clone(&published.layout))
        };
        let mut gone: usize = self.dropped.values().sum();
        for (id, kept) in &layout.kept {
            let Some(volume) = catalogue.volume(*id) else { continue };
            let left = thinned(&catalogue, volume, kept, &[], BTreeSet::new(), terms);
            gone += kept.points.len().saturating_sub(left.points.len());
        }
        let pressed = terms.strain.pressure > Pressure::None;
        let enough = if pressed { 1 } else { WORTH_A_CYCLE };
        gone >= enough && (pressed || gone >= points(&layout.kept) / 4)
    }

    /// Decides what is kept, rewrites, publishes.
    fn pass(&mut self, shared: &Shared, plan: Plan, terms: Terms) -> Result<SettleReport, StoreError> {
        let decision = Self::decide(shared, &plan, &terms)?;
        let mut undecided = false;
        let (gone, overruled) = (decision.gone.clone(), decision.overruled.clone());
        let short = terms.strain.pressure > Pressure::None || !terms.own.is_empty();
        let keep_packs = short || !plan.is_stretch() || plan.budget < shared.config.settle_at_once;
        let outcome = self.rewrite(shared, plan, decision, keep_packs, &mut undecided);
        if outcome.is_err() && !undecided {
            shared.points.call_off();
        }
        let report = outcome?;
        note_overruled(shared, overruled);
        for (volume, points) in gone {
            *self.dropped.entry(volume).or_default() += points;
        }
        Ok(report)
    }

    /// Follows the log to the end of the plan's groups and decides which points are left.
    fn decide(shared: &Shared, plan: &Plan, terms: &Terms) -> Result<Decision, StoreError> {
        let layout = Arc::clone(&read(&shared.published).layout);
        let mut trail = Trail::clone(&layout.trail);
        let window = match plan.groups.last() {
            Some(last) => trail.advance(shared, (last.no, last.through), &mut |met| match met {
                Met::Frame(..) => Ok(()),
                Met::Damage(damage) => check_known(shared, damage),
                Met::Missing(damage) => Err(not_settled(damage)),
            })?,
            None => trail.stand(),
        };
        let catalogue = Arc::clone(&read(&shared.published).catalogue);
        let mut overrules = Vec::new();
        let kept = shared.points.decide(|open| {
            let known = trail.catalogue().volumes();
            let volumes = known.map(|known| catalogue.volume(known.id()).unwrap_or(known));
            let of = |volume: &Arc<Volume>| {
                let settled = trail.last(volume.stream())?;
                let before = layout.kept.get(&volume.id()).cloned().unwrap_or_default();
                let before = Kept { settled, points: before.points };
                let fresh = window.points.get(&volume.stream()).map_or(&[][..], Vec::as_slice);
                let left = thinned(&catalogue, volume, &before, fresh, open(volume.id()), terms);
                overrules.extend(overruled(
                    &catalogue,
                    volume,
                    before.points.iter().chain(fresh),
                    &left,
                    terms,
                ));
                Some((volume.id(), left))
            };
            volumes.filter_map(of).collect()
        });
        trail.forget_marks(&kept);
        let offered = points(&layout.kept) + window.points.values().map(Vec::len).sum::<usize>();
        let gone = lost_points(&layout.kept, &kept);
        Ok(Decision {
            at: terms.now,
            dropped: offered.saturating_sub(points(&kept)),
            trail,
            window,
            kept,
            gone,
            overruled: overrules,
        })
    }

    /// Writes what is left and makes it count. `undecided` becomes true when nobody knows whether it does.
    fn rewrite(
        &mut self,
        shared: &Shared,
        mut plan: Plan,
        decision: Decision,
        keep_packs: bool,
        undecided: &mut bool,
    ) -> Result<SettleReport, StoreError> {
        let settle = self.next;
        self.next += 1;
        let mut rewriter = Rewriter::new(shared, (decision.trail.store(), settle), decision.at, keep_packs);
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
        let segments_freed = publish(shared, &plan, &manifest, decision.trail, written, undecided)?;
        if plan.is_stretch() {
            let next = merged.last.and_then(RegionRange::after).filter(|next| *next <= plan.wanted.last);
            let cycle = if plan.is_of_a_volume() { &mut self.own_cycle } else { &mut self.cycle };
            *cycle = next;
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
    /// Those of them that were settled before, of each volume.
    gone: BTreeMap<VolumeId, usize>,
    /// Gates that they went past for want of room.
    overruled: Vec<GateMove>,
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

/// How often it is looked whether a pass has ended.
const GLANCE: Duration = Duration::from_millis(20);

impl Shared {
    /// The barrier marks of groups that can be opened in every member; without those of a time of which every volume keeps every
    /// write, unless room is needed: then no time is such.
    fn common_marks(&self, now: WallTime, strained: bool) -> CommonMarks {
        let (catalogue, layout) = {
            let published = read(&self.published);
            (Arc::clone(&published.catalogue), Arc::clone(&published.layout))
        };
        let kept = &layout.kept;
        let whole = catalogue.volumes().map(|v| catalogue.rules().policy_of(v.id()).every_write).min();
        let whole = whole.filter(|_| !strained).unwrap_or_default();
        let held = |volume, lsn| kept.get(&volume).is_none_or(|k: &Kept| k.holds(lsn));
        CommonMarks::of(&catalogue, &held, now.minus(whole))
    }
}

/// When passes are made, and what came of them.
pub(crate) struct Settling {
    settler: Mutex<Settler>,
    /// Something of settled history is damaged that its blocks do without: it is to be written anew.
    renew: AtomicBool,
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
        Self {
            settler: Mutex::new(settler),
            renew: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// No pass is made as long as what is returned lives; `None` when the one under way has not ended within `limit`.
    pub(crate) fn still(&self, limit: Duration) -> Option<MutexGuard<'_, Settler>> {
        let begun = Instant::now();
        loop {
            match self.settler.try_lock() {
                Ok(settler) => return Some(settler),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if begun.elapsed() >= limit => return None,
                Err(TryLockError::WouldBlock) => std::thread::park_timeout(GLANCE),
            }
        }
    }

    /// One pass now.
    pub(crate) fn pass(&self, shared: &Shared) -> Result<Option<SettleReport>, StoreError> {
        let renew = self.renew.swap(false, Ordering::Relaxed);
        let outcome = lock(&self.settler).settle(shared, shared.pressure(), renew);
        if let Ok(Some(report)) = &outcome {
            shared.bookkeeping.settled(report);
        }
        if let Ok(done) = &outcome
            && !self.is_stopped()
            && let Err(e) = shared.index.tidy(done.is_none() && shared.queue.bytes() == 0)
        {
            warn!("rows that are gone still take room in the index: {e}");
        }
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
        loop {
            // What filled meanwhile is to be settled too.
            shared.end_old_group();
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

    /// Settled history is to be gone through soon, and written anew.
    pub(crate) fn renew(&self) {
        self.renew.store(true, Ordering::Relaxed);
        self.hurry();
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
