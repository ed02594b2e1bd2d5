//! Which points a pass keeps: what policies, pins, holds, images and whoever reads come to, and how hard room is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gateway_image::Catalogue;
use gateway_image::catalogue::{Rules, Volume};
use gateway_image::group::CommonMarks;
use gateway_image::retention::{Special, Stretches, Thinner};
use gateway_journal::{Hold, Kept, KeptPoint, RetentionPolicy, Tier, WhenFull};
use tap_block::{Lsn, VolumeId, WallTime};

use super::room::Pressure;

/// How many points of each volume in `before` are not in `after`.
pub(super) fn lost_points(
    before: &BTreeMap<VolumeId, Kept>,
    after: &BTreeMap<VolumeId, Kept>,
) -> BTreeMap<VolumeId, usize> {
    let gone = |(id, kept): (&VolumeId, &Kept)| {
        let left = after.get(id);
        let there =
            |p: &&KeptPoint| left.is_some_and(|l| l.points.binary_search_by_key(&p.lsn, |q| q.lsn).is_ok());
        (*id, kept.points.len() - kept.points.iter().filter(there).count())
    };
    before.iter().map(gone).filter(|(_, n)| *n > 0).collect()
}

pub(super) fn points(kept: &BTreeMap<VolumeId, Kept>) -> usize {
    kept.values().map(|k| k.points.len()).sum()
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
    let (policy, floor) = terms.of(volume.id(), catalogue.rules().policy_of(volume.id()));
    let special = Special {
        marks: terms.marks.in_stream_of(volume.id()),
        ..special(catalogue, volume, &policy, before, fresh, open, terms.now)
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

/// The points of a volume that are no ordinary ones.
pub(super) fn special(
    catalogue: &Catalogue,
    volume: &Volume,
    policy: &RetentionPolicy,
    before: &Kept,
    fresh: &[KeptPoint],
    open: BTreeSet<Lsn>,
    now: WallTime,
) -> Special {
    let (id, settled, rules) = (volume.id(), before.settled, catalogue.rules());
    let released = released(rules, id, policy);
    let (bookmarks, marks) = (BTreeSet::new(), Arc::default());
    let holds = rules.holds_of(id, now);
    let held = Stretches::of(holds.flat_map(|h| held(h, before.points.iter().chain(fresh))).collect());
    let mut special = Special { always: open, held, bookmarks, released, marks };
    special.always.extend(rules.pinned(id));
    special.always.extend(catalogue.images().filter(|i| i.volume == id).map(|i| i.point));
    // Whatever is asked for between this one and the next is what it shows; in a sync, what was sound before it.
    special.always.insert(settled);
    special.always.extend(volume.sound_at_or_before(settled));
    special.bookmarks.extend(volume.bookmarks().map(|(_, mark)| mark.at.lsn));
    special
}

/// Up to when the gates of a policy's tiers let points go.
pub(super) fn released(rules: &Rules, volume: VolumeId, policy: &RetentionPolicy) -> Vec<Option<WallTime>> {
    let gate = |tier: &Tier| tier.before_drop.as_ref().map(|_| rules.gate(volume, tier.keep).released);
    policy.tiers.iter().map(gate).collect()
}

/// How many of a volume's points something holds.
pub(super) fn held_points(rules: &Rules, volume: VolumeId, kept: &Kept, now: WallTime) -> usize {
    let holds = rules.holds_of(volume, now);
    let held = Stretches::of(holds.flat_map(|h| held(h, kept.points.iter())).collect());
    kept.points.iter().filter(|p| held.hold(p.lsn)).count()
}

/// The points of a stretch that is held, from the first to the last of those that follow each other: those received in it, and
/// those captured in it, whenever they came; and the last before, which is what the stretch begins with.
fn held<'a>(hold: &Hold, offered: impl Iterator<Item = &'a KeptPoint>) -> Vec<(Lsn, Lsn)> {
    let within = |at: WallTime| hold.from <= at && at <= hold.to;
    let (mut held, mut before, mut open): (Vec<(Lsn, Lsn)>, _, _) = (Vec::new(), None, false);
    for point in offered {
        let inside = within(point.received_at) || within(point.captured_at);
        if inside || point.captured_at >= hold.from {
            held.extend(before.take().map(|lsn| (lsn, lsn)));
        } else {
            before = Some(point.lsn);
        }
        match held.last_mut().filter(|_| open) {
            Some((_, last)) if inside => *last = point.lsn,
            _ if inside => held.push((point.lsn, point.lsn)),
            _ => {}
        }
        open = inside;
    }
    held.extend(before.map(|lsn| (lsn, lsn)));
    held
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> WallTime {
        WallTime::from_nanos(seconds * 1_000_000_000)
    }

    /// What a hold from 100 to 200 holds of points captured and received at these times.
    fn holds(times: &[(u64, u64)]) -> Vec<u64> {
        let hold = Hold {
            volume: VolumeId::new(1),
            from: at(100),
            to: at(200),
            until: at(999),
            credited: Duration::ZERO,
            note: String::new(),
        };
        let point = |(n, &(captured, received)): (u64, &(u64, u64))| KeptPoint {
            lsn: Lsn::new(n).unwrap(),
            captured_at: at(captured),
            received_at: at(received),
        };
        let points: Vec<KeptPoint> = (1..).zip(times).map(point).collect();
        let held = Stretches::of(held(&hold, points.iter()));
        points.iter().filter(|p| held.hold(p.lsn)).map(|p| p.lsn.get()).collect()
    }

    #[test]
    fn a_hold_is_of_what_was_captured_then_whenever_it_came() {
        assert_eq!(holds(&[(90, 90), (120, 120), (200, 200), (201, 201)]), [1, 2, 3]);
        assert_eq!(holds(&[(90, 500), (120, 500), (190, 501), (210, 502)]), [1, 2, 3], "after an outage");
        assert_eq!(holds(&[(9, 120), (1000, 201)]), [1], "nor does a source's wrong clock matter");
    }

    #[test]
    fn a_hold_begins_with_the_state_that_its_stretch_began_with() {
        assert_eq!(holds(&[(50, 50), (90, 90), (300, 300)]), [2], "nothing was written meanwhile");
        assert_eq!(holds(&[(50, 50), (90, 90)]), [2], "nor since");
        assert_eq!(holds(&[(300, 300)]), [0u64; 0]);
    }
}
