//! Committing an image: it becomes a disk of its own, protected as a volume, and goes on from where it was.
//!
//! ```text
//!   flat copy (while in use) ─► nobody opens it any more ─► what was written is put onto the copy   can be cancelled up to here
//!                            ─► note ─► the copy is moved to its place ─► the image is gone from the journal
//!                            ─► a tap protects the disk
//! ```
//!
//! What was put onto the copy does not have the copy's checksums any more. What is written on the image lies above it, and what
//! was copied on the image from a place below it is read from the journal then. So a copy whose commit failed stays a copy, and the next commit proves it, makes anew what is not of
//! the image, and goes on.
//!
//! A crash before the image is gone leaves the image as it was; one after that leaves the disk, which is protected at the next
//! start.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

use cx_api::{Code, JobKind, JobView, Problem};
use gateway_journal::ImageRecord;
use tap_block::device::run;
use tap_block::{BLOCK_SIZE, Name, Op};
use tap_disk::{FileDevice, FileOptions};
use tokio::runtime::Handle;

use crate::committed::Committed;
use crate::device::OverlayDevice;
use crate::device::flat::FlatDir;
use crate::gateway::Gateway;
use crate::http::{Answer, ImageKey};
use crate::images::Images;
use crate::jobs::Job;
use crate::materialize::Copying;
use crate::names::{Holder, Reserved};
use crate::problems;

/// A commit at work.
struct Commit {
    copying: Copying,
    record: ImageRecord,
    size: u64,
    name: Name,
    images: Arc<Images>,
    committed: Arc<Committed>,
    runtime: Handle,
    gateway: Weak<Gateway>,
    /// The name is nobody else's meanwhile.
    _reserved: Reserved,
}

impl Gateway {
    /// Starts a job that makes the volume `name` of an image. Must be called inside a runtime.
    ///
    /// # Errors
    /// When the name is taken, nobody protects disks here, or the image is being copied already.
    pub(crate) fn start_commit(&self, which: &ImageKey, name: Name) -> Answer<JobView> {
        let record = self.images.find(which)?;
        let reserved = self.names.reserve(&name, Holder::Commit, || {
            self.images.check_free(&record, &name)?;
            self.committed.check(&name, record.id)?;
            self.streams.check_unannounced(&name)
        })?;
        let (copying, job) =
            self.begin_copy(record.clone(), JobKind::Commit, self.committed.disk_of(&name))?;
        // Only now: what another commit of the image has begun is not there to be thrown away.
        if let Err(e) = self.committed.forget_unfinished(record.id).map_err(problems::internal) {
            job.finish(Err(e.clone()), self.clock.wall());
            return Err(e);
        }
        let commit = Commit {
            copying,
            size: job.view().total_bytes,
            record,
            name,
            images: Arc::clone(&self.images),
            committed: Arc::clone(&self.committed),
            runtime: Handle::current(),
            gateway: Weak::clone(&self.me),
            _reserved: reserved,
        };
        let (worker, clock) = (Arc::clone(&job), Arc::clone(&self.clock));
        self.spawn_job(&job, move || worker.finish(commit.run(&worker), clock.wall()))?;
        Ok(job.view())
    }
}

impl Commit {
    fn run(self, job: &Arc<Job>) -> Result<(), Problem> {
        let earlier = self.images.flat(self.record.id).get();
        let was_whole = earlier.as_ref().is_some_and(|flat| flat.is_whole());
        if !was_whole {
            self.copying.run(job)?;
        }
        // What was copied earlier may have rotted since, or have left something out.
        if let Some(flat) = earlier {
            self.copying.prove(&flat, job)?;
        }
        let frozen = self.runtime.block_on(self.images.freeze(&self.record, Some(job)));
        let (frozen, overlay) = frozen.map_err(|refused| self.used_by(refused))?;
        let folded = self.fold(overlay.as_deref(), job).map_err(|e| self.failed(&e))?;
        // The name is held; who had it before all else is seen here.
        self.images.check_free(&self.record, &self.name)?;
        if !folded || !job.switch() {
            // One that was there before was asked for by itself.
            if !was_whole && !job.is_interrupted() {
                self.copying.discard();
            }
            return Err(Problem::new(Code::Conflict, "it was cancelled"));
        }
        self.runtime.block_on(self.images.retire(frozen, self.hand_over()))?;
        if let Err(e) = self.committed.settle(&self.name) {
            tracing::warn!("the next start notes that {} is a volume for good: {e}", self.name);
        }
        job.set_uris(self.committed.protect(&self.name)?);
        Ok(())
    }

    /// Why it is not to be had, with who has it open.
    fn used_by(&self, refused: Problem) -> Problem {
        let users = self.gateway.upgrade().and_then(|gateway| gateway.users_of_image(&self.record));
        match users {
            Some(users) => refused.because(format!("it is used by {users}")).fix(
                "close what uses it, or end those sessions (`chronogate session kick ID`), and commit it again: the copy stays",
            ),
            None => refused,
        }
    }

    /// Puts what is written on the image onto its copy; false when that was cancelled.
    fn fold(&self, overlay: Option<&OverlayDevice>, job: &Job) -> io::Result<bool> {
        let Some(overlay) = overlay else { return Ok(!job.is_cancelled()) };
        check_room(&self.images.flats, overlay)?;
        let copy = self.images.flats.content_of(self.record.id.get());
        let disk = FileDevice::open(&copy, FileOptions::default()).map_err(io::Error::other)?;
        let total = self.size + overlay.laid_out();
        let folded = overlay.fold_onto(&disk, &mut |done| {
            job.progress_of(self.size + done, total);
            !job.is_cancelled()
        })?;
        if folded {
            job.progress_of(total, total);
        }
        Ok(folded)
    }

    fn failed(&self, e: &io::Error) -> Problem {
        let problem = problems::of_disk(e);
        let why = format!(
            "what is written on image {} is not all on the disk: {}",
            self.record.name, problem.detail
        );
        Problem { detail: why, ..problem }
            .fix("see to that and commit it again: the copy stays, and it goes on from there")
    }

    /// What makes the disk of the copy, on which is all that was written.
    fn hand_over(&self) -> impl FnOnce() -> io::Result<()> + Send + use<> {
        let (committed, name, image) = (Arc::clone(&self.committed), self.name.clone(), self.record.id);
        let (copy, size) = (self.images.flats.content_of(image.get()), self.size);
        move || {
            let begun = committed.begin(&name, image);
            let made = begun.and_then(|()| make_disk(&copy, &committed.disk_of(&name), size));
            made.and_then(|()| committed.finish(&name, image)).inspect_err(|_| {
                // If the copy cannot go back it is made again; the image has all of it.
                let _ = give_back(&committed.disk_of(&name), &copy, size);
                let _ = committed.abandon(&name);
            })
        }
    }
}

/// What was written on the image may fall into holes of the copy. The journal's room comes first.
fn check_room(flats: &FlatDir, overlay: &OverlayDevice) -> io::Result<()> {
    let (needed, free) = (overlay.laid_out(), flats.free_beyond_reserve()?);
    if needed <= free {
        return Ok(());
    }
    let text =
        format!("{needed} bytes are written on the image, and {free} are free beside the journal's reserve");
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

/// A copy has whole blocks, a disk its size.
fn make_disk(copy: &Path, disk: &Path, size: u64) -> io::Result<()> {
    fs::rename(copy, disk)?;
    OpenOptions::new().write(true).open(disk)?.set_len(size)?;
    let disk = FileDevice::open(disk, FileOptions::default()).map_err(io::Error::other)?;
    run(&*disk, Op::Flush).map(drop).map_err(io::Error::other)
}

fn give_back(disk: &Path, copy: &Path, size: u64) -> io::Result<()> {
    OpenOptions::new().write(true).open(disk)?.set_len(size.next_multiple_of(BLOCK_SIZE))?;
    fs::rename(disk, copy)
}

#[cfg(test)]
mod tests;
