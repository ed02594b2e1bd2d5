//! Bookmarks and barrier marks in the index: rows of their own beside its state, because there may be a million of them and a group of
//! versions brings few. They change with the state, in one batch; it says how many there are, and what they come to. An index that has
//! others is built again.

use std::sync::Arc;

use gateway_image::Catalogue;
use gateway_image::catalogue::RowChange;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::index::{IndexError, IndexStore, Row, Table, keys, remove_range};
use crate::state::IndexState;

/// Rows of a batch, where none of them counts before its state does.
const AT_ONCE: usize = if cfg!(test) { 32 } else { 1 << 16 };

/// How many rows there are, and what they come to, in whatever order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) count: u64,
    pub(crate) sum: u64,
}

impl Tally {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(xxh3_64_with_seed(value, xxh3_64(key)));
    }

    fn take(&mut self, key: &[u8], value: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(xxh3_64_with_seed(value, xxh3_64(key)));
    }
}

/// Which rows an index has.
#[derive(Debug, Default)]
pub(crate) struct NameRows {
    /// Those of this catalogue; `None`: nobody knows, and none counts.
    of: Option<Arc<Catalogue>>,
    tally: Tally,
}

/// What is to be done to an index for it to have the rows of another catalogue, and which those are.
pub(crate) struct Step {
    rows: Vec<Row>,
    gone: Vec<Vec<u8>>,
    after: NameRows,
}

impl Step {
    pub(crate) const fn tally(&self) -> Tally {
        self.after.tally
    }

    /// The rows to set, the keys of those that go, and what the index has then.
    pub(crate) fn parts(self) -> (Vec<Row>, Vec<Vec<u8>>, NameRows) {
        (self.rows, self.gone, self.after)
    }
}

impl NameRows {
    /// Those that go with a state.
    pub(crate) fn of(state: &IndexState) -> Self {
        let of = state.names.map(|_| Arc::clone(&state.catalogue));
        Self { of, tally: state.names.unwrap_or_default() }
    }

    /// From these to the rows of `now`. Where none counts yet, most of them are written here: the state alone will make them count.
    ///
    /// # Errors
    /// When they cannot be written, or those that do not count cannot be removed.
    pub(crate) fn step(&self, index: &dyn IndexStore, now: &Arc<Catalogue>) -> Result<Step, IndexError> {
        let before = match &self.of {
            Some(before) => Arc::clone(before),
            None => {
                let (from, to) = range();
                remove_range(index, Table::State, from, &to)?;
                Arc::default()
            }
        };
        let after = Self { of: Some(Arc::clone(now)), tally: self.tally };
        let mut step = Step { rows: Vec::new(), gone: Vec::new(), after };
        now.rows_since(&before).into_iter().for_each(|change| step.take(change));
        while self.of.is_none() && step.rows.len() > AT_ONCE {
            index.commit(step.rows.split_off(step.rows.len() - AT_ONCE))?;
        }
        Ok(step)
    }
}

impl Step {
    fn take(&mut self, RowChange { key, before, now }: RowChange) {
        let tally = &mut self.after.tally;
        before.iter().for_each(|value| tally.take(&key, value));
        now.iter().for_each(|value| tally.add(&key, value));
        let key = keys::name(&key);
        match now {
            Some(value) => self.rows.push((key, value)),
            None => self.gone.push(key),
        }
    }
}

/// Completes a state with the names that the index has in rows of their own; those that `like` has are shared with it.
///
/// # Errors
/// When it cannot be read, or has others.
pub(crate) fn complete(
    index: &dyn IndexStore,
    state: &mut IndexState,
    like: &Catalogue,
) -> Result<(), IndexError> {
    let Some(expected) = state.names else { return Ok(()) };
    let ((from, to), catalogue) = (range(), Arc::make_mut(&mut state.catalogue));
    let (mut found, mut outcome) = (Tally::default(), Ok(()));
    index.scan(Table::State, &from, &to, &mut |key, value| {
        let key = key.strip_prefix(keys::NAMES).unwrap_or_default();
        found.add(key, value);
        outcome = catalogue.take_row(key, value, like);
        outcome.is_ok()
    })?;
    outcome.map_err(|e| IndexError::new(e.to_string()))?;
    if found == expected {
        return Ok(());
    }
    let (has, wants) = (found.count, expected.count);
    Err(IndexError::new(format!(
        "it has {has} rows of bookmarks and marks, and they are not the {wants} of its state"
    )))
}

/// All their keys.
fn range() -> (Vec<u8>, Vec<u8>) {
    (keys::name(&[]), keys::name(&[0xff]))
}

#[cfg(test)]
mod tests {
    use gateway_image::{Origin, Passed};
    use gateway_journal::{GroupNo, SegmentId, Start, StoreId};
    use tap_block::{
        Action, Bookmark, Consistency, Entry, Epoch, Lsn, Marker, Position, RunId, RunStart, StreamId,
        VolumeId, WallTime,
    };

    use super::*;
    use crate::history::History;
    use crate::index::MemoryIndex;
    use crate::state;
    use crate::tail::{Frozen, Group};

    fn take(catalogue: &mut Arc<Catalogue>, n: u64, marker: Marker) {
        let (lsn, at) = (Lsn::new(n).unwrap(), WallTime::from_nanos(n));
        let previous = Some(Passed { lsn: lsn.previous(), at });
        let (stream, run, epoch) = (StreamId::new(5), RunId::new(1), Epoch::new(1));
        let origin = Origin { stream, run, epoch, previous, received_at: at };
        let action = Action::Mark(Box::new(marker));
        let entry = Entry { position: Position::record(lsn), captured_at: at, action };
        Arc::make_mut(catalogue).apply(&origin, &entry);
    }

    fn bookmark(catalogue: &mut Arc<Catalogue>, n: u64) {
        let name = format!("b{n}").parse().unwrap();
        let mark = Bookmark { name, consistency: Consistency::Crash, note: String::new() };
        take(catalogue, n, Marker::Bookmark(mark));
    }

    fn begun() -> Arc<Catalogue> {
        let mut catalogue = Arc::default();
        let (volume, name) = (VolumeId::new(9), "web01".parse().unwrap());
        let (previous, durable) = (None, Lsn::ZERO);
        take(
            &mut catalogue,
            1,
            Marker::RunStart(RunStart { previous, durable, volume, name, size: 4096, sync: None }),
        );
        (2..100).for_each(|n| bookmark(&mut catalogue, n));
        catalogue
    }

    fn frozen(catalogue: &Arc<Catalogue>) -> Frozen {
        let mut history = History::new(StoreId::new(7));
        history.catalogue = Arc::clone(catalogue);
        history.frozen(Group::new(GroupNo::new(1)), (SegmentId::new(1), Start::of_segment(None)))
    }

    /// As a group that is brought in does it.
    fn bring(index: &MemoryIndex, names: &mut NameRows, catalogue: &Arc<Catalogue>) {
        let step = names.step(index, catalogue).unwrap();
        let state = state::encode_beside_names(&frozen(catalogue), step.tally());
        let (mut rows, gone, after) = step.parts();
        rows.push((keys::STATE.to_vec(), state));
        index.replace(rows, gone).unwrap();
        *names = after;
    }

    fn read(index: &MemoryIndex) -> Result<IndexState, IndexError> {
        let bytes = index.get(Table::State, keys::STATE).unwrap().unwrap();
        let mut state = state::decode(&bytes, StoreId::new(7)).unwrap();
        complete(index, &mut state, &Catalogue::default()).map(|()| state)
    }

    #[test]
    fn what_was_brought_is_read_again_and_gone_on_from() {
        let (index, mut catalogue, mut names) = (MemoryIndex::new(), begun(), NameRows::default());
        for n in 100..130 {
            bring(&index, &mut names, &catalogue);
            let state = read(&index).unwrap();
            assert_eq!(state.catalogue, catalogue);
            if n % 7 == 0 {
                names = NameRows::of(&state);
            }
            bookmark(&mut catalogue, n);
            let gone = format!("b{}", n - 50).parse().unwrap();
            Arc::make_mut(&mut catalogue).forget_bookmark(VolumeId::new(9), &gone);
            let before = index.committed();
            bring(&index, &mut names, &catalogue);
            assert!(index.committed() - before < 400, "{}", index.committed() - before);
        }
    }

    /// An earlier program's state has all names in it; what lies beside it counts no more.
    #[test]
    fn a_state_that_has_the_names_in_it_is_read_and_replaced() {
        let (index, catalogue) = (MemoryIndex::new(), begun());
        bring(&index, &mut NameRows::default(), &catalogue);
        let (key, value) = (keys::name(b"\x01stale"), vec![1]);
        index.commit(vec![(keys::STATE.to_vec(), state::encode(&frozen(&catalogue))), (key, value)]).unwrap();
        let state = read(&index).unwrap();
        assert_eq!((&state.catalogue, state.names), (&catalogue, None));
        bring(&index, &mut NameRows::of(&state), &catalogue);
        assert_eq!(read(&index).unwrap().catalogue, catalogue);
        assert_eq!(index.rows(Table::State), 98 + 1);
    }

    #[test]
    fn rows_that_are_not_those_of_the_state_are_told_from_them() {
        let (index, catalogue) = (MemoryIndex::new(), begun());
        bring(&index, &mut NameRows::default(), &catalogue);
        let (from, to) = range();
        let mut rows = Vec::new();
        index
            .scan(Table::State, &from, &to, &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                true
            })
            .unwrap();
        for (key, value) in rows {
            let other = rows_of_another(&key);
            for (set, gone) in [
                (vec![], vec![key.clone()]),
                (vec![(key.clone(), vec![24, 1])], vec![]),
                (vec![(other.clone(), value.clone())], vec![]),
            ] {
                index.replace(set, gone).unwrap();
                assert!(read(&index).is_err());
                index.replace(vec![(key.clone(), value.clone())], vec![other.clone()]).unwrap();
                assert_eq!(read(&index).unwrap().catalogue, catalogue);
            }
        }
    }

    fn rows_of_another(key: &[u8]) -> Vec<u8> {
        [key, b"-2"].concat()
    }
}
