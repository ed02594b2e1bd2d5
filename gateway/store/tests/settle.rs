//! Settled history is what it was at every point that is kept, and refused at every other; whatever happens in between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::lab::{Lab, cut, policy, tiers};
use common::{Disk, append, try_image};
use gateway_journal::{MetaRecord, RetentionPolicy, WhenFull};
use gateway_store::{MarkStore, MemoryIndex, MemoryMark, StoreError, Table};
use proptest::prelude::*;
use tap_block::{Batch, Lsn};
use tap_disk::SegmentDir;
use testbed_model::{Random, Workload};

#[test]
fn old_history_grows_sparse_and_its_files_are_used_again() {
    let mut lab = Lab::new(3, tiers());
    lab.write(400, 5);
    let before = lab.store().status();
    let all = lab.check(9);
    assert!(lab.settle() > 0);
    let after = lab.store().status();
    let kept = lab.check(1);
    assert!(kept.len() < all.len() / 2, "{} of {}", kept.len(), all.len());
    assert!(after.segments < before.segments, "{after:?}");
    assert!(after.groups < before.groups);
    assert_eq!(after.damage, []);
    lab.more(30, 5);
    lab.settle();
    lab.check(1);
    let rows = lab.disk.index.rows(Table::Runs);
    assert!(rows < 40, "{rows} rows of settled groups are still there");
}

#[test]
fn settled_history_is_gone_through_a_stretch_at_a_time() {
    let mut lab = Lab::new(15, policy(100, &[(1, 3000), (200, 6000)], 0));
    lab.disk.config.settle_at_once = 1;
    lab.open();
    lab.write(400, 5);
    lab.settle();
    let (held, all) = (lab.store().status(), lab.check(9));
    lab.clock.advance(Duration::from_secs(4000));
    let mut passes = 0;
    while let Some(report) = lab.store().settle().unwrap() {
        passes += 1;
        assert!(passes < 20, "{report:?}");
        lab.check(20);
    }
    assert_eq!(passes, 3 + 1, "a region each, and one for the log");
    let (kept, now) = (lab.check(1), lab.store().status());
    assert!(kept.len() < all.len() / 2, "{} of {}", kept.len(), all.len());
    assert!(now.settled_bytes < held.settled_bytes, "{now:?} was {held:?}");
    assert_eq!(now.damage, []);
    lab.disk.index = MemoryIndex::new();
    lab.open();
    assert_eq!((lab.check(1), lab.store().status().damage), (kept, vec![]));
}

#[test]
fn what_is_young_is_left_alone_and_every_write_of_it_stays() {
    let mut lab = Lab::new(4, policy(1_000_000, &[], 0));
    lab.write(200, 5);
    assert_eq!(lab.settle(), 0);
    assert_eq!(lab.check(20).len(), lab.oracle.lsns().len());
}

#[test]
fn pins_bookmarks_images_and_open_points_stay() {
    let mut lab = Lab::new(5, policy(10, &[], 1_000_000));
    lab.write(300, 1);
    let mark = lab.workload.bookmark(&"gold".parse().unwrap());
    lab.append(&mark);
    lab.more(20, 1);
    let lsns = lab.oracle.lsns();
    let catalogue = lab.store().catalogue();
    let sound = |from: usize| {
        let known = catalogue.volume(lab.volume()).unwrap();
        *lsns[from..].iter().find(|l| known.selectable(**l).is_ok()).unwrap()
    };
    let (pin, open, gone) = (sound(lsns.len() - 60), sound(lsns.len() - 40), sound(lsns.len() - 20));
    assert!(pin < open && open < gone);
    lab.rule(MetaRecord::Pinned { volume: lab.volume(), point: pin, note: String::new() });
    let guard = lab.store().open_point(lab.volume(), open).unwrap();
    lab.more(40, 5);
    lab.settle();
    let gold = mark.last_lsn().unwrap();
    let kept = lab.check(1);
    assert!([pin, open, gold].iter().all(|p| kept.contains(p)) && !kept.contains(&gone), "{kept:?}");
    assert!(matches!(lab.store().open_point(lab.volume(), gone), Err(StoreError::Thinned { .. })));
    drop(guard);
    lab.rule(MetaRecord::Unpinned { volume: lab.volume(), point: pin });
    lab.more(60, 5);
    lab.settle();
    let kept = lab.check(1);
    assert!(!kept.contains(&pin) && !kept.contains(&open) && kept.contains(&gold), "{kept:?}");
}

#[test]
fn a_hold_keeps_every_write_until_its_date() {
    let mut lab = Lab::new(6, policy(10, &[], 0));
    lab.write(100, 1);
    let from = lab.store().age();
    let until = from.plus(Duration::from_secs(5000));
    let hold = gateway_journal::Hold {
        volume: lab.volume(),
        from,
        to: until,
        until,
        credited: Duration::ZERO,
        note: "audit".into(),
    };
    lab.rule(MetaRecord::Held(hold));
    let held = lab.oracle.last_lsn();
    lab.more(60, 5);
    lab.settle();
    let kept = lab.check(7);
    let after: Vec<Lsn> = lab.oracle.lsns().into_iter().filter(|l| *l > held).collect();
    assert!(after.iter().all(|l| kept.contains(l)), "every write of what is held");
    lab.clock.advance(Duration::from_secs(6000));
    lab.settle();
    assert!(lab.check(1).len() < after.len());
}

/// A hold that became durable while a pass was under way was taken for one that the pass knew of.
#[test]
fn what_is_there_when_a_hold_is_acknowledged_stays() {
    for seed in 0..40 {
        let mut lab = Lab::new(100 + seed, policy(10, &[], 0));
        lab.write(120, 2);
        let store = Arc::clone(lab.store.as_ref().unwrap());
        // When the rules change meanwhile it begins anew.
        let passes = std::thread::spawn(move || while !matches!(store.settle(), Ok(None)) {});
        (0..seed * 50).for_each(|_| std::thread::yield_now());
        let (from, to) = (tap_block::WallTime::EPOCH, lab.store().age().plus(Duration::from_secs(1000)));
        let note = String::new();
        lab.rule(MetaRecord::Held(gateway_journal::Hold {
            volume: lab.volume(),
            from,
            to,
            until: to,
            credited: Duration::ZERO,
            note,
        }));
        let catalogue = lab.store().catalogue();
        let known = catalogue.volume(lab.volume()).unwrap();
        // What lies in a sync is no point that anybody can open.
        let kept: Vec<Lsn> = lab.check(50).into_iter().filter(|l| known.selectable(*l).is_ok()).collect();
        passes.join().unwrap();
        lab.more(5, 2);
        lab.settle();
        let left = lab.check(50);
        assert!(kept.iter().all(|l| left.contains(l)), "seed {seed}: {} of {}", left.len(), kept.len());
    }
}

#[test]
fn times_lead_to_the_last_kept_point_before_them() {
    let mut lab = Lab::new(7, tiers());
    lab.write(300, 5);
    lab.settle();
    let (stream, kept) = (lab.workload.stream(), lab.store().kept(lab.volume()).unwrap());
    let mut last = None;
    for point in &kept.points {
        assert_eq!(lab.store().time_of(stream, point.lsn).unwrap(), Some(point.captured_at));
        let found = lab.store().lsn_at(stream, point.captured_at).unwrap().unwrap();
        assert!(found.lsn >= point.lsn && found.at == point.captured_at);
        last = Some(point.lsn);
    }
    let catalogue = lab.store().catalogue();
    if catalogue.volume(lab.volume()).unwrap().selectable(kept.settled).is_ok() {
        assert_eq!(last, Some(kept.settled));
    }
    for lsn in lab.oracle.lsns().into_iter().filter(|l| *l > kept.settled) {
        let at = lab.store().time_of(stream, lsn).unwrap().unwrap();
        assert_eq!(lab.store().lsn_at(stream, at).unwrap().map(|p| p.lsn), lab.oracle.lsn_at(at));
    }
}

#[test]
fn what_changed_between_two_points_is_what_differs_and_little_else() {
    let mut lab = Lab::new(10, tiers());
    lab.write(300, 5);
    lab.settle();
    lab.more(40, 1);
    let catalogue = lab.store().catalogue();
    let known = catalogue.volume(lab.volume()).unwrap();
    let kept: Vec<Lsn> = lab.check(50).into_iter().filter(|l| known.selectable(*l).is_ok()).collect();
    let settled = lab.store().kept(lab.volume()).unwrap().settled;
    assert!(kept[0] < settled && settled < *kept.last().unwrap());
    let mut random = Random::new(1);
    let mut any = || kept[random.below(kept.len() as u64) as usize];
    for _ in 0..60 {
        let (a, b) = (any(), any());
        let changed = lab.store().changed(lab.volume(), a, b).unwrap();
        let image = |at| lab.oracle.image_at(lab.volume(), at);
        let (old, new) = (image(a), image(b));
        for block in 0..old.len().min(new.len()) / 4096 {
            let bytes = block * 4096..(block + 1) * 4096;
            let extent = tap_block::Extent::between(bytes.start as u64, bytes.end as u64);
            let differs = old[bytes.clone()] != new[bytes];
            assert!(!differs || changed.overlaps(extent), "block {block} between {a} and {b}");
        }
    }
    let (a, b) = (kept[kept.len() - 2], kept[kept.len() - 1]);
    assert!(lab.store().changed(lab.volume(), a, b).unwrap().bytes() < 1 << 20);
    assert!(lab.store().changed(lab.volume(), b, b).unwrap().is_empty());
}

#[test]
fn a_group_that_fills_slowly_is_settled_in_time() {
    let mut lab = Lab::new(9, policy(100, &[], 0));
    lab.disk.config.group_versions = 1 << 20;
    lab.open();
    lab.write(50, 1);
    assert_eq!(lab.settle(), 0);
    lab.clock.advance(Duration::from_secs(300));
    assert!(lab.settle() > 0);
    assert!(lab.check(1).len() < lab.oracle.lsns().len() / 2);
    lab.more(10, 1);
    lab.check(1);
}

/// A store that is stopped ends its group. One with bookmarks in it alone is nothing that policies speak of: it was kept for
/// two days, and all behind it.
#[test]
fn a_group_without_a_version_keeps_nothing_behind_it_from_being_settled() {
    let mut lab = Lab::new(9, policy(100, &[], 0));
    lab.disk.config.index_at_stop = true;
    lab.open();
    lab.write(50, 1);
    lab.clock.advance(Duration::from_secs(300));
    assert!(lab.settle() > 0);
    for name in ["one", "two"] {
        let bookmark = lab.workload.bookmark(&name.parse().unwrap());
        lab.append(&bookmark);
        lab.wait_for_index();
        lab.open();
    }
    lab.clock.advance(Duration::from_secs(300));
    assert_eq!(lab.settle(), 0, "there is nothing to be gained");
    lab.more(30, 1);
    lab.open();
    lab.clock.advance(Duration::from_secs(300));
    let before = lab.check(1).len();
    assert!(lab.settle() > 0 && lab.settle() == 0);
    assert!(lab.check(1).len() * 2 < before, "{} of {before}", lab.check(1).len());
}

/// Writes on beyond what the store has room for: each batch is taken once settling has made some.
fn fill(lab: &mut Lab, batch: impl Fn(&mut Workload, usize) -> Batch) {
    let mut refused = 0;
    for n in 0..1500 {
        let batch = batch(&mut lab.workload, n);
        while let Err(e) = append(lab.store(), &batch) {
            assert!(matches!(e, StoreError::NoSpace(_)), "{e}");
            lab.wait_for_index();
            refused += 1;
            lab.store().settle().unwrap();
            assert!(refused < 20_000, "it does not make room: {:?}", lab.store().status());
        }
        lab.oracle.apply(&batch).unwrap();
        lab.clock.advance(Duration::from_secs(1));
    }
    assert!(refused > 0, "the store is not full");
}

#[test]
fn a_full_store_thins_and_then_lets_the_oldest_go() {
    let mut lab = Lab::new(8, policy(1_000_000, &[(200, 2_000_000)], 0));
    lab.disk.config.settle_reserve = 8;
    // Groups end by their bytes: one that fills all that the log has would never fit into what is left to settling.
    lab.disk.config.group_versions = 1 << 20;
    lab.disk.config = lab.disk.config.clone().limited(24 * (512 << 10));
    lab.open();
    lab.write(50, 1);
    // What may never go must not keep the rest from going.
    let catalogue = lab.store().catalogue();
    let known = catalogue.volume(lab.volume()).unwrap();
    let pin = lab.oracle.lsns().into_iter().find(|l| known.selectable(*l).is_ok()).unwrap();
    lab.rule(MetaRecord::Pinned { volume: lab.volume(), point: pin, note: String::new() });
    fill(&mut lab, |workload, _| workload.batch(8));
    assert!(lab.check(3).contains(&pin));
    assert!(lab.store().status().segments + lab.store().status().settled_segments <= 24);
}

#[test]
fn a_full_store_of_bookmarks_lets_the_oldest_go() {
    let mut lab = Lab::new(8, policy(100, &[(200, 2000)], 1_000_000));
    lab.disk.config.settle_reserve = 8;
    lab.disk.config.group_versions = 1 << 20;
    lab.disk.config = lab.disk.config.clone().limited(24 * (512 << 10));
    lab.open();
    lab.write(50, 1);
    fill(&mut lab, |workload, n| match n % 2 {
        0 => workload.batch(8),
        _ => workload.bookmark(&format!("b{n}").parse().unwrap()),
    });
    let bookmarks: Vec<_> = lab.oracle.bookmarks().into_iter().map(|(lsn, _)| lsn).collect();
    let kept = lab.check(3);
    let left = bookmarks.iter().filter(|lsn| kept.contains(lsn)).count();
    assert!(left > 10 && left < bookmarks.len(), "{left} of {}", bookmarks.len());
    let first = bookmarks.iter().position(|lsn| kept.contains(lsn)).unwrap();
    assert!(bookmarks[first..].iter().all(|lsn| kept.contains(lsn)), "the oldest go first");
}

/// What is left to settling can be eaten by whoever else writes to the disk: then what may go has to go in what is left.
#[test]
fn a_full_store_whose_reserve_was_eaten_gets_smaller_once_it_may() {
    // Fewer segments are free than are to be left to settling: so many.
    [2, 3, 4, 5].into_iter().for_each(shrink_within);
}

fn shrink_within(left: usize) {
    let keeps = |when_full| RetentionPolicy { when_full, ..policy(1_000_000, &[(200, 2_000_000)], 0) };
    let mut lab = Lab::new(8, keeps(WhenFull::Stop));
    lab.disk.config.settle_reserve = 8;
    lab.disk.config = lab.disk.config.clone().limited(24 * (512 << 10));
    lab.open();
    lab.write(50, 1);
    let refused = loop {
        let batch = lab.workload.batch(8);
        if append(lab.store(), &batch).is_err() {
            break batch;
        }
        lab.oracle.apply(&batch).unwrap();
        lab.clock.advance(Duration::from_secs(1));
        lab.settle();
    };
    let used = |lab: &Lab| lab.store().status().segments + lab.store().status().settled_segments;
    let before = used(&lab);
    lab.disk.config.max_segments = usize::try_from(before).unwrap() + left;
    lab.open();
    assert!(append(lab.store(), &refused).is_err());
    lab.rule(MetaRecord::PolicySet { volume: None, policy: Some(keeps(WhenFull::Thin)) });
    // A pass that finds too little room lets more go the next time.
    for pass in 0.. {
        lab.wait_for_index();
        lab.store().settle().unwrap();
        if append(lab.store(), &refused).is_ok() {
            break;
        }
        assert!(pass < 200, "{} of {before}: {:?}", used(&lab), lab.store().status());
    }
    lab.oracle.apply(&refused).unwrap();
    assert!(used(&lab) < before);
    lab.check(3);
}

#[test]
fn a_full_store_that_takes_no_more_is_still_told_what_makes_room() {
    let keeps = |when_full| RetentionPolicy { when_full, ..policy(1_000_000, &[(200, 2_000_000)], 0) };
    let mut lab = Lab::new(8, keeps(WhenFull::Stop));
    lab.disk.config.settle_reserve = 8;
    lab.disk.config.group_versions = 1 << 20;
    lab.disk.config = lab.disk.config.clone().limited(24 * (512 << 10));
    lab.open();
    lab.write(50, 1);
    let refused = loop {
        let batch = lab.workload.batch(8);
        if let Err(e) = append(lab.store(), &batch) {
            assert!(matches!(e, StoreError::NoSpace(_)), "{e}");
            lab.settle();
            // Until settling makes no more room.
            if append(lab.store(), &batch).is_err() {
                break batch;
            }
        }
        lab.oracle.apply(&batch).unwrap();
        lab.clock.advance(Duration::from_secs(1));
    };
    let first = lab.check(9)[0];
    for _ in 0..3 {
        lab.rule(MetaRecord::Pinned { volume: lab.volume(), point: first, note: "n".repeat(1000) });
        assert!(
            matches!(append(lab.store(), &refused), Err(StoreError::NoSpace(_))),
            "it is not for history"
        );
        lab.open();
    }
    assert!(lab.store().status().failing.is_none());
    assert!(append(lab.store(), &refused).is_err());
    lab.rule(MetaRecord::Unpinned { volume: lab.volume(), point: first });
    assert!(lab.store().status().failing.is_some(), "history is refused all the same");
    lab.rule(MetaRecord::PolicySet { volume: None, policy: Some(keeps(WhenFull::Thin)) });
    while lab.store().settle().unwrap().is_some() {}
    lab.append(&refused);
    lab.more(5, 1);
    lab.check(3);
    assert!(lab.store().status().failing.is_none());
    assert!(lab.store().status().segments + lab.store().status().settled_segments <= 24);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(24), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_kept_point_never_changes(seed: u64) {
        let mut random = Random::new(seed);
        let mut lab = Lab::new(seed, tiers());
        lab.write(120, 3);
        for _ in 0..6 {
            lab.more(1 + random.below(12) as usize, 1 + random.below(200));
            match random.below(5) {
                0 => lab.open(),
                1 => {
                    lab.store = None;
                    lab.disk.index = MemoryIndex::new();
                    lab.open();
                    prop_assert_eq!(lab.store().status().damage, []);
                }
                2 => {
                    let batch = lab.workload.restart(random.below(50), Some(tap_block::SyncCause::UncleanStop));
                    lab.append(&batch);
                    for _ in 0..random.below(4) {
                        let batch = lab.workload.copies();
                        lab.append(&batch);
                    }
                    let batch = lab.workload.end_sync();
                    lab.append(&batch);
                }
                _ => {}
            }
            lab.wait_for_index();
            lab.settle();
            lab.check(2);
        }
        prop_assert!(lab.store().status().settles > 0);
        let (settles, kept) = (lab.store().status().settles, lab.store().kept(lab.volume()));
        lab.open();
        prop_assert_eq!((lab.store().status().settles, lab.store().kept(lab.volume())), (settles, kept));
        lab.check(2);
    }
}

/// A kill left a file with a header of zeroes and settled frames behind it: it was taken for damage, and never used again.
#[test]
fn a_segment_that_was_not_finished_is_used_again() {
    let mut lab = Lab::new(14, tiers());
    lab.write(300, 5);
    lab.store = None;
    let dir = lab.disk.dir.clone();
    let no = tap_disk::FileNo::new(1000);
    let file = dir.create(no, u64::from(lab.disk.config.segment_len)).unwrap();
    let mut writer = gateway_journal::SettledWriter::begin(
        gateway_journal::StoreId::new(1),
        gateway_journal::SegmentId::new(9),
        1 << 20,
        1,
    );
    let laid = writer.manifest(b"something").unwrap();
    file.write_at(u64::from(laid.at), &[std::io::IoSlice::new(&laid.head)]).unwrap();
    lab.open();
    assert_eq!(lab.store().status().damage, []);
    lab.settle();
    let mut head = [0; 8];
    dir.open(no).unwrap().read_at(0, &mut head).unwrap();
    assert_ne!(head, [0; 8], "it holds a segment now");
}

/// A file with a damaged header, and a frame behind what is left of its first one.
fn spoil(lab: &Lab, no: u32, frame: &[u8]) {
    let no = tap_disk::FileNo::new(no);
    let file = lab.disk.dir.create(no, u64::from(lab.disk.config.segment_len)).unwrap();
    file.write_at(0, &[std::io::IoSlice::new(&[0x5a; 4200])]).unwrap();
    file.write_at(8192, &[std::io::IoSlice::new(frame)]).unwrap();
}

fn is_spoilt(lab: &Lab, no: u32) -> bool {
    let mut head = [0; 8];
    lab.disk.dir.open(tap_disk::FileNo::new(no)).unwrap().read_at(0, &mut head).unwrap();
    head == [0x5a; 8]
}

/// It is used again, unless something may lie in it that somebody misses.
#[test]
fn a_file_whose_header_is_damaged_is_used_again_when_nothing_in_it_counts() {
    let mut lab = Lab::new(14, tiers());
    lab.write(300, 5);
    lab.settle();
    let (own, other) = (lab.store().id(), gateway_journal::StoreId::new(7));
    lab.store = None;
    let settled = |store| {
        let segment = gateway_journal::SegmentId::new(1);
        let mut writer = gateway_journal::SettledWriter::begin(store, segment, 1 << 20, 1);
        writer.manifest(b"something").unwrap().head
    };
    let log = |segment| {
        let header = gateway_journal::SegmentHeader {
            store: own,
            segment: gateway_journal::SegmentId::new(segment),
            length: 1 << 20,
            first_live: gateway_journal::SegmentId::new(1),
            previous: None,
            created_at: tap_block::WallTime::EPOCH,
        };
        let mut group = gateway_journal::SegmentWriter::begin(&header).group();
        let record = MetaRecord::PolicySet { volume: None, policy: None };
        assert!(group.push_meta(&[record], Lsn::ZERO, tap_block::WallTime::EPOCH));
        group.seal();
        group.frames()[0].head.clone()
    };
    let counts = [settled(other), log(5000), b"CGFRAME\x7f".to_vec(), b"CGSFRAM\x7f".to_vec()];
    let idle = [settled(own), log(1), vec![0x77; 64]];
    for (no, frame) in (1000..).zip(counts.iter().chain(&idle)) {
        spoil(&lab, no, frame);
    }
    lab.open();
    assert_eq!(lab.store().status().damage, []);
    lab.more(300, 5);
    lab.settle();
    lab.check(9);
    let spoilt: Vec<u32> = (1000..1007).filter(|no| is_spoilt(&lab, *no)).collect();
    assert_eq!(spoilt, [1000, 1001, 1002, 1003]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(24), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_power_cut_at_any_moment_of_settling_loses_no_kept_point(seed: u64) {
        let mut random = Random::new(seed);
        let mut lab = Lab::new(seed, tiers());
        lab.write(150, 5);
        lab.settle();
        lab.more(40, 8);
        let (before, store) = (lab.check(50), Arc::clone(lab.store.as_ref().unwrap()));
        let passes = std::thread::spawn(move || while store.settle().unwrap().is_some() {});
        let mut cuts = Vec::new();
        while !passes.is_finished() && cuts.len() < 6 {
            (0..random.below(400)).for_each(|_| std::thread::yield_now());
            cuts.push(cut(&lab.disk, &mut random));
        }
        passes.join().unwrap();
        let after = lab.check(50);
        for left in cuts {
            let store = left.open();
            prop_assert_eq!(store.status().damage, []);
            let kept = lab.check_of(&store, 5);
            prop_assert!(kept.iter().all(|l| before.contains(l)), "a point came back");
            prop_assert!(after.iter().all(|l| kept.contains(l)), "a kept point is gone");
            while store.settle().unwrap().is_some() {}
            lab.check_of(&store, 9);
        }
    }

    #[test]
    fn damage_in_settled_history_is_found_and_never_shown(seed: u64) {
        let mut random = Random::new(seed);
        let mut lab = Lab::new(seed, tiers());
        lab.write(200, 5);
        lab.settle();
        let left = cut(&lab.disk, &mut random);
        let files = left.dir.list().unwrap();
        for _ in 0..20 {
            let file = left.dir.open(files[random.below(files.len() as u64) as usize]).unwrap();
            let at = random.below(file.len() / 2);
            let mut byte = [0];
            file.read_at(at, &mut byte).unwrap();
            file.write_at(at, &[std::io::IoSlice::new(&[byte[0] ^ (1 << random.below(8))])]).unwrap();
        }
        // With an index, and without one.
        for index in [left.index.clone(), MemoryIndex::new()] {
            let Ok(store) = (Disk { index, ..left.clone() }).try_open() else { continue };
            for point in lab.oracle.lsns().into_iter().step_by(7) {
                let known = store.catalogue();
                let sound = known.volume(lab.volume()).is_some_and(|v| v.selectable(point).is_ok());
                if let Some(found) = sound.then(|| try_image(&store, lab.volume(), point).ok()).flatten() {
                    prop_assert!(found == lab.oracle.image_at(lab.volume(), point), "{} is wrong", point);
                }
            }
        }
    }
}

#[test]
fn a_disk_that_fails_while_it_is_settled_changes_nothing() {
    let mut lab = Lab::new(11, tiers());
    lab.write(300, 5);
    let all = lab.check(9);
    lab.disk.dir.fail_syncs(true);
    assert!(lab.store().settle().is_err());
    assert!(lab.store().status().settle_failing.is_some_and(|why| !why.is_empty()));
    assert_eq!(lab.disk.index.rows(Table::Settled), 0, "rows of what came to nothing");
    assert_eq!(lab.check(9), all);
    lab.disk.dir.fail_syncs(false);
    lab.open();
    assert!(lab.settle() > 0);
    assert!(lab.check(1).len() < all.len());
}

#[test]
fn a_manifest_that_is_damaged_is_found_in_its_copy_and_without_any_nothing_is_thrown_away() {
    let mut lab = Lab::new(12, tiers());
    lab.write(300, 5);
    lab.settle();
    let kept = lab.check(3);
    lab.store = None;
    let copy = lab.disk.manifest.load();
    lab.disk.manifest = Arc::default();
    lab.open();
    assert_eq!(lab.check(9), kept, "found in its segment");
    lab.store = None;
    assert_eq!(lab.disk.manifest.load(), copy, "and copied anew");
    lab.disk.manifest = Arc::default();
    let files = lab.disk.dir.list().unwrap();
    for no in &files {
        let file = lab.disk.dir.open(*no).unwrap();
        let mut head = vec![0; 4096];
        file.read_at(0, &mut head).unwrap();
        if let Some(at) = gateway_journal::SettledHeader::decode(&head).ok().and_then(|h| h.manifest) {
            file.write_at(u64::from(at) + 70, &[std::io::IoSlice::new(&[0xff; 8])]).unwrap();
        }
    }
    assert!(lab.disk.try_open().is_err(), "neither is there");
    assert_eq!(lab.disk.dir.list().unwrap(), files);
    lab.disk.manifest = Arc::new(MemoryMark::holding(copy));
    lab.open();
    assert_eq!(lab.check(9), kept, "found in its copy");
}
