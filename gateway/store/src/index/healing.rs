//! An index that is opened again when it fails: fjall takes nothing more after an I/O error until then. One that is found
//! damaged is told of, and built again at the next start.

use std::sync::{Arc, OnceLock, RwLock};

use tracing::error;

use super::{IndexError, IndexOpener, IndexStore, Row, Table};
use crate::sync::{read, write};

pub(crate) struct HealingIndex {
    opener: Box<dyn IndexOpener>,
    /// `None` while it cannot be opened.
    current: RwLock<Option<Arc<dyn IndexStore>>>,
    damage: OnceLock<String>,
}

impl HealingIndex {
    pub(crate) fn new(opener: Box<dyn IndexOpener>, index: Arc<dyn IndexStore>) -> Self {
        Self { opener, current: RwLock::new(Some(index)), damage: OnceLock::new() }
    }

    /// Closes and opens it. What is in it stays; what it did not take is offered again by its owner.
    pub(crate) fn heal(&self) -> Result<(), IndexError> {
        let mut current = write(&self.current);
        // The old one holds the directory: it goes first.
        *current = None;
        *current = Some(self.opener.open()?);
        Ok(())
    }

    /// What of it was found damaged since the start.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    fn with<T>(&self, call: impl FnOnce(&dyn IndexStore) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let done = match &*read(&self.current) {
            Some(index) => call(&**index),
            None => Err(IndexError::new("the index could not be opened again".into())),
        };
        done.inspect_err(|e| {
            if e.is_damage {
                self.note_damage(e);
            }
        })
    }

    fn note_damage(&self, found: &IndexError) {
        let mut is_new = false;
        self.damage.get_or_init(|| {
            is_new = true;
            found.to_string()
        });
        if !is_new {
            return;
        }
        error!("the index is damaged: {found}; it is built again from the segments at the next start");
        if let Err(e) = self.opener.condemn(&found.to_string()) {
            error!("that cannot be remembered, so remove the fjall directory before the next start: {e}");
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
