//! Which points a pass keeps: what policies, pins, holds, images and whoever reads come to, and how hard room is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gateway_image::Catalogue;
use gateway_image::catalogue::{Rules, Volume};
use gateway_image::group::CommonMarks;
use gateway_image::retention::{Special, Stretches, Thinner};
use gateway_journal::{Kept, KeptPoint, RetentionPolicy, ShortOf, Tier, WhenFull};
use tap_block::{Lsn, VolumeId, WallTime};

use super::held_times::HeldTimes;
use super::room::Pressure;

/// How many points of each volume in `before` are not in `after`.
pub(super) fn lost_points(
    before: &BTreeMap<VolumeId, Kept>,
    after: &BTreeMap<VolumeId, Kept>,
) -> BTreeMap<VolumeId, usize> {
    let gone = |(id, kept): (&VolumeId, &Kept)| {
        let left = after.get(id);
        let there = |p: &&KeptPoint| left.is_some_and(|left| left.listed(p.lsn).is_some());
        (*id, kept.points.len() - kept.points.iter().filter(there).count())
    };
    before.iter().map(gone).filter(|(_, n)| *n > 0).collect()
}

/// How many points are listed.
pub(super) fn points(kept: &BTreeMap<VolumeId, Kept>) -> usize {
    kept.values().map(|k| k.points.len()).sum()
}

/// How many there are, be they listed on their own or not.
pub(super) fn all_points(kept: &BTreeMap<VolumeId, Kept>) -> u64 {
    kept.values().map(Kept::count).sum()
}

/// On what terms a pass decides.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) now: WallTime,
    /// Of the store.
    pub(super) strain: Strain,
    /// Of volumes that press against limits of their own.
    pub(super) own: BTreeMap<VolumeId, Strain>,
    /// The barrier marks of groups that can be opened in every member.
    pub(super) marks: Arc<CommonMarks>,
}

/// How hard room is needed, and what goes for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strain {
    pub(super) pressure: Pressure,
    /// Under [`Pressure::Purge`], ordinary points received before go.
    pub(super) floor: Option<WallTime>,
    /// And bookmarks received before.
    pub(super) bookmarks: Option<WallTime>,
}

impl Terms {
    /// The same, were all that may go asked for.
    pub(super) fn at_most(&self) -> Self {
        let strain = Strain { floor: Some(self.now), bookmarks: Some(self.now), ..self.strain };
        Self { strain, ..self.clone() }
    }

    /// The same, were there room for everything.
    pub(super) fn at_ease(&self) -> Self {
        let strain = Strain { pressure: Pressure::None, floor: None, bookmarks: None };
        Self { strain, own: BTreeMap::new(), ..self.clone() }
    }

    /// What a volume's policy gives way to for want of room, if to anything.
    pub(super) fn short_of(&self, volume: VolumeId, policy: &RetentionPolicy) -> Option<ShortOf> {
        let (journal, own) = (self.strain.pressure, self.own.get(&volume).map(|s| s.pressure));
        let own = own.unwrap_or(Pressure::None);
        match journal.max(own) {
            Pressure::None => None,
            _ if policy.when_full == WhenFull::Stop => None,
            _ if journal >= own => Some(ShortOf::Journal),
            _ => Some(ShortOf::Limit),
        }
    }

    /// What a volume's policy comes to: when room is needed and it allows it, the tiers begin at once.
    pub(super) fn of(
        &self,
        volume: VolumeId,
        policy: RetentionPolicy,
    ) -> (RetentionPolicy, Option<WallTime>) {
        let strains = || [Some(&self.strain), self.own.get(&volume)].into_iter().flatten();
        let strained = strains().any(|s| s.pressure > Pressure::None);
        if !strained || policy.when_full == WhenFull::Stop {
            return (policy, None);
        }
        let mut tiers = policy.tiers;
        if tiers.is_empty() {
            // Thinner, not nothing.
            tiers.push(Tier { each: SPARSE, keep: policy.every_write, before_drop: None });
        }
        let purged = || strains().filter(|s| s.pressure == Pressure::Purge);
        let floor = purged().filter_map(|s| s.floor).max();
        let named = purged().filter_map(|s| s.bookmarks).map(|floor| self.now.since(floor)).min();
        let bookmarks = named.map_or(policy.bookmarks, |most| policy.bookmarks.min(most));
        (RetentionPolicy { every_write: Duration::ZERO, tiers, bookmarks, ..policy }, floor)
    }
}

/// The distance of points, when there is no room, of a policy that names none.
const SPARSE: Duration = Duration::from_secs(60);

/// What is left of a volume's points: those kept before and the fresh ones, thinned out.
pub(super) fn thinned(
    catalogue: &Catalogue,
    volume: &Volume,
    before: &Kept,
    fresh: &[KeptPoint],
    open: BTreeSet<Lsn>,
    terms: &Terms,
) -> Kept {
    let times = HeldTimes::of(catalogue.rules(), volume.id(), terms.now);
    let held = times.points(before.points.iter().chain(fresh));
    thinned_but(held, catalogue, volume, (before, fresh), open, terms)
}

/// What would be left of a volume's settled points if nothing were held.
pub(super) fn let_go(
    catalogue: &Catalogue,
    volume: &Volume,
    kept: &Kept,
    open: BTreeSet<Lsn>,
    terms: &Terms,
) -> Kept {
    thinned_but(Stretches::default(), catalogue, volume, (kept, &[]), open, terms)
}

/// What is left where this is held.
fn thinned_but(
    held: Stretches,
    catalogue: &Catalogue,
    volume: &Volume,
    (before, fresh): (&Kept, &[KeptPoint]),
    open: BTreeSet<Lsn>,
    terms: &Terms,
) -> Kept {
    let (policy, floor) = terms.of(volume.id(), catalogue.rules().policy_of(volume.id()));
    let special = Special {
        marks: terms.marks.in_stream_of(volume.id()),
        held,
        ..special(catalogue, volume, &policy, before.settled, open)
    };
    let mut thinner = Thinner::new(&policy, &special, terms.now, floor);
    let selectable = fresh.iter().filter(|p| volume.selectable(p.lsn).is_ok());
    let offered: Vec<KeptPoint> = before.points.iter().chain(selectable).copied().collect();
    offered.iter().for_each(|point| thinner.offer(*point));
    let (mut points, settled) = (thinner.finish(), before.settled);
    let sound = |lsn: &Lsn| volume.selectable(*lsn).is_ok();
    add_between(&mut points, &offered, special.always.range(..=settled).copied().filter(sound));
    Kept { settled, points }
}

/// The points of a volume that are no ordinary ones, holds and marks apart.
fn special(
    catalogue: &Catalogue,
    volume: &Volume,
    policy: &RetentionPolicy,
    settled: Lsn,
    open: BTreeSet<Lsn>,
) -> Special {
    let (id, rules) = (volume.id(), catalogue.rules());
    let released = released(rules, id, policy);
    let mut special = Special { always: open, released, ..Special::default() };
    special.always.extend(rules.pinned(id));
    special.always.extend(catalogue.images().filter(|i| i.volume == id).map(|i| i.point));
    // Whatever is asked for between this one and the next is what it shows; in a sync, what was sound before it.
    special.always.insert(settled);
    special.always.extend(volume.sound_at_or_before(settled));
    special.bookmarks.extend(volume.bookmark_lsns());
    special
}

/// Up to when the gates of a policy's tiers let points go.
pub(super) fn released(rules: &Rules, volume: VolumeId, policy: &RetentionPolicy) -> Vec<Option<WallTime>> {
    let gate = |tier: &Tier| tier.before_drop.as_ref().map(|_| rules.gate(volume, tier.keep).released);
    policy.tiers.iter().map(gate).collect()
}

/// Points that somebody holds and that are no record (a run may begin with a jump) show what the record before shows.
fn add_between(points: &mut Vec<KeptPoint>, offered: &[KeptPoint], always: impl Iterator<Item = Lsn>) {
    for lsn in always {
        let at = points.partition_point(|p| p.lsn < lsn);
        if points.get(at).is_some_and(|p| p.first() <= lsn) {
            continue;
        }
        let n = offered.partition_point(|p| p.lsn <= lsn);
        if let Some(before) = n.checked_sub(1).and_then(|i| offered.get(i)) {
            points.insert(at, KeptPoint::new(lsn, before.captured_at, before.received_at));
        }
    }
}
