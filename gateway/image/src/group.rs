//! Consistency groups as history knows them: by the marks in their members' streams, and by nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter::Peekable;
use std::sync::Arc;

use gateway_journal::KeptPoint;
use tap_block::{Lsn, MarkId, Name, VolumeId, WallTime};

use crate::catalogue::{Catalogue, MarkPoint, Membership, Volume};

/// A consistency group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Its name.
    pub name: Name,
    /// Its members, ascending.
    pub members: Vec<VolumeId>,
}

impl Group {
    /// Every group, by name. Two taps may have given one name to different volumes: then it comes twice.
    #[must_use]
    pub fn all(catalogue: &Catalogue) -> Vec<Self> {
        let said = catalogue.volumes().filter_map(|volume| Some((volume, of_newest(volume)?)));
        let there = said.filter(|(volume, group)| !group.is_left_by(catalogue, volume));
        there.map(|(_, group)| group).collect::<BTreeSet<Self>>().into_iter().collect()
    }

    /// Those of this name that are not over: of two of which one had its last mark before the other had its first, the other
    /// has the name now.
    #[must_use]
    pub fn named(catalogue: &Catalogue, name: &Name) -> Vec<Self> {
        let mut all = Self::all(catalogue);
        all.retain(|group| group.name == *name);
        let span = |group: &Self| group.span(catalogue);
        let over = |group: &Self| all.iter().any(|other| span(group).1 < span(other).0);
        all.iter().filter(|group| !over(group)).cloned().collect()
    }

    /// When the first mark of the group as it is was received, of those that are known, and the last.
    fn span(&self, catalogue: &Catalogue) -> (WallTime, WallTime) {
        let members = self.members.iter().filter_map(|id| catalogue.volume(*id));
        let spans = members.filter(|v| of_newest(v).as_ref() == Some(self)).filter_map(|v| {
            let from = v.marks().membership()?.from;
            let first = v.marks().iter().find(|mark| mark.at.lsn >= from)?;
            Some((first.received_at, v.marks().last()?.received_at))
        });
        let spans: Vec<_> = spans.collect();
        let (first, last) = (spans.iter().map(|s| s.0).min(), spans.iter().map(|s| s.1).max());
        (first.unwrap_or_default(), last.unwrap_or_default())
    }

    /// The group that a volume is a member of.
    #[must_use]
    pub fn of(catalogue: &Catalogue, volume: VolumeId) -> Option<Self> {
        Self::all(catalogue).into_iter().find(|group| group.members.contains(&volume))
    }

    /// Has a member of this group a newer mark that says something else of it? Then the volume, whose last mark is of the
    /// group as it was, was left out or has not got the next mark yet.
    fn is_left_by(&self, catalogue: &Catalogue, volume: &Volume) -> bool {
        // By the clock of their tap: a member that lags may be heard of last.
        let last = |volume: &Volume| volume.marks().last().map(|mark| mark.at.at);
        let others = self.members.iter().filter_map(|id| catalogue.volume(*id));
        let mut newer = others.filter(|v| last(v) > last(volume));
        newer.any(|v| of_newest(v).as_ref() != Some(self))
    }

    /// Every volume that is or was a member, as far as marks tell: those of this name that members were in, and theirs.
    #[must_use]
    pub fn ever_members(&self, catalogue: &Catalogue) -> BTreeSet<VolumeId> {
        let (mut all, mut fresh) = (BTreeSet::new(), self.members.clone());
        while let Some(id) = fresh.pop() {
            if let Some(volume) = catalogue.volume(id).filter(|_| all.insert(id)) {
                let of_this = volume.marks().memberships().iter().filter(|m| m.group == self.name);
                fresh.extend(of_this.flat_map(|m| m.members.iter()).copied().filter(|id| !all.contains(id)));
            }
        }
        all
    }

    /// Marks that every member has where they can be opened, newest first, each with its place in every member's stream. Who
    /// was a member at a mark, the mark tells: a group goes on when one is added, left out or made anew.
    pub fn points<'a>(
        &self,
        catalogue: &'a Catalogue,
        held: &'a Held<'a>,
        range: TimeRange,
    ) -> impl Iterator<Item = GroupPoint> + 'a {
        let volumes = self.ever_members(catalogue).into_iter().filter_map(|id| catalogue.volume(id));
        let volumes: Vec<&Volume> = volumes.map(|v| &**v).collect();
        let mut others: HashMap<VolumeId, Cursor<'_>> =
            volumes.iter().map(|volume| (volume.id(), Cursor::new(volume))).collect();
        let led = |volume| led_by(volume, self.name.clone(), held, range).peekable();
        let mut leads: Vec<_> = volumes.into_iter().map(led).collect();
        let next = move || {
            let newest =
                |(n, lead): (usize, &mut Peekable<_>)| lead.peek().map(|led: &Led<'_>| (led.mark.at.at, n));
            let (_, n) = leads.iter_mut().enumerate().filter_map(newest).max()?;
            leads.get_mut(n)?.next()
        };
        std::iter::from_fn(next).filter_map(move |Led { membership, mark }| {
            let mut lsns = vec![mark.at.lsn];
            for id in membership.members.iter().skip(1) {
                let other = others.get_mut(id)?;
                lsns.push(other.find(mark).filter(|lsn| opens(held, other.volume, *lsn))?);
            }
            Some(GroupPoint { id: mark.id, at: mark.at.at, members: Arc::clone(&membership.members), lsns })
        })
    }
}

/// A mark, and who was a member at it.
struct Led<'a> {
    membership: &'a Membership,
    mark: &'a MarkPoint,
}

/// Marks of a group in the stream of a volume that was its first member, newest first.
fn led_by<'a>(
    volume: &'a Volume,
    name: Name,
    held: &'a Held<'a>,
    range: TimeRange,
) -> impl Iterator<Item = Led<'a>> {
    let marks = volume.marks().iter().rev().filter(move |mark| range.holds(mark.at.at));
    let led = marks.filter_map(move |mark| {
        let membership = volume.marks().membership_at(mark.at.lsn)?;
        let leads = membership.group == name && membership.members.first() == Some(&volume.id());
        leads.then_some(Led { membership, mark })
    });
    led.filter(move |led| opens(held, volume, led.mark.at.lsn))
}

fn opens(held: &Held<'_>, volume: &Volume, lsn: Lsn) -> bool {
    held(volume.id(), lsn) && volume.selectable(lsn).is_ok()
}

/// A walk back through the marks of a member, in step with another's: most are in all of them, in the same order.
struct Cursor<'a> {
    volume: &'a Volume,
    /// The next is looked for before this one.
    left: usize,
    /// Where each is, once one was not where it was looked for.
    places: Option<HashMap<MarkId, usize>>,
}

/// So many marks that others do not have may lie between two that they have, without a search.
const NEAR: usize = 16;

impl<'a> Cursor<'a> {
    fn new(volume: &'a Volume) -> Self {
        Self { volume, left: volume.marks().len(), places: None }
    }

    fn find(&mut self, mark: &MarkPoint) -> Option<Lsn> {
        let marks = self.volume.marks();
        let is = |n: &usize| marks.get(*n).is_some_and(|m| m.id == mark.id);
        let near = (self.left.saturating_sub(NEAR)..self.left).rev().find(is);
        let n = near.or_else(|| self.by_time(mark).filter(is)).or_else(|| {
            let numbered = || marks.iter().enumerate().map(|(n, m)| (m.id, n)).collect();
            self.places.get_or_insert_with(numbered).get(&mark.id).copied()
        })?;
        self.left = n;
        marks.get(n).map(|m| m.at.lsn)
    }

    /// Where it is if the source's clock was never set back.
    fn by_time(&self, mark: &MarkPoint) -> Option<usize> {
        let marks = self.volume.marks();
        let (mut low, mut high) = (0, marks.len());
        while low < high {
            let middle = low.midpoint(high);
            if marks.get(middle).is_some_and(|m| m.at.at <= mark.at.at) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }
}

fn of_newest(volume: &Volume) -> Option<Group> {
    let membership = volume.marks().membership()?;
    let group = Group { name: membership.group.clone(), members: membership.members.to_vec() };
    group.members.contains(&volume.id()).then_some(group)
}

/// Is a point of a volume's history still kept?
pub type Held<'a> = dyn Fn(VolumeId, Lsn) -> bool + 'a;

/// A stretch of the source's time; both ends are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeRange {
    /// Not before this.
    pub after: Option<WallTime>,
    /// Not after this.
    pub before: Option<WallTime>,
}

impl TimeRange {
    fn holds(&self, at: WallTime) -> bool {
        self.after.is_none_or(|after| after <= at) && self.before.is_none_or(|before| at <= before)
    }
}

/// A barrier that can be opened in every member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPoint {
    /// The barrier.
    pub id: MarkId,
    /// When it was made, on the source's clock.
    pub at: WallTime,
    /// Who was a member then, ascending.
    pub members: Arc<[VolumeId]>,
    /// Its place in each member's stream, in the order of the members.
    pub lsns: Vec<Lsn>,
}

/// The barriers that can be opened in all of their members, or still may be: what settling chooses among for a group. The
/// choice depends on nothing but what is the same in each stream: on the marks' times, and on when the last member's was received.
#[derive(Debug, Clone, Default)]
pub struct CommonMarks(HashMap<VolumeId, Arc<BTreeMap<Lsn, StreamMark>>>);

/// A barrier that a group's points are chosen from, in the stream of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamMark {
    /// Its place there. When it was received is the same in each member: when the last one's was.
    pub point: KeptPoint,
    /// Can it be opened in every member? If not, those who lack it have not come that far yet: what waits in a spool for days
    /// must find the others' marks when it arrives.
    pub whole: bool,
}

/// What is known of a barrier, over all streams.
#[derive(Debug, Clone, Copy)]
struct Seen<'a> {
    members: &'a [VolumeId],
    /// Members that have it where it can be opened.
    there: usize,
    at: WallTime,
    received_at: WallTime,
}

impl Seen<'_> {
    /// How many members have no mark of its time yet, so that it still may come.
    fn awaited(&self, newest: &HashMap<VolumeId, WallTime>) -> usize {
        self.members.iter().filter(|id| newest.get(id).is_none_or(|newest| *newest < self.at)).count()
    }
}

impl CommonMarks {
    /// Of every group there is or was. Marks that were received in no member by `until` may be left out: those of a time of
    /// which every write is kept, which are nearly all there are.
    #[must_use]
    pub fn of(catalogue: &Catalogue, held: &Held<'_>, until: WallTime) -> Self {
        // Times are the same in each member, when they were received is not.
        let old = |volume: &Volume| {
            let old = volume.marks().iter().take_while(|m| m.received_at <= until);
            old.map(|m| m.at.at).max()
        };
        let Some(latest) = catalogue.volumes().filter_map(|volume| old(volume)).max() else {
            return Self::default();
        };
        let mut all: HashMap<(MarkId, VolumeId), Seen<'_>> = HashMap::new();
        for volume in catalogue.volumes() {
            let there = |m: &&MarkPoint| {
                m.at.at <= latest && held(volume.id(), m.at.lsn) && volume.selectable(m.at.lsn).is_ok()
            };
            for mark in volume.marks().iter().filter(there) {
                let Some((key, members)) = key(volume, mark) else { continue };
                let fresh = Seen { members, there: 0, at: mark.at.at, received_at: mark.received_at };
                let seen = all.entry(key).or_insert(fresh);
                seen.there += 1;
                seen.received_at = seen.received_at.max(mark.received_at);
            }
        }
        let newest = |volume: &Arc<Volume>| Some((volume.id(), volume.marks().last()?.at.at));
        let newest = catalogue.volumes().filter_map(newest).collect();
        all.retain(|_, seen| {
            seen.there >= seen.members.len() || seen.there + seen.awaited(&newest) >= seen.members.len()
        });
        let of = |volume: &Arc<Volume>| (volume.id(), Arc::new(in_stream_of(&all, volume)));
        Self(catalogue.volumes().map(of).filter(|(_, marks)| !marks.is_empty()).collect())
    }

    /// Those in a volume's stream, by their places there; worked out once, for whoever decides does so under locks and again and
    /// again.
    #[must_use]
    pub fn in_stream_of(&self, volume: VolumeId) -> Arc<BTreeMap<Lsn, StreamMark>> {
        self.0.get(&volume).cloned().unwrap_or_default()
    }
}

fn in_stream_of(all: &HashMap<(MarkId, VolumeId), Seen<'_>>, volume: &Volume) -> BTreeMap<Lsn, StreamMark> {
    let marked = |mark: &MarkPoint| {
        let seen = all.get(&key(volume, mark)?.0)?;
        let (lsn, captured_at, received_at) = (mark.at.lsn, mark.at.at, seen.received_at);
        let point = KeptPoint::new(lsn, captured_at, received_at);
        Some((lsn, StreamMark { point, whole: seen.there >= seen.members.len() }))
    };
    volume.marks().iter().filter_map(marked).collect()
}

/// A barrier among those of all groups, for taps draw their numbers on their own, and its members. One that does not name the
/// volume is none of its.
fn key<'a>(volume: &'a Volume, mark: &MarkPoint) -> Option<((MarkId, VolumeId), &'a [VolumeId])> {
    let members = &volume.marks().membership_at(mark.at.lsn)?.members;
    members.binary_search(&volume.id()).ok()?;
    Some(((mark.id, *members.first()?), members))
}

#[cfg(test)]
mod tests {
    use tap_block::{
        Action, BarrierMark, Entry, Epoch, Marker, Position, RunId, RunStart, StreamId, SyncCause,
    };

    use super::*;
    use crate::catalogue::{Origin, Passed};

    /// Streams of volumes of the same numbers, one record after the other.
    #[derive(Default)]
    struct Tape {
        catalogue: Catalogue,
        last: BTreeMap<u64, Passed>,
        received: u64,
    }

    impl Tape {
        fn take(&mut self, stream: u64, at: u64, marker: Marker) {
            let previous = self.last.get(&stream).copied();
            let lsn = previous.map_or(Lsn::ZERO, |p| p.lsn).next();
            let here = Passed { lsn, at: WallTime::from_nanos(at) };
            self.received += 1;
            let origin = Origin {
                stream: StreamId::new(stream),
                run: RunId::new(1),
                epoch: Epoch::new(1),
                previous,
                received_at: WallTime::from_nanos(self.received),
            };
            let action = Action::Mark(Box::new(marker));
            self.catalogue
                .apply(&origin, &Entry { position: Position::record(lsn), captured_at: here.at, action });
            self.last.insert(stream, here);
        }

        fn begin(&mut self, stream: u64) {
            self.take(
                stream,
                0,
                Marker::RunStart(RunStart {
                    previous: None,
                    durable: Lsn::ZERO,
                    volume: VolumeId::new(stream),
                    name: format!("v{stream}").parse().unwrap(),
                    size: 4096,
                    sync: None,
                }),
            );
        }

        /// A mark of a group, as far as it reached the gateway.
        fn mark(&mut self, at: u64, name: &str, members: &[u64], reached: &[u64]) {
            for &stream in reached {
                let mark = BarrierMark {
                    id: MarkId::new(at),
                    group: name.parse().unwrap(),
                    members: members.iter().map(|&m| VolumeId::new(m)).collect(),
                    bookmark: None,
                };
                self.take(stream, at, Marker::Barrier(mark));
            }
        }

        fn groups(&self) -> Vec<(String, Vec<u64>)> {
            let of = |g: Group| (g.name.to_string(), g.members.iter().map(|m| m.get()).collect());
            Group::all(&self.catalogue).into_iter().map(of).collect()
        }

        fn points(&self, held: &Held<'_>) -> Vec<u64> {
            let points = Group::all(&self.catalogue)[0].points(&self.catalogue, held, TimeRange::default());
            points.map(|p| p.id.get()).collect()
        }
    }

    #[test]
    fn a_point_of_a_group_is_one_that_every_member_has() {
        let mut tape = Tape::default();
        (1..=2).for_each(|n| tape.begin(n));
        tape.mark(10, "db", &[1, 2], &[1, 2]);
        tape.mark(20, "db", &[1, 2], &[1, 2]);
        tape.take(2, 25, Marker::SyncStart { cause: SyncCause::Overflow });
        tape.mark(30, "db", &[1, 2], &[1, 2]);
        tape.take(2, 35, Marker::SyncEnd { cause: SyncCause::Overflow, copied: 0, from_zero: false });
        tape.mark(40, "db", &[1, 2], &[1, 2]);
        tape.mark(50, "db", &[1, 2], &[1]);
        assert_eq!(tape.points(&|_, _| true), [40, 20, 10]);
        let thinned = |volume: VolumeId, lsn: Lsn| (volume.get(), lsn.get()) != (2, 3);
        assert_eq!(tape.points(&thinned), [40, 10]);
        let group = &Group::all(&tape.catalogue)[0];
        let (after, before) = (Some(WallTime::from_nanos(11)), Some(WallTime::from_nanos(39)));
        let between: Vec<GroupPoint> =
            group.points(&tape.catalogue, &|_, _| true, TimeRange { after, before }).collect();
        let lsns: Vec<u64> = between[0].lsns.iter().map(|l| l.get()).collect();
        assert_eq!((between.len(), between[0].id.get(), lsns), (1, 20, vec![3, 3]));
        let common = CommonMarks::of(&tape.catalogue, &thinned, WallTime::from_nanos(1_000));
        let second = VolumeId::new(2);
        let received: Vec<_> = common
            .in_stream_of(second)
            .values()
            .map(|m| (m.point.captured_at.nanos(), m.point.received_at.nanos(), m.whole))
            .collect();
        assert_eq!(received, [(10, 4, true), (40, 12, true)]);
        // The first was received as the third record of all, the others later.
        let old = CommonMarks::of(&tape.catalogue, &|_, _| true, WallTime::from_nanos(3));
        assert_eq!(old.in_stream_of(second).len(), 1);
        assert!(Arc::ptr_eq(&old.in_stream_of(second), &old.in_stream_of(second)), "worked out once");
        let none = CommonMarks::of(&tape.catalogue, &|_, _| true, WallTime::from_nanos(2));
        assert!(none.in_stream_of(second).is_empty());
    }

    #[test]
    fn points_are_found_whatever_some_members_miss_and_whatever_the_clock_did() {
        let mut tape = Tape::default();
        (1..=3).for_each(|n| tape.begin(n));
        let mut all = Vec::new();
        // The clock is set back twice; now and then members miss many marks in a row.
        for n in 0..3000u64 {
            let at = 1_000_000 + n * 10 - (n / 1000) * 7_003;
            let mut reached = vec![1, 2, 3];
            if (100..400).contains(&(n % 700)) {
                reached.remove(usize::try_from(n / 700 % 3).unwrap());
            }
            tape.mark(at, "db", &[1, 2, 3], &reached);
            if reached.len() == 3 {
                all.push(at);
            }
        }
        all.reverse();
        assert_eq!(tape.points(&|_, _| true), all);
        let group = &Group::all(&tape.catalogue)[0];
        for wanted in all.iter().step_by(37) {
            let at = Some(WallTime::from_nanos(*wanted));
            let range = TimeRange { after: at, before: at };
            let found = group.points(&tape.catalogue, &|_, _| true, range).next().unwrap();
            assert_eq!(found.id.get(), *wanted);
        }
    }

    #[test]
    fn a_mark_in_a_stream_of_no_member_counts_for_none() {
        let mut tape = Tape::default();
        (1..=3).for_each(|n| tape.begin(n));
        tape.mark(10, "db", &[1, 2], &[1, 3]);
        let common = |tape: &Tape| {
            let common = CommonMarks::of(&tape.catalogue, &|_, _| true, WallTime::from_nanos(1_000));
            let whole = |n| common.in_stream_of(VolumeId::new(n)).values().filter(|m| m.whole).count();
            (1..=3).map(whole).collect::<Vec<_>>()
        };
        assert_eq!(common(&tape), [0, 0, 0], "a wrong tap must not make it one of all members");
        tape.mark(10, "db", &[1, 2], &[2]);
        assert_eq!(common(&tape), [1, 1, 0]);
    }

    #[test]
    fn a_mark_counts_until_the_member_that_lacks_it_has_come_past_its_time() {
        let mut tape = Tape::default();
        (1..=2).for_each(|n| tape.begin(n));
        let of_first = |tape: &Tape| -> Vec<(u64, bool)> {
            let common = CommonMarks::of(&tape.catalogue, &|_, _| true, WallTime::from_nanos(1_000));
            let marks = common.in_stream_of(VolumeId::new(1));
            marks.values().map(|m| (m.point.captured_at.nanos(), m.whole)).collect()
        };
        tape.mark(10, "db", &[1, 2], &[1]);
        assert_eq!(of_first(&tape), [(10, false)], "a new member may have a baseline to send");
        tape.mark(10, "db", &[1, 2], &[2]);
        [20, 30].into_iter().for_each(|at| tape.mark(at, "db", &[1, 2], &[1]));
        assert_eq!(of_first(&tape), [(10, true), (20, false), (30, false)]);
        tape.mark(30, "db", &[1, 2], &[2]);
        assert_eq!(of_first(&tape), [(10, true), (30, true)], "the one at 20 does not come any more");
    }

    #[test]
    fn a_member_that_is_added_or_made_anew_hides_no_earlier_point() {
        let mut tape = Tape::default();
        (1..=5).for_each(|n| tape.begin(n));
        let points = |tape: &Tape| {
            let group = &Group::named(&tape.catalogue, &"db".parse().unwrap())[0];
            let points = group.points(&tape.catalogue, &|_, _| true, TimeRange::default());
            let of = |p: GroupPoint| (p.id.get(), p.members.iter().map(|m| m.get()).collect::<Vec<_>>());
            points.map(of).collect::<Vec<_>>()
        };
        tape.mark(10, "db", &[2, 3], &[2, 3]);
        tape.mark(15, "other", &[4, 5], &[4, 5]);
        tape.mark(20, "db", &[2, 3], &[2, 3]);
        let before = [(20, vec![2, 3]), (10, vec![2, 3])];
        assert_eq!(points(&tape), before);
        // One is added whose number is the least of all; another has no mark yet.
        tape.mark(30, "db", &[1, 2, 3], &[1, 2]);
        assert_eq!(points(&tape), before, "not all have the news yet");
        tape.mark(30, "db", &[1, 2, 3], &[3]);
        assert_eq!(points(&tape), [&[(30, vec![1, 2, 3])][..], &before[..]].concat());
        // The first and the last are made anew, one after the other.
        tape.mark(40, "db", &[2, 3, 4], &[2, 3, 4]);
        tape.mark(50, "db", &[2, 4, 5], &[2, 4, 5]);
        let now = [(50, vec![2, 4, 5]), (40, vec![2, 3, 4]), (30, vec![1, 2, 3])];
        assert_eq!(points(&tape), [&now[..], &before[..]].concat());
    }

    #[test]
    fn a_group_is_what_its_newest_marks_say() {
        let mut tape = Tape::default();
        (1..=5).for_each(|n| tape.begin(n));
        assert!(tape.groups().is_empty());
        tape.mark(10, "db", &[1, 2, 3], &[1, 2, 3]);
        assert_eq!(tape.groups(), [("db".to_owned(), vec![1, 2, 3])]);
        tape.mark(20, "db", &[1, 2], &[1]);
        assert_eq!(tape.groups(), [("db".to_owned(), vec![1, 2])], "not all have the news yet");
        tape.mark(20, "db", &[1, 2], &[2]);
        assert_eq!(tape.groups(), [("db".to_owned(), vec![1, 2])]);
        assert_eq!(Group::of(&tape.catalogue, VolumeId::new(3)), None);
        tape.mark(15, "db", &[1, 2, 3], &[3]);
        assert_eq!(tape.groups(), [("db".to_owned(), vec![1, 2])], "what comes late says nothing new");
        tape.mark(20, "db", &[4, 5], &[4, 5]);
        assert_eq!(tape.groups(), [("db".to_owned(), vec![1, 2]), ("db".to_owned(), vec![4, 5])]);
        let named = |tape: &Tape| {
            let found = Group::named(&tape.catalogue, &"db".parse().unwrap());
            found
                .into_iter()
                .map(|g| g.members.iter().map(|m| m.get()).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        };
        assert_eq!(named(&tape), [vec![4, 5]], "other disks have the name now");
        tape.mark(30, "db", &[1, 2], &[1, 2]);
        assert_eq!(named(&tape), [vec![1, 2], vec![4, 5]], "two taps use it at a time");
        let common = CommonMarks::of(&tape.catalogue, &|_, _| true, WallTime::from_nanos(1_000));
        let of = |n| common.in_stream_of(VolumeId::new(n)).len();
        assert_eq!((of(1), of(3), of(4)), (3, 1, 1), "of two taps, at the same time by chance");
    }
}
