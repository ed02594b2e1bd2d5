//! Committing an image: it becomes a disk of its own, protected as a volume, and goes on from where it was.
//!
//! ```text
//!   flat copy (while in use) ─► note ─► the copy is moved to its place ─► what was written is put onto it
//!                            ─► the image is gone from the journal ─► a tap protects the disk
//! ```
//!
//! A crash before the image is gone leaves the image as it was; one after that leaves the disk, which is protected at the next
//! start.

use std::fs::{self, OpenOptions};
use std::io;
use std::sync::Arc;

use cx_api::{JobKind, JobView, Problem};
use gateway_journal::ImageRecord;
use tap_block::device::run;
use tap_block::{Name, Op};
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
}

impl Gateway {
    /// Starts a job that makes the volume `name` of an image. Must be called inside a runtime.
    ///
    /// # Errors
    /// When the name is taken, nobody protects disks here, or the image is being copied already.
    pub(crate) fn start_commit(&self, which: &ImageKey, name: Name) -> Answer<JobView> {
        let record = self.images.find(which)?;
        self.images.check_free(&record, &name)?;
        self.committed.forget_unfinished(record.id).map_err(problems::internal)?;
        self.committed.check(&name)?;
        let (copying, job) =
            self.begin_copy(record.clone(), JobKind::Commit, self.committed.disk_of(&name))?;
        let commit = Commit {
            copying,
            size: job.view().total_bytes,
            record,
            name,
            images: Arc::clone(&self.images),
            committed: Arc::clone(&self.committed),
            runtime: Handle::current(),
        };
        let (worker, clock) = (Arc::clone(&job), Arc::clone(&self.clock));
        self.spawn_job(&job, move || worker.finish(commit.run(&worker), clock.wall()))?;
        Ok(job.view())
    }
}

impl Commit {
    fn run(self, job: &Arc<Job>) -> Result<(), Problem> {
        let earlier = self.images.flat(self.record.id).get();
        if earlier.as_ref().is_none_or(|flat| !flat.is_whole()) {
            self.copying.run(job)?;
        }
        // What was copied earlier may have rotted since, or have left something out.
        if let Some(flat) = earlier {
            self.copying.prove(&flat, job)?;
        }
        // A long copy gives others the time to take the name.
        self.images.check_free(&self.record, &self.name)?;
        let hand_over = self.hand_over();
        self.runtime.block_on(self.images.retire(&self.record, Some(job), hand_over))?;
        if let Err(e) = self.committed.settle(&self.name) {
            tracing::warn!("the next start notes that {} is a volume for good: {e}", self.name);
        }
        job.set_uris(self.committed.protect(&self.name)?);
        Ok(())
    }

    /// What makes the disk of the copy and of what is written on the image.
    fn hand_over(&self) -> impl FnOnce(Option<Arc<OverlayDevice>>) -> io::Result<()> + Send + use<> {
        let (committed, name, record) = (Arc::clone(&self.committed), self.name.clone(), self.record.clone());
        let (flats, size) = (self.images.flats.clone(), self.size);
        move |overlay| {
            check_room(&flats, overlay.as_deref())?;
            let begun = committed.begin(&name, record.id);
            let copy = (&flats, record.id.get(), size);
            let made = begun.and_then(|()| make_disk(&committed, &name, copy, overlay.as_deref()));
            made.and_then(|()| committed.finish(&name, record.id)).inspect_err(|_| {
                // The next start would do so as well.
                let _ = committed.abandon(&name);
            })
        }
    }
}

/// What was written on the image may fall into holes of the copy. The journal's room comes first.
fn check_room(flats: &FlatDir, overlay: Option<&OverlayDevice>) -> io::Result<()> {
    let (needed, free) = (overlay.map_or(0, OverlayDevice::used), flats.free_beyond_reserve()?);
    if needed <= free {
        return Ok(());
    }
    let text =
        format!("{needed} bytes are written on the image, and {free} are free beside the journal's reserve");
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

fn make_disk(
    committed: &Committed,
    name: &Name,
    (flats, image, size): (&FlatDir, u64, u64),
    overlay: Option<&OverlayDevice>,
) -> io::Result<()> {
    let path = committed.disk_of(name);
    fs::rename(flats.content_of(image), &path)?;
    // A copy has whole blocks.
    OpenOptions::new().write(true).open(&path)?.set_len(size)?;
    let disk = FileDevice::open(&path, FileOptions::default()).map_err(io::Error::other)?;
    match overlay {
        Some(overlay) => overlay.fold_onto(&disk),
        None => run(&*disk, Op::Flush).map(drop).map_err(io::Error::other),
    }
}
