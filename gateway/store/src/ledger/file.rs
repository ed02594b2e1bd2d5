//! Where the ledger is kept: a file that only grows, or memory in tests.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tap_block::units::{count, index};
use tap_disk::AppendFile;

use crate::sync::lock;

/// Where the ledger is kept.
pub trait LedgerStore: Send + Sync {
    /// Everything in it.
    ///
    /// # Errors
    /// What the operating system says.
    fn load(&self) -> io::Result<Vec<u8>>;

    /// Appends, durably. After an error an unknown part is written, and the next append goes over it.
    ///
    /// # Errors
    /// What the operating system says.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;

    /// Forgets everything from a byte on, durably.
    ///
    /// # Errors
    /// What the operating system says.
    fn cut(&self, end: u64) -> io::Result<()>;

    /// Begins it anew, durably: the old content is there, or the new.
    ///
    /// # Errors
    /// What the operating system says.
    fn replace(&self, bytes: &[u8]) -> io::Result<()>;
}

/// The ledger in a file.
pub(crate) struct FileLedger(AppendFile);

impl FileLedger {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        AppendFile::open(path).map(Self)
    }
}

impl LedgerStore for FileLedger {
    fn load(&self) -> io::Result<Vec<u8>> {
        self.0.read()
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }

    fn cut(&self, end: u64) -> io::Result<()> {
        self.0.cut(end)
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.replace(bytes)
    }
}

/// The ledger in memory. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct MemoryLedger(Arc<Mutex<Vec<u8>>>);

impl MemoryLedger {
    /// With these bytes in it.
    #[must_use]
    pub fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(bytes)))
    }
}

impl LedgerStore for MemoryLedger {
    fn load(&self) -> io::Result<Vec<u8>> {
        Ok(lock(&self.0).clone())
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        lock(&self.0).extend(bytes);
        Ok(())
    }

    fn cut(&self, end: u64) -> io::Result<()> {
        let mut held = lock(&self.0);
        let end = end.min(count(held.len()));
        held.truncate(index(end));
        Ok(())
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        *lock(&self.0) = bytes.to_vec();
        Ok(())
    }
}
