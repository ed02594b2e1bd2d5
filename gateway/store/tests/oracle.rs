//! Whatever happens in between, an image is what the oracle replays.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use common::{Disk, append_all, image};
use gateway_store::Store;
use proptest::prelude::*;
use tap_block::{Batch, Lsn, VolumeId};
use testbed_model::{Oracle, Workload};

fn oracle(batches: &[Batch]) -> Oracle {
    let mut oracle = Oracle::new();
    batches.iter().for_each(|b| oracle.apply(b).unwrap());
    oracle
}

/// Every `step`-th LSN, and the last.
fn points(oracle: &Oracle, step: usize) -> Vec<Lsn> {
    let mut points: Vec<Lsn> = oracle.lsns().into_iter().step_by(step).collect();
    points.push(oracle.last_lsn());
    points
}

fn assert_equal(store: &Store, oracle: &Oracle, volume: VolumeId, step: usize) {
    for point in points(oracle, step) {
        assert!(
            image(store, volume, point) == oracle.image_at(volume, point),
            "the image at {point} differs"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(8), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn images_are_what_the_oracle_says(seed: u64) {
        let mut workload = Workload::new(seed);
        let history = workload.history(150);
        let (disk, oracle) = (Disk::small(), oracle(&history));
        let store = disk.open();
        append_all(&store, &history);
        assert_equal(&store, &oracle, workload.volume(), 7);
        store.stop();
        drop(store);
        let store = disk.open();
        assert_equal(&store, &oracle, workload.volume(), 11);
        for mark in oracle.bookmarks() {
            let catalogue = store.catalogue();
            let known = catalogue.volume(workload.volume()).unwrap().bookmark_named(&mark.1.name).unwrap();
            prop_assert_eq!(known.at.lsn, mark.0);
        }
    }

    #[test]
    fn an_index_that_is_gone_comes_back_from_the_segments(seed: u64) {
        let mut workload = Workload::new(seed);
        let history = workload.history(150);
        let (mut disk, oracle) = (Disk::small(), oracle(&history));
        let store = disk.open();
        append_all(&store, &history);
        let before = store.catalogue();
        drop(store);
        disk.index = gateway_store::MemoryIndex::new();
        let store = disk.open();
        prop_assert!(*store.catalogue() == *before);
        assert_equal(&store, &oracle, workload.volume(), 11);
        drop(store);
        disk.index.make_unreadable();
        let store = disk.open();
        assert_equal(&store, &oracle, workload.volume(), 23);
        prop_assert!(store.status().damage.is_empty());
    }

    #[test]
    fn times_and_lsns_lead_to_each_other(seed: u64) {
        let mut workload = Workload::new(seed);
        let history = workload.history(120);
        let (disk, oracle) = (Disk::small(), oracle(&history));
        let store = disk.open();
        append_all(&store, &history);
        for entry in history.iter().flat_map(|b| &b.entries).filter(|e| !e.position.is_copy()).step_by(5) {
            let (lsn, at) = (entry.position.lsn(), entry.captured_at);
            prop_assert_eq!(store.time_of(workload.stream(), lsn).unwrap(), Some(at));
            let found = store.lsn_at(workload.stream(), at).unwrap().map(|p| p.lsn);
            prop_assert_eq!(found, oracle.lsn_at(at));
            let just_before = tap_block::WallTime::from_nanos(at.nanos() - 1);
            let found = store.lsn_at(workload.stream(), just_before).unwrap().map(|p| p.lsn);
            prop_assert_eq!(found, oracle.lsn_at(just_before));
        }
    }
}

#[test]
fn a_clock_that_was_set_back_is_looked_up_in_the_newer_run() {
    use std::time::Duration;
    use tap_block::{Marker, RunId, RunStart, StreamId, WallTime};
    use testbed_model::BatchBuilder;

    let (stream, volume) = (StreamId::new(5), VolumeId::new(6));
    let at = |seconds| WallTime::from_nanos(1_700_000_000_000_000_000).plus(Duration::from_secs(seconds));
    let run = |n: u64, first: u64, start: u64| {
        let mut to = BatchBuilder::new(stream, volume, RunId::new(n), Lsn::new(first).unwrap(), at(start));
        let name = "web01".parse().unwrap();
        to.mark(Marker::RunStart(RunStart {
            previous: None,
            durable: Lsn::ZERO,
            volume,
            name,
            size: 1 << 20,
            sync: None,
        }));
        for second in 1..=100 {
            to.at(at(start + second)).write(second % 100, &[1; 4096]);
        }
        to.build()
    };
    let disk = Disk::small();
    let store = disk.open();
    append_all(&store, &[run(1, 1, 1000), run(2, 102, 500), run(3, 1000, 560)]);
    let lsn = |seconds| store.lsn_at(stream, at(seconds)).unwrap().map(|p| p.lsn.get());
    assert_eq!(lsn(499), None);
    assert_eq!(lsn(510), Some(112), "run 2");
    assert_eq!(lsn(600), Some(1040), "run 3, the newest that has it");
    assert_eq!(lsn(900), Some(1100), "the last record");
    assert_eq!(lsn(1050), Some(1100), "a time the clock showed by mistake, long before");
}

#[test]
fn regions_that_hold_something_are_known_wherever_history_lies() {
    use gateway_journal::{REGION_BLOCKS, RegionNo};
    use std::collections::BTreeSet;
    use std::time::Duration;
    use tap_block::{Marker, RunId, RunStart, StreamId, WallTime};
    use testbed_model::BatchBuilder;

    let (stream, volume, region) = (StreamId::new(5), VolumeId::new(6), u64::from(REGION_BLOCKS));
    let clock = std::sync::Arc::new(common::ManualClock::default());
    let disk = Disk { clock: std::sync::Arc::clone(&clock) as _, ..Disk::small() };
    let mut first = Lsn::new(1).unwrap();
    let mut batch = |blocks: &[u64]| {
        let mut to = BatchBuilder::new(stream, volume, RunId::new(1), first, WallTime::from_nanos(7));
        if first.get() == 1 {
            let (name, size) = ("web01".parse().unwrap(), 1 << 50);
            let (previous, durable, sync) = (None, Lsn::ZERO, None);
            to.mark(Marker::RunStart(RunStart { previous, durable, volume, name, size, sync }));
            first = first.next();
        }
        for block in blocks {
            to.write(*block, &[1; 4096]);
        }
        first = first.plus(blocks.len() as u64);
        to.build()
    };
    let held = |store: &Store| store.held_regions(volume).unwrap().unwrap();
    let regions = |all: &[u32]| all.iter().map(|n| RegionNo::new(*n)).collect::<BTreeSet<_>>();
    let store = disk.open();
    append_all(&store, &[batch(&[3, 7 * region + 1, 9_000_000 * region])]);
    assert_eq!(held(&store), regions(&[0, 7, 9_000_000]), "in memory");
    // Into the index, and then into settled history, by the usual policy: two days, a week and a month go by.
    for n in 0..100 {
        append_all(&store, &[batch(&[n, 2 * region])]);
    }
    assert_eq!(held(&store), regions(&[0, 2, 7, 9_000_000]));
    clock.advance(Duration::from_secs(40 * 24 * 3600));
    append_all(&store, &[batch(&[5 * region])]);
    while store.settle().unwrap().is_some() {}
    assert!(store.kept(volume).unwrap().settled > Lsn::new(100).unwrap());
    assert_eq!(held(&store), regions(&[0, 2, 5, 7, 9_000_000]));
    drop(store);
    assert_eq!(held(&disk.open()), regions(&[0, 2, 5, 7, 9_000_000]), "after a restart");
}

#[test]
fn an_index_found_damaged_is_told_of_and_built_again_at_the_next_start() {
    let mut workload = Workload::new(77);
    let history = workload.history(300);
    let (disk, oracle) = (Disk::small(), oracle(&history));
    let store = disk.open();
    append_all(&store, &history);
    drop(store);
    let store = disk.open();
    assert_eq!(store.status().index_damaged, None);
    disk.index.rot();
    let opened = store.region_map(workload.volume(), gateway_journal::RegionNo::new(0), oracle.last_lsn());
    assert!(opened.is_err(), "{opened:?}");
    assert!(store.status().index_damaged.is_some(), "nobody is told");
    drop(store);
    let store = disk.open();
    assert_eq!(store.status().index_damaged, None);
    assert_equal(&store, &oracle, workload.volume(), 7);
}
