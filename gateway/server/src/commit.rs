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
        self.check_free(&record, &name)?;
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

    /// The image's own name becomes free.
    fn check_free(&self, record: &ImageRecord, name: &Name) -> Answer<()> {
        let catalogue = self.store.catalogue();
        if catalogue.volume_named(name).is_some() {
            return Err(problems::name_taken(name, "a volume"));
        }
        match catalogue.image_named(name) {
            Some(image) if image.id != record.id => Err(problems::name_taken(name, "another image")),
            _ => Ok(()),
        }
    }
}

impl Commit {
    fn run(self, job: &Arc<Job>) -> Result<(), Problem> {
        // A copy made earlier may have rotted since, or have left something out.
        match self.images.flat(self.record.id).get().filter(|flat| flat.is_whole()) {
            Some(flat) => self.copying.prove(&flat, job)?,
            None => self.copying.run(job)?,
        }
        let hand_over = self.hand_over();
        self.runtime.block_on(self.images.retire(&self.record, Some(job), hand_over))?;
        job.set_uris(self.committed.protect(&self.name)?);
        Ok(())
    }

    /// What makes the disk of the copy and of what is written on the image.
    fn hand_over(&self) -> impl FnOnce(Option<Arc<OverlayDevice>>) -> io::Result<()> + Send + use<> {
        let (committed, name, record) = (Arc::clone(&self.committed), self.name.clone(), self.record.clone());
        let (flats, size) = (self.images.flats.clone(), self.size);
        move |overlay| {
            committed.begin(&name, record.id)?;
            let made = make_disk(&committed, &name, (&flats, record.id.get(), size), overlay.as_deref());
            made.and_then(|()| committed.finish(&name, record.id)).inspect_err(|_| {
                // The next start would do so as well.
                let _ = committed.abandon(&name);
            })
        }
    }
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
