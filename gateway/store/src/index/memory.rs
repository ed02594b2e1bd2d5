//! The index in memory, for tests and for stores that shall leave nothing behind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tap_block::units::count;

use super::{IndexError, IndexOpener, IndexStore, Row, Shortage, Table};

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Rows in a map. Clones share them, so that a "restart" finds them again; failures on demand.
#[derive(Debug, Clone, Default)]
pub struct MemoryIndex {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    rows: Rows,
    failing: bool,
    poisoned: bool,
    unreadable: bool,
    rotten: bool,
    condemned: Option<String>,
    ingests: u64,
    committed: u64,
    full: bool,
    cramped: bool,
    wipes: u64,
}

impl MemoryIndex {
    /// No rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes fail from here on, or work again.
    pub fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// Writes fail until it is opened again, as fjall's do after an I/O error.
    pub fn poison(&self) {
        self.lock().poisoned = true;
    }

    /// Its disk is full from here on, or has room again. What it was to write meanwhile failed, so it takes nothing until it is
    /// opened again, for which it needs room.
    pub fn fill(&self, full: bool) {
        self.lock().full = full;
    }

    /// There is too little room on its disk from here on, of which nothing that fails says a word; or there is room again.
    pub fn cramp(&self, cramped: bool) {
        self.lock().cramped = cramped;
    }

    /// How often it was thrown away.
    #[must_use]
    pub fn wipes(&self) -> u64 {
        self.lock().wipes
    }

    /// Opening fails until it is wiped.
    pub fn make_unreadable(&self) {
        self.lock().unreadable = true;
    }

    /// The same, and what is found then is damage.
    #[cfg(test)]
    pub(super) fn make_rotten_to_open(&self) {
        let mut inner = self.lock();
        (inner.unreadable, inner.rotten) = (true, true);
    }

    /// What leads to versions is found damaged from here on, until it is wiped.
    pub fn rot(&self) {
        self.lock().rotten = true;
    }

    /// How often rows were brought in.
    #[must_use]
    pub fn ingests(&self) -> u64 {
        self.lock().ingests
    }

    /// Bytes of keys and values that durable batches set or removed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.lock().committed
    }

    /// A table loses its rows, as no index should.
    pub fn forget_rows(&self, table: Table) {
        self.lock().rows.retain(|(t, _), _| *t != table);
    }

    /// How many rows a table has.
    #[must_use]
    pub fn rows(&self, table: Table) -> usize {
        self.lock().rows.keys().filter(|(t, _)| *t == table).count()
    }

    /// A copy that shares nothing: what a crash at this moment leaves.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let copy = Self::new();
        copy.lock().rows = self.lock().rows.clone();
        copy
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn insert(&mut self, rows: Vec<Row>, table: Table) -> Result<(), IndexError> {
        self.fails_if_full()?;
        if self.failing || self.poisoned {
            return Err(IndexError::new("writes fail on purpose".into()));
        }
        self.rows.extend(rows.into_iter().map(|(key, value)| ((table, key), value)));
        Ok(())
    }

    fn fails_if_full(&mut self) -> Result<(), IndexError> {
        self.poisoned |= self.full;
        if self.full { Err(IndexError::full("full on purpose".into())) } else { Ok(()) }
    }
}

impl IndexStore for MemoryIndex {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.lock().rows.get(&(table, key.to_vec())).cloned())
    }

    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>, IndexError> {
        if from > to {
            return Ok(None);
        }
        let inner = self.lock();
        if inner.rotten && table != Table::State {
            return Err(IndexError::damaged("rotten on purpose".into()));
        }
        let last = inner.rows.range((table, from.to_vec())..=(table, to.to_vec())).next_back();
        Ok(last.map(|((_, key), value)| (key.clone(), value.clone())))
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), IndexError> {
        if from > to {
            return Ok(());
        }
        let inner = self.lock();
        if inner.rotten && table != Table::State {
            return Err(IndexError::damaged("rotten on purpose".into()));
        }
        for ((_, key), value) in inner.rows.range((table, from.to_vec())..=(table, to.to_vec())) {
            if !each(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn ingest(&self, table: Table, rows: Vec<Row>) -> Result<(), IndexError> {
        let mut inner = self.lock();
        inner.ingests += 1;
        inner.insert(rows, table)
    }

    fn remove(&self, table: Table, keys: Vec<Vec<u8>>) -> Result<(), IndexError> {
        let mut inner = self.lock();
        for key in keys {
            inner.rows.remove(&(table, key));
        }
        Ok(())
    }

    fn tidy(&self, _: bool) -> Result<(), IndexError> {
        Ok(())
    }

    fn replace(&self, rows: Vec<Row>, gone: Vec<Vec<u8>>) -> Result<(), IndexError> {
        let bytes = rows.iter().map(|(key, value)| count(key.len() + value.len())).sum::<u64>()
            + gone.iter().map(|key| count(key.len())).sum::<u64>();
        let mut inner = self.lock();
        inner.insert(rows, Table::State)?;
        gone.into_iter().for_each(|key| drop(inner.rows.remove(&(Table::State, key))));
        inner.committed += bytes;
        Ok(())
    }
}

impl IndexOpener for MemoryIndex {
    fn open(&self) -> Result<Arc<dyn IndexStore>, IndexError> {
        let mut inner = self.lock();
        inner.fails_if_full()?;
        if inner.unreadable {
            let error = if inner.rotten { IndexError::damaged } else { IndexError::new };
            return Err(error("unreadable on purpose".into()));
        }
        inner.poisoned = false;
        Ok(Arc::new(self.clone()))
    }

    fn wipe(&self) -> Result<(), IndexError> {
        let mut inner = self.lock();
        inner.wipes += 1;
        inner.rows.clear();
        inner.unreadable = false;
        inner.rotten = false;
        inner.condemned = None;
        Ok(())
    }

    fn condemn(&self, why: &str) -> Result<(), IndexError> {
        self.lock().condemned = Some(why.to_owned());
        Ok(())
    }

    fn condemned(&self) -> Option<String> {
        self.lock().condemned.clone()
    }

    fn shortage(&self) -> Option<Shortage> {
        let inner = self.lock();
        (inner.full || inner.cramped).then_some(Shortage { free: 0, needed: 1 })
    }
}
