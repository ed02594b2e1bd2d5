//! The index in fjall. Rows enter by bulk ingestion; only the small state goes through fjall's own log.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, io};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{IndexError, IndexOpener, IndexStore, Row, Table};

/// Opens the index in a directory.
#[derive(Debug, Clone)]
pub struct FjallOpener {
    /// The directory.
    pub dir: PathBuf,
    /// Bytes of blocks kept in memory.
    pub cache: u64,
}

struct FjallIndex {
    database: Database,
    runs: Keyspace,
    maps: Keyspace,
    times: Keyspace,
    settled: Keyspace,
    state: Keyspace,
}

impl From<fjall::Error> for IndexError {
    fn from(e: fjall::Error) -> Self {
        Self(e.to_string())
    }
}

impl IndexOpener for FjallOpener {
    /// A damaged database makes fjall panic in places; that is an error like any other here.
    fn open(&self) -> Result<Arc<dyn IndexStore>, IndexError> {
        let opened = catch_unwind(AssertUnwindSafe(|| FjallIndex::open(self)));
        let opened = opened.map_err(|_| IndexError(format!("{} cannot be read", self.dir.display())))?;
        opened.map(|index| Arc::new(index) as Arc<dyn IndexStore>)
    }

    fn wipe(&self) -> Result<(), IndexError> {
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(IndexError(format!("cannot remove {}: {e}", self.dir.display())))
            }
            _ => Ok(()),
        }
    }
}

impl FjallIndex {
    fn open(opener: &FjallOpener) -> Result<Self, IndexError> {
        let database = Database::builder(&opener.dir)
            .cache_size(opener.cache)
            .manual_journal_persist(true)
            .worker_threads(2)
            .max_cached_files(Some(128))
            .open()?;
        let keyspace = |name| database.keyspace(name, options);
        let (runs, maps) = (keyspace("runs")?, keyspace("maps")?);
        let (times, settled, state) = (keyspace("times")?, keyspace("settled")?, keyspace("state")?);
        Ok(Self { runs, maps, times, settled, state, database })
    }

    const fn table(&self, table: Table) -> &Keyspace {
        match table {
            Table::Runs => &self.runs,
            Table::Maps => &self.maps,
            Table::Times => &self.times,
            Table::Settled => &self.settled,
            Table::State => &self.state,
        }
    }
}

/// A batch holds fjall's journal lock; nobody should wait long for it.
const REMOVED_AT_ONCE: usize = 4096;

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(8 << 20)
}

impl IndexStore for FjallIndex {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.table(table).get(key)?.map(|value| value.to_vec()))
    }

    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>, IndexError> {
        if from > to {
            return Ok(None);
        }
        let Some(row) = self.table(table).range(from..=to).next_back() else { return Ok(None) };
        let (key, value) = row.into_inner()?;
        Ok(Some((key.to_vec(), value.to_vec())))
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
        for row in self.table(table).range(from..=to) {
            let (key, value) = row.into_inner()?;
            if !each(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn ingest(&self, table: Table, rows: Vec<Row>) -> Result<(), IndexError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut ingestion = self.table(table).start_ingestion()?;
        for (key, value) in rows {
            ingestion.write(key, value)?;
        }
        Ok(ingestion.finish()?)
    }

    fn remove(&self, table: Table, keys: Vec<Vec<u8>>) -> Result<(), IndexError> {
        for chunk in keys.chunks(REMOVED_AT_ONCE) {
            let mut batch = self.database.batch();
            for key in chunk {
                batch.remove(self.table(table), key.as_slice());
            }
            batch.commit()?;
        }
        Ok(())
    }

    fn commit(&self, rows: Vec<Row>) -> Result<(), IndexError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for (key, value) in rows {
            batch.insert(&self.state, key, value);
        }
        Ok(batch.commit()?)
    }
}
