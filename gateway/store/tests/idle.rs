//! A member of a group that writes nothing for weeks and is held: its marks take next to nothing.
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
use common::{Disk, ManualClock, append_all, image};
use gateway_journal::{Hold, MetaRecord};
use gateway_store::{MarkStore as _, MemoryIndex, Store};
use tap_block::{
    BarrierMark, Batch, Lsn, MarkId, Marker, Name, RunId, RunStart, StreamId, VolumeId, WallTime,
};
use testbed_model::BatchBuilder;

const STREAM: StreamId = StreamId::new(5);
const VOLUME: VolumeId = VolumeId::new(6);
/// Between two marks.
const EACH: Duration = Duration::from_secs(10);
/// Marks of a batch.
const AT_ONCE: u64 = 2_000;

/// A disk that is written to now and then, and its marks.
struct Idle {
    disk: Disk,
    clock: Arc<ManualClock>,
    next: Lsn,
    /// On the source's clock, which is the store's.
    now: WallTime,
}

impl Idle {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let mut disk = Disk { clock: Arc::clone(&clock) as _, ..Disk::small() };
        disk.config.segment_len = 8 << 20;
        disk.config.group_limit = 256 << 10;
        let now = tap_block::Clock::wall(&*clock);
        Self { disk, clock, next: Lsn::new(1).unwrap(), now }
    }

    fn build(&mut self, fill: impl FnOnce(&mut BatchBuilder)) -> Batch {
        let mut to = BatchBuilder::new(STREAM, VOLUME, RunId::new(1), self.next, self.now);
        fill(&mut to);
        self.next = to.next_lsn();
        to.build()
    }

    fn start(&mut self) -> Batch {
        let name: Name = "web01".parse().unwrap();
        let (previous, durable, sync, size) = (None, Lsn::ZERO, None, 64 << 10);
        let start = RunStart { previous, durable, volume: VOLUME, name, size, sync };
        self.build(|to| {
            to.mark(Marker::RunStart(start)).write(0, &[1; 4096]);
        })
    }

    fn write(&mut self, byte: u8) -> Batch {
        self.build(|to| {
            to.write(1, &[byte; 4096]);
        })
    }

    /// A mark each so often.
    fn marks(&mut self, marks: u64) -> Batch {
        let (mut now, group): (_, Name) = (self.now, "db".parse().unwrap());
        let batch = self.build(|to| {
            for _ in 0..marks {
                now = now.plus(EACH);
                let (id, group, members) = (MarkId::new(now.nanos()), group.clone(), vec![VOLUME]);
                to.at(now).mark(Marker::Barrier(BarrierMark { id, group, members, bookmark: None }));
            }
        });
        self.now = now;
        self.clock.advance(EACH * u32::try_from(marks).unwrap());
        batch
    }

    /// So many marks, settled as they come.
    fn idle(&mut self, store: &Store, marks: u64) {
        for n in 0..marks / AT_ONCE {
            let batch = self.marks(AT_ONCE);
            append_all(store, &[batch]);
            if n % 16 == 15 {
                settle(store);
            }
        }
    }
}

/// Nothing is too young any more.
fn settle_all(idle: &Idle, store: &Store) {
    idle.clock.advance(Duration::from_secs(3 * 24 * 3600));
    settle(store);
}

fn settle(store: &Store) {
    while store.status().groups_waiting > 0 {
        std::thread::yield_now();
    }
    while store.settle().unwrap().is_some() {}
}

/// As many as `CHRONOGATE_IDLE_MARKS` says.
fn marks() -> u64 {
    std::env::var("CHRONOGATE_IDLE_MARKS").ok().and_then(|v| v.parse().ok()).unwrap_or(60_000)
}

#[test]
fn marks_of_a_held_member_that_writes_nothing_take_no_more_than_a_few_however_many_they_are() {
    let (mut idle, all) = (Idle::new(), marks());
    let store = idle.disk.open();
    append_all(&store, &[idle.start()]);
    rule(&store, MetaRecord::PolicySet { volume: None, policy: Some(policy(10, &[], 0)) });
    let long = EACH * u32::try_from(all * 4).unwrap();
    let until = idle.now.plus(long);
    let (from, to, credited, note) = (WallTime::EPOCH, until, Duration::ZERO, String::new());
    rule(&store, MetaRecord::Held(Hold { volume: VOLUME, from, to, until, credited, note }));
    let (begun, first) = (idle.now, idle.next);
    idle.idle(&store, all);
    settle_all(&idle, &store);
    let kept = store.kept(VOLUME).unwrap();
    let manifest = idle.disk.manifest.load().unwrap().len();
    println!(
        "{all} marks: {} points listed for {}; {manifest} bytes of manifest, most of them the marks'",
        kept.points.len(),
        kept.count()
    );
    assert!(kept.points.len() <= 6 && kept.count() >= all / 3, "{} for {}", kept.points.len(), kept.count());
    assert!(store.held_up().is_empty() && store.status().groups <= 2 && manifest < 6 << 20, "{manifest}");
    let written = idle.write(2);
    append_all(&store, &[written]);
    idle.idle(&store, 32 * AT_ONCE);
    settle_all(&idle, &store);
    drop((kept, store));
    for index in [false, true] {
        if index {
            idle.disk.index = MemoryIndex::new();
        }
        let store = idle.disk.open();
        assert_eq!(store.status().damage, []);
        assert!(store.kept(VOLUME).unwrap().points.len() <= 10, "{:?}", store.kept(VOLUME));
        // Every mark of all that time can be opened, and shows what was there.
        for n in (0..all).step_by((all / 50) as usize) {
            let (lsn, time) = (first.plus(n), begun.plus(EACH * u32::try_from(n + 1).unwrap()));
            store.check_kept(VOLUME, lsn).unwrap();
            let found = store.lsn_at(STREAM, time).unwrap().unwrap();
            assert!(found.lsn <= lsn && found.at <= time && found.lsn.get() >= 2, "{found:?} at {lsn}");
            assert!(image(&store, VOLUME, lsn)[4096] == 0 && image(&store, VOLUME, lsn)[0] == 1);
        }
        assert_eq!(image(&store, VOLUME, first.plus(all))[4096], 2);
    }
    // A hold runs as long as the store does; what costs nothing goes with the next that is settled.
    let store = idle.disk.open();
    idle.clock.advance(long);
    idle.now = tap_block::Clock::wall(&*idle.clock);
    idle.idle(&store, 32 * AT_ONCE);
    settle_all(&idle, &store);
    let left = store.kept(VOLUME).unwrap();
    assert!(left.count() < 10, "it is over: {:?}", left.points);
}
