//! A store, what was written to it, and time that moves by hand.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;

use gateway_journal::{MetaRecord, RetentionPolicy, Tier, WhenFull};
use gateway_store::{LedgerStore, MarkStore, MemoryLedger, MemoryMark, Store, StoreError};
use tap_block::{Batch, Lsn, VolumeId};
use testbed_model::{Oracle, Random, Workload};

use super::{Disk, ManualClock, append, image, try_image};

/// A store whose clock moves by hand, with what was written to it.
pub struct Lab {
    pub disk: Disk,
    pub clock: Arc<ManualClock>,
    pub store: Option<Arc<Store>>,
    pub oracle: Oracle,
    pub workload: Workload,
    /// Two more volumes with little history, so that settled segments hold several regions.
    pub others: Vec<(Workload, Oracle)>,
}

pub fn policy(every_write: u64, tiers: &[(u64, u64)], bookmarks: u64) -> RetentionPolicy {
    let tiers = tiers
        .iter()
        .map(|&(each, keep)| (Duration::from_millis(each), Duration::from_secs(keep)))
        .map(|(each, keep)| Tier { each, keep, before_drop: None });
    RetentionPolicy {
        every_write: Duration::from_secs(every_write),
        tiers: tiers.collect(),
        bookmarks: Duration::from_secs(bookmarks),
        when_full: WhenFull::Thin,
        limit: None,
    }
}

/// Every write 100 s; then one each 20 ms of the source's time for 1000 s, one each 200 ms for 3000 s.
pub fn tiers() -> RetentionPolicy {
    policy(100, &[(20, 1000), (200, 3000)], 5000)
}

/// A record of the gateway's own, until it is durable.
pub fn rule(store: &Store, record: MetaRecord) {
    let (sender, done) = channel();
    store.record(record, Box::new(move |outcome| drop(sender.send(outcome))));
    done.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
}

impl Lab {
    pub fn new(seed: u64, policy: RetentionPolicy) -> Self {
        let clock = Arc::new(ManualClock::default());
        let disk = Disk { clock: Arc::clone(&clock) as _, ..Disk::small() };
        let others =
            [1, 2].map(|n| (Workload::new(seed.wrapping_mul(3).wrapping_add(n)), Oracle::new())).into();
        let (oracle, workload) = (Oracle::new(), Workload::new(seed));
        let mut lab = Self { disk, clock, store: None, oracle, workload, others };
        lab.open();
        lab.write_others(30);
        lab.rule(MetaRecord::PolicySet { volume: None, policy: Some(policy) });
        lab
    }

    pub fn open(&mut self) {
        self.store = None;
        self.store = Some(self.disk.open());
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub fn volume(&self) -> VolumeId {
        self.workload.volume()
    }

    pub fn rule(&self, record: MetaRecord) {
        rule(self.store(), record);
    }

    pub fn append(&mut self, batch: &Batch) {
        append(self.store(), batch).unwrap();
        self.oracle.apply(batch).unwrap();
    }

    /// History over time: each batch a few seconds after the one before.
    pub fn write(&mut self, records: usize, seconds: u64) {
        for batch in self.workload.history(records) {
            self.append(&batch);
            self.clock.advance(Duration::from_secs(seconds));
        }
        self.wait_for_index();
    }

    /// The first history of the others.
    pub fn write_others(&mut self, records: usize) {
        for (workload, oracle) in &mut self.others {
            for batch in workload.history(records) {
                append(self.store.as_ref().unwrap(), &batch).unwrap();
                oracle.apply(&batch).unwrap();
            }
        }
    }

    pub fn more(&mut self, batches: usize, seconds: u64) {
        for n in 0..batches {
            let batch = self.workload.batch(6);
            self.append(&batch);
            let of_other = n % (2 * self.others.len());
            if let Some((workload, oracle)) = self.others.get_mut(of_other) {
                let batch = workload.batch(3);
                append(self.store.as_ref().unwrap(), &batch).unwrap();
                oracle.apply(&batch).unwrap();
            }
            self.clock.advance(Duration::from_secs(seconds));
        }
        self.wait_for_index();
    }

    pub fn wait_for_index(&self) {
        while self.store().status().groups_waiting > 0 {
            std::thread::yield_now();
        }
    }

    /// Every pass there is; how many.
    pub fn settle(&self) -> usize {
        let mut passes = 0;
        while self.store().settle().unwrap().is_some() {
            passes += 1;
            assert!(passes < 100, "it never ends");
        }
        passes
    }

    pub fn check(&self, step: usize) -> Vec<Lsn> {
        self.check_of(self.store(), step)
    }

    /// Of another store with the same history: what is kept of the main volume.
    pub fn check_of(&self, store: &Store, step: usize) -> Vec<Lsn> {
        for (workload, oracle) in &self.others {
            check(store, oracle, workload.volume(), step * 3);
        }
        check(store, &self.oracle, self.volume(), step)
    }
}

/// So many batches, as far as they are taken.
pub fn fill(lab: &mut Lab, batches: usize) -> usize {
    let mut refused = 0;
    for taken in 0..batches {
        let before = lab.workload.clone();
        let batch = lab.workload.batch(8);
        while append(lab.store(), &batch).is_err() {
            refused += 1;
            if refused > 2000 {
                lab.workload = before;
                return taken;
            }
            lab.wait_for_index();
            let _ = lab.store().settle();
            lab.clock.advance(Duration::from_secs(10));
        }
        lab.clock.advance(Duration::from_secs(1));
    }
    batches
}

/// Each point is what the oracle says, or refused with neighbours that are there; returns those that are kept.
pub fn check(store: &Store, oracle: &Oracle, volume: VolumeId, step: usize) -> Vec<Lsn> {
    let mut kept = Vec::new();
    let catalogue = store.catalogue();
    let known = catalogue.volume(volume).unwrap();
    for lsn in oracle.lsns() {
        match store.check_kept(volume, lsn) {
            Ok(()) => kept.push(lsn),
            Err(StoreError::Thinned { before, after, .. }) => {
                let left = store.kept(volume).unwrap();
                assert_eq!(before, left.points.iter().map(|p| p.lsn).rfind(|&l| l < lsn));
                assert!(after.is_some_and(|a| a > lsn && left.holds(a)), "{lsn}: {after:?}");
                assert!(try_image(store, volume, lsn).is_err());
            }
            Err(e) => panic!("{lsn}: {e}"),
        }
    }
    for lsn in kept.iter().rev().step_by(step).filter(|l| known.selectable(**l).is_ok()) {
        assert!(image(store, volume, *lsn) == oracle.image_at(volume, *lsn), "the image at {lsn} differs");
    }
    kept
}

/// What a power cut now leaves: of what was not synced, some pages. The index is never younger than the segments.
pub fn cut(disk: &Disk, random: &mut Random) -> Disk {
    // First: what it says of a segment was on the disk when it was entered.
    let ledger = MemoryLedger::holding(disk.ledger.load().unwrap());
    let (index, mark) = (disk.index.snapshot(), Arc::new(MemoryMark::holding(disk.mark.load())));
    let manifest = Arc::new(MemoryMark::holding(disk.manifest.load()));
    let odds = 1 + random.below(4);
    let dir = disk.dir.after_power_cut(|_, _| random.one_in(odds));
    let proofs = Arc::new(MemoryMark::holding(disk.proofs.load()));
    let (clock, config) = (Arc::clone(&disk.clock), disk.config.clone());
    let mut left = Disk { dir, index, mark, manifest, proofs, ledger, clock, config, capacity: None };
    if let Some(capacity) = &disk.capacity {
        left.leave(capacity.load(Ordering::SeqCst));
    }
    left
}
