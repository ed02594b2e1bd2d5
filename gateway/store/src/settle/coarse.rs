//! More is held than may be listed: all of it stays, but not each point is listed on its own any more.
//!
//! ```text
//!   held     w w w w w w w w w w w w
//!   listed   w . . w . . w . . w . w      those between are points, too, by their LSNs; times are looked up among what is listed
//!                                ^ a bookmark, pin or image: always
//! ```
//!
//! So nothing that is held ever keeps the log from being settled. How far apart times are listed depends on how many there are
//! and nothing else: steps double until an eighth of the list is free again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gateway_image::Catalogue;
use gateway_image::catalogue::Volume;
use gateway_image::retention::Stretches;
use gateway_journal::{Kept, KeptPoint};
use tap_block::units::count;
use tap_block::{Lsn, VolumeId, WallTime};

use super::held_times::HeldTimes;

/// The shortest step is 2 to this power nanoseconds, the longest to [`LONGEST`].
const SHORTEST: u32 = 16;
const LONGEST: u32 = 63;

/// Of each volume with a hold: what is held of it, and which of its points are always listed.
type Held = BTreeMap<VolumeId, (Stretches, BTreeSet<Lsn>)>;

/// Lists no more than `most` points for holds, if that can be done; says whether any is listed no more.
pub(super) fn coarsen(
    kept: &mut BTreeMap<VolumeId, Kept>,
    catalogue: &Catalogue,
    now: WallTime,
    most: u64,
) -> bool {
    let held = held(kept, catalogue, now);
    let listed = |step| -> u64 {
        let of = |(id, (held, named)): (&VolumeId, &(Stretches, BTreeSet<Lsn>))| {
            kept.get(id).map_or(0, |kept| listed_by(step, &kept.points, held, named))
        };
        held.iter().map(of).sum()
    };
    let before = listed(None);
    if before <= most {
        return false;
    }
    let goal = most - most / 8;
    let (mut low, mut high) = (SHORTEST, LONGEST);
    while low < high {
        let middle = low.midpoint(high);
        if listed(Some(middle)) <= goal { high = middle } else { low = middle + 1 }
    }
    let left = listed(Some(low));
    for (id, (held, named)) in &held {
        if let Some(kept) = kept.get_mut(id) {
            kept.points = joined(low, &kept.points, held, named);
        }
    }
    left < before
}

/// How many points are listed for holds.
pub(super) fn listed(kept: &BTreeMap<VolumeId, Kept>, catalogue: &Catalogue, now: WallTime) -> u64 {
    let held = held(kept, catalogue, now);
    let of = |(id, (held, named)): (&VolumeId, &(Stretches, BTreeSet<Lsn>))| {
        kept.get(id).map_or(0, |kept| listed_by(None, &kept.points, held, named))
    };
    held.iter().map(of).sum()
}

fn held(kept: &BTreeMap<VolumeId, Kept>, catalogue: &Catalogue, now: WallTime) -> Held {
    let of = |(id, kept): (&VolumeId, &Kept)| {
        let times = HeldTimes::of(catalogue.rules(), *id, now);
        (!times.is_empty()).then(|| {
            let held = times.points(kept.points.iter());
            (*id, (held, catalogue.volume(*id).map_or_else(BTreeSet::new, |volume| named(catalogue, volume))))
        })
    };
    kept.iter().filter_map(of).collect()
}

fn named(catalogue: &Catalogue, volume: &Volume) -> BTreeSet<Lsn> {
    let images = catalogue.images().filter(|image| image.volume == volume.id()).map(|image| image.point);
    let bookmarks = volume.bookmark_lsns();
    bookmarks.chain(images).chain(catalogue.rules().pinned(volume.id())).collect()
}

/// How many held points are listed with such steps; `None`: as it is.
fn listed_by(step: Option<u32>, points: &[KeptPoint], held: &Stretches, named: &BTreeSet<Lsn>) -> u64 {
    let is_held = |p: &&KeptPoint| held.hold_any(p);
    let all = count(points.iter().filter(is_held).count());
    let Some(step) = step else { return all };
    let pairs = points.iter().zip(points.iter().skip(1));
    all - count(pairs.filter(|(p, next)| join(step, (p, next), held, named)).count())
}

/// Does what is listed right after a point stand for it, too?
fn join(step: u32, (p, next): (&KeptPoint, &KeptPoint), held: &Stretches, named: &BTreeSet<Lsn>) -> bool {
    let cell = |p: &KeptPoint| p.captured_at.nanos() >> step;
    cell(p) == cell(next)
        && p.captured_at <= next.captured_at
        && held.hold_any(p)
        && held.hold_any(next)
        && !named.contains(&p.lsn)
        && next.joined(p).is_some()
}

fn joined(step: u32, points: &[KeptPoint], held: &Stretches, named: &BTreeSet<Lsn>) -> Vec<KeptPoint> {
    let mut left: Vec<KeptPoint> = Vec::new();
    for point in points {
        let before = left.pop_if(|p| join(step, (p, point), held, named));
        left.push(before.and_then(|p| point.joined(&p)).unwrap_or(*point));
    }
    left
}

/// How far apart times are listed, at most, where points are not listed on their own; `None` where all are.
pub(crate) fn apart(kept: &Kept) -> Option<Duration> {
    let pairs = kept.points.iter().zip(kept.points.iter().skip(1));
    let coarse = pairs.filter(|(_, point)| point.is_coarse());
    coarse.map(|(before, point)| point.captured_at.since(before.captured_at)).max()
}
