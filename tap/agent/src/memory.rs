//! The small files a tap keeps for one volume. See [`crate::state`] for what is in them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

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

impl Memory {
    /// Opens the files in `dir`, or makes them.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Remembered), MemoryError> {
        let failed = |source| MemoryError::Io { dir: dir.to_owned(), source };
        ensure_dir(dir).map_err(failed)?;
        let state_file = SlottedFile::open(&dir.join("state"), STATE_BYTES).map_err(failed)?;
        let marks_file = open_or_begin_anew(&dir.join("marks"), MARKS_BYTES).map_err(failed)?;
        let alive_file = open_or_begin_anew(&dir.join("alive"), ALIVE_BYTES).map_err(failed)?;
        let state = state_file.load().map(|bytes| State::decode(&bytes)).transpose();
        let state = state.map_err(|source| MemoryError::State { dir: dir.to_owned(), source })?;
        let remembered = Remembered {
            marks: marks_file.load().map(RegionMarks::from_vec),
            alive: alive_file.load().and_then(|bytes| Alive::decode(&bytes)),
            state: state.clone(),
        };
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

    /// Notes that the tap watches the disk, and how that is.
    pub(crate) fn note_alive(&self, alive: Alive) -> io::Result<()> {
        self.alive_file.store(&alive.encode(), Durability::Unsynced)
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
