//! The ledger: an append-only chain of entries that says what the content of every segment was when it was finished.
//!
//! ```text
//!   ┌───────────┐    ┌───────────┐    ┌────────────┐    ┌───────────┐
//!   │ 1 begun   │◄───│ 2 sealed  │◄───│ 3 settled  │◄───│ 4 sealed  │   each holds the BLAKE3 of the one before
//!   └───────────┘    └───────────┘    └────────────┘    └─────┬─────┘
//!                                                             └── the head: kept elsewhere, it vouches for all before it
//! ```
//!
//! xxh3 finds rot. Whoever forges a segment makes its checksums anew, and only this shows it: the segment's hash stands
//! here, and this cannot be changed without changing the head that others keep (entry.rs the bytes, event.rs what is
//! said, this file what follows from it).

mod entry;
mod event;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tap_block::WallTime;

use crate::segment::StoreId;
use crate::units::SegmentId;

pub use entry::{ENTRY_FIXED, Entry, LARGEST_ENTRY};
pub use event::{Contradiction, Event, Folded, Hashed, Loss, Settled, Why};

/// The file in a store's directory that holds it.
pub const LEDGER_FILE: &str = "LEDGER";
/// Heads of other gateways that are kept; of more those of the smallest store numbers.
pub const MOST_WITNESSED: usize = 64;
/// Places whose word on the head is kept.
const MOST_PLACES: usize = 16;

/// The number of an entry: from 1, one after the other for as long as the store lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryNo(u64);

impl EntryNo {
    /// A ledger's first.
    pub const FIRST: Self = Self(1);

    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for EntryNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// What stands before the first entry.
    pub const NONE: Self = Self([0; 32]);

    /// Wraps the bytes.
    #[must_use]
    pub const fn new(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// The bytes.
    #[must_use]
    pub const fn get(self) -> [u8; 32] {
        self.0
    }

    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hashes the content of a segment as it comes.
#[derive(Clone, Default)]
pub struct Hashing(blake3::Hasher);

impl Hashing {
    /// The next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes so far; more may follow.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

impl fmt::Debug for Hashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hashing({} bytes)", self.0.count())
    }
}

/// An entry as others keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its number.
    pub number: EntryNo,
    /// Its hash.
    pub digest: Digest,
    /// When it was made, on the clock of the store that made it.
    pub at: WallTime,
}

/// Everything that a ledger's entries say, taken together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    store: StoreId,
    head: Option<Head>,
    segments: BTreeMap<SegmentId, Hashed>,
    /// The last settle that was entered.
    settle: u64,
    /// The entries that can still be told apart.
    known: BTreeMap<EntryNo, Head>,
    anchors: BTreeMap<String, Head>,
    witnessed: BTreeMap<u64, Head>,
    /// What each place was found to keep that is not in here.
    contradicted: BTreeMap<String, Contradiction>,
    /// Where it began anew, when it was lost once.
    lost: Option<Loss>,
    /// The last entry that says something of history.
    news: EntryNo,
}

impl Ledger {
    /// Without an entry.
    #[must_use]
    pub const fn new(store: StoreId) -> Self {
        Self {
            store,
            head: None,
            segments: BTreeMap::new(),
            settle: 0,
            known: BTreeMap::new(),
            anchors: BTreeMap::new(),
            witnessed: BTreeMap::new(),
            contradicted: BTreeMap::new(),
            lost: None,
            news: EntryNo(0),
        }
    }

    /// The store whose it is.
    #[must_use]
    pub const fn store(&self) -> StoreId {
        self.store
    }

    /// The last entry; `None` before the first.
    #[must_use]
    pub const fn head(&self) -> Option<Head> {
        self.head
    }

    /// The head, when it covers more of history than the entry that somebody keeps; 0: one who keeps none.
    #[must_use]
    pub fn news_for(&self, kept: EntryNo) -> Option<Head> {
        self.head.filter(|_| self.news > kept)
    }

    /// The segments that are part of the store and were hashed.
    #[must_use]
    pub const fn segments(&self) -> &BTreeMap<SegmentId, Hashed> {
        &self.segments
    }

    /// The last settle that was entered; 0 for none.
    #[must_use]
    pub const fn settle(&self) -> u64 {
        self.settle
    }

    /// The newest entry that somebody else keeps, and who.
    #[must_use]
    pub fn anchored(&self) -> Option<(&str, Head)> {
        let newest = self.anchors.iter().max_by_key(|(_, head)| head.number);
        newest.map(|(place, head)| (place.as_str(), *head))
    }

    /// What each place keeps.
    pub fn anchors(&self) -> impl Iterator<Item = (&str, Head)> {
        self.anchors.iter().map(|(place, head)| (place.as_str(), *head))
    }

    /// What `place` keeps.
    #[must_use]
    pub fn anchored_at(&self, place: &str) -> Option<Head> {
        self.anchors.get(place).copied()
    }

    /// The heads of other stores that this one keeps.
    pub fn witnessed(&self) -> impl Iterator<Item = (StoreId, Head)> {
        self.witnessed.iter().map(|(store, head)| (StoreId::new(*store), *head))
    }

    /// The last head of another store that this one keeps.
    #[must_use]
    pub fn witnessed_of(&self, store: StoreId) -> Option<Head> {
        self.witnessed.get(&store.get()).copied()
    }

    /// Has it an entry of this number with this hash? Only what can be followed from there to the head counts: what a fold says
    /// of entries before it could be made up with the rest.
    #[must_use]
    pub fn holds(&self, number: EntryNo, digest: Digest) -> bool {
        self.known.get(&number).is_some_and(|head| head.digest == digest)
    }

    /// Was it entered already that `place` keeps this, which is not in here?
    #[must_use]
    pub fn is_contradicted(&self, place: &str, number: EntryNo, digest: Digest) -> bool {
        self.contradicted.get(place).is_some_and(|known| (known.number, known.digest) == (number, digest))
    }

    /// The first entry that can still be told apart; what somebody keeps of before can not be looked up.
    #[must_use]
    pub fn first_known(&self) -> Option<EntryNo> {
        self.known.first_key_value().map(|(number, _)| *number)
    }

    /// Where it began anew because it was lost; `None`: it never was.
    #[must_use]
    pub const fn lost(&self) -> Option<Loss> {
        self.lost
    }

    /// What speaks against it and nobody has read of.
    #[must_use]
    pub fn doubts(&self) -> Vec<Doubt> {
        let lost = self.lost.filter(|lost| !lost.read).map(Doubt::Lost);
        let unread = self.contradicted.iter().filter(|(_, found)| !found.read);
        let contradicted = unread.map(|(place, found)| Doubt::Contradicted(place.clone(), *found));
        lost.into_iter().chain(contradicted).collect()
    }

    /// The entry that would be the next; it counts once it was taken.
    #[must_use]
    pub fn next(&self, event: Event, at: WallTime) -> Entry {
        self.follow(self.due(), event, at)
    }

    /// An entry behind one that was not taken yet: `due` is its number, unless it says what jumps, and the hash before it.
    #[must_use]
    pub fn follow(&self, (due, previous): (EntryNo, Digest), event: Event, at: WallTime) -> Entry {
        Entry { store: self.store, number: event.number(due), at, previous, event }
    }

    /// What the next entry must say of itself: its number, and the hash of the one before it.
    #[must_use]
    pub fn due(&self) -> (EntryNo, Digest) {
        self.head.map_or((EntryNo::FIRST, Digest::NONE), |head| (head.number.next(), head.digest))
    }

    /// Takes an entry with its hash in, whatever it links to: what a break costs is for the reader to say.
    pub fn take(&mut self, entry: &Entry, digest: Digest) {
        let head = Head { number: entry.number, digest, at: entry.at };
        self.head = Some(head);
        if let Event::Folded(folded) = &entry.event {
            self.unfold(folded);
        }
        self.known.insert(entry.number, head);
        if entry.event.is_news() {
            self.news = entry.number;
        }
        self.apply(&entry.event);
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Sealed(segment, hashed) => {
                self.segments.insert(*segment, *hashed);
            }
            Event::Settled(settled) => {
                let gone: BTreeSet<_> = settled.inputs.iter().collect();
                self.segments.retain(|id, _| !gone.contains(id));
                self.settle = settled.settle;
            }
            Event::Repaired { segment, digest, .. } => {
                if let Some(hashed) = self.segments.get_mut(segment) {
                    hashed.digest = *digest;
                }
            }
            Event::Anchored { place, number, digest } => {
                // One that is not known any more is of no known time.
                let at = self.known.get(number).map_or(WallTime::EPOCH, |head| head.at);
                self.anchors.insert(place.clone(), Head { number: *number, digest: *digest, at });
                bound(&mut self.anchors, MOST_PLACES);
            }
            Event::Witnessed { store, head } => {
                self.witnessed.insert(store.get(), *head);
                bound(&mut self.witnessed, MOST_WITNESSED);
            }
            Event::Contradicted { place, number, digest } => self.contradict(place, *number, *digest, false),
            Event::Lapsed { place, number, digest } => self.contradict(place, *number, *digest, true),
            Event::Acknowledged => {
                self.contradicted.values_mut().for_each(|found| found.read = true);
                self.lost = self.lost.map(|lost| Loss { read: true, ..lost });
            }
            Event::Begun(why) => {
                let begun = self.head.filter(|_| *why == Why::Lost);
                self.lost =
                    begun.map(|Head { number, at, .. }| Loss { number, at, read: false }).or(self.lost);
            }
            Event::Folded(_) => {}
        }
    }

    fn contradict(&mut self, place: &str, number: EntryNo, digest: Digest, lapsed: bool) {
        self.contradicted.insert(place.to_owned(), Contradiction { number, digest, lapsed, read: false });
        bound(&mut self.contradicted, MOST_PLACES);
    }

    fn unfold(&mut self, folded: &Folded) {
        self.segments = folded.segments.iter().copied().collect();
        self.settle = folded.settle;
        self.anchors = folded.anchors.iter().cloned().collect();
        self.witnessed = folded.witnessed.iter().map(|(store, head)| (store.get(), *head)).collect();
        self.contradicted = folded.contradicted.iter().cloned().collect();
        self.lost = folded.lost;
    }

    /// What stands for all entries so far. The file may begin with it once somebody keeps it or an entry behind it: until then
    /// the entries between what is kept and the fold are what shows that it says the truth.
    #[must_use]
    pub fn fold(&self) -> Event {
        Event::Folded(Box::new(Folded {
            segments: self.segments.iter().map(|(id, hashed)| (*id, *hashed)).collect(),
            settle: self.settle,
            anchors: self.anchors.iter().map(|(place, head)| (place.clone(), *head)).collect(),
            witnessed: self.witnessed().collect(),
            contradicted: self.contradicted.iter().map(|(place, found)| (place.clone(), *found)).collect(),
            lost: self.lost,
        }))
    }
}

impl Ledger {
    /// The file begins with this entry from here on: what was before cannot be followed any more.
    pub fn forget_before(&mut self, number: EntryNo) {
        self.known = self.known.split_off(&number);
    }
}

/// What speaks against a ledger. It stays until somebody acknowledges that they have read of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// It was lost and began anew.
    Lost(Loss),
    /// Somebody keeps what it does not hold.
    Contradicted(String, Contradiction),
}

impl Doubt {
    /// The entry that it is about.
    #[must_use]
    pub const fn number(&self) -> EntryNo {
        match self {
            Self::Lost(lost) => lost.number,
            Self::Contradicted(_, found) => found.number,
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(_) => write!(
                f,
                "the ledger could not be read and began anew: history of before is not anchored any more, and what was \
                 done to the store until then is shown only by what others keep. The file of before lies beside it \
                 ({LEDGER_FILE}.unreadable-N): if it can be read again, compare it with the heads that others keep"
            ),
            Self::Contradicted(place, Contradiction { number, digest, lapsed: false, .. }) => write!(
                f,
                "the ledger does not hold entry {number} ({digest}), which {place} keeps of it: this store, or its ledger, \
                 was replaced by an older copy or rewritten. Compare its history with another gateway's; entries go on \
                 above {number}"
            ),
            Self::Contradicted(place, Contradiction { number, digest, .. }) => write!(
                f,
                "{place} keeps entry {number} ({digest}) of before the ledger could not be read and began anew: whether \
                 history of before is what it was can not be told here. Compare it with another gateway's; entries go on \
                 above {number}"
            ),
        }
    }
}

/// Leaves out the last of too many.
fn bound<K: Ord, V>(map: &mut BTreeMap<K, V>, most: usize) {
    while map.len() > most {
        map.pop_last();
    }
}

/// A stretch of a ledger's file that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The first byte.
    pub from: usize,
    /// The byte behind the last.
    pub to: usize,
    /// What is wrong.
    pub detail: String,
}

/// What a ledger's file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What its sound entries say.
    pub ledger: Ledger,
    /// What is not as it was written.
    pub faults: Vec<Fault>,
    /// The last fold that entries lie before, and its first byte.
    pub fold: Option<(EntryNo, usize)>,
    /// Bytes that were written in full: what is behind was cut off while it was written.
    pub end: usize,
}

/// Reads a ledger's file, whatever state it is in.
#[must_use]
pub fn read(store: StoreId, bytes: &[u8]) -> Reading {
    let mut reading = Reading { ledger: Ledger::new(store), faults: Vec::new(), fold: None, end: 0 };
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match Entry::decode(rest).and_then(|found| found.0.of(store).map(|()| found)) {
            Ok((entry, digest, len)) => {
                reading.accept(&entry, digest, at);
                at += len;
                reading.end = at;
            }
            Err(why) => {
                let next = match entry::next_sound(bytes, at) {
                    Some(next) => next,
                    None if Entry::is_cut_off(store, rest) => break,
                    None => bytes.len(),
                };
                reading.end = next;
                reading.faults.push(Fault { from: at, to: next, detail: why.to_string() });
                at = next;
            }
        }
    }
    reading
}

impl Reading {
    fn accept(&mut self, entry: &Entry, digest: Digest, at: usize) {
        let (number, previous) = self.ledger.due();
        // A file begins with an entry that stands for all before it, or with the first.
        let begins = at == 0 && matches!(entry.event, Event::Folded(_));
        if !begins && (entry.number, entry.previous) != (entry.event.number(number), previous) {
            let detail = format!(
                "entry {} does not follow entry {}: what stood between is missing or was changed",
                entry.number,
                number.get().saturating_sub(1)
            );
            self.faults.push(Fault { from: at, to: at, detail });
        }
        if at > 0 && matches!(entry.event, Event::Folded(_)) {
            self.fold = Some((entry.number, at));
        }
        self.ledger.take(entry, digest);
    }
}

#[cfg(test)]
mod tests;
