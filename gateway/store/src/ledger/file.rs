//! Where the ledger is kept: a file that only grows, or memory in tests.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tap_block::units::{count, index};
use tap_disk::{AppendFile, SameDir, set_aside, was_set_aside};

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

    /// Keeps what is there under another name, durably, and goes on with nothing; says where it is.
    ///
    /// # Errors
    /// What the operating system says; it is then where it was.
    fn set_aside(&self) -> io::Result<String>;

    /// Was that ever done?
    fn was_set_aside(&self) -> bool;
}

/// The ledger in a file, which is opened when it is needed: one that cannot be used keeps no store from starting.
pub(crate) struct FileLedger {
    path: PathBuf,
    /// Where it lies.
    dir: SameDir,
    file: Mutex<Option<AppendFile>>,
}

impl FileLedger {
    pub(crate) fn new(dir: &SameDir, path: PathBuf) -> Self {
        Self { path, dir: dir.clone(), file: Mutex::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&AppendFile) -> io::Result<T>) -> io::Result<T> {
        self.dir.check()?;
        let mut file = lock(&self.file);
        let open = match file.take() {
            Some(open) => open,
            None => AppendFile::open(&self.path)?,
        };
        work(file.insert(open))
    }
}

impl LedgerStore for FileLedger {
    fn load(&self) -> io::Result<Vec<u8>> {
        self.with(AppendFile::read)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.with(|file| file.append(bytes))
    }

    fn cut(&self, end: u64) -> io::Result<()> {
        self.with(|file| file.cut(end))
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        self.with(|file| file.replace(bytes))
    }

    fn set_aside(&self) -> io::Result<String> {
        self.dir.check()?;
        let mut file = lock(&self.file);
        let aside = set_aside(&self.path)?;
        *file = None;
        let shown = |path: &Path| path.display().to_string();
        Ok(aside.map_or_else(|| "nowhere: there was none".to_owned(), |path| shown(&path)))
    }

    fn was_set_aside(&self) -> bool {
        was_set_aside(&self.path)
    }
}

/// The ledger in memory. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct MemoryLedger(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    aside: Vec<Vec<u8>>,
    unreadable: bool,
}

impl MemoryLedger {
    /// With these bytes in it.
    #[must_use]
    pub fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Held { bytes, ..Held::default() })))
    }

    /// It cannot be read from here on, until it is set aside or can be again.
    pub fn fail_reads(&self, unreadable: bool) {
        lock(&self.0).unreadable = unreadable;
    }

    /// What was set aside, the oldest first.
    #[must_use]
    pub fn aside(&self) -> Vec<Vec<u8>> {
        lock(&self.0).aside.clone()
    }
}

impl LedgerStore for MemoryLedger {
    fn load(&self) -> io::Result<Vec<u8>> {
        let held = lock(&self.0);
        if held.unreadable { Err(io::Error::other("an input/output error")) } else { Ok(held.bytes.clone()) }
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        lock(&self.0).bytes.extend(bytes);
        Ok(())
    }

    fn cut(&self, end: u64) -> io::Result<()> {
        let held = &mut lock(&self.0).bytes;
        let end = end.min(count(held.len()));
        held.truncate(index(end));
        Ok(())
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        lock(&self.0).bytes = bytes.to_vec();
        Ok(())
    }

    fn set_aside(&self) -> io::Result<String> {
        let mut held = lock(&self.0);
        let bytes = std::mem::take(&mut held.bytes);
        held.aside.push(bytes);
        held.unreadable = false;
        Ok("memory".to_owned())
    }

    fn was_set_aside(&self) -> bool {
        !lock(&self.0).aside.is_empty()
    }
}
