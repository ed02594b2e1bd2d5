//! What an index goes on to hold that nobody looks for: nothing, whatever kept it from being removed at its time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::lab::{Lab, cut as cut_now, policy};
use common::steps::{Steps, parts};
use gateway_store::{IndexError, IndexOpener, IndexStore, MemoryIndex, Parts, Row, Store, Table};
use testbed_model::Random;

/// Of these rows nothing is said, or removed, while that is so.
#[derive(Clone, Default)]
struct Failing {
    index: MemoryIndex,
    told: Arc<AtomicBool>,
    removed: Arc<AtomicBool>,
}

impl Failing {
    fn unless(fails: bool) -> Result<(), IndexError> {
        if fails { Err(IndexError::new("on purpose".into())) } else { Ok(()) }
    }
}

impl IndexOpener for Failing {
    fn open(&self) -> Result<Arc<dyn IndexStore>, IndexError> {
        Ok(Arc::new(self.clone()))
    }

    fn wipe(&self) -> Result<(), IndexError> {
        IndexOpener::wipe(&self.index)
    }

    fn condemn(&self, why: &str) -> Result<(), IndexError> {
        self.index.condemn(why)
    }

    fn condemned(&self) -> Option<String> {
        self.index.condemned()
    }
}

impl IndexStore for Failing {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.index.get(table, key)
    }

    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>, IndexError> {
        self.index.last(table, from, to)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), IndexError> {
        self.index.scan(table, from, to, each)
    }

    fn ingest(&self, table: Table, rows: Vec<Row>) -> Result<(), IndexError> {
        self.index.ingest(table, rows)
    }

    fn remove(&self, table: Table, keys: Vec<Vec<u8>>) -> Result<(), IndexError> {
        let is_of_old = table == Table::Runs || table == Table::Settled;
        Self::unless(self.removed.load(Ordering::SeqCst) && is_of_old)?;
        self.index.remove(table, keys)
    }

    fn tidy(&self, idle: bool) -> Result<(), IndexError> {
        self.index.tidy(idle)
    }

    fn replace(&self, rows: Vec<Row>, gone: Vec<Vec<u8>>) -> Result<(), IndexError> {
        Self::unless(self.told.load(Ordering::SeqCst) && rows.iter().any(|(key, _)| key == b"layout"))?;
        self.index.replace(rows, gone)
    }
}

/// Rows of each table, of the same history whatever becomes of the index meanwhile.
struct Scene {
    lab: Lab,
    index: Failing,
}

impl Scene {
    fn new() -> Self {
        let mut lab = Lab::new(4, policy(100, &[(20, 1000)], 0));
        // Whole generations, and parts of some.
        lab.disk.config.settle_at_once = 1;
        let index = Failing { index: lab.disk.index.clone(), ..Failing::default() };
        let mut this = Self { lab, index };
        this.open();
        this.lab.write(40, 5);
        this.write();
        this
    }

    fn open(&mut self) {
        self.lab.store = None;
        let parts = Parts { index: Box::new(self.index.clone()), ..self.lab.disk.parts() };
        let (config, clock) = (self.lab.disk.config.clone(), Arc::clone(&self.lab.disk.clock));
        self.lab.store = Some(Store::open_on(config, clock, parts).unwrap());
    }

    fn write(&mut self) {
        self.lab.more(120, 5);
        self.lab.wait_for_index();
    }

    fn settle(&mut self) {
        self.lab.clock.advance(Duration::from_secs(1500));
        self.lab.settle();
    }

    /// What is there after the next pass, which finds nothing to settle.
    fn rows(&self) -> [usize; 5] {
        self.lab.settle();
        self.lab.check(9);
        assert!(self.lab.store().status().settles > 1, "{:?}", self.lab.store().status());
        Table::ALL.map(|table| self.index.index.rows(table))
    }
}

#[test]
fn rows_of_what_a_settle_replaced_are_removed_though_the_index_failed_then() {
    let mut sound = Scene::new();
    sound.settle();
    sound.write();
    sound.settle();
    let sound = sound.rows();
    for reopen in [false, true] {
        for which in 0..2 {
            let mut scene = Scene::new();
            scene.settle();
            scene.write();
            let fails = [&scene.index.told, &scene.index.removed].map(Arc::clone);
            fails[which].store(true, Ordering::SeqCst);
            scene.lab.clock.advance(Duration::from_secs(1500));
            while scene.lab.store().settle().is_ok_and(|made| made.is_some()) {}
            fails[which].store(false, Ordering::SeqCst);
            if reopen {
                scene.open();
            }
            assert_eq!(scene.rows(), sound, "{which}, {reopen}");
        }
    }
}

/// A kill comes between any two of its steps.
#[test]
fn rows_of_what_a_settle_replaced_are_removed_though_it_was_killed_then() {
    let settled = |cut: Option<(&str, u64)>| {
        let mut lab = Lab::new(4, policy(100, &[(20, 1000)], 0));
        lab.write(40, 5);
        lab.more(120, 5);
        let (steps, left) = (Arc::new(Steps::default()), Arc::new(Mutex::new(None)));
        lab.store = None;
        let (config, clock) = (lab.disk.config.clone(), Arc::clone(&lab.disk.clock));
        lab.store = Some(Store::open_on(config, clock, parts(&lab.disk, &steps)).unwrap());
        lab.wait_for_index();
        if let Some((name, no)) = cut {
            let no = steps.counts().get(name).copied().unwrap_or(0) + no;
            let (lost, disk) = (Arc::clone(&left), lab.disk.clone());
            let at_cut = move || *lost.lock().unwrap() = Some(cut_now(&disk, &mut Random::new(no)));
            steps.cut_before(name, no, Box::new(at_cut));
        }
        lab.clock.advance(Duration::from_secs(1500));
        lab.settle();
        let is_cut = left.lock().unwrap().is_some();
        if let Some(left) = left.lock().unwrap().take() {
            lab.store = None;
            lab.disk = left;
        }
        lab.open();
        lab.settle();
        lab.check(9);
        (is_cut, Table::ALL.map(|table| lab.disk.index.rows(table)))
    };
    let (_, sound) = settled(None);
    let mut cuts = 0;
    for name in [
        "index commit",
        "index remove Runs",
        "index remove Settled",
        "index remove Times",
        "index remove State",
    ] {
        for no in 0..4 {
            let (is_cut, rows) = settled(Some((name, no)));
            assert_eq!(rows, sound, "killed before {name}, {no} later");
            cuts += usize::from(is_cut);
        }
    }
    assert!(cuts > 8, "{cuts}");
}
