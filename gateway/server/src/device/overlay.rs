//! A read/write image: an [`Image`] and, above it, the blocks that were written.
//!
//! The content goes into a sparse data file, the mapping into a log. A flush makes the content durable first
//! and the mapping after it, so a mapping never shows content that is not there. Between flushes each write says first where it
//! goes, in a file that is not synced: a gateway that is killed loses nothing that it answered.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
};

use bytes::{Bytes, BytesMut};
use gateway_image::overlay::{Change, Changes, Content, ContentSum, FromImage, Overlay, SlotNo, Written};
use gateway_store::ReadMode;
use tap_block::device::run;
use tap_block::units::index;
use tap_block::{
    Answer, Answered, BLOCK_SIZE, Base, BlockDevice, BlockNo, DeviceError, Extent, ExtentSet, Geometry, Name,
    Op, Outcome, Part, Shown, Ticket,
};
use tap_disk::{FileDevice, SegmentFile, ensure_dir, small_file};

use super::image::{HOLE, Image, unread};
use super::overlay_copy::SHARED_AT_ONCE;
use super::overlay_log::OverlayLog;
use super::overlay_recover::{open_data, recover};
use super::overlay_together;
use super::overlay_write::BATCH;
use super::recent::RecentFiles;
use super::room::Room;
use super::workers::Workers;

/// Room in the data file for content that was replaced and waits for the next flush: a quarter of the quota, within bounds. Half
/// of it used up makes a flush happen. It takes no space before it is used, and where there is little a flush comes sooner.
const SLACK: std::ops::RangeInclusive<u64> = 256 << 20..=4 << 30;
/// A write of so much is done by a worker, while the connection takes what comes next from its client.
pub(super) const LARGE: usize = 256 << 10;
/// Changed blocks looked at for one question of what is written.
const MOST_WRITTEN: usize = 1 << 20;
/// Rotten blocks that are remembered of an image.
const MOST_ROTTEN: usize = 4096;
pub(super) const DATA: &str = "data";

/// A read/write image as a disk.
pub(crate) struct OverlayDevice {
    layers: Arc<Layers>,
    workers: Workers,
    read_only: bool,
}

pub(super) struct Layers {
    image: u64,
    room: Arc<Room>,
    below: Arc<Image>,
    /// Readers hold it while they read slots, writers while they write them: nobody reads half a block.
    overlay: RwLock<Overlay>,
    /// Held for reading by who has slots lent, for writing by who makes blocks share theirs. Taken before the overlay.
    lending: RwLock<()>,
    data: Arc<FileDevice>,
    /// Replaced content that makes a flush happen.
    slack: u64,
    /// Held during a flush: one at a time.
    log: Mutex<OverlayLog>,
    /// Written only by whoever holds the overlay for writing.
    recent: Mutex<RecentFiles>,
    waiting: Mutex<Waiting>,
    rotten: Mutex<Rotten>,
}

/// Who waits for a flush: one thread makes it for all, for many others are waited for by the same threads.
#[derive(Default)]
struct Waiting {
    tickets: Vec<Ticket>,
    /// Somebody sees to them.
    served: bool,
}

/// Blocks that were found not to be what was written, and where they lay; none that is written again.
type Rotten = BTreeMap<BlockNo, (SlotNo, ContentSum)>;

/// Where overlays are kept.
#[derive(Clone)]
pub(crate) struct OverlayDir {
    path: PathBuf,
    room: Arc<Room>,
}

impl OverlayDir {
    pub(crate) const fn new(path: PathBuf, room: Arc<Room>) -> Self {
        Self { path, room }
    }

    /// What all of them share.
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    pub(crate) fn of(&self, image: u64) -> PathBuf {
        self.path.join(image.to_string())
    }

    /// Makes an empty overlay, durably.
    pub(crate) fn create(&self, image: u64, quota: u64) -> io::Result<()> {
        self.make(image, quota).map_err(|e| told("cannot make ", &self.of(image), &e))
    }

    fn make(&self, image: u64, quota: u64) -> io::Result<()> {
        let dir = self.of(image);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        ensure_dir(&dir)?;
        small_file::write_atomic(&dir.join(DATA), &[])?;
        let data = OpenOptions::new().write(true).open(dir.join(DATA))?;
        let slack = (quota / 4).clamp(*SLACK.start(), *SLACK.end());
        data.set_len((quota / BLOCK_SIZE * BLOCK_SIZE).saturating_add(slack.next_multiple_of(BLOCK_SIZE)))?;
        // One that is shorter than what it is said to hold has been cut off.
        SegmentFile::open(&dir.join(DATA))?.sync()?;
        OverlayLog::create(&dir)
    }

    /// Is there one of this image?
    pub(crate) fn has(&self, image: u64) -> bool {
        self.of(image).exists()
    }

    /// Makes an overlay that holds what `from` holds now, durably.
    ///
    /// # Errors
    /// When it does not fit into `quota` or on the disk, or something of it has rotted.
    pub(crate) fn fork(&self, from: &OverlayDevice, image: u64, quota: u64) -> io::Result<()> {
        let used = from.used();
        if used > quota {
            let text = format!(
                "{used} bytes are written on the image, more than a quota of {quota}: give a larger one"
            );
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        let mut promised = self.room.promise(image, used)?;
        self.create(image, quota)?;
        let copied = from.layers.copy_into(&self.of(image), image, &mut promised);
        copied.map_err(|e| told("cannot copy what is written into ", &self.of(image), &e))
    }

    /// Throws an overlay away.
    pub(crate) fn remove(&self, image: u64) -> io::Result<()> {
        self.room.forget(image);
        match fs::remove_dir_all(self.of(image)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// The overlays there are.
    pub(crate) fn list(&self) -> io::Result<Vec<u64>> {
        ensure_dir(&self.path)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            found.extend(entry?.file_name().to_str().and_then(|n| n.parse::<u64>().ok()));
        }
        Ok(found)
    }

    /// Opens an overlay over its image; without a quota it takes no writes.
    pub(crate) fn open(
        &self,
        image: u64,
        quota: Option<u64>,
        below: Arc<Image>,
        workers: impl Into<Workers>,
    ) -> io::Result<OverlayDevice> {
        self.open_there(image, quota, below, workers.into()).map_err(|e| told("", &self.of(image), &e))
    }

    fn open_there(
        &self,
        image: u64,
        quota: Option<u64>,
        below: Arc<Image>,
        workers: Workers,
    ) -> io::Result<OverlayDevice> {
        let (dir, read_only, quota) = (self.of(image), quota.is_none(), quota.unwrap_or(0));
        let (mut log, mut changes) = OverlayLog::open(&dir, image)?;
        let data = open_data(&dir.join(DATA))?;
        recover(&dir, image, &data, &mut log, &mut changes)?;
        let recent = Mutex::new(RecentFiles::begin(&dir, image, log.place())?);
        let slack = data.geometry().size.saturating_sub(quota) / 2;
        let overlay = RwLock::new(Overlay::restore(quota, changes));
        let (room, log) = (Arc::clone(&self.room), Mutex::new(log));
        let (lending, waiting, rotten) = (RwLock::default(), Mutex::default(), Mutex::default());
        let layers =
            Layers { image, room, below, overlay, lending, data, slack, log, recent, waiting, rotten };
        Ok(OverlayDevice { layers: Arc::new(layers), workers, read_only })
    }
}

impl OverlayDevice {
    /// Bytes of changed blocks; what several share counts once.
    pub(crate) fn used(&self) -> u64 {
        self.layers.read_lock().used()
    }

    /// Bytes that are put onto a flat copy of what is below.
    pub(crate) fn laid_out(&self) -> u64 {
        self.layers.read_lock().laid_out()
    }

    /// Blocks of what is written here that were found to have rotted and that were not written again since: the first, and how many.
    pub(crate) fn rotten(&self) -> Option<(BlockNo, usize)> {
        let overlay = self.layers.read_lock();
        let mut rotten = self.layers.rotten_lock();
        rotten.retain(|block, (slot, sum)| overlay.content(*block) == Content::Slot(*slot, *sum));
        rotten.first_key_value().map(|(first, _)| (*first, rotten.len()))
    }

    /// Makes durable what was written.
    pub(crate) fn flush(&self) -> Result<(), DeviceError> {
        self.layers.flush()
    }

    /// Puts what is written here onto `disk`, as of now, durably. `going` is told how many bytes of it are done, and ends it by
    /// false: then it is false, and `disk` has a part.
    ///
    /// # Errors
    /// When something of it has rotted, or the disk does not take it.
    pub(crate) fn fold_onto(
        &self,
        disk: &FileDevice,
        going: &mut dyn FnMut(u64) -> bool,
    ) -> io::Result<bool> {
        self.layers.fold_onto(disk, going)
    }

    /// Whoever wants to flush, copy or fold it waits until what is returned goes.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Drop {
        self.layers.log_lock()
    }

    /// Does all of these, or says that they are better done one by one.
    pub(super) fn write_together(&self, writes: &[(Extent, Bytes)]) -> bool {
        !self.layers.is_slack() && self.layers.write_together(writes).is_ok()
    }

    /// Does `op` on this thread if nothing in it waits for the disk; else gives it back.
    fn at_once(&self, op: Op) -> Result<Answered, Op> {
        match &op {
            Op::Read { extent } => match self.layers.read(*extent, ReadMode::Cached) {
                Ok(None) => Err(op),
                Ok(Some(data)) => Ok(Ok(data)),
                Err(e) => Ok(Err(e)),
            },
            Op::Write { offset, data, fua: false } if data.len() < LARGE && !self.layers.is_slack() => {
                match self.layers.write(*offset, data, ReadMode::Cached) {
                    Ok(false) => Err(op),
                    // A flush makes some.
                    Err(DeviceError::NoSpace(_)) if self.layers.read_lock().replaced() > 0 => Err(op),
                    done => Ok(done.map(|_| Bytes::new().into())),
                }
            }
            Op::Cache { .. } => Ok(Ok(Bytes::new().into())),
            _ => Err(op),
        }
    }
}

impl OverlayDevice {
    /// Does `op` where it may take the time that it needs.
    fn run_elsewhere(&self, op: Op, ticket: Ticket) {
        // What may take long is no worker's of those that others wait for.
        let is_long = match &op {
            Op::Status { .. } | Op::Zero { may_trim: false, .. } => true,
            Op::Copy { from, .. } => from.length() > SHARED_AT_ONCE,
            _ => false,
        };
        if ticket.is_alone() && !is_long && !self.layers.is_flushed() {
            return ticket.answer(self.layers.run_and_flush(&op));
        }
        let layers = Arc::clone(&self.layers);
        let pool = if is_long { &self.workers.maps } else { &self.workers.reads };
        pool.submit(move || layers.serve(&op, ticket));
    }
}

impl BlockDevice for OverlayDevice {
    fn geometry(&self) -> Geometry {
        Geometry { size: self.layers.below.size(), read_only: self.read_only }
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        if let Err(e) = self.geometry().admit(&op) {
            return ticket.complete(Err(e));
        }
        let ahead = match &op {
            Op::Read { extent } => self.layers.below.ahead_of(*extent),
            Op::Cache { extent } => self.layers.below.wanted_soon(*extent),
            _ => None,
        };
        match self.at_once(op) {
            Ok(answered) => ticket.answer(answered),
            Err(op) => self.run_elsewhere(op, ticket),
        }
        // Where something was written, what is below is not asked for.
        if let Some(ahead) = ahead.filter(|ahead| self.layers.read_lock().is_untouched(*ahead)) {
            let layers = Arc::clone(&self.layers);
            self.workers.reads.submit_if_idle(move || layers.below.fetch(ahead));
        }
    }

    fn shown(&self, extent: Extent) -> Option<Shown> {
        self.layers.shown(extent)
    }

    fn show(&self, base: Base, from: Extent, to: u64, ticket: Ticket) {
        if let Err(e) = self.geometry().admit(&Op::Copy { from, to }) {
            return ticket.complete(Err(e));
        }
        let layers = Arc::clone(&self.layers);
        self.workers.reads.submit(move || layers.serve_base(base, from, to, ticket));
    }

    fn submit_all(&self, batch: &mut Vec<(Op, Ticket)>) {
        overlay_together::submit_all(self, batch);
    }

    fn has_bookmark(&self, name: &Name) -> bool {
        self.layers.below.has_bookmark(name)
    }

    fn newest_bookmarks(&self, most: usize) -> Vec<Name> {
        self.layers.below.newest_bookmarks(most)
    }
}

impl Layers {
    /// Does `op`, however long it takes, and answers it.
    fn serve(&self, op: &Op, ticket: Ticket) {
        match self.run(op) {
            Ok((_, true)) => self.flush_for(ticket),
            done => ticket.answer(done.map(|(answer, _)| answer)),
        }
    }

    /// Does `op`, and the flush that has to follow.
    fn run_and_flush(&self, op: &Op) -> Answered {
        let (answer, flushes) = self.run(op)?;
        if flushes {
            self.flush()?;
        }
        Ok(answer)
    }

    /// Does anybody flush, copy or fold it? That may take minutes.
    fn is_flushed(&self) -> bool {
        matches!(self.log.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Answers `ticket` with a flush that begins after this was called. On this thread, unless one sees to another's already.
    pub(super) fn flush_for(&self, ticket: Ticket) {
        let mut waiting = self.waiting();
        waiting.tickets.push(ticket);
        if std::mem::replace(&mut waiting.served, true) {
            return;
        }
        while !waiting.tickets.is_empty() {
            let tickets = std::mem::take(&mut waiting.tickets);
            drop(waiting);
            let done = self.flush();
            tickets.into_iter().for_each(|ticket| ticket.complete(done.clone().map(|()| Bytes::new())));
            waiting = self.waiting();
        }
        waiting.served = false;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `op`; what it gave, and whether a flush has to follow before it is answered.
    fn run(&self, op: &Op) -> Result<(Answer, bool), DeviceError> {
        let fua = match op {
            Op::Read { extent } => return Ok((self.read_blocking(*extent)?, false)),
            Op::Status { extent, maps, most } => return Ok((self.status(*extent, maps, *most)?, false)),
            Op::Cache { .. } => false,
            Op::Flush => true,
            Op::Copy { from, to } => {
                self.copy(*from, *to)?;
                false
            }
            Op::Write { offset, data, fua } => {
                self.write_with_room(*offset, data)?;
                *fua
            }
            Op::Zero { may_trim: false, fast: true, .. } => {
                let text = "zeroes that keep room for themselves are written one by one";
                return Err(DeviceError::Unsupported(text.to_owned()));
            }
            Op::Zero { extent, fua, may_trim: false, .. } => {
                self.provision(*extent)?;
                *fua
            }
            Op::Zero { extent, fua, .. } | Op::Trim { extent, fua } => {
                self.zero(*extent)?;
                *fua
            }
        };
        Ok((Bytes::new().into(), fua || self.is_slack()))
    }

    /// Writes `data`, with the room that a flush makes if need be.
    pub(super) fn write_with_room(&self, offset: u64, data: &Bytes) -> Result<(), DeviceError> {
        let done = self.write(offset, data, ReadMode::Blocking);
        if matches!(done, Err(DeviceError::NoSpace(_))) && self.read_lock().replaced() > 0 {
            self.flush()?;
            return self.write(offset, data, ReadMode::Blocking).map(drop);
        }
        done.map(drop)
    }

    pub(super) fn image(&self) -> u64 {
        self.image
    }

    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    pub(super) fn data(&self) -> &FileDevice {
        &self.data
    }

    pub(super) fn below(&self) -> &Image {
        &self.below
    }

    /// What is written within `extent`, merged, and how much of it this is about: so many runs at most.
    pub(super) fn written(&self, extent: Extent, most: usize) -> (Vec<(Extent, Written)>, Extent) {
        let mut runs: Vec<(Extent, Written)> = Vec::new();
        let overlay = self.read_lock();
        for (n, (run, what)) in overlay.written(extent).enumerate() {
            let is_full = runs.len() > most || n >= MOST_WRITTEN;
            match runs.last_mut() {
                Some((last, of)) if goes_on(*last, *of, run, what) && n < MOST_WRITTEN => {
                    *last = Extent::between(last.offset(), run.end());
                }
                _ if is_full => {
                    return (runs, Extent::between(extent.offset(), run.offset()));
                }
                _ => runs.push((run, what)),
            }
        }
        (runs, extent)
    }

    /// Has so much been replaced or said since the last flush that the next write has to make one?
    pub(super) fn is_slack(&self) -> bool {
        self.read_lock().replaced() >= self.slack || self.recent_lock().is_full()
    }

    pub(super) fn read_blocking(&self, extent: Extent) -> Answered {
        self.read(extent, ReadMode::Blocking)?.ok_or_else(|| unread(extent))
    }

    fn read(&self, extent: Extent, mode: ReadMode) -> Result<Option<Answer>, DeviceError> {
        if self.read_lock().is_untouched(extent) {
            return self.below.answer(extent, mode);
        }
        let blocks = extent.to_blocks();
        let mut out = BytesMut::zeroed(index(blocks.length()));
        let (untouched, mut zeroes) = self.read_changed(blocks, &mut out)?;
        for part in untouched {
            let Some(answer) = self.below.answer(part.source(), mode)? else { return Ok(None) };
            put_answer(&mut out, part.extent, blocks, answer, &mut zeroes);
        }
        let from = index(extent.offset() - blocks.offset());
        let data = out.freeze().slice(from..from + index(extent.length()));
        let holes = zeroes.within(extent).filter(|hole| hole.length() >= HOLE || *hole == extent);
        let at = |offset| index(offset - extent.offset());
        Ok(Some(Answer::without_holes(data, holes.map(|hole| at(hole.offset())..at(hole.end())))))
    }

    /// Fills in what the overlay has of `blocks` and returns the parts it has not, and what it knows to be zeroes.
    fn read_changed(
        &self,
        blocks: Extent,
        out: &mut [u8],
    ) -> Result<(Vec<FromImage>, ExtentSet), DeviceError> {
        let overlay = self.read_lock();
        let (mut untouched, mut zeroes): (Vec<FromImage>, _) = (Vec::new(), ExtentSet::new());
        for block in blocks.blocks() {
            let extent = extent_of(block);
            match (overlay.content(block), untouched.last_mut()) {
                (Content::Zero, _) => zeroes.insert(extent),
                (Content::Slot(slot, sum), _) => {
                    let data = self.read_slot(block, slot, sum)?;
                    put(out, extent.offset() - blocks.offset(), &data);
                }
                (Content::Image(at), Some(last))
                    if last.extent.end() == extent.offset() && last.source().end() == at.offset() =>
                {
                    last.extent = Extent::between(last.extent.offset(), extent.end());
                }
                (Content::Image(at), _) => untouched.push(FromImage { extent, at: at.offset() }),
            }
        }
        Ok((untouched, zeroes))
    }

    pub(super) fn read_slot(&self, block: BlockNo, slot: SlotNo, sum: ContentSum) -> Outcome {
        let extent = Extent::between(slot.offset(), slot.offset() + BLOCK_SIZE);
        let data = run(&*self.data, Op::Read { extent })?;
        if sum.is_of(&data) {
            return Ok(data);
        }
        self.note_rotten(block, slot, sum);
        let detail = "what was written here on the image has rotted in its overlay: write it again, or remove \
                      the image and create it anew";
        Err(DeviceError::Damaged { extent: extent_of(block), detail: detail.to_owned() })
    }

    fn note_rotten(&self, block: BlockNo, slot: SlotNo, sum: ContentSum) {
        let (image, offset) = (self.image, block.offset());
        let mut rotten = self.rotten_lock();
        if rotten.len() < MOST_ROTTEN && rotten.insert(block, (slot, sum)) != Some((slot, sum)) {
            tracing::warn!(
                image,
                offset,
                "what was written on a test image has rotted: the block is refused"
            );
        }
    }

    /// Whole blocks become zeroes without taking room; what is cut at the edges is written.
    fn zero(&self, extent: Extent) -> Result<(), DeviceError> {
        let mut whole = extent.offset().next_multiple_of(BLOCK_SIZE)..extent.end();
        if extent.end() != self.below.size() {
            whole.end -= whole.end % BLOCK_SIZE;
        }
        if whole.start >= whole.end {
            return self.write_zeroes(extent);
        }
        self.write_zeroes(Extent::between(extent.offset(), whole.start))?;
        self.zero_blocks(Extent::between(whole.start, whole.end).to_blocks())?;
        self.write_zeroes(Extent::between(whole.end, extent.end()))
    }

    fn zero_blocks(&self, blocks: Extent) -> Result<(), DeviceError> {
        let mut overlay = self.write_lock();
        self.say(&[Change::Zero(blocks)])?;
        overlay.zero(blocks);
        Ok(())
    }

    /// Zeroes that have room of their own, so that no later write there finds none; all of it is there, or the first of it is
    /// refused.
    fn provision(&self, extent: Extent) -> Result<(), DeviceError> {
        self.read_lock().admit(extent).map_err(|e| DeviceError::NoSpace(e.to_string()))?;
        let zeroes = Bytes::from(vec![0; index(extent.length().min(BATCH))]);
        for part in extent.split_at_multiples(BATCH) {
            let content = zeroes.slice(..index(part.length()));
            self.write_kept(part.offset(), &content, ReadMode::Blocking, true)?;
            if self.is_slack() {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn write_zeroes(&self, extent: Extent) -> Result<(), DeviceError> {
        if !extent.is_empty() {
            let zeroes = Bytes::from(vec![0; index(extent.length())]);
            self.write(extent.offset(), &zeroes, ReadMode::Blocking)?;
        }
        Ok(())
    }

    /// For whoever finds the overlay after the gateway was killed.
    pub(super) fn say(&self, changes: &[Change]) -> Result<(), DeviceError> {
        self.recent_lock().say(changes).map_err(|e| unrecorded(&e))
    }

    /// What was said last could not be done. Where that cannot be said either, the blocks are refused after a kill.
    pub(super) fn take_back(&self) {
        if let Err(e) = self.recent_lock().take_back() {
            tracing::warn!(image = self.image, "that a write failed cannot be noted: {e}");
        }
    }

    /// Content first, mapping after.
    fn flush(&self) -> Result<(), DeviceError> {
        let mut log = self.log_lock();
        let changes = self.take_changes(&mut log)?;
        if changes.is_empty() {
            return Ok(());
        }
        let done = self.record(&mut log, &changes);
        match done {
            Ok(()) => {
                self.write_lock().recorded(changes);
                self.recent_lock().recorded();
            }
            Err(_) => self.write_lock().failed(changes),
        }
        done
    }

    /// What a flush has to record. What is said from now on is not about it.
    fn take_changes(&self, log: &mut OverlayLog) -> Result<Changes, DeviceError> {
        let mut overlay = self.write_lock();
        let changes = overlay.take_changes();
        if changes.is_empty() {
            return Ok(changes);
        }
        let turned = self.recent_lock().turn(log.place_with(changes.list()));
        match turned {
            Ok(()) => Ok(changes),
            Err(e) => {
                overlay.failed(changes);
                Err(unrecorded(&e))
            }
        }
    }

    fn record(&self, log: &mut OverlayLog, changes: &Changes) -> Result<(), DeviceError> {
        let mapping = if log.fits(changes.list()) { None } else { Some(self.write_lock().seal_all()) };
        run(&*self.data, Op::Flush)?;
        let written = match mapping {
            None => log.append(changes.list()),
            Some(mapping) => log.replace(&mapping),
        };
        written.map_err(|e| unrecorded(&e))
    }

    /// For as long as it is held no slots are lent, and no blocks are made to share theirs by others.
    pub(super) fn nothing_lent(&self) -> RwLockWriteGuard<'_, ()> {
        self.lending.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// For whoever has slots lent.
    pub(super) fn lending(&self) -> RwLockReadGuard<'_, ()> {
        self.lending.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read_lock(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_lock(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn log_lock(&self) -> MutexGuard<'_, OverlayLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rotten_lock(&self) -> MutexGuard<'_, Rotten> {
        self.rotten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent_lock(&self) -> MutexGuard<'_, RecentFiles> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn unrecorded(error: &io::Error) -> DeviceError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DeviceError::NoSpace(format!(
            "what is written on the image cannot be recorded: {error}; make room on that file system, or remove images"
        )),
        _ => DeviceError::Io(format!(
            "what is written on the image cannot be recorded: {error}; what was flushed stays: see to that disk, then write it again"
        )),
    }
}

/// Which overlay it is, and what to do where that is not said yet.
fn told(what: &str, dir: &Path, error: &io::Error) -> io::Error {
    let way = match error.kind() {
        io::ErrorKind::InvalidData => "",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room on that file system, or remove images, then try again"
        }
        _ => "; see to that, then try again: what is written on images stays",
    };
    io::Error::new(error.kind(), format!("{what}the overlay in {}: {error}{way}", dir.display()))
}

/// Is what stands in `run` one stretch with what stands before it? Of what the image below has elsewhere only if that goes on there
/// as well: two neighbours may show the same place.
fn goes_on(last: Extent, of: Written, run: Extent, what: Written) -> bool {
    let is_alike = match (of, what) {
        (Written::Image(at), Written::Image(next)) => at.checked_add(last.length()) == Some(next),
        _ => of == what,
    };
    is_alike && last.end() == run.offset()
}

pub(super) fn extent_of(block: BlockNo) -> Extent {
    Extent::between(block.offset(), block.offset().saturating_add(BLOCK_SIZE))
}

/// Copies what the image below has at `part` into `out`, the content of `blocks`; `zeroes` gathers what is none.
fn put_answer(out: &mut [u8], part: Extent, blocks: Extent, answer: Answer, zeroes: &mut ExtentSet) {
    let mut at = part.offset();
    let parts = match answer {
        Answer::Data(data) => vec![Part::Data(data)],
        Answer::Zeroes(length) => vec![Part::Zeroes(length)],
        Answer::Parts(parts) => parts,
        Answer::Status(_) => Vec::new(),
    };
    for piece in parts {
        let end = at + piece.length();
        match piece {
            Part::Data(data) => put(out, at - blocks.offset(), &data),
            Part::Zeroes(_) => zeroes.insert(Extent::between(at, end)),
        }
        at = end;
    }
}

/// Copies `data` to `at` in `out`, as far as it fits.
pub(super) fn put(out: &mut [u8], at: u64, data: &[u8]) {
    let to = out.get_mut(index(at)..).unwrap_or_default();
    for (to, from) in to.iter_mut().zip(data) {
        *to = *from;
    }
}
