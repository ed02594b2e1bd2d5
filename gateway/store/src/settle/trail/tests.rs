//! Names of what is settled are those of the store, and take no memory twice.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use gateway_image::Catalogue;
use gateway_journal::{MetaRecord, RetentionPolicy};
use tap_block::{
    Batch, Bookmark, Clock, Consistency, Lsn, Marker, Monotonic, RunId, RunStart, StreamId, VolumeId,
    WallTime,
};
use tap_disk::{MemoryDir, PoolOptions, SegmentPool};
use testbed_model::BatchBuilder;

use crate::sync::{lock, read};
use crate::{MemoryIndex, MemoryLedger, MemoryMark, Parts, Store, StoreConfig};

const VOLUME: VolumeId = VolumeId::new(6);

/// Moves by a second each time it is asked.
#[derive(Default)]
struct Hasty(std::sync::Mutex<u64>);

impl Clock for Hasty {
    fn wall(&self) -> WallTime {
        *lock(&self.0) += 1_000_000_000;
        WallTime::from_nanos(1_700_000_000_000_000_000 + *lock(&self.0))
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::from_nanos(self.wall().nanos())
    }
}

#[derive(Default)]
struct Rig {
    dir: MemoryDir,
    index: MemoryIndex,
    mark: Arc<MemoryMark>,
    manifest: Arc<MemoryMark>,
    clock: Arc<Hasty>,
}

impl Rig {
    fn open(&self) -> Arc<Store> {
        let mut config = StoreConfig::new("/nowhere".into());
        (config.segment_len, config.group_versions, config.spare_segments) = (512 << 10, 40, 0);
        (config.settle_each, config.scrub_rate, config.ledger_each) = (None, None, None);
        let length = u64::from(config.segment_len);
        let segments = SegmentPool::over(Box::new(self.dir.clone()), length, PoolOptions::default()).unwrap();
        let parts = Parts {
            segments,
            index: Box::new(self.index.clone()),
            mark: Box::new(Arc::clone(&self.mark)),
            manifest: Box::new(Arc::clone(&self.manifest)),
            proofs: Box::new(MemoryMark::default()),
            ledger: Box::new(MemoryLedger::default()),
            free: Box::new(|| None),
        };
        Store::open_on(config, Arc::clone(&self.clock) as _, parts).unwrap()
    }

    /// So many bookmarks, and as many writes.
    fn bookmarks(&self, store: &Store, n: u64) {
        let next = store.durable(StreamId::new(5)).map_or(Lsn::new(1).unwrap(), |d| d.lsn.next());
        let mut to = BatchBuilder::new(StreamId::new(5), VOLUME, RunId::new(1), next, self.clock.wall());
        if next.get() == 1 {
            let (previous, durable, size, sync) = (None, Lsn::ZERO, 64 << 10, None);
            let name = "web01".parse().unwrap();
            to.mark(Marker::RunStart(RunStart { previous, durable, volume: VOLUME, name, size, sync }));
        }
        for _ in 0..n {
            let name = format!("b{}", to.next_lsn().get()).parse().unwrap();
            let mark = Bookmark { name, consistency: Consistency::Crash, note: "nightly".into() };
            to.mark(Marker::Bookmark(mark)).write(3, &[7; 4096]);
        }
        append(store, to.build());
    }
}

fn append(store: &Store, batch: Batch) {
    let (sender, done) = channel();
    store.append(batch, Box::new(move |outcome| drop(sender.send(outcome))));
    done.recv().unwrap().unwrap();
}

fn settle(store: &Store) {
    while store.status().groups_waiting > 0 {
        std::thread::yield_now();
    }
    while store.settle().unwrap().is_some() {}
}

/// Bookmarks of what is settled, and how many of them are the store's.
fn shared(store: &Store) -> (usize, usize) {
    let published = read(&store.shared().published);
    let names = |catalogue: &Catalogue| -> Vec<usize> {
        let known = catalogue.volume(VOLUME).unwrap();
        known.bookmarks().map(|(name, _)| std::ptr::from_ref(name).addr()).collect()
    };
    let (settled, all) = (names(published.layout.trail.catalogue()), names(&published.catalogue));
    (settled.len(), settled.iter().filter(|name| all.contains(name)).count())
}

#[test]
fn bookmarks_of_what_is_settled_are_those_of_the_store() {
    let mut rig = Rig::default();
    let store = rig.open();
    let policy = RetentionPolicy { every_write: Duration::from_secs(1), ..RetentionPolicy::default() };
    let (sender, done) = channel();
    let set = MetaRecord::PolicySet { volume: None, policy: Some(policy) };
    store.record(set, Box::new(move |outcome| drop(sender.send(outcome))));
    done.recv().unwrap().unwrap();
    for n in 1..=4 {
        rig.bookmarks(&store, 100);
        settle(&store);
        assert_eq!(shared(&store), (n * 100, n * 100));
    }
    rig.bookmarks(&store, 30);
    drop(store);
    for with_index in [true, false] {
        if !with_index {
            rig.index = MemoryIndex::new();
        }
        let store = rig.open();
        assert_eq!(
            (shared(&store), store.catalogue().volume(VOLUME).unwrap().bookmark_count()),
            ((400, 400), 430)
        );
    }
}
