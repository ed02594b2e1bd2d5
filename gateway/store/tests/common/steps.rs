//! Failpoints: every step that makes something durable goes through here under a name, and at the one that was chosen the
//! power is cut. They lie at the store's seams, so the store itself knows nothing of them.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use gateway_store::{
    IndexError, IndexOpener, IndexStore, LedgerStore, MarkStore, MemoryLedger, Parts, Row, Table,
};
use tap_disk::{FileNo, Medium, PoolOptions, SegmentDir, SegmentFile, SegmentPool};

use super::Disk;

/// What happens at the chosen step; nothing else moves meanwhile.
type Cut = Box<dyn FnOnce() + Send>;

/// Counts steps by name and cuts the power before one of them.
#[derive(Default)]
pub struct Steps {
    counts: Mutex<BTreeMap<String, u64>>,
    cut: Mutex<Option<(String, u64, Cut)>>,
    is_cut: AtomicBool,
    /// Held by who is in the middle of a step.
    moving: RwLock<()>,
}

impl Steps {
    /// Cuts before step `no` (from 0) of those named `name`.
    pub fn cut_before(&self, name: &str, no: u64, cut: Cut) {
        *self.cut.lock().unwrap() = Some((name.to_owned(), no, cut));
    }

    /// Has the power been cut?
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    /// How often each step was taken.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap().clone()
    }

    fn at(&self, name: &str) -> RwLockReadGuard<'_, ()> {
        let no = {
            let mut counts = self.counts.lock().unwrap();
            let count = counts.entry(name.to_owned()).or_default();
            *count += 1;
            *count - 1
        };
        let due = self.cut.lock().unwrap().take_if(|(n, at, _)| n == name && *at == no);
        if let Some((.., cut)) = due {
            let _still = self.moving.write().unwrap_or_else(PoisonError::into_inner);
            cut();
            self.is_cut.store(true, Ordering::SeqCst);
        }
        self.moving.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parts of a store on `disk`, every step of which is counted.
pub fn parts(disk: &Disk, steps: &Arc<Steps>) -> Parts {
    let options = PoolOptions { ready: disk.config.spare_segments, ..PoolOptions::default() };
    let dir = Dir { dir: Box::new(disk.dir.clone()), steps: Arc::clone(steps) };
    let mark =
        |what, mark: &Arc<_>| Box::new(Mark { what, mark: Arc::clone(mark) as _, steps: Arc::clone(steps) });
    Parts {
        segments: SegmentPool::over(Box::new(dir), u64::from(disk.config.segment_len), options).unwrap(),
        index: Box::new(Opener { index: Box::new(disk.index.clone()), steps: Arc::clone(steps) }),
        mark: mark("mark", &disk.mark),
        manifest: mark("manifest", &disk.manifest),
        proofs: mark("proofs", &disk.proofs),
        ledger: Box::new(Ledger { ledger: disk.ledger.clone(), steps: Arc::clone(steps) }),
        free: Box::new(|| None),
    }
}

struct Dir {
    dir: Box<dyn SegmentDir>,
    steps: Arc<Steps>,
}

impl Dir {
    fn file(&self, file: SegmentFile) -> SegmentFile {
        let (name, len) = (file.name().to_owned(), file.len());
        SegmentFile::over(Box::new(File { file, steps: Arc::clone(&self.steps) }), name, len)
    }
}

impl SegmentDir for Dir {
    fn list(&self) -> io::Result<Vec<FileNo>> {
        self.dir.list()
    }

    fn create(&self, no: FileNo, len: u64) -> io::Result<SegmentFile> {
        let _step = self.steps.at("segment create");
        self.dir.create(no, len).map(|file| self.file(file))
    }

    fn open(&self, no: FileNo) -> io::Result<SegmentFile> {
        self.dir.open(no).map(|file| self.file(file))
    }

    fn remove(&self, no: FileNo) -> io::Result<()> {
        let _step = self.steps.at("segment remove");
        self.dir.remove(no)
    }
}

struct File {
    file: SegmentFile,
    steps: Arc<Steps>,
}

/// The log is written by a thread of its own, settled history by whoever has it settled.
fn writer() -> &'static str {
    match std::thread::current().name() {
        Some(name) if name.starts_with("store-") => "log",
        _ => "settled",
    }
}

impl Medium for File {
    fn write(&self, offset: u64, data: &[IoSlice<'_>]) -> io::Result<usize> {
        let _step = self.steps.at(&format!("{} write", writer()));
        self.file.write_at(offset, data).map(|()| data.iter().map(|part| part.len()).sum())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, into).map(|()| into.len())
    }

    fn read_cached(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read_cached(offset, into).map(|there| if there { into.len() } else { 0 })
    }

    fn will_need(&self, offset: u64, length: u64) {
        self.file.will_need(offset, length);
    }

    fn sync(&self) -> io::Result<()> {
        let _step = self.steps.at(&format!("{} sync", writer()));
        self.file.sync()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
}

struct Mark {
    what: &'static str,
    mark: Arc<dyn MarkStore>,
    steps: Arc<Steps>,
}

impl MarkStore for Mark {
    fn load(&self) -> Option<Vec<u8>> {
        self.mark.load()
    }

    fn store(&self, bytes: &[u8]) -> io::Result<()> {
        let _step = self.steps.at(&format!("{} store", self.what));
        self.mark.store(bytes)
    }
}

struct Ledger {
    ledger: MemoryLedger,
    steps: Arc<Steps>,
}

impl LedgerStore for Ledger {
    fn load(&self) -> io::Result<Vec<u8>> {
        self.ledger.load()
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let _step = self.steps.at("ledger append");
        self.ledger.append(bytes)
    }

    fn cut(&self, end: u64) -> io::Result<()> {
        let _step = self.steps.at("ledger cut");
        self.ledger.cut(end)
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let _step = self.steps.at("ledger replace");
        self.ledger.replace(bytes)
    }

    fn set_aside(&self) -> io::Result<String> {
        let _step = self.steps.at("ledger set aside");
        self.ledger.set_aside()
    }

    fn was_set_aside(&self) -> bool {
        self.ledger.was_set_aside()
    }
}

struct Opener {
    index: Box<dyn IndexOpener>,
    steps: Arc<Steps>,
}

impl IndexOpener for Opener {
    fn open(&self) -> Result<Arc<dyn IndexStore>, IndexError> {
        let (index, steps) = (self.index.open()?, Arc::clone(&self.steps));
        Ok(Arc::new(Index { index, steps }))
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

struct Index {
    index: Arc<dyn IndexStore>,
    steps: Arc<Steps>,
}

impl IndexStore for Index {
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
        let _step = self.steps.at(&format!("index ingest {table:?}"));
        self.index.ingest(table, rows)
    }

    fn remove(&self, table: Table, keys: Vec<Vec<u8>>) -> Result<(), IndexError> {
        let _step = self.steps.at(&format!("index remove {table:?}"));
        self.index.remove(table, keys)
    }

    fn tidy(&self, idle: bool) -> Result<(), IndexError> {
        self.index.tidy(idle)
    }

    fn replace(&self, rows: Vec<Row>, gone: Vec<Vec<u8>>) -> Result<(), IndexError> {
        let _step = self.steps.at("index commit");
        self.index.replace(rows, gone)
    }
}
