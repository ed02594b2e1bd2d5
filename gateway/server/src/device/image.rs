//! A volume at one point, read from the store.
//!
//! What the page cache and the map cache hold is answered on the thread that asks; only a miss costs a hop to
//! the bounded pool. An image that has been materialized is read from its flat copy; what that does not have, from the store.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gateway_image::{Piece, RegionMap, Source, plan_read, regions};
use gateway_journal::{REGION_BYTES, RegionNo};
use gateway_store::{OpenPoint, ReadError, ReadMode, Store, StoreError, UnitRead};
use tap_block::units::index;
use tap_block::{
    Answer, Answered, BLOCK_SIZE, Base, BlockDevice, DeviceError, Extent, Geometry, Lsn, Name, Op, Shown,
    Ticket, VolumeId,
};

use super::ahead::Ahead;
use super::buffers::Buffer;
use super::flat::{Flat, FlatRead, FlatSlot};
use super::status::ChangedSince;
use super::workers::Workers;

/// A volume at one point. Its content never changes.
pub(crate) struct Image {
    store: Arc<Store>,
    volume: VolumeId,
    point: Lsn,
    size: u64,
    flat: Arc<FlatSlot>,
    ahead: Mutex<Ahead>,
    pub(super) changed: ChangedSince,
    /// Settling leaves the point alone as long as this is held.
    _held: OpenPoint,
}

/// So often a read looks again when what it was about to read was moved meanwhile.
const LOOKS: usize = 4;

impl Image {
    /// The volume at `point`, which stays readable as long as this lives.
    ///
    /// # Errors
    /// When the point is not kept any more.
    pub(crate) fn open(
        store: Arc<Store>,
        volume: VolumeId,
        point: Lsn,
        size: u64,
    ) -> Result<Self, StoreError> {
        let held = store.open_point(volume, point)?;
        let (flat, ahead, changed) = (Arc::default(), Mutex::default(), ChangedSince::default());
        Ok(Self { store, volume, point, size, flat, ahead, changed, _held: held })
    }

    /// The same, with a place for a flat copy.
    pub(crate) fn with_flat(self, flat: Arc<FlatSlot>) -> Self {
        Self { flat, ..self }
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) const fn volume(&self) -> VolumeId {
        self.volume
    }

    pub(super) const fn point(&self) -> Lsn {
        self.point
    }

    /// What it is to whatever stands above it. The store is one as long as the image has it, and of a volume at a point there is but
    /// one content in it.
    pub(super) fn base(&self) -> Base {
        Base { keeper: Arc::as_ptr(&self.store).addr(), of: self.volume.get(), point: self.point.get() }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Stretches in order, whole regions but for its end, and whether anything of each may be other than zero.
    pub(crate) fn held(&self) -> Result<Vec<(Extent, bool)>, StoreError> {
        let all = Extent::between(0, self.size);
        let Some(held) = self.store.held_regions(self.volume)? else { return Ok(vec![(all, true)]) };
        let (mut parts, mut done) = (Vec::new(), 0);
        // The first region is always looked at: it tells whether the point can be read at all.
        for region in held.into_iter().chain([RegionNo::new(0)]).collect::<BTreeSet<_>>() {
            let from = region.offset().min(self.size);
            parts.push((Extent::between(done, from), false));
            done = region.offset().saturating_add(REGION_BYTES).min(self.size);
            parts.push((Extent::between(from, done), true));
        }
        parts.push((Extent::between(done, self.size), false));
        parts.retain(|(part, _)| part.length() > 0);
        Ok(parts)
    }

    /// Does a flat copy have all of it?
    pub(super) fn has_whole_copy(&self) -> bool {
        self.flat.get().is_some_and(|flat| flat.is_whole())
    }

    /// What somebody who reads `extent` will ask for next, if it is to be fetched now. Flat copies are left to the kernel.
    pub(super) fn ahead_of(&self, extent: Extent) -> Option<Extent> {
        // Whoever is in the way is noting a read just now: one of two is enough.
        let ahead = self.ahead.try_lock().ok()?.note(extent, self.size)?;
        self.flat.get().is_none().then_some(ahead)
    }

    /// What of `extent`, which somebody says will be read soon, is to be fetched now. Flat copies are left to the kernel.
    pub(super) fn wanted_soon(&self, extent: Extent) -> Option<Extent> {
        let first =
            Extent::between(extent.offset(), extent.end().min(extent.offset().saturating_add(FETCHED)));
        self.flat.get().is_none().then_some(first)
    }

    /// Brings `extent` into the page cache, without waiting for the disk. What fails is met when it is read.
    pub(super) fn fetch(&self, extent: Extent) {
        let Ok(Some(pieces)) = self.plan(extent.to_blocks(), ReadMode::Blocking) else { return };
        let units = pieces.iter().filter_map(|piece| match piece.source {
            Source::Unit(_, at) => Some(at),
            Source::Zero => None,
        });
        self.store.will_need(units.collect());
    }

    /// The content of `extent`, which is within the image: long zeroes are left out where the journal knows of them.
    /// `None`: not all of it can be had without waiting.
    pub(super) fn answer(&self, extent: Extent, mode: ReadMode) -> Result<Option<Answer>, DeviceError> {
        if self.flat.get().is_none() {
            return self.answer_from_journal(extent, mode);
        }
        // What the copy does not say its map does; should that be lost, the copy is read as it is.
        let is_long = extent.length() >= HOLE_IN_COPY;
        let pieces = if is_long { self.plan(extent, mode).ok().flatten() } else { None }.unwrap_or_default();
        if !pieces.is_empty() && all_zeroes(&pieces) {
            return Ok(Some(Answer::Zeroes(extent.length())));
        }
        let read = self.read(extent, mode)?;
        Ok(read.map(|data| Answer::without_holes(data, holes(&pieces, extent))))
    }

    fn answer_from_journal(&self, extent: Extent, mode: ReadMode) -> Result<Option<Answer>, DeviceError> {
        let blocks = extent.to_blocks();
        self.look(blocks, mode, |pieces| {
            if all_zeroes(pieces) {
                return Ok(Some(Answer::Zeroes(extent.length())));
            }
            let mut out = Buffer::take(index(blocks.length()));
            if !self.fill(pieces, blocks, mode, out.bytes())? {
                return Ok(None);
            }
            let from = index(extent.offset() - blocks.offset());
            let data = Bytes::from_owner(out).slice(from..from + index(extent.length()));
            Ok(Some(Answer::without_holes(data, holes(pieces, extent))))
        })
    }

    /// The bytes of `extent`; those past the end are zeroes. `None`: not all of it can be had without waiting.
    pub(crate) fn read(&self, extent: Extent, mode: ReadMode) -> Result<Option<Bytes>, DeviceError> {
        let blocks = extent.to_blocks();
        let mut out = Buffer::take(index(blocks.length()));
        if !self.read_blocks(blocks, mode, out.bytes())? {
            return Ok(None);
        }
        let from = index(extent.offset() - blocks.offset());
        Ok(Some(Bytes::from_owner(out).slice(from..from + index(extent.length()))))
    }

    fn read_blocks(&self, blocks: Extent, mode: ReadMode, out: &mut [u8]) -> Result<bool, DeviceError> {
        let Some(flat) = self.flat.get() else { return self.read_journal(blocks, mode, out) };
        match flat.read(blocks, mode, out) {
            Ok(FlatRead::Done) => Ok(true),
            Ok(FlatRead::NotCached) => Ok(false),
            Ok(FlatRead::Elsewhere) => self.read_journal(blocks, mode, out),
            // Mending is no work for a thread that must not wait.
            Ok(FlatRead::Rotten) | Err(_) if mode == ReadMode::Cached => Ok(false),
            Ok(FlatRead::Rotten) => self.mend(&flat, blocks, "it is not what was copied", out),
            Err(e) => self.mend(&flat, blocks, &e.to_string(), out),
        }
    }

    /// Reads what the flat copy has lost from the journal, and puts it back.
    fn mend(&self, flat: &Flat, blocks: Extent, why: &str, out: &mut [u8]) -> Result<bool, DeviceError> {
        let read = self.read_journal(blocks, ReadMode::Blocking, out)?;
        match flat.heal(blocks, out) {
            Ok(()) => tracing::warn!("{blocks} of a flat copy were read and written anew: {why}"),
            Err(e) => tracing::warn!("{blocks} of a flat copy are lost ({why}) and stay so: {e}"),
        }
        Ok(read)
    }

    /// The content of whole `blocks`, however long it takes, where somebody may have written on the flat copy: what is not sound
    /// of that is read from the store, and left as it is.
    pub(super) fn original(&self, blocks: Extent) -> Result<Answer, DeviceError> {
        let Some(flat) = self.flat.get() else { return self.original_from_journal(blocks) };
        // Should the map be lost, the copy is read as it is.
        let pieces = self.plan(blocks, ReadMode::Blocking).ok().flatten().unwrap_or_default();
        if !pieces.is_empty() && all_zeroes(&pieces) {
            return Ok(Answer::Zeroes(blocks.length()));
        }
        let mut out = Buffer::take(index(blocks.length()));
        match flat.read(blocks, ReadMode::Blocking, out.bytes()) {
            Ok(FlatRead::Done) => Ok(Answer::Data(Bytes::from_owner(out))),
            _ => self.original_from_journal(blocks),
        }
    }

    fn original_from_journal(&self, blocks: Extent) -> Result<Answer, DeviceError> {
        self.answer_from_journal(blocks, ReadMode::Blocking)?.ok_or_else(|| unread(blocks))
    }

    /// Reads whole `blocks` from the store, past a flat copy. `false`: it would have to wait.
    pub(crate) fn read_journal(
        &self,
        blocks: Extent,
        mode: ReadMode,
        out: &mut [u8],
    ) -> Result<bool, DeviceError> {
        let read = |pieces: &[Piece]| Ok(self.fill(pieces, blocks, mode, out)?.then_some(()));
        Ok(self.look(blocks, mode, read)?.is_some())
    }

    /// Reads by the plan for `blocks`, and by another one when what it names has gone. `None`: it would have to wait.
    fn look<T>(
        &self,
        blocks: Extent,
        mode: ReadMode,
        mut read: impl FnMut(&[Piece]) -> Result<Option<T>, ReadError>,
    ) -> Result<Option<T>, DeviceError> {
        for look in 1.. {
            let Some(pieces) = self.plan(blocks, mode)? else { return Ok(None) };
            match read(&pieces) {
                Ok(read) => return Ok(read),
                // A settle moved it: the next map says where to.
                Err(ReadError::Gone(_)) if look < LOOKS => {}
                Err(e) => return Err(damaged(blocks, &e)),
            }
        }
        Ok(None)
    }

    /// What `extent` is made of. `None`: a map would have to be gathered first.
    pub(crate) fn plan(&self, extent: Extent, mode: ReadMode) -> Result<Option<Vec<Piece>>, DeviceError> {
        let mut maps: Vec<(RegionNo, Arc<RegionMap>)> = Vec::new();
        for region in regions(extent) {
            match self.map(region, mode).map_err(|e| unreadable(extent, &e))? {
                Some(map) => maps.push((region, map)),
                None => return Ok(None),
            }
        }
        let known = |no| maps.iter().find(|(r, _)| *r == no).map(|(_, map)| &**map);
        Ok(Some(plan_read(extent, self.size, known)))
    }

    fn map(&self, region: RegionNo, mode: ReadMode) -> Result<Option<Arc<RegionMap>>, StoreError> {
        match mode {
            ReadMode::Cached => Ok(self.store.region_map_cached(self.volume, region, self.point)),
            ReadMode::Blocking => self.store.region_map(self.volume, region, self.point).map(Some),
        }
    }

    /// Reads whole-block `pieces` of `blocks` into their places: all of `out` is written.
    fn fill(
        &self,
        pieces: &[Piece],
        blocks: Extent,
        mode: ReadMode,
        out: &mut [u8],
    ) -> Result<bool, ReadError> {
        let mut units = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let into = index(piece.extent.offset() - blocks.offset());
            match piece.source {
                Source::Unit(block, at) => units.push(UnitRead { block, at, into }),
                Source::Zero => {
                    if let Some(zeroes) = out.get_mut(into..into + index(piece.extent.length())) {
                        zeroes.fill(0);
                    }
                }
            }
        }
        if units.is_empty() {
            return Ok(true);
        }
        let read = self.store.read_units(&units, mode, out);
        read.inspect_err(|why| self.store.met_damage(self.volume, &units, why))
    }
}

fn all_zeroes(pieces: &[Piece]) -> bool {
    pieces.iter().all(|piece| piece.source == Source::Zero)
}

/// The long zeroes of a plan, as places in the content of `extent`.
fn holes(pieces: &[Piece], extent: Extent) -> impl Iterator<Item = std::ops::Range<usize>> {
    let zeroes = pieces.iter().filter(|piece| piece.source == Source::Zero);
    let within = zeroes.filter_map(move |piece| piece.extent.intersection(extent));
    let long = within.filter(|hole| hole.length() >= HOLE);
    long.map(move |hole| index(hole.offset() - extent.offset())..index(hole.end() - extent.offset()))
}

pub(super) fn unreadable(extent: Extent, error: &StoreError) -> DeviceError {
    match error {
        StoreError::Damaged(_) | StoreError::Thinned { .. } => {
            DeviceError::Damaged { extent, detail: error.to_string() }
        }
        other => DeviceError::Io(other.to_string()),
    }
}

fn damaged(blocks: Extent, error: &ReadError) -> DeviceError {
    match error {
        ReadError::Damaged { block, .. } => {
            let extent = Extent::between(block.offset(), block.offset() + BLOCK_SIZE);
            DeviceError::Damaged { extent, detail: error.to_string() }
        }
        ReadError::Gone(_) => DeviceError::Damaged { extent: blocks, detail: error.to_string() },
        ReadError::Io(_) => DeviceError::Io(error.to_string()),
    }
}

/// Shorter zeroes within a read are sent as they are: a piece of its own would cost more.
pub(super) const HOLE: u64 = 16 << 10;
/// A read of a flat copy that is at least so long is worth a look at the map.
const HOLE_IN_COPY: u64 = 64 << 10;
/// Fetched at most when a client says that it will read.
const FETCHED: u64 = 32 << 20;

/// From here on a read is worth a hop to another thread even if all of it is at hand: checking and decoding a megabyte takes
/// longer than sending it, so the connection's own thread would be what limits it.
const LARGE: u64 = 256 << 10;
/// Small reads that came together to one worker: woken for each of them it would spend more on waking than on reading, and all of
/// them to one would wait for the slowest.
const TOGETHER: usize = 4;

/// An [`Image`] as a read-only disk.
pub(crate) struct ImageDevice {
    image: Arc<Image>,
    workers: Workers,
}

impl ImageDevice {
    pub(crate) fn new(image: Arc<Image>, workers: impl Into<Workers>) -> Self {
        Self { image, workers: workers.into() }
    }

    fn read(&self, extent: Extent, ticket: Ticket) {
        if let Some(missed) = self.read_at_once(extent, ticket) {
            self.read_elsewhere(vec![missed]);
        }
        self.read_ahead_of(extent);
    }

    fn read_ahead_of(&self, extent: Extent) {
        if let Some(ahead) = self.image.ahead_of(extent) {
            let image = Arc::clone(&self.image);
            self.workers.reads.submit_if_idle(move || image.fetch(ahead));
        }
    }

    /// Answers what can be answered without waiting for the disk; else gives it back, and the disk has been asked.
    fn read_at_once(&self, extent: Extent, ticket: Ticket) -> Option<(Extent, Ticket)> {
        if extent.length() >= LARGE {
            return Some((extent, ticket));
        }
        match self.image.answer(extent, ReadMode::Cached) {
            Ok(Some(answer)) => ticket.answer(Ok(answer)),
            Ok(None) if ticket.is_alone() => ticket.answer(wait_for(&self.image, extent)),
            Ok(None) => return Some((extent, ticket)),
            Err(e) => ticket.complete(Err(e)),
        }
        None
    }

    /// One after the other, on another thread.
    fn read_elsewhere(&self, reads: Vec<(Extent, Ticket)>) {
        let image = Arc::clone(&self.image);
        let read_all = move || {
            reads.into_iter().for_each(|(extent, ticket)| ticket.answer(wait_for(&image, extent)));
        };
        self.workers.reads.submit(read_all);
    }

    /// Small reads that came together and that nobody has at hand. The disk is at all of them already, since it was asked for each
    /// in passing; a worker for each would cost a thread woken for each.
    fn read_together(&self, mut missed: Vec<(Extent, Ticket)>) {
        while !missed.is_empty() {
            let others = missed.split_off(missed.len().min(TOGETHER));
            self.read_elsewhere(std::mem::replace(&mut missed, others));
        }
    }

    fn fetch(&self, extent: Extent) {
        if let Some(soon) = self.image.wanted_soon(extent) {
            let image = Arc::clone(&self.image);
            self.workers.reads.submit_if_idle(move || image.fetch(soon));
        }
    }
}

/// The content of `extent`, however long it takes.
fn wait_for(image: &Image, extent: Extent) -> Answered {
    image.answer(extent, ReadMode::Blocking)?.ok_or_else(|| unread(extent))
}

/// Reads, however long it takes.
pub(crate) fn read_blocking(image: &Image, extent: Extent) -> Result<Bytes, DeviceError> {
    let data = image.read(extent, ReadMode::Blocking)?;
    data.ok_or_else(|| unread(extent))
}

pub(super) fn unread(extent: Extent) -> DeviceError {
    DeviceError::Io(format!("{extent} could not be read; try again"))
}

impl BlockDevice for ImageDevice {
    fn geometry(&self) -> Geometry {
        Geometry { size: self.image.size(), read_only: true }
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        match (self.geometry().admit(&op), op) {
            (Err(e), _) => ticket.complete(Err(e)),
            (Ok(()), Op::Read { extent }) => self.read(extent, ticket),
            (Ok(()), Op::Status { extent, maps, most }) => {
                let image = Arc::clone(&self.image);
                self.workers.maps.submit(move || ticket.answer(image.status(extent, &maps, most)));
            }
            (Ok(()), op) => {
                if let Op::Cache { extent } = op {
                    self.fetch(extent);
                }
                ticket.complete(Ok(Bytes::new()));
            }
        }
    }

    fn shown(&self, extent: Extent) -> Option<Shown> {
        Some(Shown { length: extent.length(), from: Some((self.image.base(), extent.offset())) })
    }

    fn submit_all(&self, batch: &mut Vec<(Op, Ticket)>) {
        let mut missed = Vec::new();
        for (op, ticket) in batch.drain(..) {
            match op {
                Op::Read { extent } if extent.length() < LARGE && self.geometry().admit(&op).is_ok() => {
                    missed.extend(self.read_at_once(extent, ticket));
                    self.read_ahead_of(extent);
                }
                op => self.submit(op, ticket),
            }
        }
        self.read_together(missed);
    }

    fn has_bookmark(&self, name: &Name) -> bool {
        self.image.has_bookmark(name)
    }

    fn newest_bookmarks(&self, most: usize) -> Vec<Name> {
        self.image.newest_bookmarks(most)
    }
}
