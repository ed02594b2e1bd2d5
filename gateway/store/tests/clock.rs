//! A source's clock that is set while its tap runs: a time leads to the last record that it meant.
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

use common::lab::{policy, rule};
use common::{Disk, ManualClock, append};
use gateway_journal::MetaRecord;
use gateway_store::{MemoryIndex, Store};
use tap_block::{Batch, Lsn, Marker, RunId, RunStart, StreamId, VolumeId, WallTime};
use testbed_model::{BatchBuilder, Oracle, Random};

const STREAM: StreamId = StreamId::new(5);
const VOLUME: VolumeId = VolumeId::new(6);

/// Batches of a run whose clock is set now and then, in the middle of a batch or not.
struct Source {
    random: Random,
    next: Lsn,
    wall: u64,
}

impl Source {
    fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), next: Lsn::ZERO.next(), wall: 1_700_000_000_000 }
    }

    fn batch(&mut self) -> Batch {
        let millis = |n: u64| WallTime::EPOCH.plus(Duration::from_millis(n));
        let mut to = BatchBuilder::new(STREAM, VOLUME, RunId::new(1), self.next, millis(self.wall));
        if self.next == Lsn::ZERO.next() {
            let name = "web01".parse().unwrap();
            let (previous, durable, sync) = (None, Lsn::ZERO, None);
            to.mark(Marker::RunStart(RunStart {
                previous,
                durable,
                volume: VOLUME,
                name,
                size: 1 << 22,
                sync,
            }));
            self.next = self.next.next();
        }
        for _ in 0..=self.random.below(12) {
            self.wall += self.random.below(300);
            if self.random.one_in(15) {
                let before = millis(self.wall);
                self.wall = 1_700_000_000_000 + self.random.below(100_000);
                to.at(millis(self.wall)).mark(Marker::ClockSet { before });
            } else {
                to.at(millis(self.wall)).write(self.random.below(1000), &[7; 4096]);
            }
            self.next = self.next.next();
        }
        to.build()
    }
}

/// Every time that a record has, and the one just before it.
fn check(store: &Store, oracle: &Oracle, from: Lsn) {
    for lsn in oracle.lsns().into_iter().filter(|lsn| *lsn > from) {
        let at = oracle.time_of(lsn).unwrap();
        assert_eq!(store.time_of(STREAM, lsn).unwrap(), Some(at));
        for time in [at, WallTime::from_nanos(at.nanos() - 1)] {
            let expected = oracle.lsn_at(time);
            if expected.is_none_or(|lsn| lsn > from) {
                let found = store.lsn_at(STREAM, time).unwrap().map(|p| p.lsn);
                assert_eq!(found, expected, "{time}, asked for {lsn:?}");
            }
        }
    }
}

fn open(disk: &Disk) -> Arc<Store> {
    let store = disk.open();
    let policy = policy(10, &[(1000, 1000)], 1000);
    rule(&store, MetaRecord::PolicySet { volume: None, policy: Some(policy) });
    store
}

#[test]
fn a_time_leads_to_the_last_record_that_it_meant() {
    for seed in 0..6 {
        let clock = Arc::new(ManualClock::default());
        let mut disk = Disk { clock: Arc::clone(&clock) as _, ..Disk::small() };
        let (mut source, mut oracle, store) = (Source::new(seed), Oracle::new(), open(&disk));
        let mut feed = |store: &Store, oracle: &mut Oracle, batches: usize| {
            for _ in 0..batches {
                let batch = source.batch();
                append(store, &batch).unwrap();
                oracle.apply(&batch).unwrap();
                clock.advance(Duration::from_secs(1));
            }
        };
        feed(&store, &mut oracle, 60);
        check(&store, &oracle, Lsn::ZERO);
        let clocks = store.catalogue().volume(VOLUME).unwrap().clocks().to_vec();
        assert!(clocks.len() > 5, "{} jumps", clocks.len());
        store.stop();
        drop(store);
        disk.index = MemoryIndex::new();
        let store = disk.open();
        assert_eq!(store.catalogue().volume(VOLUME).unwrap().clocks(), clocks);
        check(&store, &oracle, Lsn::ZERO);
        // What is settled answers with the points that are kept.
        clock.advance(Duration::from_secs(100));
        feed(&store, &mut oracle, 60);
        store.settle().unwrap();
        let kept = store.kept(VOLUME).unwrap();
        assert!(kept.settled > Lsn::ZERO);
        check(&store, &oracle, kept.settled);
        for point in &kept.points {
            let found = store.lsn_at(STREAM, point.captured_at).unwrap().unwrap();
            let meant = oracle.lsn_at(point.captured_at).unwrap().min(kept.settled);
            if meant < kept.settled {
                let last = kept.points.iter().rfind(|p| p.lsn <= meant).unwrap();
                assert_eq!((found.lsn, found.at), (last.lsn, last.captured_at), "asked for {point:?}");
            }
        }
    }
}
