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

use gateway_image::catalogue::{Catalogue, Volume};
use gateway_journal::Hold;
use tap_block::units::count;
use tap_block::{Lsn, Position, VolumeId, WallTime};

use super::keep::held_points;
use crate::error::StoreError;
use crate::store::Shared;
use crate::sync::{lock, read};
use crate::tail::{GroupInfo, Published};
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
pub(super) struct HeldCount<'a> {
    catalogue: &'a Catalogue,
    now: WallTime,
    /// Of each volume with a hold: behind which record the next one is counted.
    counted: BTreeMap<VolumeId, Lsn>,
    /// Its last record in each group and all before, at most; groups without it are left out.
    ends: BTreeMap<(VolumeId, usize), Lsn>,
    /// Points that are listed already.
    listed: u64,
    points: u64,
    most: u64,
    /// When the last of the group before was received.
    before: WallTime,
}

impl<'a> HeldCount<'a> {
    pub(super) fn new(published: &'a Published, now: WallTime, most: u64) -> Self {
        let catalogue = &published.catalogue;
        let held = catalogue.volumes().filter(|v| catalogue.rules().holds_of(v.id(), now).next().is_some());
        let (mut counted, mut ends, mut listed) = (BTreeMap::new(), BTreeMap::new(), 0);
        for volume in held {
            let (id, kept) = (volume.id(), published.layout.kept.get(&volume.id()));
            counted.insert(id, kept.map_or(Lsn::ZERO, |kept| kept.settled));
            listed += kept.map_or(0, |kept| count(held_points(catalogue.rules(), id, kept, now)));
            ends.extend(ends_of(volume, published).into_iter().map(|(n, end)| ((id, n), end)));
        }
        let before = WallTime::EPOCH;
        Self { catalogue, now, counted, ends, listed, points: listed, most, before }
    }

    /// Points that are listed for holds already.
    pub(super) const fn listed(&self) -> u64 {
        self.listed
    }

    /// The holds that keep something of the group.
    fn holds(&self, group: &GroupInfo) -> Vec<&'a Hold> {
        let (before, rules) = (self.before, self.catalogue.rules());
        let within = |hold: &&Hold| hold.from <= group.received_at && before <= hold.to;
        group.mins.iter().flat_map(|(v, _)| rules.holds_of(*v, self.now)).filter(within).collect()
    }

    /// Takes the next group on, the `n`th: is all of it held?
    ///
    /// # Errors
    /// The hold for which more would be listed than may be.
    pub(super) fn take(&mut self, n: usize, group: &GroupInfo) -> Result<bool, Hold> {
        let holds = self.holds(group);
        self.before = group.received_at;
        let mut volumes: Vec<_> = holds.iter().map(|hold| hold.volume).collect();
        volumes.dedup();
        volumes.iter().for_each(|volume| self.count(*volume, n, group));
        match holds.first() {
            Some(hold) if self.points > self.most => Err((*hold).clone()),
            _ => Ok(!volumes.is_empty() && volumes.len() == group.mins.len()),
        }
    }

    /// Counts the records of a volume up to the end of a group, from its first in the group or behind those counted before.
    fn count(&mut self, volume: VolumeId, n: usize, group: &GroupInfo) {
        let (Some(counted), Some(end)) = (self.counted.get_mut(&volume), self.ends.get(&(volume, n))) else {
            return;
        };
        let first = group.mins.iter().find(|(v, _)| *v == volume).map(|(_, min)| min.lsn().previous());
        let from = first.unwrap_or_default().max(*counted);
        if let Some(known) = self.catalogue.volume(volume) {
            self.points += records(known, from, *end);
        }
        *counted = from.max(*end);
    }
}

/// The last record of a volume in each group that holds something of it, at most: the one before the first that is known to be in
/// a later group. Copies say nothing of records.
fn ends_of(volume: &Volume, published: &Published) -> Vec<(usize, Lsn)> {
    let durable = published.streams.get(&volume.stream());
    let mut end = durable.map_or(Lsn::ZERO, |d| d.lsn);
    let mut before = |min: Position| {
        let last = end;
        if !min.is_copy() {
            end = min.lsn().previous().min(end);
        }
        last
    };
    let tail = published.frozen.iter().map(|f| &f.group).chain([&published.active]);
    for min in tail.rev().filter_map(|group| group.min_of(volume.id())) {
        before(min);
    }
    let of = |group: &GroupInfo| group.mins.iter().find(|(v, _)| *v == volume.id()).map(|(_, min)| *min);
    let groups = published.ingested.iter().enumerate().rev();
    groups.filter_map(|(n, group)| Some((n, before(of(group)?)))).collect()
}

/// Records behind one up to another: a run may begin with a jump.
fn records(volume: &Volume, from: Lsn, to: Lsn) -> u64 {
    let jump = |run: &gateway_image::catalogue::Run| {
        let before = run.previous.map_or(Lsn::ZERO, |p| p.lsn).max(from);
        let within = from < run.first.lsn && run.first.lsn <= to;
        if within { run.first.lsn.get().saturating_sub(before.get() + 1) } else { 0 }
    };
    let jumps: u64 = volume.runs().iter().map(jump).sum();
    to.get().saturating_sub(from.get()).saturating_sub(jumps)
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

    /// The log waits for no hold. When there is no room either, and nothing more that may go, holds that have begun are why.
    pub(super) fn log_waits_for_none(&self, full: bool) {
        let (catalogue, now) = (Arc::clone(&read(&self.published).catalogue), self.age.now());
        let begun = |hold: &&Hold| full && hold.from <= now;
        let holds = catalogue.volumes().flat_map(|v| catalogue.rules().holds_of(v.id(), now));
        let held = holds.filter(begun).map(|hold| HeldUp { hold: hold.clone(), what: HeldWhat::Room });
        *lock(&self.held_up) = held.collect();
    }

    /// What stands in the way of more room, for an error's text; `None` when no hold does.
    pub(crate) fn said_of_holds(&self) -> Option<String> {
        let held = self.held_up().into_iter().next()?;
        let catalogue = Arc::clone(&read(&self.published).catalogue);
        let volume = catalogue.volume(held.hold.volume)?;
        Some(format!("the hold on {} keeps it from that until {}", volume.name(), held.hold.until))
    }
}
