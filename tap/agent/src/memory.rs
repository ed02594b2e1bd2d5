//! The small files a tap keeps for one volume. See [`crate::state`] for what is in them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tap_block::WallTime;
use tap_disk::{Durability, SlottedFile, ensure_dir, set_aside};
use tap_splitter::RegionMarks;

use crate::state::{Alive, State, StateError};

/// Room for the state's text and for one bit for each of the 8192 regions at most.
const STATE_BYTES: usize = 2048;
const MARKS_BYTES: usize = 2048;
const ALIVE_BYTES: usize = 64;

/// The files of one volume.
#[derive(Debug)]
pub(crate) struct Memory {
    state_file: SlottedFile,
    marks_file: SlottedFile,
    alive_file: SlottedFile,
    state: Mutex<Option<State>>,
    dir: PathBuf,
}

/// What they said when the tap started.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub(crate) state: Option<State>,
    /// `None`: there are none that can be read.
    pub(crate) marks: Option<RegionMarks>,
    pub(crate) alive: Option<Alive>,
}

/// Why they cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    #[error("cannot open the tap's files in {}: {source}", dir.display())]
    Io { dir: PathBuf, source: io::Error },
    #[error("{}/state cannot be used: {source}", dir.display())]
    State { dir: PathBuf, source: StateError },
    #[error(
        "what the tap knows of the volume is damaged: {source}; put the newest copy that there is of {} in its place, and say \
         `chronogate volume accept-restored VOLUME` if the tap is refused then; or, if there is none, move the directory away and protect \
         the disk under another name: history goes on there, and what was before stays to be read under this one",
        dir.display()
    )]
    Damaged { dir: PathBuf, source: io::Error },
}

/// Without what these files say the whole disk is compared, which is better than a disk that nobody can use: one that is damaged
/// is put aside, and a new one begun.
fn open_or_begin_anew(path: &Path, bytes: usize) -> io::Result<SlottedFile> {
    let damaged = match SlottedFile::open(path, bytes) {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => e,
        opened => return opened,
    };
    let aside = set_aside(path)?.unwrap_or_default();
    tracing::warn!(
        "{damaged}: it was put aside as {}; the whole disk is compared with what the gateways have",
        aside.display()
    );
    SlottedFile::open(path, bytes)
}

/// The marks in the file, unless later ones were there: what they marked would be thought to be below.
fn latest_marks(file: &SlottedFile, alive: Option<Alive>) -> Option<RegionMarks> {
    let is_older = alive.and_then(|alive| alive.log).is_some_and(|noted| file.generation() < noted);
    let marks = file.load().filter(|_| !file.is_harmed() && !is_older);
    marks.map(RegionMarks::from_vec)
}

impl Memory {
    /// Opens the files in `dir`, or makes them.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Remembered), MemoryError> {
        let failed = |source| MemoryError::Io { dir: dir.to_owned(), source };
        ensure_dir(dir).map_err(failed)?;
        let state_file = SlottedFile::open(&dir.join("state"), STATE_BYTES).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => MemoryError::Damaged { dir: dir.to_owned(), source: e },
            _ => failed(e),
        })?;
        let marks_file = open_or_begin_anew(&dir.join("marks"), MARKS_BYTES).map_err(failed)?;
        let alive_file = open_or_begin_anew(&dir.join("alive"), ALIVE_BYTES).map_err(failed)?;
        let state = state_file.load().map(|bytes| State::decode(&bytes)).transpose();
        let state = state.map_err(|source| MemoryError::State { dir: dir.to_owned(), source })?;
        let alive = alive_file.load().and_then(|bytes| Alive::decode(&bytes));
        // A state before the last one knows nothing of how that ended: all is compared.
        let is_latest = !state_file.is_harmed();
        let state = state.map(|state| State { clean: state.clean.filter(|_| is_latest), ..state });
        let marks = latest_marks(&marks_file, alive).filter(|_| is_latest);
        let remembered = Remembered { marks, alive, state: state.clone() };
        Ok((
            Self { state_file, marks_file, alive_file, state: Mutex::new(state), dir: dir.to_owned() },
            remembered,
        ))
    }

    /// Where the volume's spool lies.
    pub(crate) fn spool_dir(&self) -> PathBuf {
        self.dir.join("spool")
    }

    /// Makes a whole state durable.
    pub(crate) fn store(&self, state: State) -> io::Result<()> {
        self.state_file.store(state.encode().as_bytes(), Durability::Synced)?;
        *self.lock() = Some(state);
        Ok(())
    }

    /// Changes the state and makes it durable. Before the first [`Memory::store`] there is nothing to change.
    pub(crate) fn update(&self, change: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut held = self.lock();
        let Some(mut state) = held.clone() else { return Ok(()) };
        change(&mut state);
        self.state_file.store(state.encode().as_bytes(), Durability::Synced)?;
        *held = Some(state);
        Ok(())
    }

    /// Like [`Memory::update`], without a write when nothing changed.
    pub(crate) fn update_if_changed(&self, change: impl FnOnce(&mut State)) -> io::Result<()> {
        let before = self.lock().clone();
        let Some(mut after) = before.clone() else { return Ok(()) };
        change(&mut after);
        if before.as_ref() == Some(&after) { Ok(()) } else { self.update(|s| *s = after) }
    }

    /// Makes the activity log durable.
    pub(crate) fn store_marks(&self, marks: &RegionMarks) -> io::Result<()> {
        self.marks_file.store(&marks.clone().into_vec(), Durability::Synced)
    }

    /// Notes that the tap watches the disk, and when that was last changed by its own account (nanoseconds).
    pub(crate) fn note_alive(&self, at: WallTime, changed_ns: Option<i64>) -> io::Result<()> {
        let alive = Alive { at, changed_ns, log: Some(self.marks_file.generation()) };
        self.alive_file.store(&alive.encode(), Durability::Unsynced)
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tap_block::{Epoch, Lsn, RunId, StreamId, VolumeId};

    use super::*;
    use crate::state::{CleanStop, Disk};

    fn state() -> State {
        State {
            stream: StreamId::new(1),
            volume: VolumeId::new(2),
            epoch: Epoch::new(1),
            run: RunId::new(3),
            bound: Lsn::ZERO.plus(9),
            everywhere: Lsn::ZERO,
            clean: None,
            sync: None,
            baselines: 1,
            resynced: 0,
            disk: Disk { size: 1 << 20, inode: 12, device: 8 },
            first: Lsn::ZERO,
            lineage: Vec::new(),
            unproven: Vec::new(),
        }
    }

    fn marks(bits: [bool; 3]) -> RegionMarks {
        bits.into_iter().collect()
    }

    /// The marks that are found, as far as they say anything.
    fn found(dir: &Path) -> Option<RegionMarks> {
        let marks = Memory::open(dir).unwrap().1.marks?;
        Some(marks.iter().by_vals().take(3).collect())
    }

    const FEW: [bool; 3] = [false, true, false];
    const MORE: [bool; 3] = [true, true, false];

    #[test]
    fn marks_come_back() {
        let tmp = tempfile::tempdir().unwrap();
        let (memory, remembered) = Memory::open(tmp.path()).unwrap();
        assert_eq!(remembered.marks, None);
        for bits in [FEW, MORE, FEW] {
            memory.store_marks(&marks(bits)).unwrap();
            memory.note_alive(WallTime::from_nanos(1), Some(1)).unwrap();
            assert_eq!(found(tmp.path()), Some(marks(bits)));
        }
    }

    /// Flips a bit of what the last of the file's slots holds.
    fn harm_last_slot(path: &Path) {
        let mut bytes = std::fs::read(path).unwrap();
        let last = bytes.windows(8).rposition(|w| w == b"CGslot01").unwrap();
        bytes[last + 32] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn marks_before_a_flipped_bit_do_not_count() {
        let tmp = tempfile::tempdir().unwrap();
        let memory = Memory::open(tmp.path()).unwrap().0;
        memory.store_marks(&marks(FEW)).unwrap();
        memory.store_marks(&marks(MORE)).unwrap();
        drop(memory);
        harm_last_slot(&tmp.path().join("marks"));
        assert_eq!(found(tmp.path()), None);
        let memory = Memory::open(tmp.path()).unwrap().0;
        memory.store_marks(&marks(MORE)).unwrap();
        assert_eq!(found(tmp.path()), Some(marks(MORE)), "it was written over");
    }

    #[test]
    fn a_state_before_a_flipped_bit_knows_of_no_clean_stop_and_no_marks() {
        let tmp = tempfile::tempdir().unwrap();
        let memory = Memory::open(tmp.path()).unwrap().0;
        memory.store_marks(&marks(FEW)).unwrap();
        let clean = Some(CleanStop { next: Lsn::ZERO.next(), changed_ns: 1 });
        memory.store(State { clean, ..state() }).unwrap();
        memory.store(state()).unwrap();
        drop(memory);
        let clean_in = || Memory::open(tmp.path()).unwrap().1.state.unwrap().clean;
        assert_eq!((clean_in(), found(tmp.path())), (None, Some(marks(FEW))));
        harm_last_slot(&tmp.path().join("state"));
        assert_eq!((clean_in(), found(tmp.path())), (None, None));
    }

    #[test]
    fn a_damaged_state_is_refused_with_the_ways_out() {
        let tmp = tempfile::tempdir().unwrap();
        drop(Memory::open(tmp.path()).unwrap());
        std::fs::write(tmp.path().join("state"), [0; 6936]).unwrap();
        let refused = Memory::open(tmp.path()).unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, MemoryError::Damaged { .. }), "{text}");
        for way in ["6936 bytes long", "accept-restored", "another name"] {
            assert!(text.contains(way), "{way}: {text}");
        }
    }

    #[test]
    fn an_older_copy_of_the_marks_does_not_count() {
        let tmp = tempfile::tempdir().unwrap();
        let (memory, path) = (Memory::open(tmp.path()).unwrap().0, tmp.path().join("marks"));
        memory.store_marks(&marks(FEW)).unwrap();
        let older = std::fs::read(&path).unwrap();
        memory.store_marks(&marks(MORE)).unwrap();
        memory.note_alive(WallTime::from_nanos(1), Some(1)).unwrap();
        drop(memory);
        std::fs::write(&path, older).unwrap();
        assert_eq!(found(tmp.path()), None);
    }
}
