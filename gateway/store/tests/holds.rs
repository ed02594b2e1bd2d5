//! What is held stays whole, point for point, and is all that takes room: everything else is settled beside it.
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

use common::lab::{Lab, cut, policy, tiers};
use common::{append, image, try_image};
use gateway_image::Group;
use gateway_image::group::TimeRange;
use gateway_journal::{Hold, MetaRecord, RetentionPolicy, WhenFull};
use gateway_store::{HeldWhat, LimitState, MarkStore as _, MemoryIndex, Store, StoreError};
use proptest::prelude::*;
use tap_block::{BarrierMark, Batch, Lsn, MarkId, Marker, VolumeId, WallTime};
use testbed_model::{Oracle, Random};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The volumes of a lab: the main one, then the others.
fn oracles(lab: &Lab) -> Vec<(VolumeId, &Oracle)> {
    let others = lab.others.iter().map(|(workload, oracle)| (workload.volume(), oracle));
    std::iter::once((lab.volume(), &lab.oracle)).chain(others).collect()
}

fn hold(lab: &Lab, volume: VolumeId, from: WallTime, to: WallTime, until: WallTime) {
    let hold = Hold { volume, from, to, until, credited: Duration::ZERO, note: "audit".into() };
    lab.rule(MetaRecord::Held(hold));
}

/// The points of a volume that are there.
fn there(store: &Store, (volume, oracle): (VolumeId, &Oracle)) -> Vec<Lsn> {
    let catalogue = store.catalogue();
    let known = catalogue.volume(volume).unwrap();
    let kept = |l: &Lsn| known.selectable(*l).is_ok() && store.check_kept(volume, *l).is_ok();
    oracle.lsns().into_iter().filter(kept).collect()
}

/// Points of a volume that a hold keeps.
#[derive(Debug, Clone)]
struct Watched {
    volume: VolumeId,
    points: BTreeSet<Lsn>,
    /// What is written until then is held too.
    to: WallTime,
    until: WallTime,
}

impl Watched {
    /// From now on, and all that is there.
    fn begin(lab: &Lab, n: usize, to: u64, until: u64) -> Self {
        let (now, (volume, oracle)) = (lab.store().age(), oracles(lab)[n]);
        let (to, until) = (now.plus(seconds(to)), now.plus(seconds(until)));
        hold(lab, volume, WallTime::EPOCH, to, until);
        let points = there(lab.store(), (volume, oracle)).into_iter().collect();
        Self { volume, points, to, until }
    }

    /// Something was written since there were `before` records.
    fn follow(&mut self, lab: &Lab, before: &[usize]) {
        let oracles = oracles(lab);
        let n = oracles.iter().position(|(volume, _)| *volume == self.volume).unwrap();
        if lab.store().age() <= self.to {
            let catalogue = lab.store().catalogue();
            let known = catalogue.volume(self.volume).unwrap();
            let fresh = oracles[n].1.lsns().into_iter().skip(before[n]);
            self.points.extend(fresh.filter(|l| known.selectable(*l).is_ok()));
        }
    }

    /// Every point of it is there and exact, as long as the hold lasts.
    fn check(&self, lab: &Lab, store: &Store, step: usize) {
        if store.age() >= self.until {
            return;
        }
        let oracles = oracles(lab);
        let (_, oracle) = oracles.iter().find(|(volume, _)| *volume == self.volume).unwrap();
        for lsn in &self.points {
            store.check_kept(self.volume, *lsn).unwrap();
        }
        for lsn in self.points.iter().step_by(step) {
            assert!(image(store, self.volume, *lsn) == oracle.image_at(self.volume, *lsn), "{lsn} differs");
        }
    }
}

fn records(lab: &Lab) -> Vec<usize> {
    oracles(lab).iter().map(|(_, oracle)| oracle.lsns().len()).collect()
}

/// A store of so many segments, full before long.
fn small(seed: u64, policy: RetentionPolicy, segments: u64) -> Lab {
    let mut lab = Lab::new(seed, policy);
    lab.disk.config.settle_reserve = 8;
    lab.disk.config.group_versions = 1 << 20;
    lab.disk.config = lab.disk.config.clone().limited(segments * (512 << 10));
    lab.open();
    lab
}

/// The main volume writes on. `Err`: what is taken no more, for there is no room, and none comes.
fn write_on(lab: &mut Lab, batches: usize) -> Result<(), Box<Batch>> {
    for _ in 0..batches {
        let batch = lab.workload.batch(8);
        while let Err(e) = append(lab.store(), &batch) {
            assert!(matches!(e, StoreError::NoSpace(_)), "{e}");
            lab.wait_for_index();
            if lab.store().settle().unwrap().is_none() && append(lab.store(), &batch).is_err() {
                return Err(Box::new(batch));
            }
        }
        lab.oracle.apply(&batch).unwrap();
        lab.clock.advance(seconds(1));
    }
    Ok(())
}

#[test]
fn a_hold_on_one_volume_takes_no_room_of_what_others_write() {
    let mut lab = small(31, policy(10, &[(200, 2000)], 0), 24);
    lab.write(50, 1);
    let mut held = Watched::begin(&lab, 1, 1_000_000, 1_000_000);
    // A little of the held volume all the time, so that each segment of the log has something of it.
    let (mut written, before) = (0, lab.store().status().bytes_written);
    for _ in 0..60 {
        let records = records(&lab);
        let batch = lab.others[0].0.batch(2);
        if append(lab.store(), &batch).is_err() {
            lab.settle();
            append(lab.store(), &batch).unwrap();
        }
        lab.others[0].1.apply(&batch).unwrap();
        assert!(write_on(&mut lab, 25).is_ok(), "what others write makes room");
        held.follow(&lab, &records);
        written = lab.store().status().bytes_written - before;
    }
    lab.wait_for_index();
    lab.settle();
    assert!(written > 2 * 24 * (512 << 10), "the store was filled more than once: {written}");
    assert!(lab.store().held_up().is_empty(), "{:?}", lab.store().held_up());
    assert!(held.points.len() > 100, "{}", held.points.len());
    held.check(&lab, lab.store(), 1);
    lab.check(40);
    lab.open();
    held.check(&lab, lab.store(), 3);
    lab.store = None;
    lab.disk.index = MemoryIndex::new();
    lab.open();
    assert_eq!(lab.store().status().damage, []);
    held.check(&lab, lab.store(), 3);
    let mut random = Random::new(31);
    held.check(&lab, &cut(&lab.disk, &mut random).open(), 5);
    let listed = lab.store().kept(held.volume).unwrap().points.len();
    lab.clock.advance(seconds(2_000_000));
    lab.settle();
    let left = lab.store().kept(held.volume).unwrap().points.len();
    assert!(listed > 100 && left < 10, "it is over: {left} of {listed}");
}

/// Every time that is listed leads to its point, and any other to one that is there, before it and not too far.
fn check_times(lab: &Lab, apart: Duration) {
    let (store, stream) = (lab.store(), lab.workload.stream());
    let kept = store.kept(lab.volume()).unwrap();
    for point in &kept.points {
        assert_eq!(store.time_of(stream, point.lsn).unwrap(), Some(point.captured_at));
        let found = store.lsn_at(stream, point.captured_at).unwrap().unwrap();
        assert!(found.lsn >= point.lsn && found.at == point.captured_at, "{found:?} for {point:?}");
    }
    for (before, point) in kept.points.iter().zip(kept.points.iter().skip(1)).filter(|(_, p)| p.is_coarse()) {
        let time = point.captured_at.minus(Duration::from_nanos(1));
        let found = store.lsn_at(stream, time).unwrap().unwrap();
        assert!(
            before.lsn <= found.lsn && found.lsn < point.lsn && time.since(found.at) <= apart,
            "{found:?}"
        );
        let between = store.time_of(stream, point.first()).unwrap().unwrap();
        assert!(before.captured_at <= between && between <= point.captured_at, "{between}");
    }
}

#[test]
fn of_more_than_may_be_listed_every_point_stays_and_it_is_said() {
    let mut lab = Lab::new(32, policy(10, &[], 0));
    lab.disk.config.held_points = 160;
    lab.open();
    lab.write(60, 1);
    lab.settle();
    let mut held = Watched::begin(&lab, 0, 1_000_000, 5000);
    for _ in 0..20 {
        let records = records(&lab);
        lab.more(4, 5);
        held.follow(&lab, &records);
        lab.settle();
    }
    let (kept, log) = (lab.store().kept(lab.volume()).unwrap(), lab.store().status().groups);
    let listed = kept.points.len();
    assert!((60..=161).contains(&listed) && kept.count() > 300, "{listed} of {}", kept.count());
    assert!(log <= 3, "nothing waits: {log}");
    for _ in 0..3 {
        let said = lab.store().held_up();
        assert_eq!(said.len(), 1, "{said:?}");
        let HeldWhat::Times { most: 160, apart } = said[0].what else { panic!("{said:?}") };
        assert!(said[0].hold.volume == lab.volume() && apart > Duration::ZERO, "{said:?}");
        check_times(&lab, apart);
        held.check(&lab, lab.store(), 3);
        lab.disk.index = MemoryIndex::new();
        lab.open();
        lab.settle();
    }
    held.check(&lab, &cut(&lab.disk, &mut Random::new(32)).open(), 5);
    lab.clock.advance(seconds(6000));
    assert!(lab.store().held_up().is_empty(), "it is over");
    lab.settle();
    assert!(lab.store().status().groups <= 1 && lab.store().kept(lab.volume()).unwrap().count() < 10);
    lab.check(5);
}

/// Copies are no points, nor are LSNs that a run jumps over.
#[test]
fn what_a_hold_lists_is_counted_by_its_records() {
    let mut lab = Lab::new(33, policy(10, &[], 0));
    lab.disk.config.held_points = 2000;
    lab.open();
    lab.write(100, 1);
    let held = Watched::begin(&lab, 0, 1_000_000, 1_000_000);
    for _ in 0..5 {
        let batch = lab.workload.restart(10_000, Some(tap_block::SyncCause::UncleanStop));
        lab.append(&batch);
        for _ in 0..20 {
            let batch = lab.workload.copies();
            lab.append(&batch);
        }
        let batch = lab.workload.end_sync();
        lab.append(&batch);
        lab.more(10, 5);
    }
    lab.clock.advance(seconds(100));
    lab.settle();
    assert!(lab.store().held_up().is_empty(), "{:?}", lab.store().held_up());
    assert!(lab.store().status().groups < 5, "{:?}", lab.store().status());
    held.check(&lab, lab.store(), 7);
}

/// What the disk held when it was first copied is no trend.
#[test]
fn copies_are_not_what_is_written() {
    let mut lab = Lab::new(37, tiers());
    lab.write(100, 1);
    let written = |lab: &Lab| lab.store().written(lab.workload.stream());
    let batch = lab.workload.restart(5, Some(tap_block::SyncCause::UncleanStop));
    lab.append(&batch);
    let before = written(&lab);
    for _ in 0..20 {
        let batch = lab.workload.copies();
        if !batch.entries.is_empty() {
            assert!(batch.entries.iter().all(|e| e.position.is_copy()));
            lab.append(&batch);
        }
    }
    assert_eq!(written(&lab), before);
    let batch = lab.workload.end_sync();
    lab.append(&batch);
    let before = written(&lab);
    let batch = lab.workload.batch(30);
    lab.append(&batch);
    assert!(written(&lab) - before >= batch.body.len() as u64);
}

/// What was settled of a stretch that is over takes none of what others may list.
#[test]
fn a_hold_whose_stretch_is_over_is_no_reason_to_wait() {
    let mut lab = Lab::new(71, policy(10, &[], 0));
    lab.write(60, 1);
    lab.settle();
    let (now, volume) = (lab.store().age(), lab.volume());
    hold(&lab, volume, WallTime::EPOCH, now.plus(seconds(100)), now.plus(seconds(1_000_000)));
    lab.more(10, 5);
    lab.clock.advance(seconds(2000));
    // From here on the source's clock is beyond the stretch too.
    let (id, group, members) = (MarkId::new(lab.store().age().nanos()), "g".parse().unwrap(), vec![volume]);
    let batch = lab.workload.barrier(BarrierMark { id, group, members, bookmark: None });
    lab.append(&batch);
    for _ in 0..4 {
        lab.more(12, 5);
        lab.clock.advance(seconds(100));
        lab.settle();
    }
    let listed = lab.store().kept(volume).unwrap().points.len() as u64;
    for most in [listed, listed + 1, listed + 9, listed / 2] {
        lab.disk.config.held_points = most;
        lab.open();
        lab.more(12, 5);
        lab.clock.advance(seconds(100));
        assert!(lab.settle() > 0, "{most}: it settles on");
        let (said, kept) = (lab.store().held_up(), lab.store().kept(volume).unwrap());
        if most >= listed {
            assert_eq!((said, kept.points.len() as u64), (vec![], listed));
        } else {
            assert!(
                said.len() == 1 && kept.points.len() as u64 <= most + 1 && kept.count() == listed,
                "{said:?}"
            );
        }
    }
    lab.check(5);
}

/// A group with a barrier often, one member of which writes nothing and is held.
fn marks_of_an_idle_member(lab: &mut Lab, rounds: usize, marks: usize) -> usize {
    let (idle, mut members) = (lab.others[0].0.volume(), vec![lab.volume(), lab.others[0].0.volume()]);
    members.sort();
    for _ in 0..rounds {
        for _ in 0..marks {
            let now = lab.workload.now().max(lab.others[0].0.now());
            let mark = BarrierMark {
                id: MarkId::new(now.nanos() + 1),
                group: "db".parse().unwrap(),
                members: members.clone(),
                bookmark: None,
            };
            let batch = lab.workload.barrier(mark.clone());
            lab.append(&batch);
            let (workload, oracle) = &mut lab.others[0];
            let batch = workload.barrier(mark);
            append(lab.store.as_ref().unwrap(), &batch).unwrap();
            oracle.apply(&batch).unwrap();
            lab.clock.advance(seconds(1));
        }
        let batch = lab.workload.batch(10);
        lab.append(&batch);
    }
    lab.wait_for_index();
    lab.clock.advance(seconds(100));
    lab.settle();
    lab.store().kept(idle).unwrap().points.len()
}

#[test]
fn marks_of_an_idle_member_are_one_point_however_many_they_are() {
    let mut lab = Lab::new(73, policy(10, &[], 0));
    lab.disk.config.group_versions = 40;
    lab.open();
    lab.write(60, 1);
    lab.settle();
    let mut held = Watched::begin(&lab, 1, 1_000_000, 1_000_000);
    let before = records(&lab);
    let first = marks_of_an_idle_member(&mut lab, 5, 10);
    for _ in 0..4 {
        assert_eq!(marks_of_an_idle_member(&mut lab, 10, 10), first, "pass after pass");
        lab.open();
    }
    held.follow(&lab, &before);
    assert!(held.points.len() > 450 && lab.store().held_up().is_empty(), "{:?}", lab.store().held_up());
    held.check(&lab, lab.store(), 7);
    let (volume, stream) = (held.volume, lab.others[0].0.stream());
    let catalogue = lab.store().catalogue();
    let marks = catalogue.volume(volume).unwrap().marks();
    for mark in marks.iter().filter(|mark| held.points.contains(&mark.at.lsn)) {
        assert_eq!(lab.store().lsn_at(stream, mark.at.at).unwrap(), Some(mark.at), "by its time");
        assert_eq!(lab.store().time_of(stream, mark.at.lsn).unwrap(), Some(mark.at.at));
    }
    let write = lab.others[0].0.batch(3);
    append(lab.store(), &write).unwrap();
    lab.others[0].1.apply(&write).unwrap();
    let listed = marks_of_an_idle_member(&mut lab, 10, 10);
    assert!(listed <= first + 10, "a write, and marks behind it: {listed} after {first}");
    held.check(&lab, lab.store(), 7);
    lab.clock.advance(seconds(2_000_000));
    // What costs nothing goes with the next that is settled.
    lab.more(8, 5);
    lab.clock.advance(seconds(100));
    lab.settle();
    let left = lab.store().kept(volume).unwrap();
    assert!(left.count() < 10, "it is over: {:?}", left.points);
    lab.check(9);
}

/// A policy may keep some points of what was held: those are marks that the group shares.
#[test]
fn what_was_held_is_thinned_to_marks_that_all_members_have() {
    const EACH: u64 = 20_000_000;
    let mut lab = Lab::new(76, policy(10, &[(20, 1_000_000)], 0));
    lab.disk.config.group_versions = 40;
    lab.open();
    lab.write(60, 1);
    let idle = lab.others[0].0.volume();
    let held = Watched::begin(&lab, 1, 1_000_000, 3000);
    marks_of_an_idle_member(&mut lab, 60, 10);
    let listed = lab.store().kept(idle).unwrap();
    assert!(listed.count() > 600 && listed.points.len() < 60, "{:?}", listed.points);
    lab.clock.advance(seconds(5000));
    lab.more(8, 5);
    lab.clock.advance(seconds(100));
    lab.settle();
    let (store, catalogue) = (lab.store(), lab.store().catalogue());
    assert!(store.age() > held.until);
    let markers = lab.others[0].1.markers();
    let marks = markers.iter().filter(|(_, _, marker)| matches!(marker, Marker::Barrier(_)));
    let cells: BTreeSet<u64> = marks.map(|(_, at, _)| at.nanos() / EACH).collect();
    let group = &Group::all(&catalogue)[0];
    let kept = |volume, lsn| store.check_kept(volume, lsn).is_ok();
    let points: Vec<u64> =
        group.points(&catalogue, &kept, TimeRange::default()).map(|p| p.at.nanos() / EACH).collect();
    assert!(cells.len() > 15 && cells == points.iter().copied().collect(), "{cells:?} {points:?}");
    assert!(points.len() <= cells.len() + 1, "one of each: {points:?}");
    let left = store.kept(idle).unwrap();
    assert!(left.count() < 2 * cells.len() as u64 + 20, "and no more: {:?}", left.points);
    lab.check(9);
}

/// Marks are listed twice: as points, and as marks.
#[test]
fn what_holds_list_never_outgrows_a_segment() {
    let mut lab = Lab::new(75, policy(10, &[], 0));
    lab.disk.config.segment_len = 64 << 10;
    lab.disk.config.group_versions = 40;
    lab.open();
    lab.write(30, 1);
    let mut held = Watched::begin(&lab, 1, 1_000_000, 1_000_000);
    let before = records(&lab);
    let mut listed = 0;
    for _ in 0..40 {
        listed = marks_of_an_idle_member(&mut lab, 4, 50);
        let manifest = lab.disk.manifest.load().map_or(0, |bytes| bytes.len());
        assert!(manifest < 64 << 10, "{listed} points in {manifest} bytes");
        assert!(lab.store().status().groups <= 3, "it settles on");
    }
    held.follow(&lab, &before);
    assert!(listed < 100 && held.points.len() > 8000, "{listed}");
    assert!(lab.store().held_up().is_empty(), "{:?}", lab.store().held_up());
    held.check(&lab, lab.store(), 400);
    let marks = |lab: &Lab| lab.store().catalogue().volume(held.volume).unwrap().marks().len();
    let left = marks(&lab);
    assert!((500..6000).contains(&left), "{left}");
    lab.disk.index = MemoryIndex::new();
    lab.open();
    assert!(marks(&lab).abs_diff(left) < 300, "{} of {left}", marks(&lab));
    lab.clock.advance(seconds(2_000_000));
    lab.settle();
    assert!(lab.store().held_up().is_empty() && lab.store().status().groups <= 1);
}

#[test]
fn what_is_held_as_a_whole_is_settled_a_part_at_a_time() {
    let mut lab = Lab::new(74, policy(10, &[], 0));
    lab.disk.config.settle_versions = 400;
    lab.disk.config.group_versions = 40;
    lab.open();
    lab.write(60, 1);
    lab.settle();
    let watched: Vec<_> = (0..3).map(|n| Watched::begin(&lab, n, 3000, 1_000_000)).collect();
    lab.more(200, 5);
    assert_eq!(lab.settle(), 0, "nothing would come free");
    lab.clock.advance(seconds(5000));
    lab.more(60, 5);
    lab.clock.advance(seconds(100));
    let (mut passes, mut groups) = (0, 0);
    while let Some(report) = lab.store().settle().unwrap() {
        assert!(report.groups < 20, "{report:?}");
        (passes, groups) = (passes + 1, groups + report.groups);
    }
    assert!(passes > 3 && groups > 40 && lab.store().status().groups <= 1, "{passes}, {groups}");
    watched.iter().for_each(|held| held.check(&lab, lab.store(), 9));
    lab.check(9);
}

/// A source that was away, or whose clock is behind: what it captured in a stretch comes when that is over.
#[test]
fn what_comes_late_is_listed_in_less_detail_too() {
    let mut lab = Lab::new(72, policy(10, &[], 0));
    lab.disk.config.held_points = 100;
    lab.open();
    let batches = lab.workload.history(1500);
    let captured = |batch: &Batch| batch.entries.last().unwrap().captured_at;
    let (first, last) = (batches[0].entries[0].captured_at, captured(batches.last().unwrap()));
    let late = last.max(lab.store().age()).plus(seconds(1000));
    hold(&lab, lab.volume(), first, last, late.plus(seconds(100_000_000)));
    lab.clock.advance(late.since(lab.store().age()));
    assert!(lab.store().age() > last);
    batches.iter().for_each(|batch| lab.append(batch));
    lab.wait_for_index();
    lab.clock.advance(seconds(10_000));
    lab.more(10, 5);
    lab.clock.advance(seconds(100));
    lab.settle();
    let kept = lab.store().kept(lab.volume()).unwrap();
    assert!(kept.points.len() <= 101 && kept.count() > 1000, "{} of {}", kept.points.len(), kept.count());
    let said = lab.store().held_up();
    assert_eq!((said.len(), said[0].hold.volume), (1, lab.volume()), "{said:?}");
    let there = there(lab.store(), (lab.volume(), &lab.oracle));
    assert!(there.len() > 1000, "{}", there.len());
    lab.check(50);
}

#[test]
fn what_is_held_as_a_whole_stays_where_it_lies() {
    let mut lab = Lab::new(34, policy(10, &[], 0));
    lab.write(100, 5);
    for n in 0..3 {
        Watched::begin(&lab, n, 1_000_000, 1_000_000);
    }
    lab.more(30, 5);
    assert_eq!(lab.settle(), 0, "nothing would come free");
    assert!(lab.store().held_up().is_empty());
    lab.check(20);
}

#[test]
fn a_full_store_says_which_hold_is_in_the_way() {
    let mut lab = small(35, policy(10, &[(200, 2000)], 0), 20);
    lab.write(20, 1);
    let held = Watched::begin(&lab, 0, 1_000_000, 1_000_000);
    let refused = write_on(&mut lab, 2000).unwrap_err();
    lab.settle();
    let said = lab.store().held_up();
    assert_eq!((said.len(), said[0].what), (1, HeldWhat::Room), "{said:?}");
    let text = append(lab.store(), &refused).unwrap_err().to_string();
    assert!(text.contains("the hold on") && text.contains(&held.until.to_string()), "{text}");
    held.check(&lab, lab.store(), 50);
    lab.clock.advance(seconds(2_000_000));
    lab.settle();
    assert!(lab.store().held_up().is_empty());
    lab.append(&refused);
    write_on(&mut lab, 100).unwrap();
}

/// The policy says to stop; that a hold keeps a little beside is not why.
#[test]
fn a_hold_that_keeps_nothing_that_would_go_is_not_blamed() {
    let stop = RetentionPolicy { when_full: WhenFull::Stop, ..policy(1_000_000, &[], 0) };
    let mut lab = small(95, stop, 20);
    let (now, idle) = (lab.store().age(), lab.others[0].0.volume());
    hold(&lab, idle, now, now.plus(seconds(1)), now.plus(seconds(1_000_000)));
    lab.clock.advance(seconds(10));
    lab.write(20, 1);
    let refused = write_on(&mut lab, 6000).unwrap_err();
    lab.settle();
    assert_eq!(lab.store().held_up(), []);
    let text = append(lab.store(), &refused).unwrap_err().to_string();
    assert!(!text.contains("the hold on"), "{text}");
}

/// Nor is a hold that keeps a point when policies list more than fits into a segment: the list lies in several.
#[test]
fn a_list_of_points_that_fits_into_no_segment_keeps_nothing_from_being_settled() {
    let mut lab =
        Lab::new(96, RetentionPolicy { tiers: policy(10, &[(1, 1_000_000)], 0).tiers, ..policy(10, &[], 0) });
    lab.disk.config.segment_len = 64 << 10;
    lab.open();
    let (now, idle) = (lab.store().age(), lab.others[0].0.volume());
    hold(&lab, idle, now, now.plus(seconds(1)), now.plus(seconds(1_000_000)));
    lab.write(20, 1);
    let is_long = |lab: &Lab| lab.disk.manifest.load().unwrap_or_default().len() > 64 << 10;
    let mut rounds = 0;
    while !is_long(&lab) {
        lab.more(40, 1);
        lab.clock.advance(seconds(20));
        lab.settle();
        rounds += 1;
        assert!(rounds < 1000, "it never gets long");
    }
    for _ in 0..2 {
        lab.more(40, 1);
        lab.clock.advance(seconds(20));
        assert!(lab.settle() > 0);
        assert_eq!((lab.store().held_up(), lab.store().status().settle_failing), (Vec::new(), None));
        lab.check(200);
        lab.open();
    }
    lab.check(200);
}

#[test]
fn a_limit_takes_nothing_that_is_held_and_is_stuck_when_all_is() {
    let mut lab = Lab::new(36, policy(10, &[(200, 2_000_000)], 0));
    lab.write(100, 1);
    let mut held = Watched::begin(&lab, 0, 1_000_000, 1_000_000);
    let records = records(&lab);
    let limit = RetentionPolicy { limit: Some(100_000), when_full: WhenFull::Thin, ..tiers() };
    lab.rule(MetaRecord::PolicySet { volume: Some(lab.volume()), policy: Some(limit) });
    lab.more(60, 5);
    held.follow(&lab, &records);
    lab.settle();
    assert_eq!(lab.store().limits()[&lab.volume()].state, LimitState::Stuck);
    held.check(&lab, lab.store(), 5);
    lab.clock.advance(seconds(2_000_000));
    lab.settle();
    assert_ne!(lab.store().limits()[&lab.volume()].state, LimitState::Stuck);
    let gone = held.points.iter().filter(|l| try_image(lab.store(), held.volume, **l).is_err()).count();
    assert!(gone > held.points.len() / 2, "{gone} of {}", held.points.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(16), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_held_is_exact_whatever_happens_beside_it(seed: u64) {
        let mut random = Random::new(seed);
        let mut lab = Lab::new(seed, tiers());
        lab.disk.config.held_points = [40, 300, 1 << 20][random.below(3) as usize];
        lab.open();
        lab.write(120, 3);
        let mut watched: Vec<Watched> = Vec::new();
        for _ in 0..10 {
            let records = records(&lab);
            lab.more(1 + random.below(12) as usize, 1 + random.below(150));
            watched.iter_mut().for_each(|held| held.follow(&lab, &records));
            match random.below(8) {
                0 => lab.open(),
                1 => {
                    lab.store = None;
                    lab.disk.index = MemoryIndex::new();
                    lab.open();
                    prop_assert_eq!(lab.store().status().damage, []);
                }
                2 => {
                    let store = cut(&lab.disk, &mut random).open();
                    lab.check_of(&store, 9);
                    watched.iter().for_each(|held| held.check(&lab, &store, 9));
                }
                3 => {
                    let limit = RetentionPolicy { limit: Some(50_000 + random.below(400_000)), ..tiers() };
                    let (volume, _) = oracles(&lab)[random.below(3) as usize];
                    lab.rule(MetaRecord::PolicySet { volume: Some(volume), policy: Some(limit) });
                }
                4 | 5 if watched.len() < 3 => {
                    let n = random.below(3) as usize;
                    watched.push(Watched::begin(&lab, n, random.below(1500), 500 + random.below(4000)));
                }
                _ => {}
            }
            lab.wait_for_index();
            lab.settle();
            lab.check(9);
            watched.iter().for_each(|held| held.check(&lab, lab.store(), 5));
        }
        lab.clock.advance(seconds(10_000));
        lab.settle();
        prop_assert!(lab.store().held_up().is_empty());
        lab.check(3);
    }
}
