//! What others keep of the ledger. Whoever keeps its head vouches for everything before it: a ledger that does not hold what
//! others keep of it was put back or rewritten, and its store with it.
//!
//! A place is told of a new head only after it has said what it keeps, so that a head it keeps is looked at before it is
//! replaced.

use std::collections::BTreeMap;
use std::sync::Mutex;

use gateway_journal::ledger::{Event, MOST_WITNESSED};
use gateway_journal::{EntryNo, Head, SegmentId, StoreId};
use tap_block::WallTime;
use tracing::{error, warn};

use super::Bookkeeping;
use crate::error::StoreError;
use crate::store::Shared;
use crate::sync::lock;
use crate::verify::{Finding, FindingKind};

/// The newest entry of the ledger that somebody else keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// Who.
    pub place: String,
    /// The entry.
    pub entry: EntryNo,
    /// When it was made: segments hashed until then are vouched for.
    pub at: WallTime,
}

/// Entries are numbered below this.
const MOST_ENTRIES: u64 = 1 << 52;
/// Places that are listened to at once.
const MOST_PLACES: usize = 16;

/// What was heard and is not answered, and what is to be told.
#[derive(Default)]
pub(super) struct Anchors(Mutex<Heard>);

#[derive(Default)]
struct Heard {
    /// What each place says it keeps.
    said: BTreeMap<String, Said>,
    /// A head for each place that has less.
    tell: BTreeMap<String, Head>,
}

/// What a place says it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Said {
    own: Option<Head>,
    others: Vec<(StoreId, Head)>,
    answered: bool,
}

impl Bookkeeping {
    /// A place says whose heads it keeps. Never blocks; it is answered by and by.
    pub(crate) fn hear(&self, place: &str, heads: &[(StoreId, Head)]) {
        let own = self.book_store();
        let mut said = Said::default();
        for &(store, head) in heads.iter().take(MOST_WITNESSED) {
            if head.number.get() >= MOST_ENTRIES {
                // Nothing comes so far. Taken up, it would leave no number for what is true.
                continue;
            }
            if store == own {
                said.own = Some(head);
            } else {
                said.others.push((store, head));
            }
        }
        let mut heard = lock(&self.anchors.0);
        let full = heard.said.len() >= MOST_PLACES && !heard.said.contains_key(place);
        let known =
            heard.said.get(place).is_some_and(|old| (&old.own, &old.others) == (&said.own, &said.others));
        if known || full {
            return;
        }
        heard.said.insert(place.to_owned(), said);
        drop(heard);
        self.hurry();
    }

    /// What a place is to be told; `None`: it has all there is, or has not said yet what it has. Never blocks.
    pub(crate) fn tell(&self, place: &str) -> Option<(StoreId, Head)> {
        let head = lock(&self.anchors.0).tell.get(place).copied()?;
        Some((self.book_store(), head))
    }

    /// Answers what was heard, and says what is to be told.
    pub(super) fn answer(&self, shared: &Shared) -> Result<(), StoreError> {
        let said = lock(&self.anchors.0).said.clone();
        for (place, said) in said {
            if !said.answered {
                self.answer_own(shared, &place, said.own)?;
                self.answer_others(shared, &place, &said.others)?;
            }
            let kept = said.own.map_or(EntryNo::new(0), |head| head.number);
            let news = self.book.ask(|ledger| ledger.news_for(kept));
            let mut heard = lock(&self.anchors.0);
            match news {
                Some(head) => heard.tell.insert(place.clone(), head),
                None => heard.tell.remove(&place),
            };
            if let Some(current) = heard.said.get_mut(&place) {
                let same = (&current.own, &current.others) == (&said.own, &said.others);
                current.answered |= same;
            }
        }
        Ok(())
    }

    fn answer_own(&self, shared: &Shared, place: &str, said: Option<Head>) -> Result<(), StoreError> {
        let Some(Head { number, digest, .. }) = said else { return Ok(()) };
        let (holds, newer, known) = self.book.ask(|ledger| {
            let newer = ledger.anchored_at(place).is_none_or(|head| head.number < number);
            (ledger.holds(number, digest), newer, ledger.is_contradicted(place, number, digest))
        });
        let (now, place) = (shared.age.now(), place.to_owned());
        if holds {
            if newer {
                self.book.enter(Event::Anchored { place, number, digest }, now)?;
            }
            return Ok(());
        }
        if known {
            return Ok(());
        }
        let detail = format!(
            "the ledger does not hold entry {number} ({digest}), which {place} keeps of it: this store, or its ledger, was \
             replaced by an older copy or rewritten. Compare its history with another gateway's; entries go on above {number}"
        );
        error!("{detail}");
        shared.proving.note(Finding::of_ledger(number, detail, now));
        self.book.enter(Event::Contradicted { place, number, digest }, now)?;
        Ok(())
    }

    /// The heads of other gateways' ledgers are kept for them.
    fn answer_others(
        &self,
        shared: &Shared,
        place: &str,
        others: &[(StoreId, Head)],
    ) -> Result<(), StoreError> {
        for &(store, head) in others {
            match self.book.ask(|ledger| ledger.witnessed_of(store)) {
                Some(kept)
                    if kept.number > head.number
                        || (kept.number == head.number && kept.digest != head.digest) =>
                {
                    warn!(
                        "{place} keeps entry {} of the ledger of store {:016x}, and was heard to keep entry {} ({}) of it \
                         before: it, or that gateway, was put back to an older state",
                        head.number,
                        store.get(),
                        kept.number,
                        kept.digest
                    );
                }
                Some(kept) if kept.number == head.number => {}
                _ => {
                    self.book.enter(Event::Witnessed { store, head }, shared.age.now())?;
                }
            }
        }
        Ok(())
    }

    fn book_store(&self) -> StoreId {
        self.book.store()
    }

    /// The newest entry that somebody else keeps.
    pub(crate) fn anchored(&self) -> Option<Anchor> {
        self.book.ask(|ledger| {
            let (place, head) = ledger.anchored()?;
            Some(Anchor { place: place.to_owned(), entry: head.number, at: head.at })
        })
    }
}

impl Finding {
    /// Something that happened to the ledger: there is nothing to put right, somebody has to know.
    pub(super) fn of_ledger(entry: EntryNo, detail: String, now: WallTime) -> Self {
        let from = u32::try_from(entry.get()).unwrap_or(u32::MAX);
        let finding = Self::of_store(FindingKind::Ledger, SegmentId::new(0), (from, from), detail, now);
        Self { over_at: Some(now), ..finding }
    }
}
