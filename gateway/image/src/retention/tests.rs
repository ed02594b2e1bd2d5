//! Tiers by example, and versions against maps: a kept point's map is the same before and after.

use gateway_journal::{Location, SegmentId, Tier, WhenFull};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::region::RegionMapBuilder;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_700_000_000 / 3600 * 3600;

fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

fn time(seconds: u64) -> WallTime {
    WallTime::from_nanos((START + seconds) * SECOND)
}

fn point(n: u64, seconds: u64) -> KeptPoint {
    KeptPoint::new(lsn(n), time(seconds), time(seconds))
}

/// Every write 10 s, then one a 10 s for 100 s, then one a minute for 600 s.
fn policy() -> RetentionPolicy {
    let tier = |each, keep| Tier {
        each: Duration::from_secs(each),
        keep: Duration::from_secs(keep),
        before_drop: None,
    };
    RetentionPolicy {
        every_write: Duration::from_secs(10),
        tiers: vec![tier(10, 100), tier(60, 600)],
        bookmarks: Duration::from_secs(1000),
        when_full: WhenFull::Thin,
        limit: None,
    }
}

/// One write a second, thinned at `now`.
fn thinned(writes: u64, now: u64, special: &Special, floor: Option<u64>) -> Vec<u64> {
    let policy = policy();
    let mut thinner = Thinner::new(&policy, special, time(now), floor.map(time));
    (0..writes).for_each(|n| thinner.offer(point(n + 1, n)));
    thinner.finish().iter().map(|p| p.lsn.get() - 1).collect()
}

#[test]
fn points_grow_sparser_with_age() {
    let kept = thinned(700, 699, &Special::default(), None);
    let (old, rest) = kept.split_at(kept.partition_point(|&s| s < 599));
    let (middle, young) = rest.split_at(rest.partition_point(|&s| s < 689));
    assert_eq!(old, [119, 179, 239, 299, 359, 419, 479, 539, 598], "the last of each minute");
    assert_eq!(middle, [599, 609, 619, 629, 639, 649, 659, 669, 679, 688]);
    assert_eq!(young, [689, 690, 691, 692, 693, 694, 695, 696, 697, 698, 699]);
}

#[test]
fn what_is_held_is_kept_whole() {
    let stretches = vec![(lsn(20), lsn(30)), (lsn(5), lsn(9)), (lsn(10), lsn(12)), (lsn(25), lsn(27))];
    let held = Stretches::of(stretches);
    assert_eq!(held, Stretches(vec![(lsn(5), lsn(12)), (lsn(20), lsn(30))]));
    let inside = |n: u64| (5..=12).contains(&n) || (20..=30).contains(&n);
    assert!((1..40).all(|n| held.hold(lsn(n)) == inside(n)) && !Stretches::default().hold(lsn(1)));
    let kept = thinned(700, 2000, &Special { held, ..Special::default() }, Some(2000));
    assert_eq!(kept, (0..700).filter(|n| inside(n + 1)).collect::<Vec<_>>(), "not that alone");
}

#[test]
fn what_is_kept_later_was_kept_before() {
    let mut points: Vec<KeptPoint> = (0..700).map(|n| point(n + 1, n)).collect();
    let special = Special::default();
    for now in (700..1500).step_by(7) {
        let policy = policy();
        let mut thinner = Thinner::new(&policy, &special, time(now), None);
        points.iter().for_each(|p| thinner.offer(*p));
        let left = thinner.finish();
        let ages: Vec<u64> = left.iter().map(|p| now - (p.lsn.get() - 1)).collect();
        assert!(ages.iter().all(|&age| age <= 600), "{ages:?}");
        let minutes = left.iter().filter(|p| (p.lsn.get() - 1) % 60 == 59).count();
        let due = (0..700u64).filter(|s| s % 60 == 59 && now - s <= 600).count();
        assert_eq!(minutes, due, "each full minute in reach is still there at {now}");
        points = left;
    }
}

/// A mark a second at which nothing was written, every one of which is held, and then no more.
#[test]
fn marks_of_a_month_are_one_point_while_they_are_held_and_one_a_minute_behind() {
    let policy = policy();
    let month = 30 * 24 * 3600;
    let mark = |n: u64| KeptPoint { idle: true, ..point(n + 1, n) };
    let held = Stretches::of(vec![(lsn(1), lsn(month))]);
    let special = Special { held, ..Special::default() };
    let mut left = vec![];
    for (from, to) in [(1, 1_000_000), (1_000_000, 1_000_001), (1_000_001, month)] {
        let mut thinner = Thinner::new(&policy, &special, time(to), None);
        [point(1, 0)].into_iter().filter(|_| from == 1).for_each(|p| thinner.offer(p));
        left.drain(..).chain((from..to).map(mark)).for_each(|p| thinner.offer(p));
        left = thinner.finish();
    }
    assert_eq!(
        left,
        [point(1, 0), KeptPoint { before: u32::try_from(month).unwrap() - 2, ..mark(month - 1) }]
    );
    let marks =
        (month - 400..month).map(|n| (lsn(n + 1), StreamMark { point: point(n + 1, n), whole: true }));
    let special = Special { marks: Arc::new(marks.collect()), ..Special::default() };
    let mut thinner = Thinner::new(&policy, &special, time(month + 200), None);
    left.drain(..).for_each(|p| thinner.offer(p));
    let kept = thinner.finish();
    assert!(kept.iter().all(|p| !p.is_run()) && (6..=8).contains(&kept.len()), "{kept:?}");
}

#[test]
fn bookmarks_and_pins_outlive_the_tiers() {
    let bookmarks = [lsn(6), lsn(700)].into();
    let special = Special { always: [lsn(4)].into(), bookmarks, ..Special::default() };
    assert_eq!(thinned(700, 900, &special, None)[..2], [3, 5]);
    assert_eq!(thinned(700, 1005, &special, None)[..2], [3, 5]);
    assert_eq!(thinned(700, 1006, &special, None)[..2], [3, 419], "a bookmark has its age");
    assert_eq!(thinned(700, 5000, &special, None), [3]);
}

#[test]
fn the_floor_takes_ordinary_points_only() {
    let special = Special { always: [lsn(4)].into(), bookmarks: [lsn(6)].into(), ..Special::default() };
    assert_eq!(thinned(700, 699, &special, Some(690))[..4], [3, 5, 690, 691]);
}

/// The tier of 100 s has a gate, which let go what was received up to `released`.
fn gated(released: u64) -> Special {
    Special { released: vec![Some(time(released)), None], ..Special::default() }
}

#[test]
fn a_gate_keeps_points_in_its_tier_until_it_lets_them_go() {
    let open = thinned(700, 699, &Special::default(), None);
    let shut = thinned(700, 699, &gated(0), None);
    assert!((9..689).step_by(10).all(|s| shut.contains(&s)), "{shut:?}");
    let half = thinned(700, 699, &gated(300), None);
    assert!((309..689).step_by(10).all(|s| half.contains(&s)) && !half.contains(&289), "{half:?}");
    assert!(half.contains(&239) && half.contains(&119), "the next tier has them from there on: {half:?}");
    assert_eq!(thinned(700, 699, &gated(699), None), open);
    let floor = thinned(700, 699, &gated(0), Some(690));
    assert_eq!(floor[0], 690, "no room overrules it");
}

#[test]
fn what_waits_at_a_gate_is_what_would_go_without_it() {
    let (policy, special) = (policy(), gated(300));
    let mut thinner = Thinner::new(&policy, &special, time(699), None);
    (0..700).for_each(|n| thinner.offer(point(n + 1, n)));
    let kept = thinner.finish();
    let waits = waiting(&policy, &special, time(699), &kept);
    let seconds: Vec<u64> = waits[0].1.iter().map(|p| p.lsn.get() - 1).collect();
    assert_eq!((waits.len(), waits[0].0), (1, 0));
    assert_eq!(
        (seconds.first(), seconds.last()),
        (Some(&309), Some(&579)),
        "589 stands for its minute, so far"
    );
    for stays in [359, 419, 479, 539] {
        assert!(!seconds.contains(&stays), "what the next tier keeps stays: {seconds:?}");
    }
    assert!(waiting(&policy, &gated(600), time(699), &kept)[0].1.is_empty());
}

#[test]
fn what_a_pin_keeps_is_handed_on_all_the_same() {
    let policy = policy();
    // 319 would go; 640, of the tier still, is kept by its pin alone.
    let special = Special { always: [lsn(320), lsn(641)].into(), ..gated(300) };
    let mut thinner = Thinner::new(&policy, &special, time(699), None);
    (0..700).for_each(|n| thinner.offer(point(n + 1, n)));
    let kept = thinner.finish();
    let waits = &waiting(&policy, &special, time(699), &kept)[0].1;
    assert!(waits.iter().any(|p| p.lsn == lsn(320)), "{waits:?}");
    assert_eq!(waits.last().unwrap().lsn, lsn(580), "a pin makes no point due sooner");
}

#[test]
fn what_came_in_one_go_waits_in_one_go() {
    // Caught up with after an outage: each is a minute of its own.
    let came = time(500);
    let kept: Vec<KeptPoint> =
        (0..9).map(|n| KeptPoint { received_at: came, ..point(n + 1, n * 20) }).collect();
    let waits = &waiting(&policy(), &gated(300), time(700), &kept)[0].1;
    let lsns: Vec<u64> = waits.iter().map(|p| p.lsn.get()).collect();
    assert_eq!(
        lsns,
        [1, 2, 3, 4, 5, 6, 7, 8, 9],
        "the last of each minute too: to let the others go lets them go"
    );
}

/// Barrier marks at these seconds, received in the last member so much later.
fn marked(seconds: &[u64], later: u64) -> Special {
    let mark = |&s: &u64| {
        let point = KeptPoint { received_at: time(s + later), ..point(s + 1, s) };
        (lsn(s + 1), StreamMark { point, whole: true })
    };
    Special { marks: Arc::new(seconds.iter().map(mark).collect()), ..Special::default() }
}

#[test]
fn a_mark_stands_for_its_interval_and_nothing_of_the_stream_beside_it() {
    let marks: Vec<u64> = (0..700).filter(|s| s % 7 == 3 && !(120..240).contains(s)).collect();
    let kept = thinned(700, 699, &marked(&marks, 0), None);
    let last = |from: u64, to: u64| marks.iter().copied().rfind(|s| (from..to).contains(s)).unwrap();
    let old: Vec<u64> = kept.iter().copied().filter(|&s| s < 599).collect();
    let of_marks = |from: u64| last(from, from + 60);
    let wanted = [
        last(99, 120),
        179,
        239,
        of_marks(240),
        of_marks(300),
        of_marks(360),
        of_marks(420),
        of_marks(480),
        of_marks(540),
    ];
    assert_eq!(old, wanted, "where no mark is, the stream's own last point");
    let tens: Vec<u64> = kept.iter().copied().filter(|s| (600..680).contains(s)).collect();
    let each = (600..680).step_by(10).map(|from| {
        let mark = marks.iter().copied().rfind(|s| (from..from + 10).contains(s));
        mark.unwrap_or(from + 9)
    });
    assert_eq!(tens, each.collect::<Vec<_>>());
    assert!((689..700).all(|s| kept.contains(&s)), "every write of the last 10 s, marks or not");
}

#[test]
fn which_marks_stay_is_the_same_for_members_that_were_written_to_and_received_differently() {
    let marks: Vec<u64> = (0..700).filter(|s| s % 7 == 3).collect();
    // What one member has besides its marks, and when it received them, says nothing of what the others keep.
    let special = marked(&marks, 40);
    let only_marks =
        |kept: Vec<u64>| -> Vec<u64> { kept.into_iter().filter(|s| marks.contains(s)).collect() };
    let busy = only_marks(thinned(700, 699, &special, None));
    let policy = policy();
    let mut thinner = Thinner::new(&policy, &special, time(699), None);
    for &s in &marks {
        // The member was away, and received all of it at once.
        thinner.offer(KeptPoint { received_at: time(690), ..point(s + 1, s) });
    }
    let idle: Vec<u64> = thinner.finish().iter().map(|p| p.lsn.get() - 1).collect();
    assert_eq!(busy, idle);
    assert!(busy.len() > 20 && busy.len() < marks.len() / 2, "{busy:?}");
    // A pin is of one member alone.
    let pinned = Special { always: [lsn(marks[3] + 1)].into(), ..special.clone() };
    let mut with_pin = only_marks(thinned(700, 699, &pinned, None));
    assert!(with_pin.contains(&marks[3]) && !busy.contains(&marks[3]));
    with_pin.retain(|s| *s != marks[3]);
    assert_eq!(with_pin, busy);
}

#[test]
fn a_mark_that_may_still_come_stays_beside_the_last_that_all_have() {
    let marks: Vec<u64> = (0..700).filter(|s| s % 7 == 3).collect();
    let with_last = |last: u64| {
        let mut special = marked(&marks, 0);
        let all = Arc::make_mut(&mut special.marks).values_mut();
        all.for_each(|mark| mark.whole = mark.point.captured_at <= time(last));
        thinned(700, 699, &special, None)
    };
    let of_minute = |kept: &[u64], no: u64| -> Vec<u64> {
        kept.iter().copied().filter(|s| (no * 60..no * 60 + 60).contains(s)).collect()
    };
    // One member has come as far as 330, in the middle of a minute.
    let kept = with_last(330);
    assert_eq!(of_minute(&kept, 5), [325, 353], "either may be the point of this minute in the end");
    assert_eq!(of_minute(&kept, 4).len(), 1);
    assert_eq!(of_minute(&kept, 6), [marks.iter().copied().rfind(|s| *s < 420).unwrap()]);
    assert_eq!(of_minute(&with_last(700), 5), [353], "the member has come");
}

fn versions() -> impl Strategy<Value = Vec<Version>> {
    let one = (0..12u16, 1..5u16, 1..30u64, any::<bool>(), any::<bool>());
    vec(one, 0..60).prop_map(|all| {
        let made = all.into_iter().enumerate().map(|(n, (first, blocks, at, copy, zero))| {
            let position = if copy { Position::copy_as_of(lsn(at)) } else { Position::record(lsn(at)) };
            let offset = u32::try_from(n).unwrap() * 100;
            let unit = Place::Unit(Location { segment: SegmentId::new(1), offset, len: 50 });
            let (blocks, place) = if zero { (blocks, Place::Zero) } else { (1, unit) };
            Version { first, blocks, position, place }
        });
        made.collect()
    })
}

proptest! {
    #[test]
    fn every_kept_point_shows_what_it_showed(versions in versions(), kept in vec(1..30u64, 0..6)) {
        let kept: BTreeSet<u64> = kept.into_iter().collect();
        let points: Vec<KeptPoint> = kept.iter().map(|&n| point(n, n)).collect();
        let left = needed(&versions, &points);
        for &at in kept.iter().chain([&29, &40]) {
            // What is later than everything here is shown by its newest version.
            if at == 29 && !kept.contains(&29) {
                continue;
            }
            let map = |versions: &[Version]| {
                let mut builder = RegionMapBuilder::new(lsn(at));
                versions.iter().for_each(|v| builder.apply(v));
                builder.build()
            };
            prop_assert_eq!(map(&left), map(&versions), "at {}", at);
        }
    }

    #[test]
    fn a_run_needs_what_each_of_its_points_does(versions in versions(), kept in vec((1..30u64, 0..9u32), 0..6)) {
        let mut runs: Vec<KeptPoint> = Vec::new();
        for (n, before) in kept.into_iter().collect::<BTreeMap<_, _>>() {
            let free = runs.last().map_or(n, |last| n - last.lsn.get()) - 1;
            let before = before.min(u32::try_from(free).unwrap());
            runs.push(KeptPoint { before, ..point(n, n) });
        }
        let each: Vec<KeptPoint> =
            runs.iter().flat_map(|run| run.first().get()..=run.lsn.get()).map(|n| point(n, n)).collect();
        prop_assert_eq!(needed(&versions, &runs), needed(&versions, &each));
    }

    /// Whatever is held or young stays, be it joined or not, and costs no more than two points for each record that is no mark.
    #[test]
    fn what_shows_the_same_is_one_point_and_none_of_it_goes(
        idle in vec(prop::bool::weighted(0.9), 1..400),
        gaps in vec(1..400u64, 0..3),
        holds in vec((1..400u64, 0..200u64), 0..4),
        always in vec(1..400u64, 0..4),
        every in 0..100u64,
        later in vec(0..600u64, 1..4),
    ) {
        let all: Vec<KeptPoint> = (1u64..).zip(&idle).filter(|(n, _)| !gaps.contains(n))
            .map(|(n, idle)| KeptPoint { idle: *idle, ..point(n, n) })
            .collect();
        let policy = RetentionPolicy { every_write: Duration::from_secs(every), tiers: Vec::new(), ..policy() };
        let held = Stretches::of(holds.iter().map(|&(from, long)| (lsn(from), lsn(from + long))).collect());
        let special = Special { held, always: always.iter().map(|n| lsn(*n)).collect(), ..Special::default() };
        // As passes go: each takes on some more, and what the one before left.
        let (mut left, mut seen) = (Vec::new(), 0);
        let (mut now, passes) = (0, later.len());
        for (n, later) in later.iter().enumerate() {
            now += later;
            let to = all.len() * (n + 1) / passes;
            let mut thinner = Thinner::new(&policy, &special, time(now), None);
            left.iter().chain(&all[seen.min(to)..to]).for_each(|p| thinner.offer(*p));
            (left, seen) = (thinner.finish(), to);
        }
        let there = |n: Lsn| left.iter().any(|p| p.first() <= n && n <= p.lsn);
        for p in &all[..seen] {
            let wanted = special.held.hold(p.lsn) || special.always.contains(&p.lsn)
                || time(now).since(p.received_at) <= policy.every_write;
            // A run that is young at its end is young as a whole.
            prop_assert!(!wanted || there(p.lsn), "{} at {}", p.lsn, now);
        }
        let (busy, named) = (all.iter().filter(|p| !p.idle).count(), always.len() + gaps.len() + 2 * holds.len());
        prop_assert!(left.len() <= 2 * (busy + named) + 2, "{} of {}", left.len(), all.len());
        prop_assert!(left.is_sorted_by(|a, b| a.lsn < b.first()));
    }

    #[test]
    fn nothing_is_left_that_no_point_shows(versions in versions(), kept in vec(1..30u64, 0..6)) {
        let kept: BTreeSet<u64> = kept.into_iter().collect();
        let points: Vec<KeptPoint> = kept.iter().map(|&n| point(n, n)).collect();
        let left = needed(&versions, &points);
        prop_assert_eq!(&needed(&left, &points), &left);
        for version in &left {
            prop_assert!(version.is_sound());
            for block in version.range() {
                let newer = left.iter().filter(|v| v.range().contains(&block) && v.position > version.position);
                let next = newer.map(|v| v.position).min();
                let shown = next.is_none_or(|next| {
                    kept.iter().any(|&k| version.position.visible_at(lsn(k)) && !next.visible_at(lsn(k)))
                });
                prop_assert!(shown, "{:?}", version);
            }
        }
    }
}
