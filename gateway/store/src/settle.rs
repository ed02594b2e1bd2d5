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

mod blocked;
mod chill;
mod coarse;
mod cold;
mod cursor;
mod decide;
mod futile;
mod gain;
mod gates;
mod given_up;
mod held;
mod held_times;
mod keep;
mod limits;
mod pace;
mod plan;
mod preview;
mod publish;
mod relief;
mod rewrite;
mod room;
mod short;
mod trail;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use gateway_image::Catalogue;
use gateway_image::group::CommonMarks;
use gateway_journal::{GroupNo, Kept, RegionPlace, RegionRange};
use tap_block::units::count;
use tap_block::{VolumeId, WallTime};
use tracing::{info, warn};

use crate::error::{Damage, StoreError};
use crate::index::IndexStore as _;
use crate::store::Shared;
use crate::sync::{lock, read, wait_for};

use blocked::Wait;
use chill::Chilling;
pub(crate) use coarse::apart;
use decide::{Decision, decide, decide_settled};
use futile::Futile;
use gain::{budget_for_gain, can_gain, decide_what_pays};
pub use gates::AtGate;
use gates::note_overruled;
pub(crate) use gates::{at_gates, at_gates_of};
use given_up::Acknowledged;
use held::HeldCount;
pub(crate) use held::hold_on;
pub use held::{HeldUp, HeldWhat};
use keep::{Strain, Terms, points, thinned};
pub(crate) use limits::Limits;
pub use limits::{LimitState, VolumeLimit};
use pace::Pace;
use plan::{End, Plan};
pub use preview::Preview;
pub(crate) use preview::preview;
use publish::publish;
use rewrite::{Rewriter, merge};
pub(crate) use room::Pressure;
pub(crate) use trail::{Met, PassedFrame, Trail, WentPast};

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
    /// And bookmarks received before: only when nothing else is left that may go.
    bookmarks: Option<WallTime>,
    /// As `floor`, of volumes that are full.
    floors: BTreeMap<VolumeId, WallTime>,
    /// Settled history is being gone through; the region to go on with.
    cycle: Option<RegionPlace>,
    /// So is a full volume's.
    own_cycle: Option<RegionPlace>,
    /// The volume whose history was gone through last.
    relieved: Option<VolumeId>,
    /// Points of settled history that went since it was last gone through: what they alone showed is still there.
    dropped: BTreeMap<VolumeId, usize>,
    /// What would have gone, into how much room, and the last settle, when a stretch was last looked for by which something is
    /// gained.
    attempt: Option<(usize, End, u64)>,
    /// When kept points were last gone through without need.
    pace: Pace,
    /// The last pass settled a part of the log.
    log_last: bool,
    /// None of the log can be settled.
    stuck: Option<Stuck>,
    /// Nothing is gained by settling the log.
    futile: Option<futile::Known>,
    /// When settled history was to be written anew and was not, and why if that failed.
    not_renewed: Option<(WallTime, Option<StoreError>)>,
    chilling: Chilling,
}

/// The log cannot be settled from its first group on.
struct Stuck {
    group: GroupNo,
    why: StoreError,
    /// When that was found.
    at: WallTime,
    /// So often somebody had said by then that they have read of what is gone.
    given_up: u64,
}

/// Whether bytes that are damaged still matter is found out by going through the whole index: not with every pass.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Stuck {
    /// Another policy makes an end of a list that is too long at once.
    fn lasts(&self, shared: &Shared, now: WallTime) -> bool {
        let soon = matches!(self.why, StoreError::Damaged(_)) && now.since(self.at) < LOOK_AGAIN;
        soon && self.given_up == shared.settling.acknowledged.times()
    }
}

/// So many times is more asked for, little by little, before anybody who waits for settling has a turn.
const STEPS: usize = 32;

/// Points that have to be gone before settled history is gone through for their sake: this many, and a quarter of all.
const WORTH_A_CYCLE: usize = 32;

impl Settler {
    pub(crate) fn new(next: u64) -> Self {
        Self {
            next,
            floor: None,
            bookmarks: None,
            floors: BTreeMap::new(),
            cycle: None,
            own_cycle: None,
            relieved: None,
            dropped: BTreeMap::new(),
            attempt: None,
            pace: Pace::default(),
            log_last: false,
            stuck: None,
            futile: None,
            not_renewed: None,
            chilling: Chilling::new(),
        }
    }

    /// One pass; `None` when there is nothing to do. `renew`: settled history is gone through whether it is worth it or not.
    pub(crate) fn settle(
        &mut self,
        shared: &Shared,
        pressure: Pressure,
        renew: &AtomicBool,
    ) -> Result<Option<SettleReport>, StoreError> {
        shared.find_limits();
        // While that cannot be (something of it is lost), the log is settled all the same, and that writes a manifest, too.
        let renewed = self.renew(shared, pressure, renew);
        if let Ok(Some(report)) = renewed {
            return Ok(Some(report));
        }
        for _ in 0..STEPS {
            let asked = (self.floor, self.bookmarks);
            let made = self.settle_on_terms(shared, pressure)?;
            if made.is_some() {
                return Ok(made);
            }
            if asked == (self.floor, self.bookmarks) {
                break;
            }
        }
        renewed
    }

    /// Begins to go through settled history, if that is `asked` for. It stays asked for until it is begun; where it cannot be, it is
    /// tried again in a while.
    fn renew(
        &mut self,
        shared: &Shared,
        pressure: Pressure,
        asked: &AtomicBool,
    ) -> Result<Option<SettleReport>, StoreError> {
        let now = shared.age.now();
        if self.cycle.is_some() || !asked.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if let Some((_, why)) = self.not_renewed.as_ref().filter(|(at, _)| now.since(*at) < LOOK_AGAIN) {
            return why.clone().map_or(Ok(None), Err);
        }
        // Whoever asks meanwhile may have found more.
        asked.store(false, Ordering::Relaxed);
        let terms = self.terms(shared, pressure);
        let made = match self.compact(shared, terms, true) {
            // What else goes makes room for it.
            Err(StoreError::NoSpace(_)) => Ok(None),
            made => made,
        };
        let is_begun = matches!(made, Ok(Some(_)));
        asked.fetch_or(!is_begun, Ordering::Relaxed);
        self.not_renewed = (!is_begun).then(|| (now, made.as_ref().err().cloned()));
        made
    }

    fn settle_on_terms(
        &mut self,
        shared: &Shared,
        pressure: Pressure,
    ) -> Result<Option<SettleReport>, StoreError> {
        let terms = self.terms(shared, pressure);
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
        match self.settle_log(shared, &terms) {
            Ok(Some(report)) => return Ok(Some(report)),
            Ok(None) => {}
            Err(_) if self.stuck.is_some() => {}
            Err(e) => return Err(e),
        }
        if let Some(report) = self.compact(shared, terms.clone(), false)? {
            return Ok(Some(report));
        }
        if let Some(report) = self.relieve(shared, terms.clone())? {
            return Ok(Some(report));
        }
        let full = Some(&terms).filter(|_| pressure == Pressure::Purge && self.stuck.is_none());
        shared.note_in_the_way(full);
        let chilled = self.chill(shared, terms)?;
        match (&self.stuck, chilled) {
            (Some(stuck), None) => Err(stuck.why.clone()),
            (_, chilled) => Ok(chilled),
        }
    }

    /// Settles old groups of the log; `None`: none of it is to be settled, or there is no room.
    fn settle_log(&mut self, shared: &Shared, terms: &Terms) -> Result<Option<SettleReport>, StoreError> {
        let held = HeldCount::new(shared, terms.now);
        let Some(mut plan) = Plan::window(shared, terms.now, terms.strain.pressure, &held) else {
            self.stuck = None;
            return Ok(None);
        };
        let group = plan.groups.first().map(|group| group.no).unwrap_or_default();
        self.stuck.take_if(|stuck| stuck.group != group || !stuck.lasts(shared, terms.now));
        if let Some(stuck) = &self.stuck {
            return Err(stuck.why.clone());
        }
        shared.note_in_the_way(None);
        let decision = self.decide_log(shared, &mut plan, terms);
        let decision = decision.inspect_err(|why| self.note_stuck(shared, group, terms.now, why))?;
        let Some(decision) = decision else { return Ok(None) };
        let (futile, by_index) = (Futile::new(shared, &plan, terms.now), decision.went_past.is_some());
        let was_to_pay = plan.end == End::Paid;
        let report = self.carry_out(shared, plan, decision, terms);
        if was_to_pay && matches!(report, Err(StoreError::NoSpace(_))) {
            // It was reckoned a little too low. What else there is may still make room.
            self.futile = Some(futile::Known::tried(futile, terms.now));
            return Ok(None);
        }
        let stuck = report.as_ref().err().filter(|_| by_index);
        stuck.into_iter().for_each(|why| self.note_stuck(shared, group, terms.now, why));
        self.log_last = report.is_ok();
        report.map(Some)
    }

    /// What a pass over the log leaves; `None`: with the little room there is, nothing is gained by one.
    fn decide_log(
        &mut self,
        shared: &Shared,
        plan: &mut Plan,
        terms: &Terms,
    ) -> Result<Option<Decision>, StoreError> {
        if plan.end != End::Paid {
            return decide(shared, plan, terms).map(Some);
        }
        let futile = Futile::new(shared, plan, terms.now);
        if self.futile.as_ref().is_some_and(|known| known.is_still(&futile, terms.now)) {
            return Ok(None);
        }
        let mut most = plan.clone();
        if let Some(decision) = decide_what_pays(shared, plan, terms)? {
            return Ok(Some(decision));
        }
        // No point goes for room that nothing would give.
        let pays = decide_what_pays(shared, &mut most, &terms.at_most())?;
        shared.points.call_off();
        match pays {
            Some(_) => self.ask_for_more(shared, terms.now, terms.strain),
            None => self.futile = Some(futile::Known::found(futile, terms.now, shared.age.now())),
        }
        Ok(None)
    }

    /// The log cannot be settled from this group on, if that is why.
    fn note_stuck(&mut self, shared: &Shared, group: GroupNo, at: WallTime, why: &StoreError) {
        if concerns_the_log(why) {
            let given_up = shared.settling.acknowledged.times();
            self.stuck = Some(Stuck { group, why: why.clone(), at, given_up });
        }
    }

    /// Goes on through settled history, or begins to when that is worth it or has to be.
    fn compact(
        &mut self,
        shared: &Shared,
        mut terms: Terms,
        must: bool,
    ) -> Result<Option<SettleReport>, StoreError> {
        let mut worth = true;
        let from = match self.cycle {
            Some(from) => from,
            None => {
                worth = self.find_worth(shared, &mut terms);
                if !worth && !must {
                    return Ok(None);
                }
                RegionRange::ALL.first
            }
        };
        let range = RegionRange { first: from, ..RegionRange::ALL };
        let pressed = terms.strain.pressure == Pressure::Purge;
        let mut plan = Plan::compaction(shared, range, Wait::under(terms.strain.pressure));
        if plan.is_none() && pressed {
            plan = self.last_resort(shared, range, &terms);
        }
        let Some(plan) = plan else {
            self.cycle = None;
            return Ok(None);
        };
        let begins = self.cycle.is_none() && plan.is_stretch();
        let for_gain = plan.is_for_gain();
        let (most, strain) = (terms.at_most(), terms.strain);
        let outcome = self.pass(shared, plan, terms);
        if matches!(outcome, Err(StoreError::NoSpace(_))) && pressed {
            // What is left of one region is more than there is room for, or nothing is gained: less has to be left.
            if worth && (!for_gain || can_gain(shared, range, &most)?) {
                self.ask_for_more(shared, most.now, strain);
                self.attempt = None;
            }
            if for_gain {
                self.cycle = None;
                return Ok(None);
            }
        }
        let report = outcome?;
        if begins {
            // What goes from here on is found the next time.
            self.dropped.clear();
            (self.floor, self.bookmarks) = (strain.floor, strain.bookmarks);
        }
        self.log_last = false;
        Ok(Some(report))
    }

    /// Is it worth going through settled history? Under [`Pressure::Purge`] the floor rises until it is, or until there is
    /// nothing older than now that may go.
    fn find_worth(&mut self, shared: &Shared, terms: &mut Terms) -> bool {
        if terms.strain.pressure == Pressure::None {
            let all = points(&read(&shared.published).layout.kept);
            return self.pace.is_due(all, terms.now) && self.is_worth_it(shared, terms);
        }
        if terms.strain.pressure < Pressure::Purge {
            return self.is_worth_it(shared, terms);
        }
        let raise = |terms: &mut Terms, floor| terms.strain.floor = floor;
        let name = |terms: &mut Terms, floor| terms.strain.bookmarks = floor;
        self.raise(shared, terms, self.floor, raise) || self.raise(shared, terms, self.bookmarks, name)
    }

    /// Raises one of the floors from where it `stands` until that is worth it; `false`, and it stays, where nothing is.
    fn raise(
        &self,
        shared: &Shared,
        terms: &mut Terms,
        stands: Option<WallTime>,
        set: impl Fn(&mut Terms, Option<WallTime>),
    ) -> bool {
        // Where nothing may go, that is found at once.
        set(terms, Some(terms.now));
        if !self.is_worth_it(shared, terms) {
            set(terms, stands);
            return false;
        }
        let mut floor = Self::next_floor(shared, stands, terms.now);
        loop {
            set(terms, Some(floor));
            if self.is_worth_it(shared, terms) {
                return true;
            }
            let left = terms.now.since(floor);
            if left < Duration::from_secs(1) {
                set(terms, stands);
                return false;
            }
            floor = floor.plus(left / 4);
        }
    }

    /// A stretch of settled history by which something is gained, unless just that was looked for and there was none.
    fn last_resort(&mut self, shared: &Shared, range: RegionRange, terms: &Terms) -> Option<Plan> {
        let plan = Plan::for_gain(shared, range)?;
        let settle = read(&shared.published).layout.settle;
        let attempt = Some((self.gone(shared, terms), plan.end, settle));
        (std::mem::replace(&mut self.attempt, attempt) != attempt).then_some(plan)
    }

    /// A pass under these terms left more than there was room for.
    fn ask_for_more(&mut self, shared: &Shared, now: WallTime, tried: Strain) {
        let floor = self.floor.max(tried.floor);
        let is_out = floor.is_some_and(|floor| now.since(floor) < Duration::from_secs(1));
        self.floor = if is_out { floor } else { Some(Self::next_floor(shared, floor, now)) };
        self.bookmarks = self.bookmarks.max(tried.bookmarks);
        if is_out {
            self.bookmarks = Some(Self::next_floor(shared, self.bookmarks, now));
        }
    }

    /// Would going through settled history free anything to speak of?
    fn is_worth_it(&self, shared: &Shared, terms: &Terms) -> bool {
        let gone = self.gone(shared, terms);
        let pressed = terms.strain.pressure > Pressure::None;
        let enough = if pressed { 1 } else { WORTH_A_CYCLE };
        gone >= enough && (pressed || gone >= points(&read(&shared.published).layout.kept) / 4)
    }

    /// Points of settled history that go, or went since it was last gone through.
    fn gone(&self, shared: &Shared, terms: &Terms) -> usize {
        let (catalogue, layout) = {
            let published = read(&shared.published);
            (Arc::clone(&published.catalogue), Arc::clone(&published.layout))
        };
        let mut gone: usize = self.dropped.values().sum();
        for (id, kept) in &layout.kept {
            let Some(volume) = catalogue.volume(*id) else { continue };
            let left = thinned(&catalogue, volume, kept, &[], shared.points.open_of(*id), terms);
            gone += kept.points.len().saturating_sub(left.points.len());
        }
        gone
    }

    /// Goes through settled history: decides what is kept, rewrites, publishes.
    fn pass(&mut self, shared: &Shared, plan: Plan, terms: Terms) -> Result<SettleReport, StoreError> {
        let decision = decide_settled(shared, &plan, &terms)?;
        self.carry_out(shared, plan, decision, &terms)
    }

    /// Rewrites, and publishes.
    fn carry_out(
        &mut self,
        shared: &Shared,
        plan: Plan,
        mut decision: Decision,
        terms: &Terms,
    ) -> Result<SettleReport, StoreError> {
        let mut undecided = false;
        let (gone, overruled) = (decision.gone.clone(), decision.overruled.clone());
        let went_past = decision.went_past.take();
        let unreadable = went_past.as_ref().map(|past| shared.unreadable(past)).transpose();
        let unreadable = unreadable.inspect_err(|_| shared.points.call_off())?;
        let short = terms.strain.pressure > Pressure::None || !terms.own.is_empty();
        let in_full = plan.end.budget().is_some_and(|budget| budget >= shared.config.settle_at_once);
        let keep_packs = short || !in_full;
        let damaged = went_past.as_ref().map_or(&[][..], |past| &past.damage);
        let outcome = self.rewrite(shared, plan, decision, (keep_packs, damaged), &mut undecided);
        if outcome.is_err() && !undecided {
            shared.points.call_off();
        }
        let report = outcome?;
        note_overruled(shared, overruled);
        if let Some((went_past, unreadable)) = went_past.as_ref().zip(unreadable) {
            shared.note_passed(went_past, unreadable);
        }
        for (volume, points) in gone {
            *self.dropped.entry(volume).or_default() += points;
        }
        Ok(report)
    }

    /// Writes what is left and makes it count. `undecided` becomes true when nobody knows whether it does.
    fn rewrite(
        &mut self,
        shared: &Shared,
        mut plan: Plan,
        decision: Decision,
        (keep_packs, damaged): (bool, &[Damage]),
        undecided: &mut bool,
    ) -> Result<SettleReport, StoreError> {
        let settle = self.next;
        self.next += 1;
        let of = (decision.trail.store(), settle);
        let mut rewriter = Rewriter::new(shared, of, decision.at(), keep_packs, damaged);
        if let End::Gain(room) = plan.end {
            let budget = budget_for_gain(shared, (&plan, room), &decision, &rewriter)?;
            plan.end = End::Budget(
                budget.ok_or_else(|| StoreError::NoSpace("no room comes free by settling".into()))?,
            );
        }
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
            points_dropped: decision.dropped,
        };
        let segments_freed = publish(shared, &plan, &manifest, decision.trail, written, undecided)?;
        shared.hold_room();
        if plan.is_stretch() {
            // It may have ended before something that is not rewritten: behind that it goes on.
            let last = merged.last.unwrap_or(plan.range.last);
            let next = RegionRange::after(last).filter(|next| *next <= plan.wanted.last);
            let cycle = if plan.is_of_a_volume() { &mut self.own_cycle } else { &mut self.cycle };
            *cycle = next;
        }
        Ok(SettleReport { segments_freed, ..report })
    }

    /// A tenth of the window goes each time, until there is room.
    fn next_floor(shared: &Shared, stands: Option<WallTime>, now: WallTime) -> WallTime {
        let published = read(&shared.published);
        let oldest =
            published.layout.kept.values().filter_map(|k| k.points.first()).map(|p| p.received_at).min();
        let oldest = oldest.or_else(|| published.ingested.first().map(|group| group.received_at));
        let from = stands.max(oldest).unwrap_or(now);
        from.plus(now.since(from) / 10)
    }
}

/// Does it keep the log from being settled, and nothing else?
const fn concerns_the_log(why: &StoreError) -> bool {
    matches!(why, StoreError::Damaged(_) | StoreError::ListTooLarge { .. })
}

/// How often it is looked whether a pass has ended.
const GLANCE: Duration = Duration::from_millis(20);

impl Shared {
    /// The barrier marks of groups that can be opened in every member; without those of a time of which every volume keeps every
    /// write, unless room is needed: then no time is such.
    fn common_marks(&self, now: WallTime, strained: bool) -> CommonMarks {
        let catalogue = Arc::clone(&read(&self.published).catalogue);
        self.marks_of(&catalogue, now, strained)
    }

    /// The same by the policies of this catalogue.
    fn marks_of(&self, catalogue: &Catalogue, now: WallTime, strained: bool) -> CommonMarks {
        let layout = Arc::clone(&read(&self.published).layout);
        let kept = &layout.kept;
        let whole = catalogue.volumes().map(|v| catalogue.rules().policy_of(v.id()).every_write).min();
        let whole = whole.filter(|_| !strained).unwrap_or_default();
        let held = |volume, lsn| kept.get(&volume).is_none_or(|k: &Kept| k.holds(lsn));
        CommonMarks::of(catalogue, &held, now.minus(whole))
    }
}

/// When passes are made, and what came of them.
pub(crate) struct Settling {
    settler: Mutex<Settler>,
    /// Something of settled history is damaged that its blocks do without: it is to be written anew.
    renew: AtomicBool,
    /// The index may have rows that nobody looks for any more.
    leftovers: AtomicBool,
    /// What somebody has read of.
    acknowledged: Acknowledged,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    last: Option<SettleReport>,
    failing: Option<String>,
    /// There is no room, and nothing more goes.
    spent: bool,
}

impl Settling {
    pub(crate) fn new(settler: Settler) -> Self {
        Self {
            settler: Mutex::new(settler),
            renew: AtomicBool::new(false),
            leftovers: AtomicBool::new(true),
            acknowledged: Acknowledged::default(),
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
        let (mut stuck, mut spent) = (None, false);
        shared.hold_room();
        let fit = || shared.index.mend().map_err(StoreError::from);
        let outcome = shared.refuse_unread_loss().and_then(|()| fit()).and_then(|()| {
            let mut settler = lock(&self.settler);
            self.remove_leftovers(shared);
            let asked = (settler.floor, settler.bookmarks);
            let outcome = settler.settle(shared, shared.pressure(), &self.renew);
            spent = matches!(outcome, Ok(None)) && asked == (settler.floor, settler.bookmarks);
            stuck = settler.stuck.as_ref().map(|stuck| stuck.why.to_string());
            outcome
        });
        if let Ok(Some(report)) = &outcome {
            shared.bookkeeping.settled(report);
        }
        if let Ok(done) = &outcome
            && !self.is_stopped()
            && let Err(e) = shared.index.tidy(done.is_none() && shared.queue.bytes() == 0)
        {
            warn!("rows that are gone still take room in the index: {e}");
        }
        // What is missing, and an index that takes nothing, say so themselves.
        let can_settle = lock(&shared.ingest).failing.is_none()
            && !shared.index.is_ill()
            && read(&shared.published).layout.lost.is_empty();
        if shared.index.is_ill() {
            // Whoever opens it again may not know yet.
            drop(lock(&shared.ingest));
            shared.ingest_changed.notify_all();
        }
        let spent = spent && can_settle && shared.is_scarce();
        let mut state = lock(&self.state);
        state.spent = spent;
        match &outcome {
            Ok(Some(report)) => (state.last, state.failing) = (Some(*report), stuck),
            Ok(None) => state.failing = None,
            Err(e) => state.failing = Some(e.to_string()),
        }
        outcome
    }

    fn remove_leftovers(&self, shared: &Shared) {
        if self.leftovers.swap(false, Ordering::Relaxed)
            && let Err(e) = shared.remove_leftovers()
        {
            warn!("rows that nobody looks for stay in the index for now: {e}");
            self.leave_rows();
        }
    }

    /// Some could not be removed.
    pub(crate) fn leave_rows(&self) {
        self.leftovers.store(true, Ordering::Relaxed);
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

    /// Is there no room though everything went that may?
    pub(crate) fn is_spent(&self) -> bool {
        lock(&self.state).spent
    }

    pub(crate) fn last(&self) -> Option<SettleReport> {
        lock(&self.state).last
    }

    pub(crate) fn failing(&self) -> Option<String> {
        lock(&self.state).failing.clone()
    }
}
