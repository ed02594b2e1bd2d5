//! The ledger in memory and its file, one behind the other: an entry counts once it is on the disk.

use std::io;
use std::sync::Mutex;

use gateway_journal::ledger::{Doubt, Event, Fault, Hashed, Loss, Reading, Why, read};
use gateway_journal::{EntryNo, Head, Ledger, SegmentId, StoreId};
use tap_block::WallTime;
use tap_block::units::{count, index};
use tracing::{error, info, warn};

use super::LedgerStore;
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
    /// The store had no history when it was opened.
    fresh: bool,
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
    /// What is to be done to the file before anything is appended.
    due: Due,
}

/// See [`State::due`].
enum Due {
    Nothing,
    /// What lies behind `end` was cut off while it was written.
    Cut,
    /// It cannot be read, for this reason: it is looked at once more, and then put aside.
    Aside(String),
}

/// What is wrong with the file.
pub(crate) struct Trouble {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) detail: String,
}

impl Book {
    /// Opens the ledger of a store; `fresh`: it has no history yet. Neither what it says nor that it cannot be read is a reason
    /// not to open a store.
    pub(crate) fn open(file: Box<dyn LedgerStore>, store: StoreId, fresh: bool) -> Self {
        let state = Mutex::new(look(&*file, store, fresh));
        let book = Self { store, file, fresh, state };
        let mut state = lock(&book.state);
        match &state.due {
            Due::Aside(why) => {
                warn!("the ledger cannot be read: {why}; it is tried again before it begins anew")
            }
            _ => {
                if let Err(e) = book.make_ready(&mut state) {
                    warn!("the ledger's file is put right when something is entered: {e}");
                }
            }
        }
        drop(state);
        book
    }

    /// Does what is due to the file.
    fn make_ready(&self, state: &mut State) -> io::Result<()> {
        if let Due::Aside(_) = state.due {
            // What failed once may have been anything, and nothing was entered since.
            *state = look(&*self.file, self.store, self.fresh);
        }
        match &state.due {
            Due::Nothing => {}
            Due::Cut => {
                self.file.cut(state.end)?;
                info!("what was cut off at the ledger's end while it was written is taken away");
            }
            Due::Aside(why) => {
                let aside = self.file.set_aside()?;
                error!(
                    "the ledger cannot be read ({why}) and begins anew; it is kept as {aside}. History of before is not \
                     anchored any more: `chronogate verify` says so until that is acknowledged"
                );
            }
        }
        state.due = Due::Nothing;
        Ok(())
    }

    /// Begins a ledger that was lost.
    pub(super) fn begin_lost(&self, at: WallTime) -> io::Result<()> {
        let mut state = lock(&self.state);
        self.make_ready(&mut state)?;
        match state.begin {
            Some(Why::Lost) => self.append(&mut state, Vec::new(), at),
            _ => Ok(()),
        }
    }

    /// Puts a ledger that is not as it was written aside, and begins anew. Somebody has read of that, and of what others keep of
    /// before.
    pub(super) fn begin_anew(&self, kept: Vec<(String, Head)>, at: WallTime) -> io::Result<()> {
        let mut state = lock(&self.state);
        let aside = self.file.set_aside()?;
        let ledger = Ledger::new(self.store);
        *state = State { ledger, end: 0, fold: None, begin: Some(Why::Lost), due: Due::Nothing };
        warn!(
            "the ledger was not as it was written, and somebody has read of that: it is kept as {aside} and begins anew. History of \
             before is not anchored any more"
        );
        let lapsed = |(place, Head { number, digest, .. })| Event::Lapsed { place, number, digest };
        let events = kept.into_iter().map(lapsed).chain([Event::Acknowledged]).collect();
        self.append(&mut state, events, at)
    }

    /// What speaks against the ledger and nobody has read of.
    pub(crate) fn doubts(&self, now: WallTime) -> Vec<Doubt> {
        let state = lock(&self.state);
        let soon = Loss { number: EntryNo::FIRST, at: now, read: false };
        let lost = (state.begin == Some(Why::Lost)).then_some(Doubt::Lost(soon));
        lost.into_iter().chain(state.ledger.doubts()).collect()
    }

    /// Whose it is.
    pub(crate) const fn store(&self) -> StoreId {
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
        self.make_ready(state)?;
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

    /// Reads the file again: does it still say what was entered? One that is to begin anew is spoken of by [`Book::doubts`].
    pub(crate) fn check(&self) -> Vec<Trouble> {
        let state = lock(&self.state);
        if let Due::Aside(_) = state.due {
            return Vec::new();
        }
        let bytes = match self.file.load() {
            Ok(bytes) => bytes,
            Err(e) => {
                let detail = format!("it cannot be read: {e}");
                return vec![trouble(&Fault { from: 0, to: index(state.end), detail })];
            }
        };
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
        found
    }
}

/// What the file says.
fn look(file: &dyn LedgerStore, store: StoreId, fresh: bool) -> State {
    let lost = |why: String| State {
        ledger: Ledger::new(store),
        end: 0,
        fold: None,
        begin: Some(Why::Lost),
        due: Due::Aside(why),
    };
    let bytes = match file.load() {
        Ok(bytes) => bytes,
        Err(e) => return lost(e.to_string()),
    };
    let Reading { ledger, faults, fold, end } = read(store, &bytes);
    for fault in &faults {
        warn!("the ledger from byte {} on: {}; `chronogate verify` reports it", fault.from, fault.detail);
    }
    let begin = match ledger.head() {
        Some(_) => None,
        None if bytes.len() >= FIRST_BYTES => {
            return lost(format!("nothing in its {} bytes is an entry of it", bytes.len()));
        }
        // A crash came before the entry that says so.
        None if file.was_set_aside() => Some(Why::Lost),
        None if fresh => Some(Why::New),
        None => Some(Why::Older),
    };
    // What a crash left of a first entry goes as a whole.
    let end = if begin.is_some() { 0 } else { end };
    let due = if end < bytes.len() { Due::Cut } else { Due::Nothing };
    let fold = fold.map(|(number, at)| (number, count(at)));
    State { ledger, end: count(end), fold, begin, due }
}

fn trouble(fault: &Fault) -> Trouble {
    let byte = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let detail = format!("the ledger: {}", fault.detail);
    Trouble { from: byte(fault.from), to: byte(fault.to), detail }
}
