//! The note beside an unfinished restore: what it is to become, and how much of that is durable.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tap_block::{Lsn, VolumeId};
use tap_disk::small_file;

/// What is being restored, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) volume: VolumeId,
    pub(crate) lsn: Lsn,
    pub(crate) size: u64,
    /// Bytes from the start that are durable in the target.
    pub(crate) done: u64,
}

/// As it is written: numbers under names, for people who find one.
#[derive(Serialize, Deserialize)]
struct Written {
    chronogate_restore: u32,
    volume: u64,
    lsn: u64,
    size: u64,
    done: u64,
}

const VERSION: u32 = 1;

impl Note {
    /// The note's place.
    pub(crate) fn path_of(target: &Path) -> PathBuf {
        let mut name = target.as_os_str().to_owned();
        name.push(".chronogate");
        name.into()
    }

    /// Does it speak of the same moment?
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Self { done: 0, ..*self } == Self { done: 0, ..*other }
    }

    /// The note beside `target`, if there is one.
    pub(super) fn read(target: &Path) -> io::Result<Option<Self>> {
        let Some(bytes) = small_file::read(&Self::path_of(target))? else { return Ok(None) };
        let note = serde_json::from_slice(&bytes).ok().and_then(Written::accept);
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "it is no note of a restore");
        note.map(Some).ok_or_else(broken)
    }

    pub(super) fn write(&self, target: &Path) -> io::Result<()> {
        let written = Written {
            chronogate_restore: VERSION,
            volume: self.volume.get(),
            lsn: self.lsn.get(),
            size: self.size,
            done: self.done,
        };
        small_file::write_atomic(&Self::path_of(target), &serde_json::to_vec(&written)?)
    }
}

impl Written {
    fn accept(self) -> Option<Note> {
        let lsn =
            Lsn::new(self.lsn).filter(|_| self.chronogate_restore == VERSION && self.done <= self.size)?;
        Some(Note { volume: VolumeId::new(self.volume), lsn, size: self.size, done: self.done })
    }
}
