//! What a store notes of itself and of points by name, against acts that come at the same time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::lab::{Lab, policy};
use common::{outcome, send};
use gateway_journal::Mark;
use gateway_store::{MarkStore, MemoryMark, Parts, Store};

/// A mark that holds back the keeper's note of a store that nobody writes to, until another note was made meanwhile or, after
/// a while, it is clear that none can be.
struct Slow {
    inner: Arc<MemoryMark>,
    noted: Arc<(Mutex<Notes>, Condvar)>,
}

#[derive(Default)]
struct Notes {
    held: bool,
    is_over: bool,
    others: usize,
}

impl MarkStore for Slow {
    fn load(&self) -> Option<Vec<u8>> {
        self.inner.load()
    }

    fn store(&self, bytes: &[u8]) -> std::io::Result<()> {
        let (notes, changed) = &*self.noted;
        let clean = Mark::decode(bytes).unwrap().clean;
        if clean && std::thread::current().name() == Some("store-mark") {
            let mut notes = notes.lock().unwrap();
            notes.held = true;
            changed.notify_all();
            let others = notes.others;
            let wait = Duration::from_millis(500);
            drop(changed.wait_timeout_while(notes, wait, |n| n.others == others).unwrap());
            let stored = self.inner.store(bytes);
            self.noted.0.lock().unwrap().is_over = true;
            changed.notify_all();
            return stored;
        }
        self.inner.store(bytes)?;
        notes.lock().unwrap().others += 1;
        changed.notify_all();
        Ok(())
    }
}

#[test]
fn a_store_that_is_written_to_is_not_noted_as_stopped_in_order() {
    let mut lab = Lab::new(92, policy(1000, &[], 0));
    lab.write(60, 1);
    lab.store = None;
    assert!(Mark::decode(&lab.disk.mark.load().unwrap()).unwrap().clean);
    let noted: Arc<(Mutex<Notes>, Condvar)> = Arc::default();
    let disk = &lab.disk;
    let parts = Parts {
        segments: disk.pool(),
        index: Box::new(disk.index.clone()),
        mark: Box::new(Slow { inner: Arc::clone(&disk.mark), noted: Arc::clone(&noted) }),
        manifest: Box::new(Arc::clone(&disk.manifest)),
        proofs: Box::new(Arc::clone(&disk.proofs)),
        ledger: Box::new(disk.ledger.clone()),
        free: Box::new(|| None),
    };
    let store = Store::open_on(disk.config.clone(), Arc::clone(&disk.clock), parts).unwrap();
    // The keeper notes the store's clock each minute.
    lab.clock.advance(Duration::from_secs(61));
    let (notes, changed) = &*noted;
    drop(changed.wait_while(notes.lock().unwrap(), |n| !n.held).unwrap());
    outcome(&send(&store, &lab.workload.batch(5))).unwrap();
    drop(changed.wait_while(notes.lock().unwrap(), |n| !n.is_over).unwrap());
    let mark = Mark::decode(&disk.mark.load().unwrap()).unwrap();
    assert!(!mark.clean, "{mark:?}");
}
