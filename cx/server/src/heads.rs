//! The heads of gateways' ledgers, kept for them: whoever changes a gateway's history, and its ledger to fit, cannot change
//! what lies here.
//!
//! A log of records of one size, only appended to, of which the newest of each gateway counts. It is begun anew with the last
//! few of each when it has grown. A head goes out to the gateways, its own included, only when it is on the disk.
//!
//! A store is the gateway's that told its head first, by the name that this has in the configuration: no other one can anchor
//! anything for it, unless that name is not configured any more. Which stores a gateway has had goes out to it, too: one whose
//! disk is not mounted begins a new store, and would not know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cx_wire::{KnownStore, LedgerHead, MAX_GATEWAY_NAME, MAX_LEDGERS, Witness};
use tap_block::units::count;
use tap_block::{Clock, WallTime};
use tap_disk::{AppendFile, set_aside, was_set_aside};
use tokio::runtime::Handle;
use xxhash_rust::xxh3::xxh3_64;

const FILE: &str = "HEADS";
const MAGIC: [u8; 8] = *b"CGHEADS\x01";
/// Of a record that says which gateway a store is.
const OWNER_MAGIC: [u8; 8] = *b"CGHEADS\x02";
const RECORD: usize = 80;
/// Bytes of a gateway's name in it.
const SHOWN: usize = 39;
/// The file is begun anew beyond this.
const LONGEST: u64 = 1 << 20;
/// Entries of a ledger are numbered below this.
const MOST_ENTRIES: u64 = 1 << 52;
/// Of each gateway so many are kept then: what it was before can be looked up for a while.
const KEPT: usize = 64;

/// Said as long as the file of before lies there: taking it away says that somebody has seen to it.
const LOST: &str = "the heads of gateways' ledgers could not be read once and are kept anew since: what a gateway told before is known \
                    only to it and to the other gateways. Run `chronogate verify` at each, and take HEADS.unreadable-N away";

/// The heads.
pub(crate) struct Heads {
    file: AppendFile,
    clock: Arc<dyn Clock>,
    /// The gateways, as configured.
    gateways: Vec<String>,
    /// Why what was kept before is not known any more.
    lost: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last ones of each store, oldest first, all of them on the disk.
    kept: BTreeMap<u64, VecDeque<Record>>,
    /// Which gateway each store is: nobody else says what its head is.
    owners: BTreeMap<u64, Owner>,
    /// Stores and the hashes of their gateways' names that are on the disk.
    written: BTreeSet<(u64, u64)>,
    /// On their way there.
    writing: BTreeSet<(u64, u64)>,
    /// Stores whose word was found to contradict what is kept.
    doubted: BTreeSet<u64>,
    /// What gateways say that they keep of a store's ledger.
    witnesses: BTreeMap<u64, BTreeMap<String, LedgerHead>>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    head: LedgerHead,
    told_at: WallTime,
}

/// A gateway by the name that it has in the configuration, as far as there is room for it, and the hash of all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    store: u64,
    hash: u64,
    shown: String,
    told_at: WallTime,
}

impl Heads {
    /// Opens the log in `data`, or makes it; `gateways` are the names of those that are configured. Records that are not as they
    /// were written are left out; a file that cannot be read is put aside.
    pub(crate) fn open(data: &Path, clock: Arc<dyn Clock>, gateways: Vec<String>) -> io::Result<Self> {
        let path = data.join(FILE);
        let read =
            |path: &Path| AppendFile::open(path).and_then(|file| file.read().map(|bytes| (file, bytes)));
        let (file, bytes) = match read(&path) {
            Ok(read) => read,
            Err(e) => {
                let aside = set_aside(&path)?.unwrap_or_default();
                tracing::error!(
                    "the heads of gateways' ledgers cannot be read ({e}), kept as {}",
                    aside.display()
                );
                read(&path)?
            }
        };
        let lost = was_set_aside(&path).then(|| LOST.to_owned());
        if let Some(lost) = &lost {
            tracing::error!("{lost}");
        }
        let whole = bytes.len() - bytes.len() % RECORD;
        if whole < bytes.len() {
            file.cut(count(whole))?;
        }
        let mut state = State { bytes: count(whole), ..State::default() };
        for (n, raw) in bytes.as_chunks::<RECORD>().0.iter().enumerate() {
            match (Record::decode(raw), Owner::decode(raw)) {
                (Some(record), _) => state.keep(record),
                (None, Some(owner)) => {
                    state.written.retain(|(store, _)| *store != owner.store);
                    state.written.insert((owner.store, owner.hash));
                    state.owners.insert(owner.store, owner);
                }
                (None, None) => {
                    tracing::warn!("record {n} of the heads of gateways' ledgers is damaged and left out")
                }
            }
        }
        Ok(Self { file, clock, gateways, lost, state: Mutex::new(state) })
    }

    /// Why what was kept before is not known any more, until somebody takes the file of before away; `None`: it is.
    pub(crate) fn lost(&self) -> Option<String> {
        self.lost.clone()
    }

    /// The stores that `gateway` has, or had.
    pub(crate) fn stores_of(&self, gateway: &str) -> Vec<KnownStore> {
        let (state, hash) = (self.lock(), hash_of(gateway));
        let on_disk = |owner: &&Owner| owner.hash == hash && state.written.contains(&(owner.store, hash));
        let known = state.owners.values().filter(on_disk).map(|owner| {
            let last = state.kept.get(&owner.store).and_then(VecDeque::back).map(|kept| kept.told_at);
            KnownStore { store: owner.store, told: last.max(Some(owner.told_at)).unwrap_or(owner.told_at) }
        });
        known.take(MAX_LEDGERS).collect()
    }

    /// The gateway `from` says which store it has. Never blocks, as [`Heads::note`].
    pub(crate) fn claim(self: &Arc<Self>, from: &str, store: u64, runtime: &Handle) {
        if let Some(owner) = self.begin_claim(from, store) {
            let this = Arc::clone(self);
            runtime.spawn_blocking(move || this.write_owner(&owner));
        }
    }

    /// Is it new? Then it is on its way to the disk.
    fn begin_claim(&self, from: &str, store: u64) -> Option<Owner> {
        let mut state = self.lock();
        // The head that it tells says so, too.
        if self.other_owner(&state, from, store).is_some() {
            return None;
        }
        if state.owners.len() >= MAX_LEDGERS && !state.owners.contains_key(&store) {
            tracing::warn!(
                "gateway {from} has a store that is not remembered: {MAX_LEDGERS} others are, which is the most"
            );
            return None;
        }
        let owner = Owner::new(store, from, self.clock.wall());
        let begins = !state.written.contains(&(store, owner.hash));
        begins.then(|| {
            state.owners.insert(store, owner.clone());
            owner
        })
    }

    fn write_owner(&self, owner: &Owner) {
        let written = self.file.append(&owner.encode());
        let mut state = self.lock();
        match written {
            Ok(()) => {
                state.bytes += count(RECORD);
                state.written.retain(|(store, _)| *store != owner.store);
                state.written.insert((owner.store, owner.hash));
            }
            Err(e) => tracing::warn!("which store gateway {} has is not remembered yet: {e}", owner.shown),
        }
    }

    /// What other gateways say that they keep of the ledger of `gateway`.
    pub(crate) fn witnesses_for(&self, gateway: &str) -> Vec<Witness> {
        let (state, hash) = (self.lock(), hash_of(gateway));
        let own = state.owners.values().filter(|owner| owner.hash == hash);
        let said = own.filter_map(|owner| state.witnesses.get(&owner.store)).flatten();
        let said = said.map(|(name, head)| Witness { gateway: name.clone(), head: *head });
        said.take(MAX_LEDGERS).collect()
    }

    /// `gateway` says what it keeps of another one's ledger.
    pub(crate) fn witness(&self, gateway: &str, head: LedgerHead) {
        let mut state = self.lock();
        // Whose ledger that is has to be known; the one whose it is vouches for nothing.
        let others = state.owners.get(&head.store).is_some_and(|owner| owner.hash != hash_of(gateway));
        if !others || gateway.len() > MAX_GATEWAY_NAME || head.entry >= MOST_ENTRIES {
            return;
        }
        let here = state.kept.get(&head.store).and_then(VecDeque::back).map_or(0, |kept| kept.head.entry);
        let said = state.witnesses.entry(head.store).or_default();
        if said.insert(gateway.to_owned(), head) != Some(head) && here < head.entry {
            tracing::error!(
                store = format!("{:016x}", head.store),
                "gateway {gateway} keeps entry {} of a ledger, of which no more than entry {here} is kept here: this CX, or that \
                 gateway, was put back to an older state",
                head.entry
            );
        }
    }

    /// The newest of every gateway.
    pub(crate) fn all(&self) -> Vec<LedgerHead> {
        self.lock().kept.values().filter_map(|records| records.back().map(|r| r.head)).collect()
    }

    /// The gateway `from` says what its head is. Never blocks: it is kept by and by, on a thread of `runtime`.
    pub(crate) fn note(self: &Arc<Self>, from: &str, head: LedgerHead, runtime: &Handle) {
        if let Some(owner) = self.begin(from, &head) {
            let this = Arc::clone(self);
            runtime.spawn_blocking(move || this.write(head, owner));
        }
    }

    /// Is it one to be kept? Then it is on its way, with whose it is.
    fn begin(&self, from: &str, head: &LedgerHead) -> Option<Owner> {
        let mut state = self.lock();
        if let Some(other) = self.other_owner(&state, from, head.store) {
            if state.doubted.insert(head.store) {
                tracing::error!(
                    store = format!("{:016x}", head.store),
                    "gateway {from} tells the head of a ledger that is gateway {other}'s: it is not kept. Either the one is a copy \
                     of the other, or one of them lies"
                );
            }
            return None;
        }
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
        let begins = newer && !full && state.writing.insert((head.store, head.entry));
        let owner = Owner::new(head.store, from, self.clock.wall());
        if begins {
            // From here on, so that of two that tell it at once one is first.
            let known = state.owners.entry(head.store).or_insert_with(|| owner.clone());
            if known.hash != owner.hash {
                *known = owner.clone();
            }
        }
        begins.then_some(owner)
    }

    /// Another gateway, still configured, whose store that is.
    fn other_owner(&self, state: &State, from: &str, store: u64) -> Option<String> {
        let owner = state.owners.get(&store).filter(|owner| owner.hash != hash_of(from))?;
        self.gateways.iter().any(|name| hash_of(name) == owner.hash).then(|| owner.shown.clone())
    }

    fn write(&self, head: LedgerHead, owner: Owner) {
        let record = Record { head, told_at: self.clock.wall() };
        let new = !self.lock().written.contains(&(owner.store, owner.hash));
        let bytes = if new { [owner.encode(), record.encode()].concat() } else { record.encode().to_vec() };
        // Without the lock: whoever asks for the heads does not wait for a disk.
        let written = self.file.append(&bytes);
        let mut state = self.lock();
        state.writing.remove(&(head.store, head.entry));
        match written {
            Ok(()) => {
                state.bytes += count(bytes.len());
                state.keep(record);
                state.written.retain(|(store, _)| *store != owner.store);
                state.written.insert((owner.store, owner.hash));
            }
            Err(e) => {
                return tracing::warn!("the head of a gateway's ledger is not kept, it tells it again: {e}");
            }
        }
        if state.bytes > LONGEST && state.writing.is_empty() {
            let owners = state.owners.values().flat_map(Owner::encode);
            let left: Vec<u8> =
                owners.chain(state.kept.values().flatten().flat_map(|record| record.encode())).collect();
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

fn hash_of(gateway: &str) -> u64 {
    xxh3_64(gateway.as_bytes())
}

impl Owner {
    fn new(store: u64, gateway: &str, told_at: WallTime) -> Self {
        let mut shown = gateway.to_owned();
        while shown.len() > SHOWN {
            shown.pop();
        }
        Self { store, hash: hash_of(gateway), shown, told_at }
    }

    fn encode(&self) -> [u8; RECORD] {
        let mut parts = Vec::with_capacity(RECORD);
        parts.extend(OWNER_MAGIC);
        for number in [self.store, self.hash, self.told_at.nanos()] {
            parts.extend(number.to_le_bytes());
        }
        parts.push(u8::try_from(self.shown.len()).unwrap_or(0));
        parts.extend(self.shown.as_bytes());
        parts.resize(RECORD - 8, 0);
        parts.extend(xxh3_64(&parts).to_le_bytes());
        let mut out = [0; RECORD];
        out.copy_from_slice(&parts);
        out
    }

    fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        let (message, sum) = bytes.split_last_chunk::<8>()?;
        let rest = message.strip_prefix(&OWNER_MAGIC)?;
        if u64::from_le_bytes(*sum) != xxh3_64(message) {
            return None;
        }
        let (numbers, rest) = rest.split_first_chunk::<24>()?;
        let mut numbers = numbers.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b));
        let (store, hash, told_at) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let (len, name) = rest.split_first()?;
        let shown = std::str::from_utf8(name.get(..usize::from(*len))?).ok()?.to_owned();
        Some(Self { store, hash, shown, told_at: WallTime::from_nanos(told_at) })
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
        Heads::open(data, Arc::new(RealClock), vec!["a".into(), "b".into()]).unwrap()
    }

    fn note(heads: &Heads, head: LedgerHead) -> bool {
        note_by(heads, "a", head)
    }

    fn note_by(heads: &Heads, gateway: &str, head: LedgerHead) -> bool {
        let begun = heads.begin(gateway, &head);
        let begins = begun.is_some();
        begun.into_iter().for_each(|owner| heads.write(head, owner));
        begins
    }

    #[test]
    fn a_record_of_whose_a_store_is_keeps_its_bytes() {
        let owner = Owner::new(0x11, "gateway-b", WallTime::from_nanos(4));
        let hex = owner.encode().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let golden = "434748454144530211000000000000005c73a9ca2ec7d79d040000000000000009676174657761792d620000000000000000000000000000000000000000000000000000000000004eda50d004706490";
        assert_eq!(hex, golden);
        assert_eq!(Owner::decode(&owner.encode()), Some(owner.clone()));
        for n in 0..RECORD {
            let mut bad = owner.encode();
            bad[n] ^= 1;
            assert_eq!((Owner::decode(&bad), Record::decode(&bad)), (None, None));
        }
        let long = Owner::new(1, &"ä".repeat(40), WallTime::EPOCH);
        assert_eq!(Owner::decode(&long.encode()), Some(long));
    }

    #[test]
    fn no_gateway_anchors_for_another_one() {
        let tmp = tempfile::tempdir().unwrap();
        let heads = open(tmp.path());
        assert!(note_by(&heads, "a", head(1, 5)) && note_by(&heads, "b", head(2, 5)));
        assert!(!note_by(&heads, "b", head(1, 6)));
        let heads = open(tmp.path());
        assert!(!note_by(&heads, "b", head(1, 6)), "over a restart");
        assert_eq!(heads.all(), [head(1, 5), head(2, 5)]);
        // The one that had the name is not configured any more: it was given another one.
        let renamed = Heads::open(tmp.path(), Arc::new(RealClock), vec!["b".into(), "c".into()]).unwrap();
        assert!(note_by(&renamed, "c", head(1, 7)));
        let heads = open(tmp.path());
        assert!(note_by(&heads, "a", head(1, 8)) && !note_by(&heads, "b", head(1, 9)));
    }

    #[test]
    fn a_gateway_is_told_which_stores_it_has_had() {
        let tmp = tempfile::tempdir().unwrap();
        let heads = open(tmp.path());
        let claim = |heads: &Heads, gateway: &str, store: u64| {
            let begun = heads.begin_claim(gateway, store);
            let begins = begun.is_some();
            begun.iter().for_each(|owner| heads.write_owner(owner));
            begins
        };
        let of = |heads: &Heads, gateway: &str| -> Vec<u64> {
            heads.stores_of(gateway).iter().map(|known| known.store).collect()
        };
        assert!(claim(&heads, "a", 1) && !claim(&heads, "a", 1));
        assert!(note_by(&heads, "b", head(2, 5)), "a head says it, too");
        assert!(!claim(&heads, "b", 1) && !claim(&heads, "b", 2), "nobody takes another one's");
        let heads = open(tmp.path());
        // Its disk is not mounted: it began anew.
        assert!(claim(&heads, "a", 3));
        assert_eq!((of(&heads, "a"), of(&heads, "b")), (vec![1, 3], vec![2]));
        let told = |heads: &Heads| heads.stores_of("a").first().unwrap().told;
        let before = told(&heads);
        assert!(note_by(&heads, "a", head(1, 9)) && told(&heads) > before, "when it was told of last");
        let heads = open(tmp.path());
        assert_eq!(of(&heads, "a"), [1, 3], "over a restart");
        for store in 10..200 {
            claim(&heads, "a", store);
        }
        assert_eq!(heads.stores_of("a").len() + heads.stores_of("b").len(), MAX_LEDGERS);
    }

    #[test]
    fn what_gateways_keep_of_each_other_goes_to_the_one_whose_ledger_it_is() {
        let tmp = tempfile::tempdir().unwrap();
        let heads = open(tmp.path());
        assert!(note_by(&heads, "a", head(1, 5)) && note_by(&heads, "b", head(2, 5)));
        heads.witness("b", head(1, 4));
        heads.witness("b", head(1, 5));
        heads.witness("a", head(1, 5));
        heads.witness("a", head(9, 5));
        let witness = Witness { gateway: "b".to_owned(), head: head(1, 5) };
        assert_eq!((heads.witnesses_for("a"), heads.witnesses_for("b")), (vec![witness], Vec::new()));
    }

    #[test]
    fn heads_that_cannot_be_read_are_put_aside_and_kept_anew() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tmp.path().join("HEADS/what")).unwrap();
        let heads = open(tmp.path());
        assert!(heads.lost().is_some());
        assert!(tmp.path().join("HEADS.unreadable-1/what").is_dir());
        assert!(note(&heads, head(1, 5)));
        let heads = open(tmp.path());
        assert!(heads.all() == [head(1, 5)] && heads.lost().is_some(), "until somebody has seen to it");
        std::fs::remove_dir_all(tmp.path().join("HEADS.unreadable-1")).unwrap();
        assert_eq!(open(tmp.path()).lost(), None);
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
        let begun: Vec<Owner> = (0..100).filter_map(|store| heads.begin("a", &head(store, 1))).collect();
        assert_eq!(begun.len(), MAX_LEDGERS);
        begun.into_iter().for_each(|owner| heads.write(head(owner.store, 1), owner));
        assert_eq!(heads.all().len(), MAX_LEDGERS);
    }

    #[test]
    fn neither_file_nor_list_grows_for_ever() {
        let tmp = tempfile::tempdir().unwrap();
        let heads = open(tmp.path());
        heads.lock().bytes = LONGEST;
        (1..=100).for_each(|n| assert!(note(&heads, head(1, n))));
        let bytes = std::fs::metadata(tmp.path().join(FILE)).unwrap().len();
        assert!(bytes <= 101 * count(RECORD));
        assert_eq!(heads.lock().kept[&1].len(), KEPT);
        for store in 2..100 {
            note(&heads, head(store, 1));
        }
        assert_eq!(heads.all().len(), MAX_LEDGERS);
        assert!(!note(&heads, head(1, MOST_ENTRIES)), "it would be the last that is ever kept");
        assert_eq!(open(tmp.path()).all(), heads.all());
    }
}
