//! What holds cost while history is settled: each record of a stretch that is held is a point of its own, listed in memory and
//! in every manifest.
//!
//! ```text
//!   log   [ a b b | A b A | b A b | a b b ]     A: records that a hold keeps
//!   settled        A . A     A         a        each a point; what others wrote beside them is settled as ever
//!                  └─ listed ─┘ at most so many: the group that goes beyond waits in the log, with all behind it
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gateway_image::Catalogue;
use gateway_image::catalogue::{Rules, Volume};
use gateway_journal::{GroupNo, Hold, KeptPoint};
use tap_block::units::count;
use tap_block::{Lsn, StreamId, VolumeId, WallTime};

use super::Pressure;
use super::held_times::HeldTimes;
use super::keep::{Strain, Terms, let_go};
use super::trail::Window;
use crate::error::StoreError;
use crate::layout::Layout;
use crate::store::Shared;
use crate::sync::{lock, read};
use crate::tail::GroupInfo;
use crate::times;

/// A hold for which no room is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldUp {
    /// The hold.
    pub hold: Hold,
    /// What waits for it.
    pub what: HeldWhat,
}

/// What waits for a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldWhat {
    /// The log, and with it whatever came later, of every volume: so many points are listed for holds at most.
    Log {
        /// Points.
        most: u64,
    },
    /// Room: there is none, and what may go has gone.
    Room,
}

/// The hold, of those in force, that a point of a volume is part of: it was captured or received in its stretch, or is the state
/// that this began with.
pub(crate) fn hold_on(
    shared: &Shared,
    volume: VolumeId,
    point: Lsn,
    now: WallTime,
) -> Result<Option<Hold>, StoreError> {
    let catalogue = Arc::clone(&read(&shared.published).catalogue);
    let stream = catalogue.volume(volume).ok_or(StoreError::UnknownVolume(volume))?.stream();
    let Some(at) = times::point_of(shared, stream, point)? else { return Ok(None) };
    for hold in catalogue.rules().holds_of(volume, now) {
        let within = |time| hold.from <= time && time <= hold.to;
        let begins = || times::lsn_at(shared, stream, hold.from);
        let inside = within(at.captured_at) || within(at.received_at);
        if inside || begins()?.is_some_and(|begin| begin.lsn == point) {
            return Ok(Some(hold.clone()));
        }
    }
    Ok(None)
}

/// Points that are, and would be, listed for holds.
#[derive(Debug, Clone)]
pub(super) struct HeldCount {
    catalogue: Arc<Catalogue>,
    now: WallTime,
    /// Of each volume with a hold: its stream, and when it is held.
    times: BTreeMap<VolumeId, (StreamId, HeldTimes)>,
    /// Points that are listed already.
    listed: u64,
    /// And those that were counted since.
    points: u64,
    most: u64,
    /// Records of a stream that were looked at.
    seen: BTreeMap<VolumeId, usize>,
}

impl HeldCount {
    pub(super) fn new(shared: &Shared, now: WallTime) -> Self {
        let (catalogue, layout) = {
            let published = read(&shared.published);
            (Arc::clone(&published.catalogue), Arc::clone(&published.layout))
        };
        let of = |volume: &Arc<Volume>| {
            let times = HeldTimes::of(catalogue.rules(), volume.id(), now);
            (!times.is_empty()).then(|| (volume.id(), (volume.stream(), times)))
        };
        let times: BTreeMap<_, _> = catalogue.volumes().filter_map(of).collect();
        let listed = times.iter().map(|(id, (_, times))| listed_of(&layout, *id, times)).sum();
        let (most, seen) = (shared.most_held(), BTreeMap::new());
        Self { catalogue, now, times, listed, points: listed, most, seen }
    }

    /// What it was counted by.
    pub(super) fn rules(&self) -> &Rules {
        self.catalogue.rules()
    }

    /// Points that are listed for holds already.
    pub(super) const fn listed(&self) -> u64 {
        self.listed
    }

    /// Is all of a group held, as far as that is known without looking into it? The group before it was received at `before`.
    pub(super) fn is_whole(&self, group: &GroupInfo, before: WallTime) -> bool {
        let held = |(v, _): &(VolumeId, _)| {
            self.times.get(v).is_some_and(|(_, times)| times.meet(before, group.received_at))
        };
        !group.mins.is_empty() && group.mins.iter().all(held)
    }

    /// Takes the records on that a window has since it was looked at last, each of which is a point if it is held. `false`: more
    /// would be listed than may be. Where nothing is held, nothing more is listed, however much there is.
    pub(super) fn take(&mut self, window: &Window) -> bool {
        let mut fresh = 0;
        for (id, (stream, times)) in &self.times {
            let Some(points) = window.points.get(stream) else { continue };
            let seen = self.seen.insert(*id, points.len()).unwrap_or(0);
            let points = points.iter().skip(seen).filter(|p| times.hold(p));
            fresh += count(points.filter(|p| self.opens(*id, p)).count());
        }
        self.points += fresh;
        fresh == 0 || self.points <= self.most
    }

    fn opens(&self, volume: VolumeId, point: &KeptPoint) -> bool {
        self.catalogue.volume(volume).is_none_or(|v| v.selectable(point.lsn).is_ok())
    }

    /// The hold that keeps most of what is listed and of a window, and how much all of them keep; `None` when nothing is held.
    pub(super) fn heaviest(&self, layout: &Layout, window: &Window) -> Option<(Hold, u64)> {
        let of = |(id, (stream, _)): (&VolumeId, &(StreamId, HeldTimes))| {
            let listed = layout.kept.get(id).map_or(&[][..], |kept| &kept.points);
            let fresh = window.points.get(stream).map_or(&[][..], Vec::as_slice);
            let fresh = fresh.iter().filter(|p| self.opens(*id, p));
            let points: Vec<&KeptPoint> = listed.iter().chain(fresh).collect();
            let holds = self.catalogue.rules().holds_of(*id, self.now).cloned();
            holds.map(|hold| (held_by(&hold, points.iter().copied()), hold)).collect::<Vec<_>>()
        };
        let weighed: Vec<_> = self.times.iter().flat_map(of).filter(|(points, _)| *points > 0).collect();
        let all = weighed.iter().map(|(points, _)| points).sum();
        weighed.into_iter().rev().max_by_key(|(points, _)| *points).map(|(_, hold)| (hold, all))
    }
}

fn listed_of(layout: &Layout, volume: VolumeId, times: &HeldTimes) -> u64 {
    let Some(kept) = layout.kept.get(&volume) else { return 0 };
    let held = times.points(kept.points.iter());
    count(kept.points.iter().filter(|p| held.hold(p.lsn)).count())
}

/// Of points that follow each other: how many one hold keeps.
fn held_by<'a>(hold: &Hold, points: impl Iterator<Item = &'a KeptPoint>) -> u64 {
    let times = HeldTimes::together(vec![(hold.from, hold.to)]);
    count(points.filter(|p| times.hold(p)).count())
}

/// A group with which nothing of the log can be settled, for a hold: until something changes, or for a while, it need not be read
/// again to find that out.
#[derive(Debug)]
pub(super) struct Waiting {
    group: GroupNo,
    settle: u64,
    pressure: Pressure,
    rules: Rules,
    again: WallTime,
}

/// A group that waits is looked at again after this, whatever happens.
const AGAIN: Duration = Duration::from_secs(600);

impl Waiting {
    /// As of the next settle of this number.
    pub(super) fn new(held: &HeldCount, (group, settle): (GroupNo, u64), terms: &Terms) -> Self {
        let rules = held.rules();
        let holds = held.times.keys().flat_map(|id| rules.holds_of(*id, held.now));
        let again = holds.map(|hold| hold.until).chain([held.now.plus(AGAIN)]).min().unwrap_or(held.now);
        Self { group, settle, pressure: terms.strain.pressure, rules: rules.clone(), again }
    }

    /// Does the group wait as it did?
    pub(super) fn still(&self, held: &HeldCount, (group, settle): (GroupNo, u64), terms: &Terms) -> bool {
        let same = (self.group, self.settle, self.pressure) == (group, settle, terms.strain.pressure);
        same && held.now < self.again && self.rules == *held.rules()
    }
}

impl Shared {
    /// Points that are listed for holds at most: the manifest has to fit into a segment.
    pub(super) fn most_held(&self) -> u64 {
        self.config.held_points.min(u64::from(self.config.segment_len) / 32)
    }

    /// Holds for which no room is made, as of the last look.
    pub(crate) fn held_up(&self) -> Vec<HeldUp> {
        let now = self.age.now();
        lock(&self.held_up).iter().filter(|held| now < held.hold.until).cloned().collect()
    }

    /// Does the log wait for a hold?
    pub(super) fn log_is_held_up(&self) -> bool {
        self.held_up().iter().any(|held| matches!(held.what, HeldWhat::Log { .. }))
    }

    /// The log waits for this hold.
    pub(super) fn log_waits_for(&self, hold: Hold) {
        let what = HeldWhat::Log { most: self.most_held() };
        *lock(&self.held_up) = vec![HeldUp { hold, what }];
    }

    /// The log waits for no hold. When there is no room either, and nothing more that may go, holds that keep what would go are
    /// why.
    pub(super) fn log_waits_for_none(&self, full: Option<&Terms>) {
        let holds = full.map_or_else(Vec::new, |terms| in_the_way(self, terms));
        *lock(&self.held_up) = holds.into_iter().map(|hold| HeldUp { hold, what: HeldWhat::Room }).collect();
    }

    /// What stands in the way of more room, for an error's text; `None` when no hold does.
    pub(crate) fn said_of_holds(&self) -> Option<String> {
        let held = self.held_up().into_iter().next()?;
        let catalogue = Arc::clone(&read(&self.published).catalogue);
        let volume = catalogue.volume(held.hold.volume)?;
        Some(format!("the hold on {} keeps it from that until {}", volume.name(), held.hold.until))
    }
}

/// Holds that keep what would go if they were not there, and there is no room; those that keep most of it first.
fn in_the_way(shared: &Shared, terms: &Terms) -> Vec<Hold> {
    let (catalogue, layout, log) = {
        let published = read(&shared.published);
        let log = published.ingested.clone();
        (Arc::clone(&published.catalogue), Arc::clone(&published.layout), log)
    };
    // Whatever may go goes.
    let strain = Strain { pressure: Pressure::Purge, floor: Some(terms.now), bookmarks: Some(terms.now) };
    let terms = Terms { strain, ..terms.clone() };
    let held = HeldCount::new(shared, terms.now);
    let mut found = Vec::new();
    for volume in catalogue.volumes().filter(|v| held.times.contains_key(&v.id())) {
        let gone = layout.kept.get(&volume.id()).map_or_else(Vec::new, |kept| {
            let left = let_go(&catalogue, volume, kept, shared.points.open_of(volume.id()), &terms);
            let goes = |p: &&KeptPoint| left.points.binary_search_by_key(&p.lsn, |q| q.lsn).is_err();
            kept.points.iter().filter(goes).collect()
        });
        let whole = waiting_groups(&held, &layout, &log, (volume, &catalogue, &terms));
        for hold in catalogue.rules().holds_of(volume.id(), terms.now) {
            let times = HeldTimes::together(vec![(hold.from, hold.to)]);
            let log =
                whole.iter().filter(|(from, to, _)| times.meet(*from, *to)).map(|(.., n)| n).sum::<u64>();
            found.push((held_by(hold, gone.iter().copied()) + log, hold.clone()));
        }
    }
    found.retain(|(points, _)| *points > 0);
    found.sort_by_key(|(points, _)| std::cmp::Reverse(*points));
    found.into_iter().map(|(_, hold)| hold).collect()
}

/// Groups of the log that are left where they lie, for all of them is held, and with something of a volume that its policy would
/// let go: from when until when they were received, and how many versions they have.
fn waiting_groups(
    held: &HeldCount,
    layout: &Layout,
    log: &[GroupInfo],
    (volume, catalogue, terms): (&Volume, &Catalogue, &Terms),
) -> Vec<(WallTime, WallTime, u64)> {
    let (policy, _) = terms.of(volume.id(), catalogue.rules().policy_of(volume.id()));
    let mut before = layout.trail.received_at();
    let mut of = |group: &GroupInfo| {
        let from = std::mem::replace(&mut before, group.received_at);
        let has = group.mins.iter().any(|(v, _)| *v == volume.id()) && held.is_whole(group, from);
        let old = terms.now.since(group.received_at) > policy.every_write;
        (has && old).then_some((from, group.received_at, group.versions.max(1)))
    };
    log.iter().filter_map(&mut of).collect()
}
