//! The index: ordered rows in five tables, all of which can be built again from the segments.
//!
//! | table | key (big endian) | value |
//! |---|---|---|
//! | runs | volume u64 · region u32 · group u64 | a run of versions, in the order of delivery |
//! | maps | volume u64 · region u32 · point u64 | a checkpoint: the region's map after a group |
//! | times | stream u64 · LSN u64 | time, segment and offset of the frame that begins there |
//! | maps, times | `0 0` | the last group of which checkpoints, rows were brought in |
//! | settled | settle u64 · volume u64 · region u32 | the region's versions in one generation of settled history |
//! | state | `state`, `layout` or `group` · group u64 | how far the index goes; which settle it shows; what each group holds |
//! | state | `owed` | nothing: there are rows that the settle which is shown has no need of |
//! | state | `names` · a key of the catalogue's | a bookmark, or barrier marks |
//!
//! The trait is a seam: the real one is fjall, tests use memory, or one that fails.

mod ballast;
mod fjall_store;
mod healing;
pub(crate) mod keys;
mod memory;

use gateway_journal::RegionRange;
use thiserror::Error;

pub(crate) use ballast::Holding;
pub use fjall_store::FjallOpener;
pub(crate) use fjall_store::PinnedOpener;
pub(crate) use healing::HealingIndex;
pub use memory::MemoryIndex;

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// A table of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Versions of regions, group by group.
    Runs,
    /// Checkpoints of regions.
    Maps,
    /// Times of frames.
    Times,
    /// Versions of regions in settled history, generation by generation.
    Settled,
    /// How far the index goes.
    State,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 5] = [Self::Runs, Self::Maps, Self::Times, Self::Settled, Self::State];
}

/// The index failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct IndexError {
    text: String,
    kind: Kind,
}

/// What helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// To try again.
    Passing,
    /// Room on its disk: it is not damaged.
    Full,
    /// Only to build it again: what is on the disk is not what was written.
    Damage,
}

impl IndexError {
    /// It failed, and may not fail another time.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self { text, kind: Kind::Passing }
    }

    /// Its disk has no room.
    #[must_use]
    pub const fn full(text: String) -> Self {
        Self { text, kind: Kind::Full }
    }

    /// It is not what was written.
    #[must_use]
    pub const fn damaged(text: String) -> Self {
        Self { text, kind: Kind::Damage }
    }

    /// Does it want for room, and for nothing else?
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.kind == Kind::Full
    }

    /// Is it damage, and no passing failure?
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.kind == Kind::Damage
    }
}

/// Less is free on the disk of the index than it needs to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that have to be.
    pub needed: u64,
}

impl Shortage {
    /// What failed while there was this one failed for want of room, unless it is damage: fjall says so once, and from then on only
    /// that it failed.
    pub(crate) fn explains(self, e: IndexError) -> IndexError {
        let Self { free, needed } = self;
        match e.kind {
            Kind::Passing => IndexError::full(format!("{e}: {free} bytes are free, {needed} are needed")),
            Kind::Full | Kind::Damage => e,
        }
    }
}

/// Ordered rows, read from any thread. Calls may block.
pub trait IndexStore: Send + Sync {
    /// The value of `key`.
    ///
    /// # Errors
    /// When the index cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;

    /// The last row from `from` to `to`, both included.
    ///
    /// # Errors
    /// When the index cannot be read.
    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>, IndexError>;

    /// The rows from `from` to `to`, both included, in order, until `each` says false.
    ///
    /// # Errors
    /// When the index cannot be read.
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), IndexError>;

    /// Adds rows in bulk, durably, replacing those of the same keys. Keys ascend strictly.
    ///
    /// # Errors
    /// When they could not be written; some may have been.
    fn ingest(&self, table: Table, rows: Vec<Row>) -> Result<(), IndexError>;

    /// Removes rows that nobody looks for any more. A crash may leave some or all of them.
    ///
    /// # Errors
    /// When they could not be removed; some may have been.
    fn remove(&self, table: Table, keys: Vec<Vec<u8>>) -> Result<(), IndexError>;

    /// Gives back the room of removed rows: where they are a fifth when there is nothing else to do, else where they are by
    /// far the larger part. Takes as long as it takes to write what is left.
    ///
    /// # Errors
    /// When that is not possible; nothing is lost then.
    fn tidy(&self, idle: bool) -> Result<(), IndexError>;

    /// Does it still take rows? One that wrote something in the background may have failed without anybody asking.
    ///
    /// # Errors
    /// When it takes none until it is opened again.
    fn check(&self) -> Result<(), IndexError> {
        Ok(())
    }

    /// Sets rows of [`Table::State`], all or none of them, durably.
    ///
    /// # Errors
    /// When they could not be written.
    fn commit(&self, rows: Vec<Row>) -> Result<(), IndexError> {
        self.replace(rows, Vec::new())
    }

    /// The same, and removes those of the keys in `gone`: all or nothing.
    ///
    /// # Errors
    /// As [`IndexStore::commit`].
    fn replace(&self, rows: Vec<Row>, gone: Vec<Vec<u8>>) -> Result<(), IndexError>;
}

/// Where the index comes from.
pub trait IndexOpener: Send + Sync {
    /// Opens the index, or makes an empty one where there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read: it is then to be wiped.
    fn open(&self) -> Result<std::sync::Arc<dyn IndexStore>, IndexError>;

    /// Removes whatever is there, and the word that it is damaged.
    ///
    /// # Errors
    /// When that is not possible.
    fn wipe(&self) -> Result<(), IndexError>;

    /// Remembers durably that what is there is damaged, and is to be wiped at the next start.
    ///
    /// # Errors
    /// When that is not possible.
    fn condemn(&self, why: &str) -> Result<(), IndexError>;

    /// Why it is to be wiped, if it is.
    fn condemned(&self) -> Option<String>;

    /// Gives up as much of the room that is held for the index as may be needed now, or takes back what there is room for.
    fn make_room(&self) {}

    /// Too little is free on its disk to go on, if it is.
    fn shortage(&self) -> Option<Shortage> {
        None
    }
}

/// The first key from `from` to `to`, both included.
///
/// # Errors
/// As [`IndexStore::scan`].
pub(crate) fn first_key(
    index: &dyn IndexStore,
    table: Table,
    from: &[u8],
    to: &[u8],
) -> Result<Option<Vec<u8>>, IndexError> {
    let mut found = None;
    index.scan(table, from, to, &mut |key, _| {
        found = Some(key.to_vec());
        false
    })?;
    Ok(found)
}

/// Keys removed in one go.
const PAGE: usize = 4096;

/// Removes every row from `from` to `to`, both included.
///
/// # Errors
/// As [`IndexStore::remove`].
pub(crate) fn remove_range(
    index: &dyn IndexStore,
    table: Table,
    mut from: Vec<u8>,
    to: &[u8],
) -> Result<(), IndexError> {
    loop {
        let mut found: Vec<Vec<u8>> = Vec::new();
        index.scan(table, &from, to, &mut |key, _| {
            found.push(key.to_vec());
            found.len() < PAGE
        })?;
        let Some(last) = found.last() else { return Ok(()) };
        from.clone_from(last);
        from.push(0);
        let over = found.len() < PAGE;
        index.remove(table, found)?;
        if over {
            return Ok(());
        }
    }
}

/// Removes every row that a settle brought in.
///
/// # Errors
/// As [`IndexStore::remove`].
pub(crate) fn remove_settle(index: &dyn IndexStore, settle: u64) -> Result<(), IndexError> {
    let key = |(volume, region)| keys::settled(settle, volume, region);
    remove_range(index, Table::Settled, key(RegionRange::ALL.first), &key(RegionRange::ALL.last))
}
