//! An index that is opened again when it fails: fjall takes nothing more after an I/O error until then. One whose disk is full waits
//! for room first: what it has is read meanwhile. One that is found damaged is told of, and built again at the next start; so is one
//! that is not the same any more when it is opened again. An empty one, say, where somebody removed it: all history would read as
//! zeroes, and be settled so.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use tap_block::{Clock as _, WallTime};
use tap_disk::RealClock;
use tracing::{error, info, warn};
use xxhash_rust::xxh3::xxh3_64;

use super::{IndexError, IndexOpener, IndexStore, Row, Shortage, Table, keys};
use crate::sync::{lock, read, write};

pub(crate) struct HealingIndex {
    opener: Box<dyn IndexOpener>,
    /// `None` while it cannot be opened.
    current: RwLock<Option<Arc<dyn IndexStore>>>,
    damage: OnceLock<String>,
    /// It takes nothing until it is opened again.
    ill: Mutex<Option<Ill>>,
    marks: Mutex<Marks>,
}

/// What the index says of itself, each as a checksum: by that it is known again.
#[derive(Debug, Default)]
struct Marks {
    /// Durable.
    known: HashMap<&'static [u8], u64>,
    /// What was tried since. Nobody knows of any of it whether it got as far.
    tried: HashMap<&'static [u8], BTreeSet<u64>>,
}

impl Marks {
    const KEYS: [&'static [u8]; 2] = [keys::STATE, keys::LAYOUT];

    /// Of an index that holds what it should.
    fn of(index: &dyn IndexStore) -> Self {
        let read = |key| Some((key, xxh3_64(&index.get(Table::State, key).ok()??)));
        Self { known: Self::KEYS.into_iter().filter_map(read).collect(), tried: HashMap::new() }
    }

    /// Those that rows are.
    fn among(rows: &[Row]) -> Vec<(&'static [u8], u64)> {
        let of = |key| rows.iter().find(|(k, _)| k == key).map(|(_, value)| (key, xxh3_64(value)));
        Self::KEYS.into_iter().filter_map(of).collect()
    }

    fn tried(&mut self, marks: &[(&'static [u8], u64)]) {
        for (key, sum) in marks {
            self.tried.entry(key).or_default().insert(*sum);
        }
    }

    /// These are durable; another thread may be at others.
    fn succeeded(&mut self, marks: &[(&'static [u8], u64)]) {
        for (key, sum) in marks {
            self.known.insert(key, *sum);
            self.tried.remove(key);
        }
    }

    /// From here on what is found is what is known. (What was tried may be under way still.)
    ///
    /// # Errors
    /// Damage, when it is another, or one that lost something.
    fn check(&mut self, index: &dyn IndexStore) -> Result<(), IndexError> {
        for (key, known) in &mut self.known {
            let sum = index.get(Table::State, key)?.map(|value| xxh3_64(&value));
            let was_tried = |sum| self.tried.get(key).is_some_and(|tried| tried.contains(&sum));
            let Some(sum) = sum.filter(|sum| sum == known || was_tried(*sum)) else {
                let text = "what was opened again is not the index that was there: it was removed, or exchanged, while the \
                            gateway ran";
                return Err(IndexError::damaged(text.to_owned()));
            };
            *known = sum;
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
struct Ill {
    why: IndexError,
    since: WallTime,
}

impl Ill {
    /// Nothing is wrong but that there is no room, whatever was said: what fails once for want of it says another time only that
    /// it failed.
    fn for_want_of_room(&self, Shortage { free, needed }: Shortage) -> IndexError {
        let since = self.since;
        let text = format!("it waits for room since {since}: {free} bytes are free, {needed} are needed");
        IndexError::full(text)
    }
}

impl HealingIndex {
    pub(crate) fn new(opener: Box<dyn IndexOpener>, index: Arc<dyn IndexStore>) -> Self {
        let marks = Mutex::new(Marks::of(&*index));
        let (current, damage) = (RwLock::new(Some(index)), OnceLock::new());
        Self { opener, current, damage, ill: Mutex::default(), marks }
    }

    /// Sees to it that it takes rows: makes room, and opens it again if it failed. What is in it stays; what it did not take is
    /// offered again by its owner.
    ///
    /// # Errors
    /// When it goes on to take none; while its disk is full it is not closed for that.
    pub(crate) fn mend(&self) -> Result<(), IndexError> {
        self.opener.make_room();
        let Some(ill) = self.examine() else { return Ok(()) };
        match self.opener.shortage() {
            Some(shortage) => Err(ill.for_want_of_room(shortage)),
            None => self.open_again(),
        }
    }

    /// Why it failed just now.
    fn explained(&self, why: IndexError) -> IndexError {
        match self.opener.shortage() {
            Some(shortage) => shortage.explains(why),
            None => why,
        }
    }

    fn examine(&self) -> Option<Ill> {
        let known = lock(&self.ill).clone();
        known.or_else(|| {
            let found = self.explained(self.with(|index| index.check()).err()?);
            self.fell_ill(&found);
            lock(&self.ill).clone()
        })
    }

    fn open_again(&self) -> Result<(), IndexError> {
        let mut current = write(&self.current);
        // Another thread may have been faster.
        let Some(ill) = lock(&self.ill).clone() else { return Ok(()) };
        // The old one holds the directory: it goes first.
        *current = None;
        let opened = self.opener.open().and_then(|opened| lock(&self.marks).check(&*opened).map(|()| opened));
        *current = Some(opened.inspect_err(|e| self.stays_ill(e))?);
        *lock(&self.ill) = None;
        info!("the index, which took nothing since {}, was opened again", ill.since);
        Ok(())
    }

    fn fell_ill(&self, why: &IndexError) {
        if why.is_damage() {
            return;
        }
        lock(&self.ill).get_or_insert_with(|| {
            warn!("the index takes nothing until it is opened again: {why}");
            Ill { why: why.clone(), since: RealClock.wall() }
        });
    }

    /// It cannot be opened again, and what it fell ill of may be over.
    fn stays_ill(&self, why: &IndexError) {
        lock(&self.ill).iter_mut().for_each(|ill| ill.why = why.clone());
        if why.is_damage() {
            self.note_damage(why);
        }
    }

    /// Why it takes nothing at the moment.
    pub(crate) fn illness(&self) -> Option<IndexError> {
        let ill = lock(&self.ill).clone()?;
        let shortage = self.opener.shortage();
        Some(shortage.map_or(ill.why.clone(), |shortage| ill.for_want_of_room(shortage)))
    }

    pub(crate) fn is_ill(&self) -> bool {
        lock(&self.ill).is_some()
    }

    /// What of it was found damaged since the start.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    fn with<T>(&self, call: impl FnOnce(&dyn IndexStore) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let done = match &*read(&self.current) {
            Some(index) => call(&**index),
            None => Err(IndexError::new("the index could not be opened again".into())),
        };
        done.inspect_err(|e| {
            if e.is_damage() {
                self.note_damage(e);
            }
        })
    }

    fn change(&self, call: impl FnOnce(&dyn IndexStore) -> Result<(), IndexError>) -> Result<(), IndexError> {
        self.mend()?;
        let done = self.with(call).map_err(|e| self.explained(e));
        done.inspect_err(|e| self.fell_ill(e))
    }

    fn note_damage(&self, found: &IndexError) {
        let mut is_new = false;
        self.damage.get_or_init(|| {
            is_new = true;
            found.to_string()
        });
        if !is_new {
            return;
        }
        error!("the index is damaged: {found}; it is built again from the segments at the next start");
        if let Err(e) = self.opener.condemn(&found.to_string()) {
            error!("that cannot be remembered, so remove the fjall directory before the next start: {e}");
        }
    }
}

impl IndexStore for HealingIndex {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.with(|index| index.get(table, key))
    }

    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Row>, IndexError> {
        self.with(|index| index.last(table, from, to))
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), IndexError> {
        self.with(|index| index.scan(table, from, to, each))
    }

    fn ingest(&self, table: Table, rows: Vec<Row>) -> Result<(), IndexError> {
        self.change(|index| index.ingest(table, rows))
    }

    fn remove(&self, table: Table, keys: Vec<Vec<u8>>) -> Result<(), IndexError> {
        self.change(|index| index.remove(table, keys))
    }

    fn tidy(&self, idle: bool) -> Result<(), IndexError> {
        self.change(|index| index.tidy(idle))
    }

    fn replace(&self, rows: Vec<Row>, gone: Vec<Vec<u8>>) -> Result<(), IndexError> {
        let marks = Marks::among(&rows);
        lock(&self.marks).tried(&marks);
        self.change(|index| index.replace(rows, gone))?;
        lock(&self.marks).succeeded(&marks);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryIndex;
    use super::*;

    /// Opens what is put here.
    struct Exchanged(Arc<Mutex<MemoryIndex>>, Arc<OnceLock<String>>);

    impl IndexOpener for Exchanged {
        fn open(&self) -> Result<Arc<dyn IndexStore>, IndexError> {
            lock(&self.0).open()
        }

        fn wipe(&self) -> Result<(), IndexError> {
            Ok(())
        }

        fn condemn(&self, why: &str) -> Result<(), IndexError> {
            self.1.set(why.to_owned()).unwrap();
            Ok(())
        }

        fn condemned(&self) -> Option<String> {
            self.1.get().cloned()
        }
    }

    #[test]
    fn an_index_that_is_opened_again_and_is_another_is_none() {
        let (place, condemned) = (Arc::new(Mutex::new(MemoryIndex::new())), Arc::default());
        let first = lock(&place).open().unwrap();
        first.commit(vec![(keys::STATE.to_vec(), b"one".to_vec())]).unwrap();
        let opener = Exchanged(Arc::clone(&place), Arc::clone(&condemned));
        let index = HealingIndex::new(Box::new(opener), first);
        let state = |value: &str| vec![(keys::STATE.to_vec(), value.into()), (b"x".to_vec(), vec![1])];
        index.commit(state("two")).unwrap();
        index.fell_ill(&IndexError::new("it failed".to_owned()));
        index.mend().unwrap();
        assert_eq!(index.get(Table::State, keys::STATE).unwrap(), Some(b"two".to_vec()), "the same one");

        // What failed may have got there all the same.
        lock(&index.marks).tried(&Marks::among(&state("three")));
        lock(&place).open().unwrap().commit(state("three")).unwrap();
        index.fell_ill(&IndexError::new("it failed".to_owned()));
        index.mend().unwrap();

        for another in [None, Some("one")] {
            *lock(&place) = MemoryIndex::new();
            if let Some(value) = another {
                lock(&place).open().unwrap().commit(state(value)).unwrap();
            }
            index.fell_ill(&IndexError::new("it failed".to_owned()));
            assert!(index.mend().is_err_and(|e| e.is_damage()));
            assert!(index.get(Table::State, keys::STATE).is_err(), "nothing is read from it");
            assert!(index.commit(state("four")).is_err(), "or written to it");
        }
        assert!(index.damage().unwrap().contains("removed, or exchanged"));
        assert!(condemned.get().unwrap().contains("removed, or exchanged"));
    }

    /// An index of which only what is put there from outside is ever there, as after writes that nobody knows the end of.
    fn with_state(value: &str) -> (Arc<Mutex<MemoryIndex>>, HealingIndex, Arc<OnceLock<String>>) {
        let (place, condemned) = (Arc::new(Mutex::new(MemoryIndex::new())), Arc::default());
        let first = lock(&place).open().unwrap();
        first.commit(vec![(keys::STATE.to_vec(), value.into())]).unwrap();
        let opener = Exchanged(Arc::clone(&place), Arc::clone(&condemned));
        (place, HealingIndex::new(Box::new(opener), first), condemned)
    }

    fn row(value: &str) -> Vec<Row> {
        vec![(keys::STATE.to_vec(), value.into())]
    }

    /// What it fell ill of may be over by then, and what keeps it from being opened is what helps.
    #[test]
    fn an_index_that_cannot_be_opened_again_says_why() {
        let (place, index, condemned) = with_state("one");
        index.fell_ill(&IndexError::new("the first failure".to_owned()));
        lock(&place).make_unreadable();
        let found = index.mend().unwrap_err();
        assert_eq!(index.illness(), Some(found.clone()));
        assert!(found.to_string().contains("unreadable") && condemned.get().is_none(), "{found}");
        // It is found damaged then: that is said, and remembered.
        lock(&place).make_rotten_to_open();
        let found = index.mend().unwrap_err();
        assert_eq!((index.damage(), condemned.get()), (Some(&*found.to_string()), Some(&found.to_string())));
        assert_eq!(index.illness(), Some(found));
    }

    /// The first of two writes got there, which nobody knew; the second did not.
    #[test]
    fn any_of_what_was_tried_may_be_what_is_found() {
        let (place, index, condemned) = with_state("one");
        for value in ["two", "three"] {
            lock(&place).fail(true);
            index.commit(row(value)).unwrap_err();
            lock(&place).fail(false);
            if value == "two" {
                lock(&place).open().unwrap().commit(row(value)).unwrap();
            }
        }
        index.mend().unwrap();
        assert_eq!(condemned.get(), None);
        // And it is that from here on.
        lock(&place).open().unwrap().commit(row("one")).unwrap();
        index.fell_ill(&IndexError::new("it failed".to_owned()));
        assert!(index.mend().is_err_and(|e| e.is_damage()));
    }

    /// Another thread's rows are durable while these are on their way; these never arrive.
    #[test]
    fn what_another_wrote_makes_nothing_of_this_one_known() {
        let (place, index, condemned) = with_state("one");
        lock(&index.marks).tried(&Marks::among(&row("two")));
        index.commit(vec![(b"other".to_vec(), vec![1])]).unwrap();
        index.fell_ill(&IndexError::new("it failed".to_owned()));
        index.mend().unwrap();
        assert_eq!((condemned.get(), lock(&place).rows(Table::State)), (None, 2));
    }
}
