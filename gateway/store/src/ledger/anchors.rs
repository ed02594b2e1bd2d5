//! What others keep of the ledger. Whoever keeps its head vouches for everything before it: a ledger that does not hold what
//! others keep of it was put back or rewritten, and its store with it.
//!
//! A place is told of a new head only after it has said what it keeps, so that a head it keeps is looked at before it is
//! replaced.

use std::collections::BTreeMap;
use std::sync::Mutex;

use gateway_journal::ledger::{Contradiction, Doubt, Event, MOST_WITNESSED};
use gateway_journal::{EntryNo, Head, Ledger, SegmentId, StoreId};
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
    /// The heads of other stores that are noted in the ledger; here, because that is locked while it is written to.
    notes: BTreeMap<u64, Head>,
}

/// What a place says it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Said {
    own: Option<Head>,
    others: Vec<(StoreId, Head)>,
    /// It hears of this ledger from somebody else, and is told nothing.
    behind: bool,
    answered: bool,
}

impl Bookkeeping {
    /// A place says whose heads it keeps. Never blocks; it is answered by and by.
    pub(crate) fn hear(&self, place: &str, heads: &[(StoreId, Head)], behind: bool) {
        let own = self.book_store();
        let mut said = Said { behind, ..Said::default() };
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
        self.answer_all(shared)?;
        let notes =
            self.book.ask(|ledger| ledger.witnessed().map(|(store, head)| (store.get(), head)).collect());
        lock(&self.anchors.0).notes = notes;
        Ok(())
    }

    fn answer_all(&self, shared: &Shared) -> Result<(), StoreError> {
        let said = lock(&self.anchors.0).said.clone();
        for (place, said) in said {
            if !said.answered {
                self.answer_own(shared, &place, &said)?;
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

    fn answer_own(&self, shared: &Shared, place: &str, said: &Said) -> Result<(), StoreError> {
        let (said, behind) = (said.own, said.behind);
        let known = self.book.ask(|ledger| ledger.anchored_at(place));
        let kept = |head: Option<Head>| head.map_or(EntryNo::new(0), |head| head.number);
        if let Some(known) = known.filter(|known| known.number > kept(said)) {
            warn!("{place} was known to keep entry {} of the ledger, and keeps less now", known.number);
        }
        let Some(head) = said else { return Ok(()) };
        let (now, Head { number, digest, .. }) = (shared.age.now(), head);
        match self.book.ask(|ledger| judge(ledger, place, head)) {
            Judged::Held if kept(known) < number => {
                self.book.enter(Event::Anchored { place: place.to_owned(), number, digest }, now)?;
            }
            Judged::Held | Judged::Known => {}
            // What the file does not reach back to any more cannot be compared.
            Judged::Denied { .. } if behind && self.is_before(number) => {}
            Judged::Denied { lapsed } => {
                let found = Contradiction { number, digest, lapsed, read: false };
                let doubt = Doubt::Contradicted(place.to_owned(), found);
                error!("{doubt}");
                shared.proving.note(Finding::of_doubt(&doubt, now));
                let place = place.to_owned();
                let event = match lapsed {
                    true => Event::Lapsed { place, number, digest },
                    false => Event::Contradicted { place, number, digest },
                };
                self.book.enter(event, now)?;
            }
        }
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
                Some(kept) if contradicts(kept, head) => {
                    let finding = finding_of_note(place, store, (kept, head), shared.age.now());
                    warn!("{}", finding.detail);
                    shared.proving.note(finding);
                }
                Some(kept) if kept.number == head.number => {}
                _ => {
                    self.book.enter(Event::Witnessed { store, head }, shared.age.now())?;
                }
            }
        }
        Ok(())
    }

    fn is_before(&self, number: EntryNo) -> bool {
        self.book.ask(|ledger| ledger.first_known().is_none_or(|first| number < first))
    }

    /// The head of another store that comes after `store` in the order of their numbers, around the end. Never blocks.
    pub(crate) fn witnessed_after(&self, store: StoreId) -> Option<(StoreId, Head)> {
        let heard = lock(&self.anchors.0);
        let behind = heard.notes.range(store.get().saturating_add(1)..);
        let next = behind.chain(&heard.notes).next();
        next.map(|(store, head)| (StoreId::new(*store), *head))
    }

    /// What places say of other stores' ledgers and what is noted of them here contradict each other, as of now.
    pub(crate) fn contradicted_notes(&self, now: WallTime) -> Vec<Finding> {
        let said = lock(&self.anchors.0).said.clone();
        let of = |(place, said): (String, Said)| {
            let others = said.others.into_iter();
            let found = others.filter_map(|(store, head)| {
                let kept = self.book.ask(|ledger| ledger.witnessed_of(store))?;
                contradicts(kept, head).then(|| finding_of_note(&place, store, (kept, head), now))
            });
            found.collect::<Vec<_>>()
        };
        said.into_iter().flat_map(of).collect()
    }

    /// What each place keeps of the ledger, as it said or as was entered last.
    pub(super) fn kept_elsewhere(&self) -> Vec<(String, Head)> {
        let entered =
            self.book.ask(|ledger| ledger.anchors().map(|(place, head)| (place.to_owned(), head)).collect());
        let mut kept: BTreeMap<String, Head> = entered;
        let said = lock(&self.anchors.0).said.clone();
        kept.extend(said.into_iter().filter_map(|(place, said)| Some((place, said.own?))));
        kept.into_iter().collect()
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

/// Of what was noted of another store's ledger: does a head that somebody keeps now speak against it?
fn contradicts(noted: Head, head: Head) -> bool {
    noted.number > head.number || (noted.number == head.number && noted.digest != head.digest)
}

fn finding_of_note(place: &str, store: StoreId, (noted, head): (Head, Head), now: WallTime) -> Finding {
    let detail = format!(
        "{place} keeps entry {} ({}) of the ledger of store {:016x}, another gateway's, and entry {} ({}) of it is noted here: \
         {place}, or that gateway, was put back to an older state or rewritten. See what `chronogate verify` says there",
        head.number,
        head.digest,
        store.get(),
        noted.number,
        noted.digest
    );
    Finding::of_ledger(noted.number, detail, now)
}

/// What becomes of a head that somebody keeps.
enum Judged {
    /// It is in the ledger.
    Held,
    /// It is not, and that was entered before.
    Known,
    /// It is not.
    Denied {
        /// It was made before the ledger was lost.
        lapsed: bool,
    },
}

fn judge(ledger: &Ledger, place: &str, head: Head) -> Judged {
    if ledger.holds(head.number, head.digest) {
        Judged::Held
    } else if ledger.is_contradicted(place, head.number, head.digest) {
        Judged::Known
    } else {
        Judged::Denied { lapsed: ledger.lost().is_some_and(|lost| head.at <= lost.at) }
    }
}

impl Finding {
    /// Something that speaks against the ledger.
    pub(crate) fn of_doubt(doubt: &Doubt, now: WallTime) -> Self {
        Self::of_ledger(doubt.number(), doubt.to_string(), now)
    }

    /// Something that happened to the ledger: there is nothing to put right, somebody has to know.
    pub(crate) fn of_ledger(entry: EntryNo, detail: String, now: WallTime) -> Self {
        let from = u32::try_from(entry.get()).unwrap_or(u32::MAX);
        let finding = Self::of_store(FindingKind::Ledger, SegmentId::new(0), (from, from), detail, now);
        Self { over_at: Some(now), ..finding }
    }
}
