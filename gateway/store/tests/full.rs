//! A full store of a few segments on a disk that others fill as well: whatever may go makes room, in whatever room is left.
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
use gateway_journal::{Hold, MetaRecord, RetentionPolicy, ShortOf, Went, WhenFull};
use gateway_store::{MemoryIndex, StoreError};
use proptest::prelude::*;
use tap_block::{Batch, Lsn};
use testbed_model::Random;

const SEGMENT: u64 = 512 << 10;

/// Everything is kept for as long as these tests take, until room is needed.
fn all() -> RetentionPolicy {
    policy(1_000_000, &[(200, 2_000_000)], 0)
}

/// A store on a disk of so many segments, that makes no files ahead but those it holds back.
fn small(seed: u64, policy: RetentionPolicy, segments: u64) -> Lab {
    let mut lab = Lab::new(seed, policy);
    (lab.disk.config.settle_reserve, lab.disk.config.keep_free) = (8, 0);
    lab.disk.config.group_versions = 1 << 20;
    lab.disk.config = lab.disk.config.clone().within(segments * SEGMENT);
    lab.disk.leave(segments * SEGMENT);
    lab.open();
    lab
}

/// Others take all of the disk that no segment file lies on.
fn others_take_all(lab: &mut Lab) {
    let taken = lab.disk.taken();
    lab.disk.leave(taken);
}

fn used(lab: &Lab) -> u64 {
    lab.store().status().segments + lab.store().status().settled_segments
}

/// Taken as soon as settling has made room; `Err`: what is not taken, for no more room comes.
fn write_one(lab: &mut Lab, batch: Batch) -> Result<(), Box<Batch>> {
    let mut idle = 0;
    while let Err(e) = append(lab.store(), &batch) {
        assert!(matches!(e, StoreError::NoSpace(_)), "{e}");
        lab.wait_for_index();
        // A pass that finds too little room lets more go the next time.
        idle = if lab.store().settle().unwrap().is_some() { 0 } else { idle + 1 };
        if idle > 60 {
            return Err(Box::new(batch));
        }
    }
    lab.oracle.apply(&batch).unwrap();
    lab.clock.advance(Duration::from_secs(1));
    Ok(())
}

fn write(lab: &mut Lab, batches: usize) -> Result<(), Box<Batch>> {
    (0..batches).try_for_each(|_| {
        let batch = lab.workload.batch(8);
        write_one(lab, batch)
    })
}

#[test]
fn what_is_left_to_settling_is_not_for_others() {
    let mut lab = small(41, all(), 9);
    lab.write(50, 1);
    write(&mut lab, 300).unwrap();
    others_take_all(&mut lab);
    let mut written = 0;
    for _ in 0..4 {
        write(&mut lab, 150).unwrap();
        lab.check(5);
        written += lab.store().status().bytes_written;
        lab.open();
    }
    assert!(written > 2 * lab.disk.taken(), "it was filled time and again: {written}");
    // The gateway's own records begin a segment of their own each time it was killed: those go as well.
    for n in 0..20 {
        lab.disk = cut(&lab.disk, &mut Random::new(n));
        lab.open();
        lab.rule(MetaRecord::PolicySet { volume: None, policy: Some(all()) });
        lab.settle();
    }
    write(&mut lab, 50).unwrap();
    lab.check(3);
}

/// However it came to that: an earlier program left no more, or somebody set another limit.
#[test]
fn in_the_last_free_segment_room_is_made() {
    for left in 1..4 {
        let mut lab = small(42, all(), 9);
        lab.write(50, 1);
        for _ in 0..3 {
            write(&mut lab, 200).unwrap();
            lab.disk.config.max_segments = used(&lab) as usize + left;
            lab.open();
            let written = write(&mut lab, 100);
            assert!(written.is_ok(), "{left} left: {:?}", lab.store().status());
            lab.disk.config.max_segments = usize::MAX;
            lab.open();
        }
        lab.check(3);
    }
}

#[test]
fn what_is_held_fills_the_store_and_is_let_go_afterwards() {
    let mut lab = small(43, all(), 9);
    lab.write(50, 1);
    let now = lab.store().age();
    let (from, until) = (now.minus(Duration::from_secs(100_000)), now.plus(Duration::from_secs(1_000_000)));
    lab.rule(MetaRecord::Held(Hold {
        volume: lab.volume(),
        from,
        to: until,
        until,
        credited: Duration::ZERO,
        note: String::new(),
    }));
    let before = lab.oracle.last_lsn();
    let mut refused = write(&mut lab, 10_000).unwrap_err();
    for _ in 0..4 {
        others_take_all(&mut lab);
        lab.open();
        refused = write_one(&mut lab, *refused).unwrap_err();
    }
    lab.settle();
    let said = append(lab.store(), &refused).unwrap_err().to_string();
    assert!(said.contains("hold"), "{said}");
    let kept: BTreeSet<Lsn> = lab.check(9).into_iter().collect();
    assert!(lab.oracle.lsns().iter().filter(|lsn| **lsn > before).all(|lsn| kept.contains(lsn)));
    lab.clock.advance(Duration::from_secs(1_000_001));
    write_one(&mut lab, *refused).unwrap_or_else(|_| panic!("{:?}", lab.store().status()));
    write(&mut lab, 300).unwrap();
    lab.check(3);
}

#[test]
fn a_store_that_stops_goes_on_once_its_policy_keeps_less() {
    let mut lab = small(44, RetentionPolicy { when_full: WhenFull::Stop, ..all() }, 9);
    lab.write(50, 1);
    let refused = write(&mut lab, 10_000).unwrap_err();
    others_take_all(&mut lab);
    let points = lab.check(9);
    let said = append(lab.store(), &refused).unwrap_err().to_string();
    assert!(said.contains("when_full"), "{said}");
    // The gateway's own records are taken, over a kill as well.
    lab.rule(MetaRecord::Pinned { volume: lab.volume(), point: points[0], note: String::new() });
    lab.disk = cut(&lab.disk, &mut Random::new(1));
    lab.open();
    assert!(write_one(&mut lab, *refused.clone()).is_err(), "it is not for history");
    assert_eq!(lab.check(9), points, "nothing went for it");
    let keeps = policy(10, &[(200, 100)], 0);
    lab.rule(MetaRecord::PolicySet {
        volume: None,
        policy: Some(RetentionPolicy { when_full: WhenFull::Stop, ..keeps }),
    });
    lab.clock.advance(Duration::from_secs(20));
    write_one(&mut lab, *refused).unwrap_or_else(|_| panic!("{:?}", lab.store().status()));
    assert!(lab.check(3).contains(&points[0]), "it is pinned");
}

#[test]
fn a_full_store_goes_on_as_soon_as_readers_let_go_of_its_points() {
    let mut lab = small(45, all(), 9);
    lab.write(50, 1);
    // Each needs what was on the disk then.
    let mut open = Vec::new();
    let batch = loop {
        let batch = lab.workload.batch(8);
        if let Err(refused) = write_one(&mut lab, batch) {
            break *refused;
        }
        open.push(lab.store().open_point(lab.volume(), lab.oracle.last_lsn()).unwrap());
    };
    others_take_all(&mut lab);
    assert!(write_one(&mut lab, batch.clone()).is_err());
    drop(open);
    // Whoever is refused asks again and again: no time has to pass.
    if write_one(&mut lab, batch).is_err() {
        panic!("nobody reads any more, and it stands still: {:?}", lab.store().status());
    }
    write(&mut lab, 20).unwrap();
    lab.check(5);
}

/// Points of whose going nothing is said, though nothing but want of room let them go.
fn untold(lab: &Lab) -> Vec<Lsn> {
    let (catalogue, told) = (lab.store().catalogue(), lab.store().shortages(lab.volume()));
    let known = catalogue.volume(lab.volume()).unwrap();
    let gone =
        |lsn: &Lsn| known.selectable(*lsn).is_ok() && lab.store().check_kept(lab.volume(), *lsn).is_err();
    let is_told = |lsn: &Lsn| told.iter().any(|s| s.covers(*lsn));
    lab.oracle.lsns().into_iter().filter(|lsn| gone(lsn) && !is_told(lsn)).collect()
}

#[test]
fn what_goes_for_want_of_room_is_told_for_what_it_is_over_restarts_as_well() {
    let named = RetentionPolicy { bookmarks: Duration::from_secs(2_000_000), ..all() };
    let mut lab = small(46, named, 9);
    lab.write(50, 1);
    let begun = lab.store().age();
    assert_eq!(lab.store().shortages(lab.volume()), [], "there is room");
    for n in 0..400 {
        let batch = lab.workload.bookmark(&format!("daily-{n}").parse().unwrap());
        write_one(&mut lab, batch).unwrap();
        write(&mut lab, 6).unwrap();
        let went = lab.store().shortages(lab.volume());
        if went.iter().any(|s| s.went == Went::Bookmarks) && n > 100 {
            break;
        }
    }
    let told = lab.store().shortages(lab.volume());
    let kinds: BTreeSet<Went> = told.iter().map(|s| s.went).collect();
    assert_eq!(kinds, [Went::Thinned, Went::Oldest, Went::Bookmarks].into(), "{told:?}");
    assert!(told.iter().all(|s| s.of == ShortOf::Journal && begun < s.since && s.until <= lab.store().age()));
    assert_eq!(untold(&lab), []);
    let catalogue = lab.store().catalogue();
    let known = catalogue.volume(lab.volume()).unwrap();
    let gone = (0..400).filter_map(|n| known.gone_bookmark(&format!("daily-{n}").parse().unwrap()));
    let gone: Vec<Lsn> = gone.map(|at| at.lsn).collect();
    let of_bookmarks: Vec<_> = told.iter().filter(|s| s.went == Went::Bookmarks).collect();
    assert!(!gone.is_empty() && gone.iter().all(|lsn| of_bookmarks.iter().any(|s| s.covers(*lsn))));
    lab.open();
    assert_eq!(lab.store().shortages(lab.volume()), told);
    lab.disk = cut(&lab.disk, &mut Random::new(1));
    lab.disk.index = MemoryIndex::default();
    lab.open();
    assert_eq!(lab.store().shortages(lab.volume()), told, "the journal alone says it");
    assert_eq!(untold(&lab), []);
}

#[test]
fn what_a_policy_lets_go_is_no_shortage() {
    let mut lab = Lab::new(47, policy(10, &[(200, 100)], 0));
    lab.write(150, 5);
    assert!(lab.settle() > 0);
    assert!(lab.check(9).len() < lab.oracle.lsns().len() / 2, "much of it went");
    assert_eq!(lab.store().shortages(lab.volume()), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(8), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn others_that_come_and_go_keep_no_room_from_being_made(seed: u64) {
        let mut random = Random::new(seed);
        let segments = 8 + random.below(6);
        let mut lab = small(seed, all(), segments);
        lab.write(30, 1);
        let mut pins = Vec::new();
        for _ in 0..12 {
            match random.below(5) {
                // Of less nothing could be made: the newest state takes three, and log and settling one each at least.
                0 if lab.disk.taken() >= 7 * SEGMENT => others_take_all(&mut lab),
                1 if lab.disk.taken() >= 7 * SEGMENT => {
                    let bytes = lab.disk.taken() + random.below(segments) * SEGMENT;
                    lab.disk.leave(bytes.min(segments * SEGMENT).max(lab.disk.taken()));
                }
                2 => lab.open(),
                3 => drop(lab.check_of(&cut(&lab.disk, &mut random).open(), 9)),
                _ if pins.len() < 2 => {
                    let kept = lab.check(50);
                    let point = kept[random.below(kept.len() as u64) as usize];
                    let catalogue = lab.store().catalogue();
                    if catalogue.volume(lab.volume()).unwrap().selectable(point).is_ok() {
                        lab.rule(MetaRecord::Pinned { volume: lab.volume(), point, note: String::new() });
                        pins.push(point);
                    }
                }
                _ => {}
            }
            let batches = 20 + random.below(80) as usize;
            if write(&mut lab, batches).is_err() {
                panic!("no room is made: {:?}", lab.store().status());
            }
        }
        let kept = lab.check(3);
        prop_assert!(pins.iter().all(|pin| kept.contains(pin)));
    }
}
