//! Maps that are kept: one that was being made of what was found wrong meanwhile is none of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::sync::{Arc, Mutex};

use common::lab::{Lab, policy};
use common::{image, try_image};
use gateway_store::{IndexError, IndexOpener, IndexStore, MemoryIndex, Parts, Row, Scope, Store, Table};

type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// An index in which something happens while it is read: between a checkpoint's being found and its being given.
struct Interrupted {
    index: MemoryIndex,
    hook: Hook,
}

impl IndexOpener for Interrupted {
    fn open(&self) -> Result<Arc<dyn IndexStore>, IndexError> {
        Ok(Arc::new(Self { index: self.index.clone(), hook: Arc::clone(&self.hook) }))
    }

    fn wipe(&self) -> Result<(), IndexError> {
        self.index.wipe()
    }

    fn condemn(&self, why: &str) -> Result<(), IndexError> {
        self.index.condemn(why)
    }

    fn condemned(&self) -> Option<String> {
        self.index.condemned()
    }
}

impl IndexStore for Interrupted {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.index.get(table, key)
    }

    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>, IndexError> {
        let found = self.index.last(table, from, to)?;
        let hook = self.hook.lock().unwrap().take_if(|_| table == Table::Maps && found.is_some());
        hook.into_iter().for_each(|hook| hook());
        Ok(found)
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
        self.index.remove(table, keys)
    }

    fn tidy(&self, idle: bool) -> Result<(), IndexError> {
        self.index.tidy(idle)
    }

    fn replace(&self, rows: Vec<Row>, gone: Vec<Vec<u8>>) -> Result<(), IndexError> {
        self.index.replace(rows, gone)
    }
}

/// The newest checkpoint of a region becomes an older one that says it is as new.
fn spoil(index: &MemoryIndex) {
    let mut rows: Vec<Row> = Vec::new();
    let mut take = |key: &[u8], value: &[u8]| {
        rows.push((key.to_vec(), value.to_vec()));
        true
    };
    index.scan(Table::Maps, &[], &[0xff; 24], &mut take).unwrap();
    let same = |(a, b): &(&Row, &Row)| a.0[..12] == b.0[..12];
    let (old, (key, new)) = rows.iter().zip(rows.iter().skip(1)).rfind(same).unwrap();
    let value = [&new[..8], &old.1[8..]].concat();
    index.ingest(Table::Maps, vec![(key.clone(), value)]).unwrap();
}

#[test]
fn a_map_made_of_a_checkpoint_that_is_found_wrong_meanwhile_is_not_served() {
    let mut lab = Lab::new(5, policy(1_000_000, &[], 0));
    lab.write(300, 1);
    lab.more(20, 1);
    lab.store = None;
    spoil(&lab.disk.index);
    lab.open();
    let (volume, points) = (lab.volume(), lab.oracle.lsns());
    let is_wrong =
        |lsn: &tap_block::Lsn| try_image(lab.store(), volume, *lsn) != Ok(lab.oracle.image_at(volume, *lsn));
    let read_by = points.iter().copied().find(is_wrong).unwrap();
    lab.store = None;
    let hook = Hook::default();
    let index = Interrupted { index: lab.disk.index.clone(), hook: Arc::clone(&hook) };
    let parts = Parts { index: Box::new(index), ..lab.disk.parts() };
    let store = Store::open_on(lab.disk.config.clone(), Arc::clone(&lab.disk.clock), parts).unwrap();
    let other = Arc::clone(&store);
    *hook.lock().unwrap() = Some(Box::new(move || {
        assert_eq!(other.verify(Scope::default(), &mut |_| true).unwrap().findings.len(), 1);
    }));
    // Now, and whenever somebody asks again.
    for _ in 0..2 {
        assert!(image(&store, volume, read_by) == lab.oracle.image_at(volume, read_by));
        assert!(hook.lock().unwrap().is_none(), "the checkpoint was read");
    }
}
