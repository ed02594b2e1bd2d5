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

use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::lab::{Lab, policy};
use common::{outcome, send};
use gateway_journal::{Mark, MetaRecord};
use gateway_store::{MarkStore, MemoryIndex, MemoryMark, Parts, Store};
use tap_block::{Lsn, Name};

/// Time goes on, and everything is settled.
fn age(lab: &mut Lab) {
    for _ in 0..2 {
        lab.more(20, 5);
        lab.clock.advance(Duration::from_secs(500));
    }
    lab.settle();
}

fn gold(lab: &mut Lab) -> Lsn {
    let batch = lab.workload.bookmark(&"gold".parse().unwrap());
    lab.append(&batch);
    batch.last_lsn().unwrap()
}

fn named_gold(lab: &Lab) -> Option<Lsn> {
    let gold: Name = "gold".parse().unwrap();
    let catalogue = lab.store().catalogue();
    catalogue.volume(lab.volume())?.bookmark_named(&gold).map(|there| there.at.lsn)
}

/// Another gateway, whose policy let its point go, allowed the name again; the marker comes to all.
#[test]
fn a_bookmark_whose_name_is_given_again_keeps_name_and_point_as_long_as_its_policy_says() {
    let mut lab = Lab::new(91, policy(10, &[], 1_000_000));
    lab.write(60, 1);
    let first = gold(&mut lab);
    age(&mut lab);
    assert!(lab.store().check_kept(lab.volume(), first).is_ok(), "kept as a bookmark");
    gold(&mut lab);
    age(&mut lab);
    for _ in 0..2 {
        assert!(lab.store().check_kept(lab.volume(), first).is_ok());
        assert_eq!(named_gold(&lab), Some(first));
        lab.disk.index = MemoryIndex::new();
        lab.open();
    }
}

#[test]
fn the_name_of_a_bookmark_whose_point_is_gone_is_the_next_ones_behind_a_restart_too() {
    let mut lab = Lab::new(93, policy(10, &[], 300));
    lab.write(60, 1);
    let first = gold(&mut lab);
    age(&mut lab);
    assert!(lab.store().check_kept(lab.volume(), first).is_err());
    let second = gold(&mut lab);
    for _ in 0..2 {
        assert_eq!(named_gold(&lab), Some(second));
        lab.disk.index = MemoryIndex::new();
        lab.open();
    }
    lab.more(20, 5);
    lab.settle();
    lab.disk.index = MemoryIndex::new();
    lab.open();
    assert_eq!(named_gold(&lab), Some(second), "and once it is settled");
}

fn bookmarks(lab: &Lab) -> usize {
    lab.store().catalogue().volume(lab.volume()).unwrap().bookmarks().count()
}

/// A bookmark each now and then, for years: no more of them are known than there are points.
#[test]
fn bookmarks_whose_points_are_gone_are_forgotten_and_where_they_stood_is_told() {
    let mut lab = Lab::new(95, policy(10, &[], 300));
    lab.write(60, 1);
    let first = gold(&mut lab);
    let silver: Name = "silver".parse().unwrap();
    let batch = lab.workload.bookmark(&silver);
    lab.append(&batch);
    let pinned = batch.last_lsn().unwrap();
    lab.rule(MetaRecord::Pinned { volume: lab.volume(), point: pinned, note: String::new() });
    let mut most = 0;
    for n in 0..400 {
        let batch = lab.workload.bookmark(&format!("b{n}").parse().unwrap());
        lab.append(&batch);
        lab.clock.advance(Duration::from_secs(20));
        if n % 10 == 9 {
            lab.more(20, 1);
            lab.settle();
            // What was settled is forgotten with the next commit.
            lab.more(1, 1);
            most = most.max(bookmarks(&lab));
        }
    }
    age(&mut lab);
    lab.more(1, 1);
    assert!(most < 60, "{most}");
    let stood = |lab: &Lab, name: &str| {
        let catalogue = lab.store().catalogue();
        catalogue.volume(lab.volume()).unwrap().gone_bookmark(&name.parse().unwrap()).map(|at| at.lsn)
    };
    for _ in 0..3 {
        let catalogue = lab.store().catalogue();
        let volume = catalogue.volume(lab.volume()).unwrap();
        assert!(
            volume.bookmarks().all(|(_, there)| lab.store().check_kept(volume.id(), there.at.lsn).is_ok())
        );
        assert_eq!(volume.bookmark_named(&silver).map(|there| there.at.lsn), Some(pinned), "a pin keeps it");
        assert_eq!((stood(&lab, "gold"), named_gold(&lab)), (Some(first), None));
        assert!(stood(&lab, "b7").is_some() && stood(&lab, "silver").is_none());
        lab.disk.index = MemoryIndex::new();
        lab.open();
    }
    let again = gold(&mut lab);
    assert_eq!((stood(&lab, "gold"), named_gold(&lab)), (None, Some(again)), "its name was free");
}

#[test]
fn policies_of_one_list_count_together_and_let_nothing_go_between() {
    let mut lab = Lab::new(94, policy(1_000_000, &[], 0));
    lab.write(120, 5);
    let kept = lab.check(40);
    let set = |volume, every| MetaRecord::PolicySet { volume, policy: Some(policy(every, &[], 0)) };
    // The general one alone would let nearly all of it go.
    let list = vec![set(None, 10), set(Some(lab.volume()), 1_000_000)];
    let (sender, done) = channel();
    lab.store().record_all(list, Box::new(move |outcome| drop(sender.send(outcome))));
    let seen = loop {
        let catalogue = lab.store().catalogue();
        let general = catalogue.rules().general_policy().unwrap().every_write;
        let own = catalogue.rules().own_policy(lab.volume()).is_some();
        assert_eq!(general == Duration::from_secs(10), own, "one without the other");
        if own {
            break done.recv_timeout(Duration::from_secs(30)).unwrap();
        }
        std::thread::yield_now();
    };
    seen.unwrap();
    lab.settle();
    assert_eq!(lab.check(40), kept);
    lab.disk.index = MemoryIndex::new();
    lab.open();
    assert_eq!(lab.check(40), kept);
}

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
