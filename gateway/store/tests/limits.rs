//! A volume's history stays within the limit of its policy, at the cost of nobody else's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::append;
use common::lab::{Lab, cut, policy};
use gateway_journal::{Hold, KeptPoint, MetaRecord, RetentionPolicy, ShortOf, WhenFull};
use gateway_store::{LimitState, MemoryIndex, StoreError};
use proptest::prelude::*;
use tap_block::Lsn;
use tap_disk::SegmentDir as _;
use testbed_model::Random;

/// Everything is kept, for as long as these tests take.
fn all() -> RetentionPolicy {
    policy(1_000_000, &[(200, 2_000_000)], 2_000_000)
}

fn limit(lab: &Lab, limit: u64, when_full: WhenFull) {
    limit_of(lab, RetentionPolicy { limit: Some(limit), when_full, ..all() });
}

fn limit_of(lab: &Lab, policy: RetentionPolicy) {
    lab.rule(MetaRecord::PolicySet { volume: Some(lab.volume()), policy: Some(policy) });
}

/// There is next to nothing to thin out: a full volume loses its oldest points.
fn fine(limit: u64, when_full: WhenFull) -> RetentionPolicy {
    let policy = policy(1_000_000, &[(1, 2_000_000)], 0);
    RetentionPolicy { limit: Some(limit), when_full, ..policy }
}

fn used(lab: &Lab) -> u64 {
    lab.store().usage()[&lab.volume()].total()
}

fn state(lab: &Lab) -> LimitState {
    lab.store().limits()[&lab.volume()].state
}

/// Every point of the others is there.
fn others_are_whole(lab: &Lab) {
    for (workload, oracle) in &lab.others {
        let volume = workload.volume();
        let known = lab.store().catalogue();
        let known = known.volume(volume).unwrap();
        for lsn in oracle.lsns().into_iter().filter(|l| known.selectable(*l).is_ok()) {
            lab.store().check_kept(volume, lsn).unwrap();
        }
    }
}

/// Whatever of the volume is not there went for its limit's sake, and nothing of the others did.
fn told_as_of_the_limit(lab: &Lab) {
    let (catalogue, told) = (lab.store().catalogue(), lab.store().shortages(lab.volume()));
    let known = catalogue.volume(lab.volume()).unwrap();
    let lsns = lab.oracle.lsns().into_iter();
    let mut gone =
        lsns.filter(|l| known.selectable(*l).is_ok() && lab.store().check_kept(lab.volume(), *l).is_err());
    assert!(gone.all(|l| told.iter().any(|s| s.covers(l) && s.of == ShortOf::Limit)), "{told:?}");
    assert!(lab.others.iter().all(|(other, _)| lab.store().shortages(other.volume()).is_empty()));
}

#[test]
fn a_full_volume_is_thinned_and_then_loses_its_oldest_points_and_nobody_else_does() {
    let mut lab = Lab::new(21, all());
    lab.write(60, 1);
    let catalogue = lab.store().catalogue();
    let known = catalogue.volume(lab.volume()).unwrap();
    let pin = lab.oracle.lsns().into_iter().find(|l| known.selectable(*l).is_ok()).unwrap();
    lab.rule(MetaRecord::Pinned { volume: lab.volume(), point: pin, note: String::new() });
    lab.more(150, 1);
    assert_eq!(lab.settle(), 0, "there is no limit yet");
    let before = used(&lab);
    limit(&lab, before / 2, WhenFull::Thin);
    assert!(lab.settle() > 0);
    assert!(used(&lab) <= before / 2, "{} of {}", used(&lab), before / 2);
    let thinned = lab.check(3);
    assert!(thinned.contains(&pin) && thinned.len() < lab.oracle.lsns().len() / 2);
    others_are_whole(&lab);
    told_as_of_the_limit(&lab);
    for _ in 0..30 {
        lab.more(20, 1);
        lab.settle();
        assert!(used(&lab) <= before / 2, "{} of {}", used(&lab), before / 2);
    }
    let kept = lab.check(3);
    assert!(kept.contains(&pin));
    told_as_of_the_limit(&lab);
    let catalogue = lab.store().catalogue();
    let known = catalogue.volume(lab.volume()).unwrap();
    let named = |l: Lsn| l == pin || known.bookmarks().any(|(_, mark)| mark.at.lsn == l);
    let oldest = |points: &[Lsn]| points.iter().copied().find(|l| !named(*l)).unwrap();
    assert!(oldest(&thinned) < oldest(&kept), "the oldest went: {thinned:?} {kept:?}");
    others_are_whole(&lab);
    lab.open();
    assert_eq!((lab.check(9), used(&lab) <= before / 2), (kept, true));
}

#[test]
fn what_may_not_go_is_said_to_be_too_much() {
    let mut lab = Lab::new(22, all());
    lab.write(100, 1);
    limit(&lab, 10_000, WhenFull::Thin);
    lab.more(20, 1);
    lab.settle();
    assert_eq!(state(&lab), LimitState::Stuck);
    assert_eq!(lab.settle(), 0, "it is not rewritten again and again");
    lab.check(1);
    limit(&lab, 1 << 30, WhenFull::Thin);
    lab.settle();
    assert_eq!(state(&lab), LimitState::Fits);
}

#[test]
fn a_policy_that_says_so_takes_no_more_until_there_is_room() {
    let mut lab = Lab::new(23, all());
    lab.write(60, 1);
    limit(&lab, used(&lab), WhenFull::Stop);
    lab.settle();
    assert_eq!(state(&lab), LimitState::Stopped);
    let (mut refused, points) = (lab.workload.batch(5), lab.check(9));
    assert!(matches!(append(lab.store(), &refused), Err(StoreError::OverLimit { .. })));
    lab.open();
    assert!(matches!(append(lab.store(), &refused), Err(StoreError::OverLimit { .. })), "over a restart too");
    let (other, oracle) = &mut lab.others[0];
    let batch = other.batch(3);
    append(lab.store.as_ref().unwrap(), &batch).unwrap();
    oracle.apply(&batch).unwrap();
    assert_eq!(lab.check(9), points, "and nothing goes for it");
    limit(&lab, 2 * used(&lab), WhenFull::Stop);
    lab.settle();
    lab.append(&refused);
    refused = lab.workload.batch(5);
    lab.append(&refused);
    lab.check(9);
}

#[test]
fn a_limit_that_was_raised_takes_no_more_of_what_it_was_raised_for() {
    let mut lab = Lab::new(24, policy(1_000_000, &[(1, 2_000_000)], 0));
    lab.write(150, 1);
    lab.more(60, 1);
    // Some of it is settled.
    limit_of(&lab, fine(used(&lab), WhenFull::Thin));
    lab.settle();
    let (oldest, before) = (lab.store().kept(lab.volume()).unwrap().points[0], used(&lab));
    limit_of(&lab, fine(before, WhenFull::Stop));
    lab.settle();
    assert_eq!(state(&lab), LimitState::Stopped);
    limit_of(&lab, fine(before + before / 20, WhenFull::Stop));
    lab.settle();
    assert_eq!(state(&lab), LimitState::Fits);
    limit_of(&lab, fine(before, WhenFull::Stop));
    lab.settle();
    limit_of(&lab, fine(before + before / 10, WhenFull::Thin));
    lab.settle();
    assert_eq!(
        lab.store().kept(lab.volume()).unwrap().points[0],
        oldest,
        "it is not that full: nothing old goes"
    );
}

#[test]
fn no_point_goes_for_room_that_damage_keeps_from_coming_free() {
    let mut lab = Lab::new(25, policy(1_000_000, &[(1, 2_000_000)], 0));
    lab.write(150, 1);
    limit_of(&lab, fine(used(&lab), WhenFull::Thin));
    lab.settle();
    limit_of(&lab, fine(1 << 30, WhenFull::Thin));
    lab.more(20, 1);
    lab.store = None;
    // A frame rots, and the index that knew what it held is gone: what is settled is not rewritten any more.
    for no in lab.disk.dir.list().unwrap() {
        let file = lab.disk.dir.open(no).unwrap();
        let mut magic = [0; 7];
        file.read_at(0, &mut magic).unwrap();
        if &magic == b"CGSETTL" {
            file.write_at(4096 + 60, &[std::io::IoSlice::new(&[0xff; 8])]).unwrap();
        }
    }
    lab.disk.index = MemoryIndex::new();
    lab.open();
    let since = lab.store().age();
    let old = |lab: &Lab| {
        let kept = lab.store().kept(lab.volume()).unwrap();
        kept.points.iter().filter(|p| p.received_at < since).count()
    };
    let most = used(&lab) / 2;
    limit_of(&lab, fine(most, WhenFull::Thin));
    lab.settle();
    let thinned = old(&lab);
    assert!(thinned > 30, "{thinned}");
    for _ in 0..20 {
        lab.more(20, 1);
        lab.settle();
    }
    assert!(used(&lab) > most, "nothing comes free");
    // The newest of them was kept as such.
    assert!(old(&lab) + 2 > thinned, "{} of {thinned}", old(&lab));
}

/// Points of the main volume that nothing may take.
#[derive(Default)]
struct Protected {
    points: BTreeSet<Lsn>,
    held: bool,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(16), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_limit_costs_its_volume_alone_and_nothing_that_is_protected(seed: u64) {
        let mut random = Random::new(seed);
        let mut lab = Lab::new(seed, all());
        lab.write(100, 2);
        let most = used(&lab) / 2 + random.below(used(&lab) * 2);
        limit(&lab, most, WhenFull::Thin);
        let mut protected = Protected::default();
        for _ in 0..8 {
            lab.more(1 + random.below(25) as usize, 1 + random.below(20));
            match random.below(6) {
                0 => lab.open(),
                1 => protect_a_point(&lab, &mut random, &mut protected),
                3 => drop(lab.check_of(&cut(&lab.disk, &mut random).open(), 5)),
                2 if !protected.held => hold(&mut lab, &mut random, &mut protected),
                _ => drop(lab.settle()),
            }
            lab.check(7);
        }
        lab.settle();
        lab.settle();
        let kept = lab.check(3);
        prop_assert!(protected.points.iter().all(|p| kept.contains(p)));
        others_are_whole(&lab);
        fits_or_nothing_may_go(&lab, &protected, most);
    }
}

fn protect_a_point(lab: &Lab, random: &mut Random, protected: &mut Protected) {
    let catalogue = lab.store().catalogue();
    let known = catalogue.volume(lab.volume()).unwrap();
    let sound = |l: &Lsn| known.selectable(*l).is_ok() && lab.store().check_kept(lab.volume(), *l).is_ok();
    let points: Vec<Lsn> = lab.oracle.lsns().into_iter().filter(sound).collect();
    let point = points[random.below(points.len() as u64) as usize];
    lab.rule(MetaRecord::Pinned { volume: lab.volume(), point, note: String::new() });
    protected.points.insert(point);
}

/// Every write of half a minute is held, and some are made.
fn hold(lab: &mut Lab, random: &mut Random, protected: &mut Protected) {
    let now = lab.store().age();
    let (from, to) = (now.minus(Duration::from_secs(random.below(60))), now.plus(Duration::from_secs(30)));
    let until = now.plus(Duration::from_secs(1_000_000));
    lab.rule(MetaRecord::Held(Hold {
        volume: lab.volume(),
        from,
        to,
        until,
        credited: Duration::ZERO,
        note: String::new(),
    }));
    let before = lab.oracle.last_lsn();
    lab.more(6, 1);
    let catalogue = lab.store().catalogue();
    let known = catalogue.volume(lab.volume()).unwrap();
    let written = lab.oracle.lsns().into_iter().filter(|l| *l > before && known.selectable(*l).is_ok());
    protected.points.extend(written);
    protected.held = true;
}

fn fits_or_nothing_may_go(lab: &Lab, protected: &Protected, most: u64) {
    if used(lab) <= most {
        return;
    }
    assert_eq!(state(lab), LimitState::Stuck, "{} of {most}", used(lab));
    let kept = lab.store().kept(lab.volume()).unwrap();
    let catalogue = lab.store().catalogue();
    let known = catalogue.volume(lab.volume()).unwrap();
    let newest = known.sound_at_or_before(kept.settled);
    let bookmarks: BTreeSet<Lsn> = known.bookmarks().map(|(_, mark)| mark.at.lsn).collect();
    let held: BTreeSet<Lsn> = held(lab, &kept.points).into_iter().collect();
    let ordinary = kept.points.iter().filter(|p| !bookmarks.contains(&p.lsn)).filter(|p| {
        p.lsn != kept.settled
            && Some(p.lsn) != newest
            && !protected.points.contains(&p.lsn)
            && !held.contains(&p.lsn)
    });
    assert_eq!(ordinary.count(), 0, "{} of {most}", used(lab));
}

/// Points captured or received within a hold, and those just before one.
fn held(lab: &Lab, points: &[KeptPoint]) -> Vec<Lsn> {
    let catalogue = lab.store().catalogue();
    let holds: Vec<&Hold> = catalogue.rules().holds_of(lab.volume(), lab.store().age()).collect();
    let within = |p: &KeptPoint| {
        holds.iter().any(|h| [p.captured_at, p.received_at].iter().any(|at| h.from <= *at && *at <= h.to))
    };
    let before = |p: &KeptPoint, next: Option<&KeptPoint>| {
        let ends = |h: &&Hold| p.captured_at < h.from && next.is_none_or(|next| next.captured_at >= h.from);
        next.is_some_and(within) || holds.iter().any(ends)
    };
    let of = |(n, p): (usize, &KeptPoint)| (within(p) || before(p, points.get(n + 1))).then_some(p.lsn);
    points.iter().enumerate().filter_map(of).collect()
}
