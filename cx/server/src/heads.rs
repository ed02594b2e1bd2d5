//! The heads of gateways' ledgers, kept for them: whoever changes a gateway's history, and its ledger to fit, cannot change
//! what lies here.
//!
//! A log of records of one size, only appended to, of which the newest of each gateway counts. It is begun anew with the last
//! few of each when it has grown. A head goes out to the gateways, its own included, only when it is on the disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cx_wire::{LedgerHead, MAX_LEDGERS};
use tap_block::units::count;
use tap_block::{Clock, WallTime};
use tap_disk::AppendFile;
use tokio::runtime::Handle;
use xxhash_rust::xxh3::xxh3_64;

const FILE: &str = "HEADS";
const MAGIC: [u8; 8] = *b"CGHEADS\x01";
const RECORD: usize = 80;
/// The file is begun anew beyond this.
const LONGEST: u64 = 1 << 20;
/// Entries of a ledger are numbered below this.
const MOST_ENTRIES: u64 = 1 << 52;
/// Of each gateway so many are kept then: what it was before can be looked up for a while.
const KEPT: usize = 64;

/// The heads.
pub(crate) struct Heads {
    file: AppendFile,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last ones of each store, oldest first, all of them on the disk.
    kept: BTreeMap<u64, VecDeque<Record>>,
    /// On their way there.
    writing: BTreeSet<(u64, u64)>,
    /// Stores whose word was found to contradict what is kept.
    doubted: BTreeSet<u64>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    head: LedgerHead,
    told_at: WallTime,
}

impl Heads {
    /// Opens the log in `data`, or makes it. Records that are not as they were written are left out.
    pub(crate) fn open(data: &Path, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let file = AppendFile::open(&data.join(FILE))?;
        let bytes = file.read()?;
        let whole = bytes.len() - bytes.len() % RECORD;
        if whole < bytes.len() {
            file.cut(count(whole))?;
        }
        let mut state = State { bytes: count(whole), ..State::default() };
        for (n, raw) in bytes.as_chunks::<RECORD>().0.iter().enumerate() {
            match Record::decode(raw) {
                Some(record) => state.keep(record),
                None => {
                    tracing::warn!("record {n} of the heads of gateways' ledgers is damaged and left out")
                }
            }
        }
        Ok(Self { file, clock, state: Mutex::new(state) })
    }

    /// The newest of every gateway.
    pub(crate) fn all(&self) -> Vec<LedgerHead> {
        self.lock().kept.values().filter_map(|records| records.back().map(|r| r.head)).collect()
    }

    /// A gateway says what its head is. Never blocks: it is kept by and by, on a thread of `runtime`.
    pub(crate) fn note(self: &Arc<Self>, head: LedgerHead, runtime: &Handle) {
        if self.begin(&head) {
            let this = Arc::clone(self);
            runtime.spawn_blocking(move || this.write(head));
        }
    }

    /// Is it one to be kept? Then it is on its way.
    fn begin(&self, head: &LedgerHead) -> bool {
        let mut state = self.lock();
        let known = state.kept.get(&head.store).and_then(VecDeque::back).map(|r| r.head);
        let full = known.is_none() && state.is_full_for(head.store);
        if full && state.doubted.insert(head.store) {
            tracing::warn!(
                store = format!("{:016x}", head.store),
                "the ledger of a gateway is not kept: {MAX_LEDGERS} others are, which is the most"
            );
        }
        // No ledger ever comes so far; a number beyond would leave no room for its true entries.
        let newer = known.is_none_or(|known| known.entry < head.entry) && head.entry < MOST_ENTRIES;
        if known.is_some_and(|known| known.entry == head.entry && known.hash != head.hash)
            && state.doubted.insert(head.store)
        {
            tracing::error!(
                store = format!("{:016x}", head.store),
                entry = head.entry,
                "a gateway's ledger has another entry than the one that was kept for it: it was rewritten, or two gateways \
                 have one store; `chronogate verify` at that gateway says more"
            );
        }
        newer && !full && state.writing.insert((head.store, head.entry))
    }

    fn write(&self, head: LedgerHead) {
        let record = Record { head, told_at: self.clock.wall() };
        // Before the lock: whoever asks for the heads does not wait for a disk.
        let written = self.file.append(&record.encode());
        let mut state = self.lock();
        state.writing.remove(&(head.store, head.entry));
        match written {
            Ok(()) => {
                state.bytes += count(RECORD);
                state.keep(record);
            }
            Err(e) => {
                return tracing::warn!("the head of a gateway's ledger is not kept, it tells it again: {e}");
            }
        }
        if state.bytes > LONGEST && state.writing.is_empty() {
            let left: Vec<u8> = state.kept.values().flatten().flat_map(|record| record.encode()).collect();
            match self.file.replace(&left) {
                Ok(()) => state.bytes = count(left.len()),
                Err(e) => {
                    tracing::warn!("the heads of gateways' ledgers stay as many as they are for now: {e}")
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Those on their way to the disk count, too: every gateway is told all of them, and takes no more than this.
    fn is_full_for(&self, store: u64) -> bool {
        let mut stores: BTreeSet<u64> = self.writing.iter().map(|(store, _)| *store).collect();
        stores.extend(self.kept.keys());
        !stores.contains(&store) && stores.len() >= MAX_LEDGERS
    }

    fn keep(&mut self, record: Record) {
        // A file that was made longer by hand, or by an older program.
        if self.kept.len() >= MAX_LEDGERS && !self.kept.contains_key(&record.head.store) {
            return;
        }
        let records = self.kept.entry(record.head.store).or_default();
        // Two that were written at once may lie the other way round.
        let at = records.partition_point(|r| r.head.entry <= record.head.entry);
        records.insert(at, record);
        if records.len() > KEPT {
            records.pop_front();
        }
    }
}

impl Record {
    fn encode(&self) -> [u8; RECORD] {
        let LedgerHead { store, entry, hash, at } = self.head;
        let mut out = [0; RECORD];
        let mut parts = Vec::with_capacity(RECORD);
        parts.extend(MAGIC);
        for number in [store, entry, at.nanos(), self.told_at.nanos()] {
            parts.extend(number.to_le_bytes());
        }
        parts.extend(hash);
        parts.extend(xxh3_64(&parts).to_le_bytes());
        out.copy_from_slice(&parts);
        out
    }

    fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        let (message, sum) = bytes.split_last_chunk::<8>()?;
        let numbers = message.strip_prefix(&MAGIC)?;
        if u64::from_le_bytes(*sum) != xxh3_64(message) {
            return None;
        }
        let (numbers, hash) = numbers.split_last_chunk::<32>()?;
        let mut numbers = numbers.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b));
        let (store, entry) = (numbers.next()?, numbers.next()?);
        let (at, told_at) = (WallTime::from_nanos(numbers.next()?), WallTime::from_nanos(numbers.next()?));
        Some(Self { head: LedgerHead { store, entry, hash: *hash, at }, told_at })
    }
}

#[cfg(test)]
mod tests {
    use tap_disk::RealClock;

    use super::*;

    fn head(store: u64, entry: u64) -> LedgerHead {
        LedgerHead { store, entry, hash: [7; 32], at: WallTime::from_nanos(3) }
    }

    fn open(data: &Path) -> Heads {
        Heads::open(data, Arc::new(RealClock)).unwrap()
    }

    fn note(heads: &Heads, head: LedgerHead) -> bool {
        let begun = heads.begin(&head);
        if begun {
            heads.write(head);
        }
        begun
    }

    #[test]
    fn a_record_keeps_its_bytes() {
        let record = Record { head: head(0x11, 0x22), told_at: WallTime::from_nanos(4) };
        let hex = record.encode().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let fixed = "43474845414453011100000000000000220000000000000003000000000000000400000000000000";
        assert_eq!(hex, format!("{fixed}{}f656940f8dcb9d42", "07".repeat(32)));
        assert_eq!(Record::decode(&record.encode()), Some(record));
        for n in 0..RECORD {
            let mut bad = record.encode();
            bad[n] ^= 1;
            assert_eq!(Record::decode(&bad), None);
        }
    }

    #[test]
    fn the_newest_of_each_is_kept_over_a_restart_and_none_goes_back() {
        let tmp = tempfile::tempdir().unwrap();
        let heads = open(tmp.path());
        assert!(note(&heads, head(1, 5)) && note(&heads, head(2, 9)) && note(&heads, head(1, 7)));
        assert!(!note(&heads, head(1, 7)) && !note(&heads, head(1, 6)), "a gateway that was put back");
        let rewritten = LedgerHead { hash: [8; 32], ..head(1, 7) };
        assert!(!note(&heads, rewritten));
        assert_eq!(open(tmp.path()).all(), [head(1, 7), head(2, 9)]);
        // A record that was being written.
        AppendFile::open(&tmp.path().join(FILE)).unwrap().append(&[9; 33]).unwrap();
        let heads = open(tmp.path());
        assert!(note(&heads, head(3, 1)));
        assert_eq!(open(tmp.path()).all(), [head(1, 7), head(2, 9), head(3, 1)]);
    }

    #[test]
    fn heads_on_their_way_to_the_disk_count_as_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let heads = open(tmp.path());
        let begun: Vec<u64> = (0..100).filter(|store| heads.begin(&head(*store, 1))).collect();
        assert_eq!(begun.len(), MAX_LEDGERS);
        begun.into_iter().for_each(|store| heads.write(head(store, 1)));
        assert_eq!(heads.all().len(), MAX_LEDGERS);
    }

    #[test]
    fn neither_file_nor_list_grows_for_ever() {
        let tmp = tempfile::tempdir().unwrap();
        let heads = open(tmp.path());
        heads.lock().bytes = LONGEST;
        (1..=100).for_each(|n| assert!(note(&heads, head(1, n))));
        let bytes = std::fs::metadata(tmp.path().join(FILE)).unwrap().len();
        assert!(bytes <= 100 * count(RECORD));
        assert_eq!(heads.lock().kept[&1].len(), KEPT);
        for store in 2..100 {
            note(&heads, head(store, 1));
        }
        assert_eq!(heads.all().len(), MAX_LEDGERS);
        assert!(!note(&heads, head(1, MOST_ENTRIES)), "it would be the last that is ever kept");
        assert_eq!(open(tmp.path()).all(), heads.all());
    }
}
