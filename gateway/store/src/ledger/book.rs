//! The ledger in memory and its file, one behind the other: an entry counts once it is on the disk.

use std::io;
use std::sync::Mutex;

use gateway_journal::ledger::{Event, Fault, Hashed, Why, read};
use gateway_journal::{EntryNo, Head, Ledger, SegmentId, StoreId};
use tap_block::WallTime;
use tap_block::units::{count, index};
use tracing::{info, warn};

use super::LedgerStore;
use crate::error::StoreError;
use crate::sync::lock;

/// The file begins anew when it is larger than this, and than so many times what it says.
const FOLD_AT: u64 = 1 << 20;
const FOLD_TIMES: u64 = 4;
/// It begins anew at the last fold even though nobody keeps that yet: more is not read at once.
const LONGEST: u64 = 32 << 20;
/// A first entry that a crash cut off is shorter than this: more that cannot be read was a ledger.
const FIRST_BYTES: usize = 256;

/// See the module.
pub(crate) struct Book {
    store: StoreId,
    file: Box<dyn LedgerStore>,
    state: Mutex<State>,
}

struct State {
    ledger: Ledger,
    /// Bytes of the file that count.
    end: u64,
    /// A fold that entries lie before, and its first byte.
    fold: Option<(EntryNo, u64)>,
    /// What stands first, when nothing stands there yet.
    begin: Option<Why>,
}

/// What is wrong with the file.
pub(crate) struct Trouble {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) detail: String,
}

impl Book {
    /// Opens the ledger of a store; `fresh`: it has no history yet.
    ///
    /// # Errors
    /// When the file cannot be used at all. What it says is no reason not to open a store.
    pub(crate) fn open(file: Box<dyn LedgerStore>, store: StoreId, fresh: bool) -> Result<Self, StoreError> {
        let bytes = file.load()?;
        let reading = read(store, &bytes);
        // Of one that holds nothing there is nothing to keep.
        let end = reading.ledger.head().map_or(0, |_| reading.end);
        if end < bytes.len() {
            info!("the ledger's last {} bytes were cut off while they were written", bytes.len() - end);
            file.cut(count(end))?;
        }
        for fault in &reading.faults {
            warn!("the ledger from byte {} on: {}; `chronogate verify` reports it", fault.from, fault.detail);
        }
        let begin = match reading.ledger.head() {
            Some(_) => None,
            None if bytes.len() >= FIRST_BYTES => Some(Why::Lost),
            None if fresh => Some(Why::New),
            None => Some(Why::Older),
        };
        let fold = reading.fold.map(|(number, at)| (number, count(at)));
        let state = State { ledger: reading.ledger, end: count(end), fold, begin };
        Ok(Self { store, file, state: Mutex::new(state) })
    }

    /// Begins a ledger that was lost; false when it was not.
    pub(super) fn begin_lost(&self, at: WallTime) -> io::Result<bool> {
        let mut state = lock(&self.state);
        let lost = state.begin == Some(Why::Lost);
        if lost {
            self.append(&mut state, Vec::new(), at)?;
        }
        Ok(lost)
    }

    /// Whose it is.
    pub(super) const fn store(&self) -> StoreId {
        self.store
    }

    /// Asks the ledger.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Ledger) -> T) -> T {
        question(&lock(&self.state).ledger)
    }

    /// What a segment held when it was finished; `None`: it was not hashed.
    pub(crate) fn hashed(&self, segment: SegmentId) -> Option<Hashed> {
        self.ask(|ledger| ledger.segments().get(&segment).copied())
    }

    /// Appends an entry; it is on the disk when this returns.
    pub(crate) fn enter(&self, event: Event, at: WallTime) -> io::Result<()> {
        self.enter_all(vec![event], at, || true).map(drop)
    }

    /// Appends entries with one sync, if they are `still` true once nobody can ask for them meanwhile; false when they are not.
    pub(super) fn enter_all(
        &self,
        events: Vec<Event>,
        at: WallTime,
        still: impl FnOnce() -> bool,
    ) -> io::Result<bool> {
        let mut state = lock(&self.state);
        if events.is_empty() || !still() {
            return Ok(false);
        }
        self.append(&mut state, events, at)?;
        if state.end > FOLD_AT
            && let Err(e) = self.fold(&mut state, at).and_then(|()| self.shorten(&mut state))
        {
            warn!("the ledger stays as long as it is for now: {e}");
        }
        Ok(true)
    }

    /// What begins the ledger goes before its first entry.
    fn append(&self, state: &mut State, events: Vec<Event>, at: WallTime) -> io::Result<()> {
        let (mut due, mut bytes, mut entries) = (state.ledger.due(), Vec::new(), Vec::new());
        for event in state.begin.map(Event::Begun).into_iter().chain(events) {
            let entry = state.ledger.follow(due, event, at);
            let (encoded, digest) = entry.encode();
            bytes.extend(encoded);
            due = (entry.number.next(), digest);
            entries.push((entry, digest));
        }
        self.file.append(&bytes)?;
        state.end += count(bytes.len());
        state.begin = None;
        entries.iter().for_each(|(entry, digest)| state.ledger.take(entry, *digest));
        Ok(())
    }

    /// Enters what stands for everything so far, if that is much shorter.
    fn fold(&self, state: &mut State, at: WallTime) -> io::Result<()> {
        let folded = state.ledger.fold();
        let entry = state.ledger.next(folded.clone(), at);
        let much = count(entry.encode().0.len()).saturating_mul(FOLD_TIMES).clamp(FOLD_AT, LONGEST / 2);
        let (from, due) = (state.end, state.fold.map_or(0, |(_, at)| at) + much);
        if from > due {
            self.append(state, vec![folded], at)?;
            state.fold = Some((entry.number, from));
        }
        Ok(())
    }

    /// Begins the file anew at the last fold, once somebody keeps that or an entry behind it. Before, whoever keeps an earlier one
    /// could not tell whether the fold says the truth.
    fn shorten(&self, state: &mut State) -> io::Result<()> {
        let Some((number, from)) = state.fold else { return Ok(()) };
        let kept = state.ledger.anchored().is_none_or(|(_, head)| head.number >= number);
        if !kept && state.end < LONGEST {
            return Ok(());
        }
        let bytes = self.file.load()?;
        self.file.replace(bytes.get(index(from)..index(state.end)).unwrap_or_default())?;
        info!("the ledger begins with entry {number} from here on, which stands for all before it");
        (state.end, state.fold) = (state.end.saturating_sub(from), None);
        state.ledger.forget_before(number);
        Ok(())
    }

    /// Reads the file again: does it still say what was entered?
    pub(crate) fn check(&self) -> io::Result<Vec<Trouble>> {
        let state = lock(&self.state);
        let bytes = self.file.load()?;
        let reading = read(self.store, &bytes);
        let mut found: Vec<Trouble> = reading.faults.iter().map(trouble).collect();
        if reading.ledger.head() != state.ledger.head() || count(bytes.len()) != state.end {
            let number = |head: Option<Head>| head.map_or(0, |head| head.number.get());
            let (there, due) = (number(reading.ledger.head()), number(state.ledger.head()));
            let fault = Fault {
                from: reading.end.min(index(state.end)),
                to: bytes.len(),
                detail: format!("it ends with entry {there}, which is not entry {due} as it was written"),
            };
            found.push(trouble(&fault));
        }
        Ok(found)
    }
}

fn trouble(fault: &Fault) -> Trouble {
    let byte = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let detail = format!("the ledger: {}", fault.detail);
    Trouble { from: byte(fault.from), to: byte(fault.to), detail }
}
