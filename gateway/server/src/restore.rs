//! A moment written out as a plain disk image: to a file, sparse, or to a block device.
//!
//! ```text
//!   check the target ─► note (PATH.chronogate) ─► copy, noting progress ─► flush ─► remove the note
//! ```
//!
//! As long as the note is there the target is unfinished, whatever happened: the same moment of the same
//! volume goes on from the progress noted, another one is refused. A target with content and no note is
//! somebody's disk and never touched.

mod note;
mod target;

use std::path::Path;
use std::sync::Arc;

use cx_api::{Code, Problem};
use gateway_image::Source;
use gateway_store::ReadMode;
use tap_block::device::run;
use tap_block::{DeviceError, Extent, Op};

use crate::device::Image;
use crate::device::image::read_blocking;
use crate::jobs::Job;
use crate::problems;
pub(crate) use note::Note;
pub(crate) use target::Forbidden;
use target::Target;

/// Read and written at once.
const CHUNK: u64 = 4 << 20;
/// Copied between two notes of the progress, each after a flush.
const NOTE_EVERY: u64 = 256 << 20;

/// A restore that has passed its checks and holds its target.
pub(crate) struct Restore {
    image: Image,
    target: Target,
    note: Note,
}

impl Restore {
    /// Checks the target and takes it; nothing of it is changed unless it is empty or half restored.
    ///
    /// # Errors
    /// When the target is something else's, too small, or cannot be opened.
    pub(crate) fn prepare(
        image: Image,
        note: Note,
        path: &Path,
        forbidden: &Forbidden,
    ) -> Result<Self, Problem> {
        let target = Target::open(path, note, forbidden)?;
        let note = target.resumed().unwrap_or(note);
        Ok(Self { image, target, note })
    }

    /// Copies everything that is not copied yet.
    ///
    /// # Errors
    /// When it was cancelled, or reading or writing failed; the next one goes on from here.
    pub(crate) fn run(mut self, job: &Arc<Job>) -> Result<(), Problem> {
        let size = self.image.size();
        let rest = Extent::between(self.note.done.min(size), size);
        let mut noted = rest.offset();
        job.progress(noted);
        for chunk in rest.split_at_multiples(CHUNK) {
            if job.is_cancelled() {
                self.checkpoint(chunk.offset())?;
                return Err(Problem::new(Code::Conflict, "the restore was cancelled")
                    .fix("start it again to the same path: it goes on where it was"));
            }
            self.copy(chunk).map_err(|e| failed(&self.target, &e))?;
            job.progress(chunk.end());
            if chunk.end() - noted >= NOTE_EVERY {
                self.checkpoint(chunk.end())?;
                noted = chunk.end();
            }
        }
        run(self.target.device(), Op::Flush).map_err(|e| failed(&self.target, &e))?;
        self.target.finish()
    }

    /// Makes durable what is copied and notes how far that is.
    fn checkpoint(&mut self, done: u64) -> Result<(), Problem> {
        run(self.target.device(), Op::Flush).map_err(|e| failed(&self.target, &e))?;
        self.note.done = done;
        self.target.write_note(self.note)
    }

    fn copy(&self, chunk: Extent) -> Result<(), DeviceError> {
        for part in self.stored_parts(chunk)? {
            let data = read_blocking(&self.image, part)?;
            run(self.target.device(), Op::Write { offset: part.offset(), data, fua: false })?;
        }
        Ok(())
    }

    /// The parts of `chunk` that are not zeroes; the zeroes are holes already, or are made.
    fn stored_parts(&self, chunk: Extent) -> Result<Vec<Extent>, DeviceError> {
        let pieces = self.image.plan(chunk, ReadMode::Blocking)?.unwrap_or_default();
        let mut parts: Vec<Extent> = Vec::new();
        for piece in pieces {
            match (piece.source, parts.last_mut()) {
                (Source::Zero, _) => self.make_zero(piece.extent)?,
                (Source::Unit(..), Some(last)) if last.end() == piece.extent.offset() => {
                    *last = Extent::between(last.offset(), piece.extent.end());
                }
                (Source::Unit(..), _) => parts.push(piece.extent),
            }
        }
        Ok(parts)
    }

    fn make_zero(&self, extent: Extent) -> Result<(), DeviceError> {
        if self.target.is_zero_already() {
            return Ok(());
        }
        run(self.target.device(), Op::Zero { extent, fua: false, may_trim: true, fast: false }).map(drop)
    }
}

fn failed(target: &Target, error: &DeviceError) -> Problem {
    let what = format!("the restore to {} stopped: {error}", target.path().display());
    match error {
        DeviceError::NoSpace(_) => Problem::new(Code::NoSpace, what)
            .fix("make room and start the restore again to the same path: it goes on where it was"),
        DeviceError::Damaged { .. } => Problem::new(Code::NotSelectable, what)
            .because("a block of this moment is damaged in the journal")
            .fix("choose another point, or mount this one: all other blocks can be read; `chronogate verify` lists what is damaged"),
        _ => problems::internal(what),
    }
}
