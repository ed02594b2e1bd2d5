//! Where the high-water mark ([`gateway_journal::Mark`]) and the copy of the manifest are kept.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{fs, io};

use tap_disk::{Durability, SameDir, SlottedFile, small_file};
use tracing::warn;

use crate::sync::lock;

/// Where the mark is kept: a small file, or memory in tests.
pub trait MarkStore: Send + Sync {
    /// The bytes stored last.
    fn load(&self) -> Option<Vec<u8>>;

    /// Replaces them, durably.
    ///
    /// # Errors
    /// What the operating system says.
    fn store(&self, bytes: &[u8]) -> io::Result<()>;
}

/// The mark in a file.
pub(crate) struct FileMark(SlottedFile);

impl FileMark {
    /// An empty file says as much as none: a disk that was full, or a copy that was cut off, leaves one.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0) {
            warn!("{} is empty: the store goes on as if there were none, and writes it anew", path.display());
            fs::remove_file(path)?;
        }
        SlottedFile::open(path, gateway_journal::MARK_BYTES).map(Self)
    }
}

impl MarkStore for FileMark {
    fn load(&self) -> Option<Vec<u8>> {
        self.0.load()
    }

    fn store(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.store(bytes, Durability::Synced)
    }
}

/// A small file replaced whole, of any size.
pub(crate) struct SmallFile {
    path: PathBuf,
    /// Where it lies.
    dir: SameDir,
}

impl SmallFile {
    pub(crate) fn new(dir: &SameDir, path: PathBuf) -> Self {
        Self { path, dir: dir.clone() }
    }
}

impl MarkStore for SmallFile {
    fn load(&self) -> Option<Vec<u8>> {
        small_file::read(&self.path).ok().flatten()
    }

    fn store(&self, bytes: &[u8]) -> io::Result<()> {
        self.dir.check()?;
        small_file::write_atomic(&self.path, bytes)
    }
}

/// The mark in memory.
#[derive(Debug, Default)]
pub struct MemoryMark(Mutex<Option<Vec<u8>>>);

impl MemoryMark {
    /// With these bytes in it.
    #[must_use]
    pub const fn holding(bytes: Option<Vec<u8>>) -> Self {
        Self(Mutex::new(bytes))
    }
}

impl MarkStore for MemoryMark {
    fn load(&self) -> Option<Vec<u8>> {
        lock(&self.0).clone()
    }

    fn store(&self, bytes: &[u8]) -> io::Result<()> {
        *lock(&self.0) = Some(bytes.to_vec());
        Ok(())
    }
}

impl<T: MarkStore + ?Sized> MarkStore for std::sync::Arc<T> {
    fn load(&self) -> Option<Vec<u8>> {
        (**self).load()
    }

    fn store(&self, bytes: &[u8]) -> io::Result<()> {
        (**self).store(bytes)
    }
}
