//! What holds cost while history is settled: each record of a stretch that is held is a point of its own, listed in memory and
//! in every manifest. Marks at which nothing was written are one together, however many they are; and of more than may be listed
//! some stand for those before them, too (coarse.rs).
//!
//! ```text
//!   log   [ a b b | A b A | b A b | a b b ]     A: records that a hold keeps
//!   settled        A . A     A         a        each a point; what others wrote beside them is settled as ever
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gateway_image::Catalogue;
use gateway_image::catalogue::{Rules, Volume};
use gateway_journal::{Hold, KeptPoint};
use tap_block::units::count;
use tap_block::{Lsn, VolumeId, WallTime};

use super::Pressure;
use super::held_times::HeldTimes;
use super::keep::{Strain, Terms, let_go};
use crate::error::StoreError;
use crate::layout::Layout;
use crate::store::Shared;
use crate::sync::{lock, read};
use crate::tail::GroupInfo;
use crate::times;

/// A hold that costs more than there is room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldUp {
    /// The hold.
    pub hold: Hold,
    /// Of what.
    pub what: HeldWhat,
}

/// Of what there is too little for a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldWhat {
    /// Of the list of settled points: all that is held is there, but of some points it is not listed any more when they were
    /// captured.
    Times {
        /// So many points are listed for holds at most.
        most: u64,
        /// The times that are listed are so far apart, at most.
        apart: Duration,
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

/// What is held, and how many points are listed for it.
#[derive(Debug, Clone)]
pub(super) struct HeldCount {
    catalogue: Arc<Catalogue>,
    /// When each volume with a hold is held.
    times: BTreeMap<VolumeId, HeldTimes>,
    /// Points that are listed.
    listed: u64,
}

impl HeldCount {
    pub(super) fn new(shared: &Shared, now: WallTime) -> Self {
        let (catalogue, layout) = {
            let published = read(&shared.published);
            (Arc::clone(&published.catalogue), Arc::clone(&published.layout))
        };
        let of = |volume: &Arc<Volume>| {
            let times = HeldTimes::of(catalogue.rules(), volume.id(), now);
            (!times.is_empty()).then(|| (volume.id(), times))
        };
        let times: BTreeMap<_, _> = catalogue.volumes().filter_map(of).collect();
        let listed = times.iter().map(|(id, times)| listed_of(&layout, *id, times)).sum();
        Self { catalogue, times, listed }
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
            self.times.get(v).is_some_and(|times| times.meet(before, group.received_at))
        };
        !group.mins.is_empty() && group.mins.iter().all(held)
    }
}

fn listed_of(layout: &Layout, volume: VolumeId, times: &HeldTimes) -> u64 {
    let Some(kept) = layout.kept.get(&volume) else { return 0 };
    let held = times.points(kept.points.iter());
    count(kept.points.iter().filter(|p| held.hold_any(p)).count())
}

/// Of points that follow each other: how many one hold keeps.
fn held_by<'a>(hold: &Hold, points: impl Iterator<Item = &'a KeptPoint>) -> u64 {
    let times = HeldTimes::together(vec![(hold.from, hold.to)]);
    count(points.filter(|p| times.hold(p)).count())
}

impl Shared {
    /// Points that are listed for holds at most: the manifest has to fit into a segment.
    pub(super) fn most_held(&self) -> u64 {
        self.config.held_points.min(u64::from(self.config.segment_len) / 32)
    }

    /// Holds that cost more than there is room for, as of the last look.
    pub(crate) fn held_up(&self) -> Vec<HeldUp> {
        let now = self.age.now();
        let room = lock(&self.held_up).iter().filter(|held| now < held.hold.until).cloned().collect();
        [self.held_coarsely(now), room].concat()
    }

    /// Of each volume of which not all that is held is listed: the hold that lasts longest.
    fn held_coarsely(&self, now: WallTime) -> Vec<HeldUp> {
        let (catalogue, layout) = {
            let published = read(&self.published);
            (Arc::clone(&published.catalogue), Arc::clone(&published.layout))
        };
        let most = self.most_held();
        let of = |(volume, apart): (&VolumeId, &Duration)| {
            let hold = catalogue.rules().holds_of(*volume, now).max_by_key(|hold| hold.until)?;
            Some(HeldUp { hold: hold.clone(), what: HeldWhat::Times { most, apart: *apart } })
        };
        layout.coarse.iter().filter_map(of).collect()
    }

    /// When there is no room, and nothing more that may go, holds that keep what would go are why; `None`: there is room.
    pub(super) fn note_in_the_way(&self, full: Option<&Terms>) {
        let holds = full.map_or_else(Vec::new, |terms| in_the_way(self, terms));
        *lock(&self.held_up) = holds.into_iter().map(|hold| HeldUp { hold, what: HeldWhat::Room }).collect();
    }

    /// What stands in the way of more room, for an error's text; `None` when no hold does.
    pub(crate) fn said_of_holds(&self) -> Option<String> {
        let held = self.held_up().into_iter().find(|held| held.what == HeldWhat::Room)?;
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
            let goes = |p: &&KeptPoint| left.listed(p.lsn).is_none();
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
