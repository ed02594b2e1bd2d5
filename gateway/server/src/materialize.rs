//! Materializing an image: its blocks are copied from the journal into a flat local copy while it is in use.
//!
//! A copy is whole, or being made, or not there: what was cancelled or failed is thrown away, so that nothing takes room that
//! nobody asked for any more. What a stop of the gateway interrupted goes on at the next start.

use std::path::PathBuf;
use std::sync::Arc;

use cx_api::{Code, JobKind, JobView, Problem};
use gateway_image::Source;
use gateway_journal::ImageRecord;
use gateway_store::ReadMode;
use tap_block::units::index;
use tap_block::{BLOCK_SIZE, DeviceError, Extent};

use crate::device::Image;
use crate::device::flat::{Flat, FlatDir, FlatRead, FlatSlot};
use crate::gateway::Gateway;
use crate::http::{Answer, ImageKey};
use crate::jobs::{Job, Task};
use crate::problems;

/// Read and written at once.
const CHUNK: u64 = 4 << 20;
/// Copied between two notes of the progress, each after a sync: short ones, since the journal may share the disk.
const NOTE_EVERY: u64 = 64 << 20;

/// A copy at work.
pub(crate) struct Copying {
    image: Image,
    record: ImageRecord,
    flats: FlatDir,
    slot: Arc<FlatSlot>,
}

impl Gateway {
    /// Starts a job that copies what the image shows below its own writes.
    ///
    /// # Errors
    /// When it has its copy or is being copied, or too many jobs run.
    pub(crate) fn start_materialization(&self, which: &ImageKey) -> Answer<JobView> {
        let record = self.images.find(which)?;
        let slot = self.images.flat(record.id);
        if slot.get().is_some_and(|flat| flat.is_whole()) {
            let text = format!("image {} is materialized already", record.name);
            return Err(Problem::new(Code::Conflict, text).fix("nothing has to be done"));
        }
        let path = self.images.flats.content_of(record.id.get());
        let (copying, job) = self.begin_copy(record, JobKind::Materialize, path)?;
        let (worker, clock) = (Arc::clone(&job), Arc::clone(&self.clock));
        self.spawn_job(&job, move || worker.finish(copying.run(&worker), clock.wall()))?;
        Ok(job.view())
    }

    /// Registers a job that begins with copying an image.
    ///
    /// # Errors
    /// When the image is being copied or removed, or too many jobs run.
    pub(crate) fn begin_copy(
        &self,
        record: ImageRecord,
        kind: JobKind,
        path: PathBuf,
    ) -> Answer<(Copying, Arc<Job>)> {
        let image = self.images.image(record.volume, record.point)?;
        let volume = self.store.catalogue().volume(record.volume).map(|v| v.name().clone());
        let volume = volume.ok_or_else(|| problems::internal("the image's volume is gone"))?;
        let task = Task { kind, volume, lsn: record.point, path, total: image.size() };
        let job = self.jobs.add(task, self.clock.wall())?;
        self.images
            .copied_by(&record, &job)
            .inspect_err(|e| job.finish(Err(e.clone()), self.clock.wall()))?;
        let (flats, slot) = (self.images.flats.clone(), self.images.flat(record.id));
        Ok((Copying { image, record, flats, slot }, job))
    }

    /// Goes on with what the last stop interrupted.
    pub(crate) fn go_on_materializing(&self) {
        let images: Vec<ImageRecord> = self.store.catalogue().images().cloned().collect();
        for record in images {
            if self.images.flat(record.id).get().is_none_or(|flat| flat.is_whole()) {
                continue;
            }
            if let Err(e) = self.start_materialization(&ImageKey::Id(record.id.get())) {
                tracing::warn!(
                    "image {} stays half materialized: {}; go on: chronogate image materialize {0}",
                    record.name,
                    e.detail
                );
            }
        }
    }
}

impl Copying {
    /// Copies what is not copied yet. What was copied is thrown away if that does not succeed.
    ///
    /// # Errors
    /// When it was cancelled or fails, or some blocks cannot be read: all others are copied then.
    pub(crate) fn run(&self, job: &Job) -> Result<(), Problem> {
        match self.copy_all(job) {
            Ok(0) => Ok(()),
            Ok(damaged) => Err(self.left_out(damaged)),
            Err(e) => {
                if !job.is_interrupted() {
                    self.discard();
                }
                Err(e)
            }
        }
    }

    /// Reads a whole copy, and copies anew what is not sound in it.
    ///
    /// # Errors
    /// When it was cancelled or fails, or some blocks cannot be read.
    pub(crate) fn prove(&self, flat: &Flat, job: &Job) -> Result<(), Problem> {
        let (mut data, mut damaged) = (Vec::new(), 0);
        flat.distrust();
        for chunk in Extent::between(0, self.image.size()).split_at_multiples(CHUNK) {
            if job.is_cancelled() {
                return Err(Problem::new(Code::Conflict, "it was cancelled"));
            }
            let blocks = chunk.to_blocks();
            data.resize(index(blocks.length()), 0);
            // What is all zeroes has no sums, and what cannot be read is copied anew, too.
            if !matches!(flat.read(blocks, ReadMode::Blocking, &mut data), Ok(FlatRead::Done)) {
                damaged += self.copy(flat, chunk).map_err(|e| self.failed(&e))?;
            }
            job.progress(chunk.end());
        }
        flat.checkpoint().map_err(|e| self.failed(&e.into()))?;
        if damaged == 0 { Ok(()) } else { Err(self.left_out(damaged)) }
    }

    /// Copies what is not copied yet; how many blocks could not be.
    fn copy_all(&self, job: &Job) -> Result<u64, Problem> {
        let flat = self.begin()?;
        let (mut unnoted, mut damaged) = (0, 0);
        job.progress(flat.done());
        let parts = self.image.held().map_err(|e| problems::stored(&e))?;
        let chunks = parts.into_iter().flat_map(|(part, held)| {
            // Nothing is in what is not held, and nothing is left there of a copy that has just begun.
            let empty = !held && flat.is_fresh();
            let size = if empty { part.length() } else { CHUNK };
            part.split_at_multiples(size.max(1)).map(move |chunk| (chunk, empty))
        });
        for (chunk, empty) in chunks {
            let chunk = Extent::between(chunk.offset().max(flat.done()).min(chunk.end()), chunk.end());
            if chunk.length() == 0 {
                continue;
            }
            if job.is_cancelled() {
                flat.checkpoint().map_err(|e| self.failed(&e.into()))?;
                return Err(Problem::new(Code::Conflict, "it was cancelled"));
            }
            if !empty {
                damaged += self.copy(&flat, chunk).map_err(|e| self.failed(&e))?;
                unnoted += chunk.length();
            }
            flat.reached(chunk.end());
            job.progress(chunk.end());
            if unnoted >= NOTE_EVERY {
                self.note(&flat)?;
                unnoted = 0;
            }
        }
        flat.checkpoint().map_err(|e| self.failed(&e.into()))?;
        Ok(damaged)
    }

    /// The copy that is there already, or a new one.
    fn begin(&self) -> Result<Arc<Flat>, Problem> {
        if let Some(flat) = self.slot.get() {
            return Ok(flat);
        }
        self.check_room()?;
        let made = self.flats.create(self.record.id.get(), self.image.size());
        let flat = made.map_err(|e| self.failed(&e.into()))?;
        self.slot.set(Some(Arc::clone(&flat)));
        Ok(flat)
    }

    fn note(&self, flat: &Flat) -> Result<(), Problem> {
        flat.checkpoint().map_err(|e| self.failed(&e.into()))?;
        self.check_room()
    }

    /// The journal's room comes first.
    fn check_room(&self) -> Result<(), Problem> {
        match self.flats.free_beyond_reserve() {
            Ok(0) => Err(self.failed(&Failure::Full)),
            Ok(_) => Ok(()),
            Err(e) => Err(self.failed(&e.into())),
        }
    }

    fn copy(&self, flat: &Flat, chunk: Extent) -> Result<u64, Failure> {
        let blocks = chunk.to_blocks();
        if self.is_zero(blocks)? {
            return flat.clear(blocks).map(|()| 0).map_err(Into::into);
        }
        let mut data = vec![0; index(blocks.length())];
        match self.image.read_journal(blocks, ReadMode::Blocking, &mut data) {
            Ok(_) => flat.put(blocks, &data).map(|()| 0).map_err(Into::into),
            Err(DeviceError::Damaged { .. }) => self.copy_sound(flat, blocks),
            Err(e) => Err(Failure::Read(e)),
        }
    }

    /// The journal answers for zeroes without reading anything.
    fn is_zero(&self, blocks: Extent) -> Result<bool, Failure> {
        let pieces = self.image.plan(blocks, ReadMode::Blocking).map_err(Failure::Read)?;
        Ok(pieces.is_some_and(|pieces| pieces.iter().all(|p| matches!(p.source, Source::Zero))))
    }

    /// Block by block, without those that are damaged: who reads them is told by the journal.
    fn copy_sound(&self, flat: &Flat, blocks: Extent) -> Result<u64, Failure> {
        let (mut data, mut damaged) = (vec![0; index(BLOCK_SIZE)], 0);
        for block in blocks.split_at_multiples(BLOCK_SIZE) {
            match self.image.read_journal(block, ReadMode::Blocking, &mut data) {
                Ok(_) => flat.put(block, &data)?,
                Err(DeviceError::Damaged { .. }) => damaged += 1,
                Err(e) => return Err(Failure::Read(e)),
            }
        }
        Ok(damaged)
    }

    /// Throws the copy away.
    pub(crate) fn discard(&self) {
        self.slot.set(None);
        if let Err(e) = self.flats.remove(self.record.id.get()) {
            tracing::warn!("the half of a copy of image {} is not removed: {e}", self.record.name);
        }
    }

    fn left_out(&self, damaged: u64) -> Problem {
        let name = &self.record.name;
        let what = format!("image {name} is materialized but for {damaged} blocks, which cannot be read");
        Problem::new(Code::Internal, what)
            .because("they are damaged in the journal")
            .fix("see which and repair them with `chronogate verify`; they are read from the journal then")
    }

    fn failed(&self, failure: &Failure) -> Problem {
        let name = &self.record.name;
        let what = |why: &dyn std::fmt::Display| format!("image {name} is not materialized: {why}");
        match failure {
            Failure::Full => Problem::new(Code::NoSpace, what(&"it would take the journal's last room"))
                .fix("make room on the gateway's disk and start it again"),
            Failure::Write(e) if e.kind() == std::io::ErrorKind::StorageFull => {
                Problem::new(Code::NoSpace, what(e)).fix("make room on the gateway's disk and start it again")
            }
            Failure::Write(e) => problems::internal(what(e)),
            Failure::Read(e) => problems::internal(what(e)),
        }
    }
}

/// What stops a copy.
enum Failure {
    Full,
    Write(std::io::Error),
    Read(DeviceError),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Write(error)
    }
}
