//! What gateways have acknowledged, kept for as long as their stores are known: a gateway that says later that it has less was put back
//! to an older state, or its disk lost what it had written. Whoever is told of that in time can still put the newer state in its place.
//!
//! A log of records of one size, only appended to, of which the last of each store and stream counts. It is begun anew with one of each
//! when it has grown. A record is written every few seconds at most, so that a CX that was killed knows a little less than it was told.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tap_block::units::count;
use tap_block::{Clock, Lsn, Monotonic, StreamId};
use tap_disk::{AppendFile, set_aside};
use tokio::runtime::Handle;
use xxhash_rust::xxh3::xxh3_64;

const FILE: &str = "ACKNOWLEDGED";
const MAGIC: [u8; 8] = *b"CGACKED\x01";
const RECORD: usize = 40;
/// The file is begun anew beyond this.
const LONGEST: u64 = 256 << 10;
/// So many stores and streams are remembered.
const MOST: usize = 4096;
/// Between two records of one store and stream.
const EACH: Duration = Duration::from_secs(10);

/// A store, and a stream in it.
type Whose = (u64, StreamId);

/// See the module.
pub(crate) struct Acknowledged {
    file: AppendFile,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: BTreeMap<Whose, Known>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    lsn: Lsn,
    /// As the file has it.
    written: Lsn,
    /// When that was written, or began to be.
    written_at: Monotonic,
}

impl Acknowledged {
    /// Opens the log in `data`, or makes it. Records that are not as they were written are left out; a file that cannot be read is put
    /// aside.
    pub(crate) fn open(data: &Path, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let path = data.join(FILE);
        let read =
            |path: &Path| AppendFile::open(path).and_then(|file| file.read().map(|bytes| (file, bytes)));
        let (file, bytes) = match read(&path) {
            Ok(read) => read,
            Err(e) => {
                let aside = set_aside(&path)?.unwrap_or_default();
                tracing::error!(
                    "what gateways have acknowledged cannot be read ({e}), kept as {}",
                    aside.display()
                );
                read(&path)?
            }
        };
        let whole = bytes.len() - bytes.len() % RECORD;
        if whole < bytes.len() {
            file.cut(count(whole))?;
        }
        let (mut state, now) = (State { bytes: count(whole), ..State::default() }, clock.monotonic());
        for (whose, lsn) in bytes.as_chunks::<RECORD>().0.iter().filter_map(decode) {
            state.known.insert(whose, Known { lsn, written: lsn, written_at: now });
        }
        Ok(Self { file, clock, state: Mutex::new(state) })
    }

    /// The last record that the store said to have durable of the stream.
    pub(crate) fn of(&self, whose: Whose) -> Option<Lsn> {
        self.lock().known.get(&whose).map(|known| known.lsn)
    }

    /// The store says that it has the stream up to here. Never blocks: it is kept by and by, on a thread of `runtime`.
    pub(crate) fn note(self: &Arc<Self>, whose: Whose, durable: Lsn, runtime: &Handle) {
        if let Some(record) = self.begin(whose, durable) {
            let this = Arc::clone(self);
            runtime.spawn_blocking(move || this.write(&[record]));
        }
    }

    /// Everything that is known and not written yet. Blocks.
    pub(crate) fn flush(&self) {
        let mut records = Vec::new();
        for (whose, known) in self.lock().known.iter_mut().filter(|(_, known)| known.written < known.lsn) {
            known.written = known.lsn;
            records.push((*whose, known.lsn));
        }
        if !records.is_empty() {
            self.write(&records);
        }
    }

    /// Is it time to write that?
    fn begin(&self, whose: Whose, durable: Lsn) -> Option<(Whose, Lsn)> {
        let (now, mut state) = (self.clock.monotonic(), self.lock());
        if durable == Lsn::ZERO || (state.known.len() >= MOST && !state.known.contains_key(&whose)) {
            return None;
        }
        let fresh = Known { lsn: durable, written: Lsn::ZERO, written_at: now };
        let known = state.known.entry(whose).or_insert(fresh);
        known.lsn = known.lsn.max(durable);
        let due = known.written == Lsn::ZERO || now.since(known.written_at) >= EACH;
        (due && known.written < known.lsn).then(|| {
            (known.written, known.written_at) = (known.lsn, now);
            (whose, known.lsn)
        })
    }

    fn write(&self, records: &[(Whose, Lsn)]) {
        let bytes: Vec<u8> = records.iter().flat_map(encode).collect();
        let written = self.file.append(&bytes);
        let mut state = self.lock();
        match written {
            Ok(()) => state.bytes += count(bytes.len()),
            Err(e) => {
                return tracing::warn!(
                    "what gateways have acknowledged is not kept on the disk: {e}; one that is put back while this CX is down may not \
                     be noticed"
                );
            }
        }
        if state.bytes > LONGEST {
            let all: Vec<u8> =
                state.known.iter().flat_map(|(whose, known)| encode(&(*whose, known.lsn))).collect();
            match self.file.replace(&all) {
                Ok(()) => state.bytes = count(all.len()),
                Err(e) => {
                    tracing::warn!("the log of what gateways have acknowledged stays long for now: {e}")
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(((store, stream), lsn): &(Whose, Lsn)) -> [u8; RECORD] {
    let mut parts = Vec::with_capacity(RECORD);
    parts.extend(MAGIC);
    for number in [*store, stream.get(), lsn.get()] {
        parts.extend(number.to_le_bytes());
    }
    parts.extend(xxh3_64(&parts).to_le_bytes());
    let mut out = [0; RECORD];
    out.copy_from_slice(&parts);
    out
}

fn decode(bytes: &[u8; RECORD]) -> Option<(Whose, Lsn)> {
    let (message, sum) = bytes.split_last_chunk::<8>()?;
    let numbers = message.strip_prefix(&MAGIC)?;
    if u64::from_le_bytes(*sum) != xxh3_64(message) {
        return None;
    }
    let mut numbers = numbers.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b));
    let (store, stream, lsn) = (numbers.next()?, numbers.next()?, numbers.next()?);
    Some(((store, StreamId::new(stream)), Lsn::new(lsn)?))
}

#[cfg(test)]
mod tests {
    use tap_disk::RealClock;

    use super::*;

    fn open(data: &Path) -> Acknowledged {
        Acknowledged::open(data, Arc::new(RealClock)).unwrap()
    }

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n).unwrap()
    }

    fn note(all: &Acknowledged, whose: Whose, n: u64) -> bool {
        let due = all.begin(whose, lsn(n));
        due.iter().for_each(|record| all.write(&[*record]));
        due.is_some()
    }

    #[test]
    fn a_record_keeps_its_bytes() {
        let record = ((0x11, StreamId::new(0x22)), lsn(0x33));
        let hex = encode(&record).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let fixed = "434741434b454401110000000000000022000000000000003300000000000000";
        assert!(hex.starts_with(fixed) && hex.len() == 2 * RECORD, "{hex}");
        assert_eq!(decode(&encode(&record)), Some(record));
        for n in 0..RECORD {
            let mut bad = encode(&record);
            bad[n] ^= 1;
            assert_eq!(decode(&bad), None);
        }
    }

    #[test]
    fn the_furthest_is_known_at_once_and_over_a_stop() {
        let (tmp, a, b) = (tempfile::tempdir().unwrap(), (1, StreamId::new(5)), (2, StreamId::new(5)));
        let all = open(tmp.path());
        assert!(note(&all, a, 10), "the first of each is written at once");
        assert!(!note(&all, a, 30) && !note(&all, a, 20), "and others when it is time");
        assert!(note(&all, b, 7));
        assert_eq!((all.of(a), all.of(b), all.of((3, a.1))), (Some(lsn(30)), Some(lsn(7)), None));
        assert_eq!(open(tmp.path()).of(a), Some(lsn(10)), "killed");
        all.flush();
        all.flush();
        assert_eq!(open(tmp.path()).of(a), Some(lsn(30)));
        assert_eq!(std::fs::metadata(tmp.path().join(FILE)).unwrap().len(), 3 * count(RECORD));
        // A record that was being written.
        AppendFile::open(&tmp.path().join(FILE)).unwrap().append(&[9; 33]).unwrap();
        assert_eq!(open(tmp.path()).of(b), Some(lsn(7)));
        all.lock().bytes = LONGEST;
        assert!(note(&all, (4, a.1), 1));
        assert_eq!(open(tmp.path()).of(a), Some(lsn(30)));
        assert_eq!(std::fs::metadata(tmp.path().join(FILE)).unwrap().len(), 3 * count(RECORD));
    }
}
