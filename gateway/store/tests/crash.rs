//! A crash at any point loses nothing that was acknowledged, and never shows anything that was not written.
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
use std::sync::atomic::{AtomicU64, Ordering};

use common::lab::cut;
use common::{Disk, append, image, outcome, send, try_image};
use gateway_store::{Parts, Store, StoreError};
use proptest::prelude::*;
use tap_block::{Batch, Lsn, StreamId, VolumeId};
use tap_disk::{FileNo, SegmentDir};
use testbed_model::{Oracle, Random, Workload};

fn durable(store: &Store, stream: StreamId) -> Lsn {
    store.durable(stream).map_or(Lsn::ZERO, |d| d.lsn)
}

/// Sends what is missing, as a peer does that resumes; returns how many batches are acknowledged.
fn resume(store: &Store, stream: StreamId, history: &[Batch], acked: usize, until: usize) -> usize {
    let there = durable(store, stream);
    for batch in &history[acked.min(until)..until] {
        if batch.last_lsn().is_none_or(|last| last > there) {
            append(store, batch).unwrap();
        }
    }
    acked.max(until)
}

/// The images are those of the first `n` batches, for some `n` that the durable LSN allows.
fn assert_prefix(store: &Store, history: &[Batch], acked: usize, volume: VolumeId, stream: StreamId) {
    let there = durable(store, stream);
    let mut oracle = Oracle::new();
    history[..acked].iter().for_each(|b| oracle.apply(b).unwrap());
    assert!(there >= oracle.last_lsn(), "acknowledged up to {}, found up to {there}", oracle.last_lsn());
    let mut rest = history[acked..].iter();
    loop {
        let points: Vec<Lsn> = oracle.lsns().into_iter().rev().take(3).collect();
        if oracle.last_lsn() == there
            && points.iter().all(|&p| image(store, volume, p) == oracle.image_at(volume, p))
        {
            return;
        }
        let Some(batch) = rest.next() else { panic!("no prefix of the history fits what is at {there}") };
        oracle.apply(batch).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(12), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn power_cuts_lose_nothing_acknowledged(seed: u64) {
        let mut random = Random::new(seed);
        let mut workload = Workload::new(seed);
        let history = workload.history(150);
        let (volume, stream) = (workload.volume(), workload.stream());
        let mut disk = Disk::small();
        let mut acked = 0;
        while acked < history.len() {
            let store = disk.open();
            let until = (acked + 1 + random.below(30) as usize).min(history.len());
            acked = resume(&store, stream, &history, acked, until);
            // These are written but not synced, over more than one try.
            disk.dir.fail_syncs(true);
            let more = (acked + random.below(6) as usize).min(history.len());
            let waiting: Vec<_> = history[acked..more].iter().map(|b| send(&store, b)).collect();
            for waiting in &waiting {
                prop_assert!(outcome(waiting).is_err());
            }
            let left = cut(&disk, &mut random);
            drop(store);
            disk = left;
            let store = disk.open();
            assert_prefix(&store, &history, acked, volume, stream);
            prop_assert!(store.status().damage.is_empty(), "{:?}", store.status().damage);
            drop(store);
            if random.one_in(2) {
                // The next life begins from what this one left, by another cut.
                disk = cut(&disk, &mut random);
            }
            if random.one_in(4) {
                disk.index = gateway_store::MemoryIndex::new();
            }
        }
        let store = disk.open();
        let mut oracle = Oracle::new();
        history.iter().for_each(|b| oracle.apply(b).unwrap());
        for point in oracle.lsns().into_iter().step_by(9) {
            prop_assert!(image(&store, volume, point) == oracle.image_at(volume, point), "{}", point);
        }
    }

    #[test]
    fn a_cut_under_full_load_leaves_a_sound_prefix(seed: u64) {
        let mut random = Random::new(seed);
        let mut workload = Workload::new(seed);
        let history = workload.history(120);
        let (volume, stream) = (workload.volume(), workload.stream());
        let disk = Disk::small();
        let store = disk.open();
        let waiting: Vec<_> = history.iter().map(|b| send(&store, b)).collect();
        let stop = random.below(waiting.len() as u64) as usize;
        outcome(&waiting[stop]).unwrap();
        let left = cut(&disk, &mut random);
        drop(store);
        let store = left.open();
        assert_prefix(&store, &history, stop + 1, volume, stream);
        prop_assert!(store.status().damage.is_empty(), "{:?}", store.status().damage);
    }

    #[test]
    fn damage_is_never_shown_as_data(seed: u64) {
        let mut random = Random::new(seed);
        let mut workload = Workload::new(seed);
        let history = workload.history(150);
        let volume = workload.volume();
        let mut disk = Disk::small();
        let store = disk.open();
        common::append_all(&store, &history);
        drop(store);
        let mut oracle = Oracle::new();
        history.iter().for_each(|b| oracle.apply(b).unwrap());
        damage(&disk, &mut random);
        if random.one_in(2) {
            disk.index = gateway_store::MemoryIndex::new();
        }
        let store = disk.open();
        let catalogue = store.catalogue();
        let Some(known) = catalogue.volume(volume) else { return Ok(()) };
        let there = durable(&store, workload.stream());
        for point in oracle.lsns().into_iter().filter(|&l| l <= there && known.selectable(l).is_ok()).step_by(9) {
            if let Ok(shown) = try_image(&store, volume, point) {
                prop_assert!(shown == oracle.image_at(volume, point), "the image at {} is wrong", point);
            }
        }
        // It goes on: a new run with a resync of everything is taken.
        let restart = workload.restart(1000, Some(tap_block::SyncCause::HopLost));
        prop_assert!(append(&store, &restart).is_ok());
    }
}

/// Flips a bit, or wipes a stretch, somewhere in the segments.
fn damage(disk: &Disk, random: &mut Random) {
    let mut files: Vec<FileNo> = disk.dir.list().unwrap();
    random.shuffle(&mut files);
    let at = random.below(300 << 10);
    let (wipe, bit, len) = (random.one_in(2), random.below(8), random.below(9000) as usize);
    disk.dir.corrupt(files[0], at, |bytes| {
        if wipe {
            bytes.iter_mut().take(len).for_each(|b| *b = 0);
        } else {
            bytes[0] ^= 1 << bit;
        }
    });
}

#[test]
fn a_full_disk_refuses_in_order_and_goes_on_when_there_is_room() {
    let mut workload = Workload::blank(7, 64 * 4096);
    let disk = Disk::small();
    disk.dir.set_capacity(2 * (512 << 10));
    let store = disk.open();
    let mut oracle = Oracle::new();
    let begin = workload.begin();
    append(&store, &begin).unwrap();
    oracle.apply(&begin).unwrap();
    let mut refused = Vec::new();
    for _ in 0..200 {
        let batch = workload.batch(8);
        match append(&store, &batch) {
            Ok(_) => {
                assert!(refused.is_empty(), "nothing is taken behind what was refused");
                oracle.apply(&batch).unwrap();
            }
            Err(StoreError::NoSpace(_)) => refused.push(batch),
            Err(StoreError::Sequence { .. }) if !refused.is_empty() => refused.push(batch),
            Err(e) => panic!("{e}"),
        }
    }
    assert!(refused.len() > 10);
    assert!(store.status().failing.is_some());
    let there = durable(&store, workload.stream());
    assert_eq!(there, oracle.last_lsn());
    assert!(image(&store, workload.volume(), there) == oracle.image_at(workload.volume(), there));
    disk.dir.set_capacity(1 << 30);
    for batch in &refused {
        append(&store, batch).unwrap();
        oracle.apply(batch).unwrap();
    }
    assert!(store.status().failing.is_none());
    let there = durable(&store, workload.stream());
    assert!(image(&store, workload.volume(), there) == oracle.image_at(workload.volume(), there));
}

/// Others may take what the journal does not need; and it is not said to fail once there is room, though nothing was sent since.
#[test]
fn a_store_that_was_full_goes_on_by_itself_and_says_what_it_needs() {
    const SEGMENT: u64 = 512 << 10;
    let (disk, free) = (Disk::small(), Arc::new(AtomicU64::new(0)));
    let seen = Arc::clone(&free);
    let parts = Parts {
        free: Box::new(move || Some(seen.load(Ordering::Relaxed))),
        ..common::steps::parts(&disk, &Arc::default())
    };
    let store = Store::open_on(disk.config.clone(), Arc::clone(&disk.clock), parts).unwrap();
    let begin = Workload::new(8).begin();
    assert!(matches!(append(&store, &begin), Err(StoreError::NoSpace(_))));
    assert!(store.status().failing.is_some());
    assert_eq!(store.room_for_others(), Some(0));
    let keep = disk.config.keep_free;
    free.store(keep + 100 * SEGMENT, Ordering::Relaxed);
    assert_eq!(store.status().failing, None);
    assert_eq!(store.room_for_others(), Some(89 * SEGMENT), "a tenth and one to go on with stay");
    append(&store, &begin).unwrap();
    free.store(keep + 5 * SEGMENT, Ordering::Relaxed);
    assert_eq!(store.room_for_others(), Some(0), "four at least, and one");
}

#[test]
fn a_failing_index_holds_up_and_loses_nothing() {
    let mut workload = Workload::blank(9, 64 * 4096);
    let disk = Disk::small();
    let store = disk.open();
    let begin = workload.begin();
    append(&store, &begin).unwrap();
    disk.index.fail(true);
    let mut held = None;
    for _ in 0..100 {
        let batch = workload.batch(8);
        if let Err(e) = append(&store, &batch) {
            assert!(matches!(e, StoreError::Index(_)), "{e}");
            held = Some(batch);
            break;
        }
    }
    let held = held.expect("memory is bounded");
    disk.index.fail(false);
    disk.index.poison();
    // The index thread tries again each second.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while append(&store, &held).is_err() {
        assert!(std::time::Instant::now() < deadline, "it never goes on");
        std::thread::yield_now();
    }
    assert!(store.status().index_failing.is_none());
}

#[test]
fn a_stop_in_order_goes_on_in_the_same_segment() {
    let mut workload = Workload::new(3);
    let disk = Disk::small();
    let store = disk.open();
    append(&store, &workload.begin()).unwrap();
    drop(store);
    for _ in 0..5 {
        let store = disk.open();
        append(&store, &workload.batch(2)).unwrap();
        assert_eq!(store.status().segments, 1);
    }
    // After a crash the open segment is left alone.
    let left = cut(&disk, &mut Random::new(1));
    let store = left.open();
    append(&store, &workload.batch(2)).unwrap();
    let left = cut(&left, &mut Random::new(2));
    drop(store);
    let store = left.open();
    append(&store, &workload.batch(2)).unwrap();
    assert_eq!(store.status().segments, 2);
}

#[test]
fn records_out_of_order_are_refused() {
    let mut workload = Workload::new(4);
    let disk = Disk::small();
    let store = disk.open();
    let (first, second, third) = (workload.begin(), workload.batch(3), workload.batch(3));
    assert!(
        matches!(append(&store, &second), Err(StoreError::Sequence { .. })),
        "a stream begins with a run"
    );
    append(&store, &first).unwrap();
    assert!(matches!(append(&store, &third), Err(StoreError::Sequence { .. })));
    append(&store, &second).unwrap();
    assert!(matches!(append(&store, &second), Err(StoreError::Sequence { .. })));
    append(&store, &third).unwrap();
    store.stop();
    assert!(matches!(append(&store, &workload.batch(1)), Err(StoreError::Stopped)));
}

/// The places of `magic` in the first segment.
fn places(disk: &Disk, magic: [u8; 8]) -> Vec<u64> {
    let pool = disk.pool();
    let mut bytes = vec![0; disk.config.segment_len as usize];
    pool.get(pool.list()[0]).unwrap().read_at(0, &mut bytes).unwrap();
    (0..bytes.len()).step_by(8).filter(|&at| bytes[at..at + 8] == magic).map(|at| at as u64).collect()
}

#[test]
fn lost_records_are_refused_until_everything_is_copied_again() {
    use tap_block::SyncCause::HopLost;
    let mut workload = Workload::new(12);
    let (volume, stream) = (workload.volume(), workload.stream());
    let mut disk = Disk::small();
    disk.config.group_versions = 10_000; // nothing of it is in the index
    let store = disk.open();
    let mut history = vec![workload.begin(), workload.end_sync()];
    history.extend((0..6).map(|_| workload.batch(4)));
    history.iter().for_each(|batch| assert!(append(&store, batch).is_ok()));
    drop(store);
    let frames = places(&disk, gateway_journal::frame::FRAME_MAGIC);
    assert_eq!(frames.len(), history.len());
    disk.dir.corrupt(disk.dir.list().unwrap()[0], frames[4] + 60, |bytes| bytes[0] ^= 1);

    let store = disk.open();
    let damage = store.status().damage;
    let lost = (history[4].first_lsn, history[4].last_lsn().unwrap());
    assert_eq!(damage[0].lost[0], (stream, lost.0, lost.1));
    let mut oracle = Oracle::new();
    history.iter().for_each(|b| oracle.apply(b).unwrap());
    let before = lost.0.previous();
    assert!(image(&store, volume, before) == oracle.image_at(volume, before));
    for point in [lost.0, lost.1, durable(&store, stream)] {
        assert!(try_image(&store, volume, point).unwrap_err().contains("resync"), "{point}");
    }
    // A sync of less than everything does not help.
    append(&store, &workload.restart(10, Some(tap_block::SyncCause::UncleanStop))).unwrap();
    append(&store, &workload.end_sync()).unwrap();
    assert!(try_image(&store, volume, durable(&store, stream)).is_err());
    append(&store, &workload.restart(10, Some(HopLost))).unwrap();
    append(&store, &workload.batch(3)).unwrap();
    assert!(try_image(&store, volume, durable(&store, stream)).is_err());
    append(&store, &workload.end_sync()).unwrap();
    assert!(try_image(&store, volume, durable(&store, stream)).is_ok());
    assert!(try_image(&store, volume, lost.1).is_err());
    drop(store);
    let store = disk.open();
    assert!(try_image(&store, volume, durable(&store, stream)).is_ok());
    assert!(try_image(&store, volume, lost.1).is_err());
}

#[test]
fn a_hop_that_lost_records_says_so_and_is_believed() {
    use tap_block::{Marker, SyncCause};
    let mut workload = Workload::blank(13, 64 * 4096);
    let disk = Disk::small();
    let store = disk.open();
    append(&store, &workload.begin()).unwrap();
    append(&store, &workload.end_sync()).unwrap();
    let next = workload.next_lsn().plus(500);
    let jump = |marker| {
        let (stream, volume) = (workload.stream(), workload.volume());
        let mut to = testbed_model::BatchBuilder::new(stream, volume, workload.run(), next, workload.now());
        to.mark(marker);
        to.build()
    };
    let other = jump(Marker::SyncStart { cause: SyncCause::Overflow });
    assert!(matches!(append(&store, &other), Err(StoreError::Sequence { .. })));
    append(&store, &jump(Marker::SyncStart { cause: SyncCause::HopLost })).unwrap();
    assert_eq!(durable(&store, workload.stream()), next);
}

#[test]
fn what_is_too_much_is_refused_at_once() {
    let mut workload = Workload::with_size(14, 200 * 4096);
    let mut disk = Disk::small();
    disk.config.segment_len = 64 << 10;
    let store = disk.open();
    append(&store, &workload.begin()).unwrap();
    let large = workload.end_sync();
    assert!(matches!(append(&store, &large), Err(StoreError::TooLarge { .. })));
    let mut broken = workload.batch(2);
    broken.lens.push(9);
    assert!(matches!(append(&store, &broken), Err(StoreError::Invalid(_))));
    drop(store);
    disk.config.max_queue = 1;
    let store = disk.open();
    // One waits at most; the rest is told at once.
    let waiting: Vec<_> = (0..200).map(|_| send(&store, &large)).collect();
    let refused = waiting.iter().filter(|w| matches!(outcome(w), Err(StoreError::Overloaded))).count();
    assert!(refused > 0);
}
