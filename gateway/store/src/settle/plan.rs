//! What a pass takes on: old groups of the log, or a stretch of what is settled already.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use gateway_image::catalogue::Rules;
use gateway_journal::{Generation, RegionPlace, RegionRange, RetentionPolicy};
use tap_block::units::count;
use tap_block::{StreamId, WallTime};

use super::blocked::{Blocked, Wait};
use super::held::HeldCount;
use super::{Limits, Pressure, points};
use crate::store::Shared;
use crate::sync::read;
use crate::tail::{GroupInfo, Published};

/// More generations than this make reads of settled history dear.
const MOST_GENERATIONS: usize = 12;
/// So many generations of about one size become one.
const ALIKE: usize = 4;

/// See the module.
#[derive(Clone)]
pub(super) struct Plan {
    /// Groups of the log, the oldest that are not settled.
    pub(super) groups: Vec<GroupInfo>,
    /// Generations of which `range` is rewritten; oldest first.
    pub(super) merged: Vec<Generation>,
    /// Where in them.
    pub(super) range: RegionRange,
    /// Where it was to be, room allowing.
    pub(super) wanted: RegionRange,
    /// The generations that stay as they are; oldest first.
    pub(super) untouched: Vec<Generation>,
    /// Where it ends.
    pub(super) end: End,
    /// What the groups were chosen by.
    pub(super) rules: Rules,
}

/// Where a pass ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With all that it took on.
    Whole,
    /// The same of the log, if that pays: it may take on more than there is room for, for much of it goes.
    Paid,
    /// Before the region with which more than so many bytes would be written. The first is written all the same: it would never get
    /// smaller otherwise.
    Budget(u64),
    /// The same, and it is not made when the first region is more than that.
    Strict(u64),
    /// Where most segments come free beyond those that it fills, with no more than so many bytes.
    Gain(u64),
}

impl End {
    /// Bytes that may be written; `None`: as many as there are.
    pub(super) const fn budget(self) -> Option<u64> {
        match self {
            Self::Whole | Self::Paid => None,
            Self::Budget(bytes) | Self::Strict(bytes) | Self::Gain(bytes) => Some(bytes),
        }
    }
}

impl Plan {
    /// Old groups of the log, with generations that are small beside them; `None` when there are none, or no room.
    pub(super) fn window(
        shared: &Shared,
        now: WallTime,
        pressure: Pressure,
        held: &HeldCount,
    ) -> Option<Self> {
        let published = read(&shared.published);
        // When room is scarce it is reckoned what a pass writes, which may be much less than what it goes through.
        let (room, ends) = match shared.is_scarce() {
            true => (u64::MAX, End::Paid),
            false => (shared.settle_room(0), End::Whole),
        };
        let strained = strained_groups(&published, &read(&shared.limits), now, held.listed());
        let groups = old_groups(shared, &published, held, (now, pressure, strained, room));
        let (end, start) = groups.last()?.through;
        let (mut untouched, mut merged) = (published.layout.generations.clone(), Vec::new());
        let mut fresh = shared.segments.bytes_to(end, start.at);
        // What is missing in a generation would be missing for good once it is rewritten, and nobody would know.
        let wait = Wait::under(pressure);
        let blocked = Blocked::of(shared, &published, RegionRange::ALL, wait);
        let young = untouched.iter().rposition(|g| blocked.is_in(g)).map_or(0, |n| n + 1);
        while let Some(n) = alike(untouched.get(young..).unwrap_or_default(), fresh) {
            let more: u64 = untouched.iter().rev().take(n).map(Generation::bytes).sum();
            if fresh.saturating_add(more) > room {
                break;
            }
            fresh += more;
            merged.splice(0..0, untouched.split_off(untouched.len() - n));
        }
        // A hold that was made since was not counted.
        let rules = held.rules().clone();
        let range = RegionRange::ALL;
        Some(Self { groups, merged, range, wanted: range, untouched, end: ends, rules })
    }

    /// Settled history of these regions, as far as there is room, up to where something is not rewritten for now; `None` when there
    /// is nothing, or no room.
    pub(super) fn compaction(shared: &Shared, wanted: RegionRange, wait: Wait) -> Option<Self> {
        let published = read(&shared.published);
        let generations = &published.layout.generations;
        let blocked = Blocked::of(shared, &published, wanted, wait);
        let range = blocked.first_part(wanted, generations)?;
        let rules = published.catalogue.rules().clone();
        let (merged, groups, untouched) = (generations.clone(), Vec::new(), Vec::new());
        // A segment on the border of the stretch does not come free, in each generation that lies across it.
        let budget = shared.settle_room(depth(generations)).min(shared.config.settle_at_once);
        if budget > 0 {
            return Some(Self { groups, merged, range, wanted, untouched, end: End::Budget(budget), rules });
        }
        if wanted.last != RegionRange::ALL.last {
            return None;
        }
        // The youngest as a whole: every one of their segments comes free.
        let room = shared.settle_room(0);
        let mut bytes = 0u64;
        let fits = generations.iter().rev().take_while(|g| {
            bytes = bytes.saturating_add(g.bytes());
            bytes <= room && !blocked.is_in(g)
        });
        let n = fits.count();
        let (old, young) = generations.split_at(generations.len() - n);
        let (untouched, merged) = (old.to_vec(), young.to_vec());
        let range = RegionRange::ALL;
        let (wanted, end) = (range, End::Whole);
        (n > 1).then_some(Self { groups, merged, range, wanted, untouched, end, rules })
    }

    /// Settled history of these regions up to where more segments come free than are written, wherever that is: when there is so
    /// little room (anybody may write to the disk) that it is not certain of any stretch.
    pub(super) fn for_gain(shared: &Shared, wanted: RegionRange) -> Option<Self> {
        let published = read(&shared.published);
        let merged = published.layout.generations.clone();
        let room = shared.last_room();
        if merged.is_empty() || room == 0 {
            return None;
        }
        let blocked = Blocked::of(shared, &published, wanted, Wait::IfSmall);
        let range = blocked.first_part(wanted, &merged)?;
        let rules = published.catalogue.rules().clone();
        let (groups, untouched) = (Vec::new(), Vec::new());
        Some(Self { groups, merged, range, wanted, untouched, end: End::Gain(room), rules })
    }

    /// Does it end where something is gained, or not begin?
    pub(super) const fn is_for_gain(&self) -> bool {
        matches!(self.end, End::Gain(_))
    }

    /// Of the log: leaves generations as they are, or else half of the groups; `false` when there is but one.
    pub(super) fn take_on_less(&mut self) -> bool {
        if !self.merged.is_empty() {
            self.untouched.append(&mut self.merged);
            return true;
        }
        let half = self.groups.len() / 2;
        self.groups.truncate(half.max(1));
        half > 0
    }

    /// The same with every generation.
    pub(super) fn with_all_that_is_settled(&self) -> Self {
        let merged = self.untouched.iter().chain(&self.merged).cloned().collect();
        Self { merged, untouched: Vec::new(), ..self.clone() }
    }

    /// How many generations hold one and the same region, at most, behind a pass over the log.
    pub(super) fn depth_behind(&self) -> usize {
        depth(&self.untouched) + 1
    }

    /// The regions with which a segment of what is rewritten comes free, ascending, for each that does.
    pub(super) fn ends(&self) -> Vec<RegionPlace> {
        // Parts of a generation may share one.
        let mut ends = BTreeMap::new();
        for (generation, segment) in self.merged.iter().flat_map(|g| g.segments.iter().map(move |s| (g, s))) {
            let (first, end) =
                (segment.first.max(generation.range.first), segment.last.min(generation.range.last));
            let (from, to) = ends.entry(segment.segment).or_insert((first, end));
            (*from, *to) = (first.min(*from), end.max(*to));
        }
        let whole = ends.into_values().filter(|(first, _)| self.range.first <= *first);
        let mut ends: Vec<RegionPlace> = whole.map(|(_, end)| end).collect();
        ends.sort_unstable();
        ends
    }

    /// Does it go through a volume's history on its own?
    pub(super) fn is_of_a_volume(&self) -> bool {
        self.wanted.last != RegionRange::ALL.last
    }

    /// Does it end where room ends, rather than take on whatever there is as a whole?
    pub(super) const fn is_stretch(&self) -> bool {
        !matches!(self.end, End::Whole | End::Paid)
    }

    /// Have generations become so many that, were there more, no stretch of them could be rewritten in the room there is?
    pub(super) fn is_crowded(shared: &Shared) -> bool {
        let depth = depth(&read(&shared.published).layout.generations);
        depth > 1 && shared.settle_room(depth + 1) == 0
    }

    /// The generations once the pass has rewritten what it took on, up to `last` (`None`: to the end).
    pub(super) fn arrange(
        &mut self,
        last: Option<RegionPlace>,
        written: Option<Generation>,
    ) -> Vec<Generation> {
        if !self.is_stretch() {
            return self.untouched.iter().cloned().chain(written).collect();
        }
        self.range.last = last.unwrap_or(self.range.last);
        let written = written.map(|generation| Generation { range: self.range, ..generation });
        // The old ones have nothing left where the new one is, so their order does not matter; young ones stay last.
        written.into_iter().chain(self.merged.iter().flat_map(|g| g.without(self.range))).collect()
    }
}

/// How many generations hold one and the same region, at most.
fn depth(generations: &[Generation]) -> usize {
    let holding = |place| generations.iter().filter(|g| g.range.holds(place)).count();
    generations.iter().map(|g| holding(g.range.first)).max().unwrap_or(0)
}

/// How many of the youngest generations are rewritten with `fresh` bytes: those of up to twice the size, once there are
/// enough of them. So each byte is written again only when there is [`ALIKE`] times as much beside it. And those that are
/// too many.
fn alike(generations: &[Generation], fresh: u64) -> Option<usize> {
    let young = generations.iter().rev().take_while(|g| g.bytes() <= fresh.saturating_mul(2)).count();
    let whole = generations.iter().rev().take_while(|g| g.range == RegionRange::ALL).count();
    let many = (whole >= MOST_GENERATIONS).then_some(1);
    (young + 1 >= ALIKE).then_some(young).or(many)
}

/// So many points are listed at most when groups are settled for the sake of a volume's limit while others' policies still
/// keep every write in them: each is a point then, in every manifest.
const MOST_POINTS: u64 = 512 << 10;

/// How many of the oldest groups are settled, whatever their age, so that volumes that are full become smaller. Points listed
/// for holds have a limit of their own.
fn strained_groups(published: &Published, limits: &Limits, now: WallTime, held: u64) -> usize {
    let mut needs = limits.needs();
    if needs.is_empty() {
        return 0;
    }
    let others = whole_of_others(published, limits);
    let (mut through, mut young) = (0, count(points(&published.layout.kept)).saturating_sub(held));
    for (n, group) in published.ingested.iter().enumerate() {
        young += young_records(&others, group, now);
        if needs.is_empty() || young > MOST_POINTS {
            break;
        }
        for (stream, bytes) in &group.spans {
            let Some(need) = needs.get_mut(stream) else { continue };
            through = n + 1;
            *need = need.saturating_sub(*bytes);
            if *need == 0 {
                needs.remove(stream);
            }
        }
    }
    through
}

/// For how long the policies of volumes that are not full keep every write, by stream.
fn whole_of_others(published: &Published, limits: &Limits) -> HashMap<StreamId, Duration> {
    let (rules, strained) = (published.catalogue.rules(), limits.strained());
    let others = published.catalogue.volumes().filter(|v| !strained.contains_key(&v.id()));
    others.map(|v| (v.stream(), rules.policy_of(v.id()).every_write)).collect()
}

/// Records in a group, about, of volumes that keep every one of them: by their share of its bytes.
fn young_records(others: &HashMap<StreamId, Duration>, group: &GroupInfo, now: WallTime) -> u64 {
    let age = now.since(group.received_at);
    let is_young = |stream| others.get(stream).is_some_and(|whole| age <= *whole);
    let all: u64 = group.spans.iter().map(|(_, bytes)| bytes).sum();
    let young: u64 = group.spans.iter().filter(|(s, _)| is_young(s)).map(|(_, bytes)| bytes).sum();
    let records = u128::from(group.versions) * u128::from(young) / u128::from(all.max(1));
    u64::try_from(records).unwrap_or(u64::MAX)
}

/// For how long all that policies say of what is in a group keep it whole; `None`: there is nothing in it that they speak of.
pub(super) fn keep_whole(rules: &Rules, group: &GroupInfo) -> Option<Duration> {
    group.mins.iter().map(|(v, _)| rules.policy_of(*v).every_write).max()
}

/// The oldest groups of which every record is older than all that policies keep whole, as far as there is room to rewrite
/// them, and memory; those of the first `strained` ones whatever their age. Behind the last that is not held as a whole they
/// wait: nothing would come free. But when they are in the way of one that is not, as many of them are settled as may be at once.
fn old_groups(
    shared: &Shared,
    published: &Published,
    held: &HeldCount,
    (now, pressure, strained, room): (WallTime, Pressure, usize, u64),
) -> Vec<GroupInfo> {
    let rules = published.catalogue.rules();
    let (mut groups, mut worth) = (Vec::new(), 0);
    let (mut versions, mut before, mut fits) = (0u64, published.layout.trail.received_at(), true);
    for (n, group) in published.ingested.iter().enumerate() {
        let strained = n < strained;
        let (whole, age) = (keep_whole(rules, group), now.since(group.received_at));
        let urgent = strained || pressure > Pressure::None;
        let old = urgent || whole.is_none_or(|whole| age > whole);
        versions = versions.saturating_add(group.versions);
        let bytes = shared.segments.bytes_to(group.through.0, group.through.1.at);
        let many = versions > shared.config.settle_versions && n > 0;
        fits = fits && !many && bytes <= room;
        if !old || (!fits && worth > 0) {
            break;
        }
        // Nothing comes free with a group of no versions: it is taken along, and gone for only when it has lain there for long.
        let may_pay = whole.is_some() || urgent || age > RetentionPolicy::default().every_write;
        let is_worth = strained || (may_pay && !held.is_whole(group, before));
        before = group.received_at;
        if !fits && is_worth {
            return groups;
        }
        groups.extend(fits.then(|| group.clone()));
        if is_worth {
            worth = groups.len();
        }
    }
    groups.truncate(worth);
    groups
}

#[cfg(test)]
mod tests {
    use gateway_journal::{RegionNo, SegmentId, SettledSegment};
    use tap_block::VolumeId;

    use super::*;

    fn generation(first: u32, last: u32) -> Generation {
        let place = |region| (VolumeId::new(1), RegionNo::new(region));
        let range = RegionRange { first: place(first), last: place(last) };
        let (segments, shares, at) = (Vec::new(), Vec::new(), WallTime::EPOCH);
        Generation { settle: 1, range, segments, shares, at, packs: false }
    }

    #[test]
    fn records_of_volumes_that_keep_them_all_are_counted_by_their_share() {
        let second = |n: u64| WallTime::from_nanos(n * 1_000_000_000);
        let group = GroupInfo {
            no: gateway_journal::GroupNo::new(1),
            mins: Vec::new(),
            through: (SegmentId::new(1), gateway_journal::Start::of_segment(None)),
            received_at: second(100),
            versions: 1000,
            spans: vec![(StreamId::new(1), 300), (StreamId::new(2), 100)],
        };
        let others = [(StreamId::new(2), Duration::from_secs(50))].into();
        assert_eq!(young_records(&others, &group, second(150)), 250);
        assert_eq!(young_records(&others, &group, second(151)), 0, "it is old");
        assert_eq!(young_records(&HashMap::new(), &group, second(100)), 0, "they are full themselves");
    }

    #[test]
    fn parts_that_lie_side_by_side_are_not_deep() {
        assert_eq!(depth(&[]), 0);
        assert_eq!(depth(&[generation(0, 9), generation(10, 19), generation(20, 29)]), 1);
        assert_eq!(depth(&[generation(0, 9), generation(10, 19), generation(5, 10), generation(0, 30)]), 3);
    }

    #[test]
    fn a_byte_is_rewritten_once_for_each_time_history_grows_fourfold() {
        let place = (VolumeId::new(1), RegionNo::new(0));
        let one = |settle, end| {
            let segment = SettledSegment {
                segment: SegmentId::new(1),
                end,
                frames: 1,
                first: place,
                last: place,
                warm: 0,
            };
            Generation { segments: vec![segment], settle, range: RegionRange::ALL, ..generation(0, 0) }
        };
        let (mut generations, mut written): (Vec<Generation>, u64) = (Vec::new(), 0);
        for settle in 1..=256 {
            let mut bytes = 1;
            while let Some(n) = alike(&generations, bytes) {
                bytes += generations.drain(generations.len() - n..).map(|g| g.bytes()).sum::<u64>();
            }
            generations.push(one(settle, u32::try_from(bytes).unwrap()));
            written += bytes;
            assert!(generations.len() <= MOST_GENERATIONS, "{generations:?}");
        }
        assert!(written <= 256 * 5, "{written} for 256");
    }
}
