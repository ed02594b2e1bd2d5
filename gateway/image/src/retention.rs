//! Which points of settled history are kept, and which versions of a block they tell apart.
//!
//! ```text
//!  age     0 ──────── every write ────────┬─── one a minute ───┬── one an hour ──┬─ bookmarks, pins, images
//!  points  │││││││││││││││││││││││││││││││││  │   │   │   │   │ │      │       │    │          │
//!  a version is needed while a kept point shows it; the newest of what is settled always is, for what comes later
//! ```
//!
//! Ages are counted on the store's own clock, which never jumps; the grid of a tier lies on the source's clock, where
//! whoever asks for 10:00 looks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gateway_journal::{KeptPoint, Place, RetentionPolicy, Tier, Version};
use tap_block::{Lsn, Position, WallTime};

use crate::group::StreamMark;

/// Points that stay whatever their age, and bookmarks.
#[derive(Debug, Clone, Default)]
pub struct Special {
    /// Pins, images, and whatever is open: never thinned out.
    pub always: BTreeSet<Lsn>,
    /// What is held: no more than that.
    pub held: Stretches,
    /// Bookmarks: kept as long as the policy says.
    pub bookmarks: BTreeSet<Lsn>,
    /// For each tier with a gate: points received up to then it lets go, others stay in it whatever their age.
    pub released: Vec<Option<WallTime>>,
    /// Barrier marks that every member of the volume's group has or still may get, by their places in its stream, whether they
    /// are settled or not.
    pub marks: Arc<BTreeMap<Lsn, StreamMark>>,
}

/// Stretches of a stream, ascending and apart: a million points that follow each other are one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stretches(Vec<(Lsn, Lsn)>);

impl Stretches {
    /// Those from the first LSN to the second of each, both included, in any order.
    #[must_use]
    pub fn of(mut stretches: Vec<(Lsn, Lsn)>) -> Self {
        stretches.sort_unstable();
        let mut apart: Vec<(Lsn, Lsn)> = Vec::with_capacity(stretches.len());
        for (first, last) in stretches {
            match apart.last_mut().filter(|(_, end)| first <= end.next()) {
                Some((_, end)) => *end = last.max(*end),
                None => apart.push((first, last)),
            }
        }
        Self(apart)
    }

    /// Is it in one of them?
    #[must_use]
    pub fn hold(&self, lsn: Lsn) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= lsn);
        after.checked_sub(1).and_then(|n| self.0.get(n)).is_some_and(|(_, last)| lsn <= *last)
    }

    /// Is anything of what a listed point stands for in one of them?
    #[must_use]
    pub fn hold_any(&self, of: &KeptPoint) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= of.lsn);
        after.checked_sub(1).and_then(|n| self.0.get(n)).is_some_and(|(_, last)| of.first() <= *last)
    }
}

impl Special {
    /// Has the gate of a tier not let the point go?
    fn waits(&self, tier: usize, point: &KeptPoint) -> bool {
        self.released.get(tier).copied().flatten().is_some_and(|released| released < point.received_at)
    }
}

/// What waits at the gate of each tier that has one: the points of `kept` that it alone keeps. Those that something else keeps
/// as well for now, a pin or a reader, are among them: when that ends nobody asks the gate again. Of `special` only gates and
/// marks count.
#[must_use]
pub fn waiting(
    policy: &RetentionPolicy,
    special: &Special,
    now: WallTime,
    kept: &[KeptPoint],
) -> Vec<(usize, Vec<KeptPoint>)> {
    let Special { released, marks, .. } = special;
    let ordinary = |released: Vec<_>| Special { released, marks: Arc::clone(marks), ..Special::default() };
    let thin = |special: &Special| {
        let mut thinner = Thinner::new(policy, special, now, None);
        kept.iter().for_each(|point| thinner.offer(*point));
        thinner.finish()
    };
    let gates = ordinary(released.clone());
    let shut = thin(&gates);
    let tiers = policy.tiers.iter().enumerate();
    let gated = tiers.filter(|(n, _)| released.get(*n).copied().flatten().is_some());
    let of = |(n, tier): (usize, &Tier)| {
        let mut open = ordinary(released.clone());
        open.released.iter_mut().skip(n).take(1).for_each(|released| *released = None);
        let left = thin(&open);
        let goes = |p: &KeptPoint| gates.waits(n, p) && left.binary_search_by_key(&p.lsn, |q| q.lsn).is_err();
        let last = shut.iter().rfind(|p| goes(p)).map(|p| p.received_at);
        // Points are let go by when they were received: what came in one go goes in one go.
        let with_last = |p: &KeptPoint| {
            Some(p.received_at) == last && gates.waits(n, p) && now.since(p.received_at) > tier.keep
        };
        (n, shut.iter().filter(|p| goes(p) || with_last(p)).copied().collect())
    };
    gated.map(of).collect()
}

/// Decides over candidates one after the other, in the order of their LSNs.
///
/// Of points that are held, or that a policy keeps all of, those that follow each other and show the same become one that stands
/// for all: marks at which nothing was written cost as much as one of them does. Once they are neither, those that tiers keep
/// are listed again, by the marks that are known.
///
/// Where a group's barrier marks are, a tier keeps the last of them in each interval, and none of the stream's own points
/// beside it. Which that is depends on nothing but the marks, so it is the same one in each member's stream, however far each
/// is settled. An interval without a mark keeps the stream's own last point, as for a volume that is in no group. While some
/// member has not come as far, the last mark of those that it may still get stays beside the last that all have: either may be
/// the one that counts in the end.
#[derive(Debug)]
pub struct Thinner<'a> {
    policy: &'a RetentionPolicy,
    special: &'a Special,
    now: WallTime,
    /// Points older than this are gone whatever the tiers say: room was needed.
    floor: Option<WallTime>,
    kept: Vec<KeptPoint>,
    /// The cell of the last candidate that is kept, which gives way to a later one in the same if nothing else keeps it.
    last: Option<Cell>,
    ordinary: bool,
    /// All that is around the last one that is kept is.
    dense: bool,
    /// The last candidate.
    offered: Option<KeptPoint>,
    /// The marks that stand for their intervals, and those intervals.
    chosen: BTreeSet<Lsn>,
    marked: BTreeSet<Cell>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    each: u64,
    no: u64,
}

impl<'a> Thinner<'a> {
    /// By `policy` as of `now`; without ordinary points received before `floor`.
    #[must_use]
    pub fn new(
        policy: &'a RetentionPolicy,
        special: &'a Special,
        now: WallTime,
        floor: Option<WallTime>,
    ) -> Self {
        let (kept, chosen, marked) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let (last, ordinary, dense, offered) = (None, false, false, None);
        let mut thinner =
            Self { policy, special, now, floor, kept, last, ordinary, dense, offered, chosen, marked };
        thinner.choose();
        thinner
    }

    /// Which marks stand for their intervals. What else a volume keeps (pins, images) has no say in it: other members may not
    /// keep that.
    fn choose(&mut self) {
        let last_of_each = |whole: bool| {
            let mut chosen: Vec<(Lsn, Cell)> = Vec::new();
            for StreamMark { point, .. } in self.special.marks.values().filter(|mark| mark.whole == whole) {
                let Some(cell) = self.cell(point, self.now.since(point.received_at)) else { continue };
                chosen.pop_if(|(_, last)| *last == cell);
                chosen.push((point.lsn, cell));
            }
            chosen
        };
        let chosen = [last_of_each(true), last_of_each(false)].concat();
        self.chosen = chosen.iter().map(|(lsn, _)| *lsn).collect();
        self.marked = chosen.into_iter().map(|(_, cell)| cell).filter(|cell| cell.each > 0).collect();
    }

    /// The next candidate.
    pub fn offer(&mut self, point: KeptPoint) {
        let before = self.offered.replace(point);
        if self.is_dense(&point) {
            return self.keep_all(point);
        }
        self.within(&point, before).into_values().for_each(|p| self.offer_one(p));
        self.offer_one(KeptPoint { before: 0, ..point });
    }

    /// What is known of the points that one stands for beside itself: marks, and what somebody has open, which shows what is listed
    /// `before` or something later.
    fn within(&self, point: &KeptPoint, before: Option<KeptPoint>) -> BTreeMap<Lsn, KeptPoint> {
        if !point.is_run() {
            return BTreeMap::new();
        }
        let (run, since) = (point.first()..point.lsn, before.unwrap_or(*point));
        let always = self.special.always.range(run.clone());
        let always = always.map(|lsn| (*lsn, KeptPoint::new(*lsn, since.captured_at, since.received_at)));
        always.chain(self.special.marks.range(run).map(|(lsn, mark)| (*lsn, mark.point))).collect()
    }

    /// Is all that it stands for kept, whatever it is? A mark is as old in each member's stream.
    fn is_dense(&self, point: &KeptPoint) -> bool {
        let is_young = || {
            let mark = self.special.marks.get(&point.lsn).map(|mark| mark.point);
            let point = mark.as_ref().unwrap_or(point);
            self.cell(point, self.now.since(point.received_at)).is_some_and(|cell| cell.each == 0)
        };
        self.special.held.hold_any(point) || is_young()
    }

    /// Takes it in, together with the one before it if both show the same and neither is anything special.
    fn keep_all(&mut self, point: KeptPoint) {
        let named =
            |p: &KeptPoint| self.special.always.contains(&p.lsn) || self.special.bookmarks.contains(&p.lsn);
        let same = |before: &&KeptPoint| self.dense && before.idle && point.idle && !named(before);
        let joined = self.kept.last().filter(same).and_then(|before| point.joined(before));
        if joined.is_some() {
            self.kept.pop();
        }
        self.kept.push(joined.unwrap_or(point));
        (self.last, self.ordinary, self.dense) = (None, false, true);
    }

    fn offer_one(&mut self, point: KeptPoint) {
        let age = self.now.since(point.received_at);
        let named = self.special.always.contains(&point.lsn)
            || (self.special.bookmarks.contains(&point.lsn) && age <= self.policy.bookmarks);
        if self.special.marks.contains_key(&point.lsn) {
            if named || self.chosen.contains(&point.lsn) {
                (self.last, self.ordinary, self.dense) = (None, false, false);
                self.kept.push(point);
            }
            return;
        }
        let cell = self.cell(&point, age).filter(|cell| !self.marked.contains(cell));
        // The last point of a cell stands for it: what was there at its end.
        if cell.is_some() && cell == self.last && self.ordinary {
            self.kept.pop();
        }
        if named || cell.is_some() {
            (self.last, self.ordinary, self.dense) = (cell, !named, false);
            self.kept.push(point);
        }
    }

    /// What is kept, ascending.
    #[must_use]
    pub fn finish(self) -> Vec<KeptPoint> {
        self.kept
    }

    /// The cell of the tier that a point of this age is in; `None` when it is older than all, every write of a time
    /// that keeps them all is a cell of its own.
    fn cell(&self, point: &KeptPoint, age: Duration) -> Option<Cell> {
        if self.floor.is_some_and(|floor| point.received_at < floor) {
            return None;
        }
        if age <= self.policy.every_write {
            return Some(Cell { each: 0, no: point.lsn.get() });
        }
        let mut tiers = self.policy.tiers.iter().enumerate();
        let (_, tier) = tiers.find(|(n, tier)| age <= tier.keep || self.special.waits(*n, point))?;
        let each = u64::try_from(tier.each.as_nanos()).unwrap_or(u64::MAX).max(1);
        Some(Cell { each, no: point.captured_at.nanos() / each })
    }
}

/// A region's versions, in any order and of several blocks, become those that some kept point shows, in block order:
/// first the units (by block, then position), then the zeroes (by position, then block).
///
/// `kept` is ascending. The newest version of each block is always needed: later points may show it. Among equal
/// positions the one that comes later in `versions` counts.
#[must_use]
pub fn needed(versions: &[Version], kept: &[KeptPoint]) -> Vec<Version> {
    let mut blocks: Vec<(u16, Position, usize)> = Vec::with_capacity(versions.len());
    for (n, version) in versions.iter().enumerate() {
        blocks.extend(version.range().map(|block| (block, version.position, n)));
    }
    blocks.sort_unstable();
    let mut units = Vec::new();
    let mut zeroes: BTreeMap<(Position, u16), ()> = BTreeMap::new();
    for (i, &(block, position, n)) in blocks.iter().enumerate() {
        let next = blocks.get(i + 1).filter(|(b, ..)| *b == block).map(|&(_, position, _)| position);
        if next.is_some_and(|next| !shown(kept, position, next)) {
            continue;
        }
        match versions.get(n).map(|v| v.place) {
            Some(Place::Zero) => drop(zeroes.insert((position, block), ())),
            Some(place) => units.push(Version { first: block, blocks: 1, position, place }),
            None => {}
        }
    }
    for (position, block) in zeroes.into_keys() {
        match units.last_mut() {
            Some(last)
                if last.place == Place::Zero && last.position == position && last.range().end == block =>
            {
                last.blocks += 1;
            }
            _ => units.push(Version { first: block, blocks: 1, position, place: Place::Zero }),
        }
    }
    units
}

/// Does a kept point show a version at `position` that is followed by one at `next`?
fn shown(kept: &[KeptPoint], position: Position, next: Position) -> bool {
    let first = kept.partition_point(|p| !position.visible_at(p.lsn));
    // Of a run the first point that shows it.
    kept.get(first).is_some_and(|p| !next.visible_at(p.first().max(position.lsn())))
}

#[cfg(test)]
mod tests;
