//! The index in fjall. Rows enter by bulk ingestion; only the small state goes through fjall's own log.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io};

use fjall::{AbstractTree as _, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use tap_block::units::count;

use tap_disk::small_file;
use xxhash_rust::xxh3::xxh3_128;

use super::ballast::{Ballast, Holding};
use super::{IndexError, IndexOpener, IndexStore, Row, Shortage, Table};

/// Opens the index in a directory.
#[derive(Debug, Clone)]
pub struct FjallOpener {
    /// The directory.
    pub dir: PathBuf,
    /// Bytes of blocks kept in memory.
    pub cache: u64,
}

/// Opens the index in a directory that it holds on to: fjall makes and removes files by their names whenever it likes, and
/// must never do so in what was mounted over it meanwhile. Room is held for it beside it.
pub(crate) struct PinnedOpener {
    opener: FjallOpener,
    with: With,
}

/// What an index is opened with.
#[derive(Clone, Default)]
struct With {
    /// What its path leads through until the last: a number that was closed may be another directory's soon.
    _parent: Option<Arc<File>>,
    ballast: Option<Arc<Ballast>>,
}

impl PinnedOpener {
    /// `name` in `parent`, with room held for it.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn new(parent: &Path, name: &str, cache: u64, holding: Holding) -> io::Result<Self> {
        let held = File::open(parent)?;
        let through = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
        let parent = if through.is_dir() { through.as_path() } else { parent };
        let dir = parent.join(name);
        let ballast = Ballast::open(&dir.with_extension("ballast"), holding);
        let with = With { _parent: Some(Arc::new(held)), ballast: Some(Arc::new(ballast)) };
        Ok(Self { opener: FjallOpener { dir, cache }, with })
    }
}

impl IndexOpener for PinnedOpener {
    fn open(&self) -> Result<Arc<dyn IndexStore>, IndexError> {
        self.opener.open_with(&self.with)
    }

    fn wipe(&self) -> Result<(), IndexError> {
        self.opener.wipe()
    }

    fn condemn(&self, why: &str) -> Result<(), IndexError> {
        self.opener.condemn(why)
    }

    fn condemned(&self) -> Option<String> {
        self.opener.condemned()
    }

    fn make_room(&self) {
        self.with.ballast.iter().for_each(|ballast| ballast.balance());
    }

    fn shortage(&self) -> Option<Shortage> {
        self.with.ballast.as_ref()?.shortage()
    }
}

struct FjallIndex {
    database: Database,
    runs: Keyspace,
    maps: Keyspace,
    times: Keyspace,
    settled: Keyspace,
    state: Keyspace,
    /// Rows removed from each table since it was last tidied.
    removed: [AtomicU64; Table::ALL.len()],
    with: With,
}

impl From<fjall::Error> for IndexError {
    fn from(e: fjall::Error) -> Self {
        use fjall::Error as E;
        match e {
            E::Io(ref io) | E::Storage(fjall::LsmError::Io(ref io)) if is_full(io) => {
                Self::full(e.to_string())
            }
            // What may pass: the system's word, and fjall's own after it.
            E::Io(_) | E::Poisoned | E::Locked | E::KeyspaceDeleted | E::Storage(fjall::LsmError::Io(_)) => {
                Self::new(e.to_string())
            }
            _ => Self::damaged(e.to_string()),
        }
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl FjallOpener {
    /// A damaged database makes fjall panic in places; that is an error like any other here.
    fn open_with(&self, with: &With) -> Result<Arc<dyn IndexStore>, IndexError> {
        let opened = catch_unwind(AssertUnwindSafe(|| FjallIndex::open(self, with)));
        let opened = opened.map_err(|_| IndexError::new(format!("{} cannot be read", self.dir.display())))?;
        opened.map(|index| Arc::new(index) as Arc<dyn IndexStore>)
    }
}

impl FjallOpener {
    /// There while the index is known to be damaged.
    fn condemned_file(&self) -> PathBuf {
        self.dir.with_extension("damaged")
    }
}

impl IndexOpener for FjallOpener {
    fn open(&self) -> Result<Arc<dyn IndexStore>, IndexError> {
        self.open_with(&With::default())
    }

    fn wipe(&self) -> Result<(), IndexError> {
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(IndexError::new(format!("cannot remove {}: {e}", self.dir.display())))
            }
            _ => match fs::remove_file(self.condemned_file()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(IndexError::new(e.to_string())),
                _ => Ok(()),
            },
        }
    }

    fn condemn(&self, why: &str) -> Result<(), IndexError> {
        let file = self.condemned_file();
        small_file::write_atomic(&file, why.as_bytes())
            .map_err(|e| IndexError::new(format!("cannot write {}: {e}", file.display())))
    }

    fn condemned(&self) -> Option<String> {
        let why = fs::read(self.condemned_file()).ok()?;
        Some(String::from_utf8_lossy(&why).into_owned())
    }
}

impl FjallIndex {
    fn open(opener: &FjallOpener, with: &With) -> Result<Self, IndexError> {
        check_lists(&opener.dir)?;
        let database = Database::builder(&opener.dir)
            .cache_size(opener.cache)
            .manual_journal_persist(true)
            .worker_threads(2)
            .max_cached_files(Some(128))
            .open()?;
        let keyspace = |name| database.keyspace(name, options);
        check_tables(&opener.dir, &database)?;
        let (runs, maps) = (keyspace("runs")?, keyspace("maps")?);
        let (times, settled, state) = (keyspace("times")?, keyspace("settled")?, keyspace("state")?);
        Ok(Self {
            runs,
            maps,
            times,
            settled,
            state,
            database,
            removed: Default::default(),
            with: with.clone(),
        })
    }

    /// Writes out what a table has in memory. fjall drops removed rows and old files only when it knows that no snapshot
    /// shows them, and it looks once in so many that were closed: without that a compaction gives nothing back (189 bytes
    /// a version stayed, where 25 were left).
    fn flush(&self, rows: &Keyspace) -> Result<(), IndexError> {
        (0..SNAPSHOTS_A_LOOK).for_each(|_| drop(self.database.snapshot()));
        // Something has to be there to be written.
        self.wait_to_write(rows)?;
        rows.remove(NO_ROW)?;
        if rows.rotate_memtable()? {
            self.wait_while(|| rows.tree.sealed_memtable_count() > 0)?;
        }
        Ok(())
    }

    /// Where fjall lets a writer wait for its workers, it does so for ever when they ended because of an error: it is waited here
    /// before that.
    fn wait_to_write(&self, rows: &Keyspace) -> Result<(), IndexError> {
        self.wait_while(|| {
            rows.tree.sealed_memtable_count() + 1 >= MOST_SEALED || rows.tree.l0_run_count() >= MOST_RUNS
        })
    }

    /// Until its workers are done, or one of them failed.
    fn wait_while(&self, busy: impl Fn() -> bool) -> Result<(), IndexError> {
        while busy() {
            self.check()?;
            std::thread::park_timeout(GLANCE);
        }
        Ok(())
    }

    /// What a table is rewritten into has to fit beside it: a compaction that finds no room leaves half of it there until the index is opened again.
    fn has_room_for(&self, bytes: u64) -> bool {
        self.with.ballast.as_ref().is_none_or(|ballast| ballast.has_room_for(bytes))
    }

    fn removed(&self, table: Table) -> &AtomicU64 {
        let [runs, maps, times, settled, state] = &self.removed;
        match table {
            Table::Runs => runs,
            Table::Maps => maps,
            Table::Times => times,
            Table::Settled => settled,
            Table::State => state,
        }
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

/// A key that no row has.
const NO_ROW: [u8; 1] = [0];
/// fjall's own number (3.1).
const SNAPSHOTS_A_LOOK: usize = 10_000;
/// With so many tables in memory that wait to be written out, or runs in the first level, fjall (3.1) lets writers wait.
const MOST_SEALED: usize = 4;
const MOST_RUNS: usize = 30;
/// How often it is looked whether its workers are done.
const GLANCE: Duration = Duration::from_millis(10);
/// A table that takes no more than this on the disk is left to fjall.
const WORTH_TIDYING: u64 = 1 << 20;
/// A batch holds fjall's journal lock; nobody should wait long for it.
const REMOVED_AT_ONCE: usize = 4096;

/// Which files a table consists of stands in one that fjall (3.1) believes without a look at its checksum, which stands beside it.
/// One bit there, and rows are hidden.
fn check_lists(dir: &Path) -> Result<(), IndexError> {
    let tables = fs::read_dir(dir.join("keyspaces")).into_iter().flatten().filter_map(Result::ok);
    for table in tables {
        let Ok(current) = fs::read(table.path().join("current")) else { continue };
        let known = current.split_first_chunk::<8>().and_then(|(no, rest)| {
            let (sum, kind) = rest.split_first_chunk::<16>()?;
            (kind == [0]).then(|| (u64::from_le_bytes(*no), u128::from_le_bytes(*sum)))
        });
        let Some((no, sum)) = known else { continue };
        let list = table.path().join(format!("v{no}"));
        if fs::read(&list).is_ok_and(|bytes| xxh3_128(&bytes) != sum) {
            return Err(IndexError::damaged(format!("{} is not what was written", list.display())));
        }
    }
    Ok(())
}

/// Of an index that says how far it goes every table is there. One of which the directory is gone fjall would make anew without a
/// word, and nobody would know the next time.
fn check_tables(dir: &Path, database: &Database) -> Result<(), IndexError> {
    let mut others = ["runs", "maps", "times", "settled"].into_iter();
    match others.find(|name| !database.keyspace_exists(name)) {
        Some(gone)
            if database.keyspace_exists("state")
                && database.keyspace("state", options)?.first_key_value().is_some() =>
        {
            Err(IndexError::damaged(format!("the table {gone} is gone from {}", dir.display())))
        }
        _ => Ok(()),
    }
}

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
            self.wait_to_write(self.table(table))?;
            let mut batch = self.database.batch();
            for key in chunk {
                batch.remove(self.table(table), key.as_slice());
            }
            batch.commit()?;
        }
        self.removed(table).fetch_add(count(keys.len()), Ordering::Relaxed);
        Ok(())
    }

    fn tidy(&self, idle: bool) -> Result<(), IndexError> {
        for table in Table::ALL {
            let (rows, removed) = (self.table(table), self.removed(table).load(Ordering::Relaxed));
            // A removed row counts twice until then: as what it was, and as the word that it is gone.
            let left = count(rows.approximate_len()).saturating_sub(removed.saturating_mul(2));
            let many = if idle { removed.saturating_mul(4) > left } else { removed > left.saturating_mul(4) };
            let bytes = rows.disk_space();
            if !many || bytes < WORTH_TIDYING || !self.has_room_for(bytes) {
                continue;
            }
            self.flush(rows)?;
            rows.major_compact()?;
            self.removed(table).fetch_sub(removed, Ordering::Relaxed);
            // The files that it replaced go with the next flush.
            self.flush(rows)?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), IndexError> {
        Ok(self.database.persist(PersistMode::Buffer)?)
    }

    fn replace(&self, rows: Vec<Row>, gone: Vec<Vec<u8>>) -> Result<(), IndexError> {
        self.wait_to_write(&self.state)?;
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for (key, value) in rows {
            batch.insert(&self.state, key, value);
        }
        for key in &gone {
            batch.remove(&self.state, key.as_slice());
        }
        batch.commit()?;
        self.removed(Table::State).fetch_add(count(gone.len()), Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(first: u64, n: u64) -> Vec<Row> {
        let value = |k: u64| (0..20_000u64).map(|i| (i.wrapping_mul(k | 1) >> 3).to_le_bytes()[0]).collect();
        (first..first + n).map(|k| (k.to_be_bytes().to_vec(), value(k))).collect()
    }

    /// As when a disk is mounted over the store's directory.
    #[test]
    fn an_index_goes_on_where_it_was_opened() {
        let tmp = tempfile::tempdir().unwrap();
        let (path, away) = (tmp.path().join("store"), tmp.path().join("away"));
        fs::create_dir(&path).unwrap();
        let opener = PinnedOpener::new(&path, "fjall", 1 << 20, Holding::of(1 << 20, 0)).unwrap();
        let index = opener.open().unwrap();
        index.ingest(Table::Runs, rows(0, 30)).unwrap();
        fs::rename(&path, &away).unwrap();
        fs::create_dir(&path).unwrap();
        index.ingest(Table::Runs, rows(100, 30)).unwrap();
        index.commit(vec![(b"state".to_vec(), b"s".to_vec())]).unwrap();
        assert!(index.get(Table::Runs, &105u64.to_be_bytes()).unwrap().is_some());
        drop((index, opener));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "nothing is written into the other one");
        let index = FjallOpener { dir: away.join("fjall"), cache: 1 << 20 }.open().unwrap();
        assert!(index.get(Table::Runs, &105u64.to_be_bytes()).unwrap().is_some());
        assert!(index.get(Table::State, b"state").unwrap().is_some());
    }

    #[test]
    fn a_flipped_bit_in_a_table_is_damage_and_wiping_forgets_it() {
        let dir = tempfile::tempdir().unwrap();
        let opener = FjallOpener { dir: dir.path().join("fjall"), cache: 0 };
        let index = FjallIndex::open(&opener, &With::default()).unwrap();
        index.ingest(Table::Runs, rows(0, 300)).unwrap();
        let table = fs::read_dir(index.runs.path().join("tables")).unwrap().next().unwrap().unwrap().path();
        drop(index);
        let mut bytes = fs::read(&table).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 8;
        fs::write(&table, bytes).unwrap();
        let index = opener.open().unwrap();
        let found = index.scan(Table::Runs, &[], &[0xff; 9], &mut |_, _| true).unwrap_err();
        assert!(found.is_damage(), "{found}");
        drop(index);
        opener.condemn(&found.to_string()).unwrap();
        assert_eq!(opener.condemned(), Some(found.to_string()));
        opener.wipe().unwrap();
        assert_eq!(opener.condemned(), None);
    }

    /// A start that throws an index away may be killed in the middle of it, say. fjall makes what is gone anew, and empty.
    #[test]
    fn an_index_of_which_a_table_is_gone_is_damaged() {
        for gone in 0..4 {
            for file in [None, Some("current")] {
                let dir = tempfile::tempdir().unwrap();
                let opener = FjallOpener { dir: dir.path().join("fjall"), cache: 0 };
                let index = FjallIndex::open(&opener, &With::default()).unwrap();
                index.ingest(Table::Runs, rows(0, 3)).unwrap();
                index.ingest(Table::Settled, rows(0, 3)).unwrap();
                index.commit(vec![(b"state".to_vec(), b"s".to_vec())]).unwrap();
                let table = [&index.runs, &index.maps, &index.times, &index.settled][gone].path().to_owned();
                drop(index);
                match file {
                    Some(name) => fs::remove_file(table.join(name)).unwrap(),
                    None => fs::remove_dir_all(&table).unwrap(),
                }
                // And it stays so until it is wiped.
                for _ in 0..2 {
                    assert!(opener.open().is_err_and(|e| e.is_damage()), "{gone} {file:?}");
                }
                opener.wipe().unwrap();
                assert!(opener.open().is_ok());
            }
        }
    }

    /// What says which files a table consists of.
    #[test]
    fn a_flipped_bit_in_a_list_of_files_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let opener = FjallOpener { dir: dir.path().join("fjall"), cache: 0 };
        let index = FjallIndex::open(&opener, &With::default()).unwrap();
        index.ingest(Table::Runs, rows(0, 3)).unwrap();
        let table = index.runs.path().to_owned();
        drop(index);
        drop(opener.open().unwrap());
        let mut files = fs::read_dir(table).unwrap().map(|entry| entry.unwrap().path());
        let list = files.find(|path| path.file_name().unwrap().to_string_lossy().starts_with('v')).unwrap();
        let whole = fs::read(&list).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&list, bytes).unwrap();
            assert!(opener.open().is_err_and(|e| e.is_damage()), "byte {at} of {}", whole.len());
        }
        fs::write(&list, whole).unwrap();
        assert!(opener.open().unwrap().get(Table::Runs, &2u64.to_be_bytes()).unwrap().is_some());
    }

    /// A file system of so many MiB; `None` for a user who may not mount.
    struct Small(tempfile::TempDir);

    impl Small {
        fn new(mib: u64) -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let size = format!("size={mib}m");
            let mount = std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
                .arg(dir.path())
                .output();
            if mount.is_ok_and(|output| output.status.success()) {
                return Some(Self(dir));
            }
            eprintln!("not run: mounting a small file system needs root");
            None
        }

        fn fill(&self) {
            use std::io::Write as _;
            let mut file = File::create(self.0.path().join("neighbour")).unwrap();
            while file.write(&[1; 4096]).is_ok() {}
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        }
    }

    /// Its workers end with their first error, and fjall itself would wait for them for ever.
    #[test]
    fn nobody_waits_for_ever_for_what_finds_no_room() {
        let Some(small) = Small::new(16) else { return };
        let opener = FjallOpener { dir: small.0.path().join("fjall"), cache: 0 };
        let index = FjallIndex::open(&opener, &With::default()).unwrap();
        index.ingest(Table::Runs, rows(0, 200)).unwrap();
        index.remove(Table::Runs, (0..150u64).map(|k| k.to_be_bytes().to_vec()).collect()).unwrap();
        // Its log has room enough in its last page; the table that is written out has none.
        index.commit(vec![(b"state".to_vec(), vec![7; 10])]).unwrap();
        small.fill();
        let found = index.tidy(true).unwrap_err();
        let again = index.commit(vec![(b"state".to_vec(), vec![7; 4096])]).unwrap_err();
        assert!(!found.is_damage() && !again.is_damage(), "{found}, {again}");
        assert!(index.check().is_err());
        assert!(index.get(Table::Runs, &190u64.to_be_bytes()).unwrap().is_some(), "what is there is read");
        drop(index);
        fs::remove_file(small.0.path().join("neighbour")).unwrap();
        let index = opener.open().unwrap();
        index.commit(vec![(b"state".to_vec(), vec![7; 4096])]).unwrap();
        index.tidy(true).unwrap();
        assert!(index.get(Table::Runs, &190u64.to_be_bytes()).unwrap().is_some());
    }

    #[test]
    fn removed_rows_give_their_room_back_when_it_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let index =
            FjallIndex::open(&FjallOpener { dir: dir.path().to_owned(), cache: 1 << 20 }, &With::default())
                .unwrap();
        for round in 0..4 {
            index.ingest(Table::Runs, rows(round * 1000, 300)).unwrap();
            let keys = (round * 1000..round * 1000 + 290).map(|k| k.to_be_bytes().to_vec()).collect();
            index.remove(Table::Runs, keys).unwrap();
            index.tidy(true).unwrap();
        }
        let bytes = |path: &std::path::Path| -> u64 {
            let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
            files.map(|about| about.len()).sum()
        };
        let tables = index.runs.path().join("tables");
        assert!(bytes(&tables) < 3 << 20, "{} bytes", bytes(&tables));
        assert!(index.get(Table::Runs, &295u64.to_be_bytes()).unwrap().is_some());
    }
}
