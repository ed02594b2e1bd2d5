//! An index that is opened again when it fails: fjall takes nothing more after an I/O error until then.

use std::sync::{Arc, RwLock};

use super::{IndexError, IndexOpener, IndexStore, Row, Table};
use crate::sync::{read, write};

pub(crate) struct HealingIndex {
    opener: Box<dyn IndexOpener>,
    /// `None` while it cannot be opened.
    current: RwLock<Option<Arc<dyn IndexStore>>>,
}

impl HealingIndex {
    pub(crate) fn new(opener: Box<dyn IndexOpener>, index: Arc<dyn IndexStore>) -> Self {
        Self { opener, current: RwLock::new(Some(index)) }
    }

    /// Closes and opens it. What is in it stays; what it did not take is offered again by its owner.
    pub(crate) fn heal(&self) -> Result<(), IndexError> {
        let mut current = write(&self.current);
        // The old one holds the directory: it goes first.
        *current = None;
        *current = Some(self.opener.open()?);
        Ok(())
    }

    fn with<T>(&self, call: impl FnOnce(&dyn IndexStore) -> Result<T, IndexError>) -> Result<T, IndexError> {
        match &*read(&self.current) {
            Some(index) => call(&**index),
            None => Err(IndexError("the index could not be opened again".into())),
        }
    }
}

impl IndexStore for HealingIndex {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.with(|index| index.get(table, key))
    }

    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>, IndexError> {
        self.with(|index| index.last(table, from, to))
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), IndexError> {
        self.with(|index| index.scan(table, from, to, each))
    }

    fn ingest(&self, table: Table, rows: Vec<Row>) -> Result<(), IndexError> {
        self.with(|index| index.ingest(table, rows))
    }

    fn remove(&self, table: Table, keys: Vec<Vec<u8>>) -> Result<(), IndexError> {
        self.with(|index| index.remove(table, keys))
    }

    fn tidy(&self, idle: bool) -> Result<(), IndexError> {
        self.with(|index| index.tidy(idle))
    }

    fn commit(&self, rows: Vec<Row>) -> Result<(), IndexError> {
        self.with(|index| index.commit(rows))
    }
}
