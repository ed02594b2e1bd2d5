//! Barrier marks in a volume's stream: where each stands, and of which group.
//!
//! There may be one a second for as long as every write is kept, and a catalogue is copied with each marker it takes in; so
//! they lie in chunks that copies share. A volume has no more than [`MOST_MARKS`], whatever its tap sends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use tap_block::{BarrierMark, Lsn, MarkId, Name, VolumeId, WallTime};

use super::Passed;
use super::mark_codec::Lists;

/// Marks of a chunk, at most.
const CHUNK: usize = 512;
/// Marks of a volume, at most: three days of one a second. What more there is makes the older half thinner.
pub const MOST_MARKS: usize = 1 << 18;
/// So many are left of [`MOST_MARKS`] then, at most.
const LEFT: usize = MOST_MARKS / 8 * 7;
/// What a mark takes in the lists, with times as clocks give them.
const BYTES_EACH: usize = 12;
/// Times that a volume may have changed its group; the marks of what it was before are let go.
const MOST_MEMBERSHIPS: usize = 1024;

/// A barrier's mark in one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkPoint {
    /// The barrier.
    pub id: MarkId,
    /// Its record here.
    pub at: Passed,
    /// When the gateway took it, on the store's own clock.
    pub received_at: WallTime,
}

/// Of which group a volume's marks are, from a record on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The first mark that says so.
    pub from: Lsn,
    /// The group.
    pub group: Name,
    /// Its members, ascending.
    pub members: Arc<[VolumeId]>,
}

/// See the module. Ascending in their LSNs.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    chunks: Vec<Chunk>,
    memberships: Vec<Membership>,
}

/// Some marks, never none, and how many there are before them.
#[derive(Debug, Clone)]
struct Chunk {
    before: usize,
    marks: Arc<Coded>,
}

/// Marks, and once they were asked for, their bytes.
#[derive(Debug, Clone)]
struct Coded {
    marks: Vec<MarkPoint>,
    /// Of all but the first.
    lists: OnceLock<Lists>,
}

impl Coded {
    const fn new(marks: Vec<MarkPoint>) -> Self {
        Self { marks, lists: OnceLock::new() }
    }

    fn lists(&self) -> &Lists {
        self.lists.get_or_init(|| Lists::behind_first(&self.marks))
    }

    /// The bytes of all of them, whatever comes before.
    fn alone(&self) -> Lists {
        let mut all = Lists::default();
        self.first().into_iter().for_each(|first| all.push(first, None));
        all.append(self.lists());
        all
    }

    fn extend(&mut self, more: &[MarkPoint]) {
        self.marks.extend_from_slice(more);
        self.lists = OnceLock::new();
    }
}

impl std::ops::Deref for Coded {
    type Target = [MarkPoint];

    fn deref(&self) -> &[MarkPoint] {
        &self.marks
    }
}

impl PartialEq for Marks {
    fn eq(&self, other: &Self) -> bool {
        self.memberships == other.memberships && self.iter().eq(other.iter())
    }
}

impl Eq for Marks {}

impl Marks {
    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &MarkPoint> {
        self.chunks.iter().flat_map(|chunk| chunk.marks.iter())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.last().map_or(0, |chunk| chunk.before + chunk.marks.len())
    }

    /// The one with so many before it.
    #[must_use]
    pub fn get(&self, n: usize) -> Option<&MarkPoint> {
        let at = self.chunks.partition_point(|chunk| chunk.before <= n).checked_sub(1)?;
        let chunk = self.chunks.get(at)?;
        chunk.marks.get(n.checked_sub(chunk.before)?)
    }

    /// Is there none?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The newest.
    #[must_use]
    pub fn last(&self) -> Option<&MarkPoint> {
        self.chunks.last()?.marks.last()
    }

    /// The one of this barrier.
    #[must_use]
    pub fn find(&self, id: MarkId) -> Option<&MarkPoint> {
        self.iter().rev().find(|mark| mark.id == id)
    }

    /// The one at this record.
    #[must_use]
    pub fn at(&self, lsn: Lsn) -> Option<&MarkPoint> {
        self.until(lsn).filter(|mark| mark.at.lsn == lsn)
    }

    /// The last at or before this record.
    #[must_use]
    pub fn until(&self, lsn: Lsn) -> Option<&MarkPoint> {
        self.last_of(|mark| mark.at.lsn <= lsn)
    }

    /// The last of those from the first record to the second, between which the source's clock was not set, that was made by
    /// then.
    #[must_use]
    pub fn made_by(&self, (first, last): (Lsn, Lsn), time: WallTime) -> Option<&MarkPoint> {
        let wanted = |mark: &MarkPoint| mark.at.lsn < first || (mark.at.lsn <= last && mark.at.at <= time);
        self.last_of(wanted).filter(|mark| first <= mark.at.lsn)
    }

    /// The last that `wanted` holds for; it holds for a first part of them.
    fn last_of(&self, wanted: impl Fn(&MarkPoint) -> bool) -> Option<&MarkPoint> {
        let n = self.chunks.partition_point(|chunk| chunk.marks.first().is_some_and(&wanted));
        let marks = &self.chunks.get(n.checked_sub(1)?)?.marks;
        marks.get(marks.partition_point(wanted).checked_sub(1)?)
    }

    /// The group that the mark at `lsn` is of.
    #[must_use]
    pub fn membership_at(&self, lsn: Lsn) -> Option<&Membership> {
        self.memberships.iter().rev().find(|m| m.from <= lsn)
    }

    /// The group that the newest mark is of.
    #[must_use]
    pub fn membership(&self) -> Option<&Membership> {
        self.memberships.last()
    }

    /// The groups that its marks are of, one after the other.
    #[must_use]
    pub fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    /// One that is not behind all others is ignored: they come in the order of their stream. Those that are `spared` (in older
    /// history: the bookmarks) are the last to go when there are too many.
    pub(super) fn take(
        &mut self,
        at: Passed,
        received_at: WallTime,
        mark: &BarrierMark,
        spared: impl Fn() -> BTreeSet<Lsn>,
    ) {
        if self.last().is_some_and(|last| at.lsn <= last.at.lsn) {
            return;
        }
        let same = |m: &Membership| m.group == mark.group && *m.members == *mark.members;
        if !self.membership().is_some_and(same) {
            let members = mark.members.as_slice().into();
            self.join(Membership { from: at.lsn, group: mark.group.clone(), members });
            self.leave_oldest();
        }
        self.push(MarkPoint { id: mark.id, at, received_at });
        if self.len() > MOST_MARKS {
            self.thin(&spared());
        }
    }

    /// About half of them are let go, of every time, and the same ones in each member; says whether there were any to speak of.
    pub(super) fn halve(&mut self) -> bool {
        let all = self.len();
        let up_to = |highest: usize| self.iter().filter(|mark| rank(mark) <= highest).count();
        let highest = (0..64).find(|highest| up_to(*highest) >= all / 4);
        let Some(highest) = highest.filter(|highest| all > CHUNK / 4 && up_to(*highest) < all) else {
            return false;
        };
        self.drop_marks(|_, _| true, |mark| rank(mark) <= highest);
        true
    }

    pub(super) fn join(&mut self, membership: Membership) {
        self.memberships.push(membership);
    }

    /// As [`Marks::take`], of a group that is known, and however many there are.
    pub(super) fn push(&mut self, mark: MarkPoint) {
        if self.last().is_some_and(|last| mark.at.lsn <= last.at.lsn) {
            return;
        }
        match self.chunks.last_mut().filter(|chunk| chunk.marks.len() < CHUNK) {
            Some(chunk) => Arc::make_mut(&mut chunk.marks).extend(&[mark]),
            None => self.chunks.push(Chunk { before: self.len(), marks: Arc::new(Coded::new(vec![mark])) }),
        }
    }

    /// A chunk of them, as it was written; `false`: it is not behind all others.
    pub(super) fn push_chunk(&mut self, marks: Vec<MarkPoint>) -> bool {
        let last = self.last().map(|mark| mark.at.lsn);
        let lsns = || marks.iter().map(|mark| Some(mark.at.lsn));
        let is_behind = !marks.is_empty() && std::iter::once(last).chain(lsns()).is_sorted_by(|a, b| a < b);
        if is_behind {
            self.chunks.push(Chunk { before: self.len(), marks: Arc::new(Coded::new(marks)) });
        }
        is_behind
    }

    /// The chunks that differ from what they were, by the record of their first mark: the bytes of each, then and now.
    pub(super) fn since(&self, before: &Self) -> Vec<(Lsn, Option<Lists>, Option<Lists>)> {
        let by_first = |marks: &'_ Self| -> BTreeMap<Lsn, Arc<Coded>> {
            let first = |chunk: &Chunk| Some((chunk.marks.first()?.at.lsn, Arc::clone(&chunk.marks)));
            marks.chunks.iter().filter_map(first).collect()
        };
        let (old, new) = (by_first(before), by_first(self));
        let firsts: BTreeSet<&Lsn> = old.keys().chain(new.keys()).collect();
        let differs = |first: &&Lsn| match (old.get(first), new.get(first)) {
            (Some(one), Some(other)) => !Arc::ptr_eq(one, other) && one.marks != other.marks,
            _ => true,
        };
        let bytes = |marks: Option<&Arc<Coded>>| marks.map(|marks| marks.alone());
        firsts.into_iter().filter(differs).map(|at| (*at, bytes(old.get(at)), bytes(new.get(at)))).collect()
    }

    /// About how many bytes their lists take.
    pub(super) fn bytes(&self) -> usize {
        self.len() * BYTES_EACH
    }

    /// As bytes.
    pub(super) fn lists(&self) -> Lists {
        let (mut all, mut before) = (Lists::default(), None);
        for chunk in &self.chunks {
            chunk.marks.first().into_iter().for_each(|first| all.push(first, before));
            all.append(chunk.marks.lists());
            before = chunk.marks.last();
        }
        all
    }

    /// Marks up to `settled` that are not `kept`.
    #[must_use]
    pub fn gone(&self, settled: Lsn, kept: impl Fn(Lsn) -> bool) -> BTreeSet<Lsn> {
        let decided = self.iter().map(|mark| mark.at.lsn).take_while(|lsn| *lsn <= settled);
        decided.filter(|lsn| !kept(*lsn)).collect()
    }

    /// Forgets the marks at these records.
    pub(super) fn forget(&mut self, gone: &BTreeSet<Lsn>) {
        self.drop_marks(
            |first, last| gone.range(first.at.lsn..=last.at.lsn).next().is_some(),
            |mark| gone.contains(&mark.at.lsn),
        );
    }

    /// The older half is made thinner, evenly: which marks go depends on their numbers alone, so those that are left are the same
    /// in each member.
    fn thin(&mut self, spared: &BTreeSet<Lsn>) {
        let Some(young) = self.get(self.len() / 2).map(|mark| mark.at.lsn) else { return };
        let may_go = |mark: &MarkPoint| mark.at.lsn < young && !spared.contains(&mark.at.lsn);
        let mut of_rank = [0; 65];
        for rank in self.iter().take_while(|mark| mark.at.lsn < young).filter(|m| may_go(m)).map(rank) {
            of_rank.get_mut(rank).into_iter().for_each(|n| *n += 1);
        }
        let excess = self.len().saturating_sub(LEFT);
        let goes_with = |(gone, _): &mut (usize, usize), (rank, n): (usize, &usize)| {
            *gone += n;
            (*gone, rank)
        };
        let mut sums = of_rank.iter().enumerate().scan((0, 0), |sum, next| Some(goes_with(sum, next)));
        let highest = sums.find(|(gone, _)| *gone >= excess).map_or(of_rank.len(), |(_, rank)| rank);
        self.drop_marks(|first, _| first.at.lsn < young, |mark| may_go(mark) && rank(mark) <= highest);
        if let Some(first) = self.len().checked_sub(LEFT).and_then(|over| self.get(over)).map(|m| m.at.lsn) {
            self.drop_marks(|oldest, _| oldest.at.lsn < first, |mark| mark.at.lsn < first);
        }
    }

    /// Lets go what is of the oldest of too many groups.
    fn leave_oldest(&mut self) {
        let over = self.memberships.len().saturating_sub(MOST_MEMBERSHIPS);
        if over > 0
            && let Some(from) = self.memberships.get(over).map(|m| m.from)
        {
            self.memberships.drain(..over);
            self.drop_marks(|first, _| first.at.lsn < from, |mark| mark.at.lsn < from);
        }
    }

    /// Drops marks that are `gone`, of chunks that are `touched`, told by their ends; copies go on sharing the others.
    fn drop_marks(
        &mut self,
        touched: impl Fn(&MarkPoint, &MarkPoint) -> bool,
        gone: impl Fn(&MarkPoint) -> bool,
    ) {
        let touched =
            |marks: &[MarkPoint]| marks.first().zip(marks.last()).is_some_and(|(a, b)| touched(a, b));
        let mut left: Vec<Chunk> = Vec::with_capacity(self.chunks.len());
        for Chunk { marks, .. } in std::mem::take(&mut self.chunks) {
            let marks = match touched(&marks) {
                true => Arc::new(Coded::new(marks.iter().filter(|mark| !gone(mark)).copied().collect())),
                false => marks,
            };
            match left.last_mut().filter(|chunk| chunk.marks.len() + marks.len() <= CHUNK / 2) {
                Some(chunk) => Arc::make_mut(&mut chunk.marks).extend(&marks),
                None if marks.is_empty() => {}
                None => {
                    let before = left.last().map_or(0, |chunk| chunk.before + chunk.marks.len());
                    left.push(Chunk { before, marks });
                }
            }
        }
        self.chunks = left;
        let first = self.iter().next().map(|mark| mark.at.lsn);
        let counts = first.and_then(|first| self.memberships.iter().rposition(|m| m.from <= first));
        let newest = self.memberships.len().saturating_sub(1);
        self.memberships.drain(..counts.unwrap_or(newest).min(newest));
    }
}

/// Half of all marks have none, a quarter 1, and so on.
fn rank(mark: &MarkPoint) -> usize {
    mark.id.get().wrapping_mul(0x9E37_79B9_7F4A_7C15).leading_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(n: u64, members: &[u64]) -> (Passed, BarrierMark) {
        let (lsn, at) = (Lsn::new(n).unwrap(), WallTime::from_nanos(n * 10));
        let members = members.iter().map(|&m| VolumeId::new(m)).collect();
        let id = MarkId::new(at.nanos());
        (Passed { lsn, at }, BarrierMark { id, group: "db".parse().unwrap(), members, bookmark: None })
    }

    #[test]
    fn what_is_thinned_out_is_forgotten_and_the_rest_keeps_its_group() {
        let mut marks = Marks::default();
        for n in 1..=2000 {
            let (at, mark) = mark(n, if n <= 1500 { &[1, 2] } else { &[1, 2, 3] });
            marks.take(at, at.at, &mark, BTreeSet::new);
        }
        let (again, mark) = mark(1999, &[1, 2, 3]);
        marks.take(again, again.at, &mark, BTreeSet::new);
        assert_eq!((marks.iter().count(), marks.memberships().len()), (2000, 2));
        assert!(
            marks.iter().eq((0..marks.len()).map(|n| marks.get(n).unwrap())) && marks.get(2000).is_none()
        );
        assert!((0..2000).all(|n| marks.get(n).unwrap().at.lsn.get() == n as u64 + 1));
        let before = marks.clone();
        let lsn = |n| Lsn::new(n).unwrap();
        marks.forget(&marks.gone(lsn(1600), |lsn| lsn.get().is_multiple_of(100)));
        assert_eq!((marks.iter().count(), marks.len()), (16 + 400, 16 + 400));
        let found = |mark: Option<&MarkPoint>| mark.map(|mark| mark.at.lsn.get());
        assert_eq!((found(marks.at(lsn(700))), found(marks.at(lsn(701)))), (Some(700), None));
        assert_eq!(
            [99, 100, 799, 9999].map(|n| found(marks.until(lsn(n)))),
            [None, Some(100), Some(700), Some(2000)]
        );
        let by =
            |first, last, time| found(marks.made_by((lsn(first), lsn(last)), WallTime::from_nanos(time)));
        assert_eq!(
            [by(300, 900, 8990), by(801, 900, 8990), by(300, 900, 99_999)],
            [Some(800), None, Some(900)]
        );
        assert!(marks.iter().is_sorted_by_key(|m| m.at.lsn));
        assert_eq!(marks.membership_at(Lsn::new(1500).unwrap()).unwrap().members.len(), 2);
        assert_eq!(marks.membership_at(Lsn::new(1600).unwrap()).unwrap().members.len(), 3);
        assert_eq!(marks.find(MarkId::new(16_000)).unwrap().at.lsn.get(), 1600);
        assert_eq!(marks.find(MarkId::new(15_990)), None);
        marks.forget(&marks.gone(Lsn::new(1600).unwrap(), |_| false));
        assert_eq!((marks.iter().count(), marks.memberships().len()), (400, 1));
        marks.forget(&marks.gone(Lsn::new(2000).unwrap(), |_| false));
        assert_eq!((marks.is_empty(), marks.memberships().len()), (true, 1), "its group stays known");
        assert_eq!(before.iter().count(), 2000, "who holds a copy sees what was");
    }

    #[test]
    fn marks_that_are_halved_are_the_same_in_members() {
        let (mut one, mut other) = (many(1, 4000, &BTreeSet::new()), many(1, 4100, &BTreeSet::new()));
        while one.halve() & other.halve() {}
        assert!(one.len() <= CHUNK / 4 && one.len() > CHUNK / 16, "{}", one.len());
        let ids = |marks: &Marks| marks.iter().map(|mark| mark.id).collect::<BTreeSet<_>>();
        let common = ids(&one).intersection(&ids(&other)).count();
        assert!(common * 2 > one.len(), "{common} of {} are in both", one.len());
    }

    /// So many marks of group `db`, each a second after the one before, from `first` on.
    fn many(first: u64, to: u64, spared: &BTreeSet<Lsn>) -> Marks {
        let mut marks = Marks::default();
        let mut like = mark(1, &[1, 2]).1;
        for n in first..=to {
            let at =
                Passed { lsn: Lsn::new(n).unwrap(), at: WallTime::from_nanos(n * 1_000_000_000 + n % 997) };
            like.id = MarkId::new(at.at.nanos());
            marks.take(at, at.at, &like, || spared.clone());
            assert!(marks.len() <= MOST_MARKS);
        }
        marks
    }

    #[test]
    fn what_is_forgotten_leaves_the_chunks_alone_that_it_is_not_in() {
        let mut marks = many(1, 100 * CHUNK as u64, &BTreeSet::new());
        let shared = |a: &Marks, b: &Marks| {
            let of =
                |marks: &Marks| marks.chunks.iter().map(|c| Arc::as_ptr(&c.marks)).collect::<BTreeSet<_>>();
            of(a).intersection(&of(b)).count()
        };
        let before = marks.clone();
        marks.forget(&BTreeSet::new());
        assert_eq!(shared(&before, &marks), 100);
        marks.forget(&[5, 6, 700, 40_000].map(|n| Lsn::new(n).unwrap()).into());
        assert_eq!((shared(&before, &marks), marks.len()), (97, 100 * CHUNK - 4));
        assert!(marks.iter().eq((0..marks.len()).map(|n| marks.get(n).unwrap())));
        // What is nearly gone does not keep a chunk for each few.
        marks.forget(&marks.gone(Lsn::new(40_000).unwrap(), |lsn| lsn.get().is_multiple_of(1000)));
        assert!(marks.chunks.len() < 30, "{}", marks.chunks.len());
        assert!(marks.iter().eq((0..marks.len()).map(|n| marks.get(n).unwrap())));
    }

    #[test]
    fn bytes_are_those_of_the_marks_whatever_was_coded_before() {
        let mut marks = many(1, 5000, &BTreeSet::new());
        let check = |marks: &Marks| {
            let Lists(coded) = marks.lists();
            let back = Lists::decode([&coded[0], &coded[1], &coded[2], &coded[3]]).unwrap();
            assert!(back.iter().eq(marks.iter()));
            assert!(Lists::decode([&coded[0], &coded[1], &coded[2][1..], &coded[3]]).is_none());
            assert!(
                Lists::decode([&coded[0], &coded[1], &coded[2], &[&coded[3][..], &[0]].concat()]).is_none()
            );
        };
        check(&marks);
        let shared = marks.clone();
        for n in 5001..5003 {
            let (at, mark) = mark(n, &[1, 2]);
            marks.take(at, at.at, &mark, BTreeSet::new);
            check(&marks);
        }
        marks.forget(&marks.gone(Lsn::new(3000).unwrap(), |lsn| lsn.get().is_multiple_of(7)));
        check(&marks);
        check(&shared);
    }

    #[test]
    fn a_volume_has_no_more_marks_than_most_and_members_keep_the_same_of_them() {
        let all = 4 * MOST_MARKS as u64;
        let spared: BTreeSet<Lsn> = [3, 50_000, 777_777].map(|n| Lsn::new(n).unwrap()).into();
        let (one, other) = (many(1, all, &spared), many(1, all + 5000, &spared));
        assert!(one.len() > LEFT / 2, "{}", one.len());
        assert!(spared.iter().all(|lsn| one.iter().any(|mark| mark.at.lsn == *lsn)));
        let ids = |marks: &Marks| marks.iter().map(|mark| mark.id).collect::<BTreeSet<_>>();
        let common = ids(&one).intersection(&ids(&other)).count();
        assert!(common * 10 > one.len() * 6, "{common} of {} are in both", one.len());
        // There is something of every time, and no less of what is younger.
        let mut of_time = [0usize; 16];
        one.iter()
            .for_each(|mark| of_time[usize::try_from((mark.at.lsn.get() - 1) * 16 / all).unwrap()] += 1);
        assert!(of_time.iter().all(|n| *n > 100), "{of_time:?}");
        assert!(of_time.iter().zip(&of_time[1..]).all(|(a, b)| *a < b + b / 10 + 100), "{of_time:?}");
        assert_eq!(of_time[15], MOST_MARKS / 4, "the youngest are all there");
        // Nor is there no end when none may go.
        let all = (1..=MOST_MARKS as u64 + 1).map(|n| Lsn::new(n).unwrap()).collect();
        assert_eq!(many(1, MOST_MARKS as u64 + 1, &all).len(), LEFT);
    }

    #[test]
    fn a_tap_that_changes_its_mind_with_each_mark_costs_no_more_than_the_last_of_them() {
        let mut marks = Marks::default();
        for n in 1..=3000 {
            let (at, mark) = mark(n, &[1, 2 + n % 2]);
            marks.take(at, at.at, &mark, BTreeSet::new);
            // One that came before says nothing.
            let (late, mark) = (Passed { lsn: at.lsn, at: at.at }, BarrierMark { members: vec![], ..mark });
            marks.take(late, late.at, &mark, BTreeSet::new);
        }
        assert_eq!((marks.memberships().len(), marks.len()), (MOST_MEMBERSHIPS, MOST_MEMBERSHIPS));
        assert_eq!(marks.membership().unwrap().from.get(), 3000);
    }
}
