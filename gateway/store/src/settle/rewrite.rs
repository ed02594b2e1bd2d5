//! Writing what is left, region by region, into segments of their own.
//!
//! Units are read in the order in which they lie (neighbours in one go, each segment once per stripe), gathered in memory
//! for as many regions as a stripe holds, and written in the order of their blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind::UnexpectedEof;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use gateway_image::retention::needed;
use gateway_journal::pack::MEMBERS;
use gateway_journal::run::encode_run;
use gateway_journal::settled::{SETTLED_FRAME_BYTES, SettledLaid};
use gateway_journal::{
    Generation, Kept, KeptPoint, Location, Manifest, Pieces, Place, RegionNo, RegionPlace, RegionRange,
    SegmentId, SettledSegment, SettledWriter, Share, StoreId, Version,
};
use tap_block::stored::MAX_STORED;
use tap_block::units::{count, index};
use tap_block::{Lsn, VolumeId, WallTime};
use tap_disk::{FileNo, SegmentFile};

use super::cold::{Body, Judge, bring_together, first_group, places, repack};
use super::cursor::Regions;
use super::decide::room;
use super::plan::{End, Plan};
use super::trail::Window;
use crate::chunks::read_what_can_be;
use crate::config::Cold;
use crate::error::{Damage, StoreError};
use crate::index::{IndexStore, Row, Table, keys, remove_settle};
use crate::segments::Known;
use crate::store::Shared;
use crate::sync::lock;

/// Units this near to each other are read in one go.
const GAP: u32 = 64 << 10;
/// The most that is read in one go.
const LONGEST_READ: u32 = 4 << 20;
/// Bytes of units in a frame, about.
pub(super) const FRAME_BYTES: u32 = 1 << 20;
/// Bytes of a piece of a manifest, at most.
const PIECE_BYTES: usize = 1 << 20;
/// Versions in a frame.
const FRAME_VERSIONS: usize = 16 << 10;
/// So much is written between two syncs: a commit that waits for the disk meanwhile waits no longer than for that.
const SYNC_EACH: u64 = 2 << 20;
/// Rows brought into the index at once.
const ROWS_AT_ONCE: usize = 1024;
/// What a version takes beside its unit, about: in its frame's table, and its share of headers.
const VERSION_BYTES: u64 = 20;
/// While commits wait, a pause of this length is made after so many bytes read or written: a little more than 100 MB/s are
/// left to settling, so that it gets on under any load.
const YIELD: Duration = Duration::from_millis(8);
const YIELD_EACH: u64 = 1 << 20;

/// What was brought together.
pub(super) struct Merged {
    /// Versions there were.
    pub(super) seen: u64,
    /// The last region, when there are more behind it.
    pub(super) last: Option<RegionPlace>,
}

/// Brings the versions of the window and of the merged generations together, region by region, and hands on those that
/// are needed, until the plan's budget is used up.
pub(super) fn merge(
    shared: &Shared,
    plan: &Plan,
    window: &Window,
    kept: &BTreeMap<VolumeId, Kept>,
    into: &mut Rewriter<'_>,
) -> Result<Merged, StoreError> {
    let mut regions = Regions::new(shared, plan, window);
    let mut merged = Merged { seen: 0, last: None };
    while let Some(((volume, region), versions)) = regions.step()? {
        let (left, old, bytes) = into.left_of(&versions, kept.get(&volume));
        if plan.end.budget().is_some_and(|most| into.bytes() + bytes > most) {
            match (merged.last, plan.end) {
                (Some(_), _) => return Ok(merged),
                (None, End::Strict(limit)) => return Err(StoreError::RegionTooLarge { bytes, limit }),
                (None, _) => {}
            }
        }
        merged = Merged { seen: merged.seen + count(versions.len()), last: Some((volume, region)) };
        into.add(Region { volume, region, versions: left, old }, bytes)?;
    }
    Ok(Merged { last: None, ..merged })
}

/// Writes regions, in order.
pub(super) struct Rewriter<'a> {
    shared: &'a Shared,
    store: StoreId,
    settle: u64,
    open: Option<Open>,
    done: Vec<Finished>,
    /// What volumes take of the segments, in the order in which it was written.
    shares: Vec<Share>,
    stripe: Vec<Region>,
    stripe_bytes: u64,
    rows: Vec<Row>,
    regions: Vec<(VolumeId, RegionNo)>,
    /// What was taken so far comes to, at most, about.
    taken: u64,
    versions: u64,
    /// Bytes read and written since it last gave way.
    worked: u64,
    /// Now, on the store's own clock.
    now: WallTime,
    /// Packs stay packs, read or not: there may be no room for more than there is.
    keep_packs: bool,
    /// Is anything in packs?
    packs: bool,
    /// Bytes of the log that are not what was written, or are gone.
    damaged: &'a [Damage],
}

struct Region {
    volume: VolumeId,
    region: RegionNo,
    versions: Vec<Version>,
    /// What was there at this point is old; `None`: nothing is.
    old: Option<Lsn>,
}

struct Open {
    no: FileNo,
    file: Arc<SegmentFile>,
    writer: SettledWriter,
    unsynced: u64,
    /// The first and the last region in it; `None` while it holds none.
    places: Option<(RegionPlace, RegionPlace)>,
    /// Bytes of units that may be packed another time.
    warm: u64,
    /// When something of it was read last, in the segments where it lay before.
    read: WallTime,
}

/// A segment that is whole and on the disk, but for its header when it is the last.
struct Finished {
    no: FileNo,
    segment: SettledSegment,
    read: WallTime,
}

/// Everything that was written, and the segment that the manifest goes to. Dropped without [`Written::settled`] its files
/// are given back.
pub(super) struct Written<'a> {
    rewriter: Rewriter<'a>,
    /// Nothing will ever take it back: the manifest may be on the disk.
    kept: bool,
}

impl<'a> Rewriter<'a> {
    pub(super) const fn new(
        shared: &'a Shared,
        (store, settle): (StoreId, u64),
        now: WallTime,
        keep_packs: bool,
        damaged: &'a [Damage],
    ) -> Self {
        Self {
            shared,
            store,
            settle,
            open: None,
            done: Vec::new(),
            shares: Vec::new(),
            stripe: Vec::new(),
            stripe_bytes: 0,
            rows: Vec::new(),
            regions: Vec::new(),
            taken: 0,
            versions: 0,
            worked: 0,
            now,
            keep_packs,
            packs: false,
            damaged,
        }
    }

    /// Bytes that are written for what was taken so far, at most, about.
    const fn bytes(&self) -> u64 {
        self.taken
    }

    /// What is left of a region, the last point of which all is old, and the bytes that are written for it, at most, about.
    pub(super) fn left_of(
        &self,
        versions: &[Version],
        kept: Option<&Kept>,
    ) -> (Vec<Version>, Option<Lsn>, u64) {
        let points = kept.map_or(&[][..], |k| &k.points);
        let mut left = needed(versions, points);
        bring_together(&mut left);
        let old = self.old(points);
        let bytes = self.written_for(&left, old);
        (left, old, bytes)
    }

    /// The last of a volume's points, ascending, of which all is old.
    fn old(&self, points: &[KeptPoint]) -> Option<Lsn> {
        let after = self.shared.config.cold?.after;
        let old = points.partition_point(|p| self.now.since(p.received_at) >= after);
        points.get(old.checked_sub(1)?).map(|p| p.lsn)
    }

    fn is_cold(&self, version: &Version, old: Option<Lsn>) -> bool {
        let Place::Unit(at) = version.place else { return false };
        if at.is_pack() && self.keep_packs {
            return true;
        }
        let old = old.is_some_and(|old| version.position.visible_at(old));
        let is_unread = |cold: Cold| self.now.since(self.shared.heat.last(at.segment)) >= cold.unread;
        old && self.shared.config.cold.is_some_and(is_unread)
    }

    /// What is written for versions, at most, about: what comes out of a pack takes more room.
    fn written_for(&self, versions: &[Version], old: Option<Lsn>) -> u64 {
        let stored: u64 = places(versions).map(|at| u64::from(at.bytes())).sum();
        let apart =
            |v: &&Version| matches!(v.place, Place::Unit(at) if at.is_pack()) && !self.is_cold(v, old);
        let apart = count(versions.iter().filter(apart).count()) * count(MAX_STORED);
        let frame = if versions.is_empty() { 0 } else { u64::from(SETTLED_FRAME_BYTES) };
        stored + apart + frame + count(versions.len()) * VERSION_BYTES
    }

    /// Takes what is left of a region, for which so much is written at most; regions come in order.
    fn add(&mut self, region: Region, written: u64) -> Result<(), StoreError> {
        if self.shared.settling.is_stopped() {
            return Err(StoreError::Stopped);
        }
        self.versions += count(region.versions.len());
        self.taken += written;
        if written > self.shared.config.settle_memory {
            self.flush()?;
            return self.add_large(&region);
        }
        self.stripe_bytes += written;
        self.stripe.push(region);
        if self.stripe_bytes >= self.shared.config.settle_memory {
            self.flush()?;
        }
        Ok(())
    }

    /// A region that memory does not hold at once.
    fn add_large(&mut self, whole: &Region) -> Result<(), StoreError> {
        let &Region { volume, region, old, .. } = whole;
        let mut rest = whole.versions.as_slice();
        let limit = u32::try_from(self.shared.config.settle_memory).unwrap_or(u32::MAX);
        // What comes out of packs takes as much memory as units do.
        let most = index(u64::from(limit)) / MAX_STORED;
        let mut placed = Vec::with_capacity(rest.len());
        while !rest.is_empty() {
            let (n, _) = piece(rest, limit, most.max(MEMBERS));
            let (now, later) = rest.split_at(n);
            let part = vec![Region { volume, region, versions: now.to_vec(), old }];
            let bodies = self.gather(&part)?;
            for (part, bytes) in part.into_iter().zip(bodies) {
                placed.extend(self.write_part(part, bytes)?);
            }
            rest = later;
        }
        self.close_region(volume, region, &placed)
    }

    pub(super) fn finish(mut self) -> Result<Written<'a>, StoreError> {
        let flushed = self.flush().and_then(|()| self.bring_in(true));
        let written = Written { rewriter: self, kept: false };
        flushed.map(|()| written)
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let stripe = std::mem::take(&mut self.stripe);
        self.stripe_bytes = 0;
        let bodies = self.gather(&stripe)?;
        for (region, bytes) in stripe.into_iter().zip(bodies) {
            let (volume, no) = (region.volume, region.region);
            let placed = self.write_part(region, bytes)?;
            self.close_region(volume, no, &placed)?;
        }
        Ok(())
    }

    /// The units of each region, in the order of its versions.
    fn gather(&mut self, stripe: &[Region]) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut units: Vec<(Location, usize, usize)> = Vec::new();
        let mut bodies = Vec::with_capacity(stripe.len());
        for (n, region) in stripe.iter().enumerate() {
            let mut len = 0;
            for at in places(&region.versions) {
                units.push((at, n, len));
                len += index(u64::from(at.bytes()));
            }
            bodies.push(vec![0; len]);
        }
        units.sort_unstable_by_key(|(at, ..)| *at);
        let mut rest = units.as_slice();
        while let Some((first, ..)) = rest.first() {
            let is_alone = |at| self.shared.offers.has(at) || self.is_damaged(at);
            let n = if is_alone(*first) { 1 } else { near(rest, *first, &is_alone) };
            let (run, behind) = rest.split_at(n);
            let read = self.read(run, &mut bodies)?;
            self.give_way(read);
            rest = behind;
        }
        Ok(bodies)
    }

    fn is_damaged(&self, at: Location) -> bool {
        let here = |d: &Damage| d.segment == at.segment && d.from <= at.offset && at.offset < d.to;
        self.damaged.iter().any(here)
    }

    /// Units that lie close together. One whose checksum is wrong is copied as it is: it stays damaged, and refused.
    fn read(&self, units: &[(Location, usize, usize)], bodies: &mut [Vec<u8>]) -> Result<u64, StoreError> {
        let Some((first, ..)) = units.first() else { return Ok(0) };
        let end = units.iter().map(|(at, ..)| at.end()).max().unwrap_or(first.offset);
        let file = match self.shared.segments.file(first.segment) {
            // Somebody removed it since the store was opened.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            file => file?,
        };
        let gone = || StoreError::Damaged(format!("{} is missing: settling waits for it", first.segment));
        let mut bytes = vec![0; index(u64::from(end.saturating_sub(first.offset)))];
        let is_given_up = || self.shared.is_given_up_as_read(first.segment);
        if file.is_none() && (units.iter().all(|(at, ..)| self.is_damaged(*at)) || is_given_up()) {
            // It is refused as it is, until it is put right.
            return Ok(0);
        }
        let file = file.ok_or_else(gone)?;
        if let Err(e) = file.read_at(u64::from(first.offset), &mut bytes) {
            // What somebody has offered in place of a pack need not be read for it; all else may be read another time, but not for ever.
            // Nor what was cut off: no other read finds that.
            let is_damaged = units.iter().all(|(at, ..)| self.is_damaged(*at));
            let is_cut = e.kind() == UnexpectedEof && self.shared.segments.is_settled(first.segment);
            if is_damaged && !is_cut && !self.shared.is_unreadable_as_read(*first) {
                return Err(unreadable(first, &e));
            }
            let offered = units.iter().all(|(at, ..)| self.shared.offers.has(*at));
            if !is_damaged && !is_cut && !offered && !self.shared.is_given_up(first.segment) {
                return Err(e.into());
            }
            read_what_can_be(&file, u64::from(first.offset), &mut bytes);
        }
        for (at, region, offset) in units {
            let from = index(u64::from(at.offset.saturating_sub(first.offset)));
            let len = index(u64::from(at.bytes()));
            let unit = bytes.get(from..from + len);
            let place = bodies.get_mut(*region).and_then(|b| b.get_mut(*offset..*offset + len));
            if let (Some(unit), Some(place)) = (unit, place) {
                place.copy_from_slice(unit);
            }
        }
        Ok(count(bytes.len()))
    }

    /// Packs what is cold, and writes frames; the versions in their new places.
    fn write_part(&mut self, region: Region, bytes: Vec<u8>) -> Result<Vec<Version>, StoreError> {
        let Region { volume, region, versions, old } = region;
        let read = versions.iter().filter_map(segment_of).map(|s| self.shared.heat.last(s)).max();
        let judge = Judge {
            region,
            is_cold: &|version| self.is_cold(version, old),
            offered: &|at, block| self.shared.offers.content(at, block),
        };
        let body = repack(&judge, versions, bytes);
        self.packs |= body.packs;
        self.write_frames((volume, region), &body, read.unwrap_or(WallTime::EPOCH))
    }

    fn write_frames(
        &mut self,
        region: RegionPlace,
        body: &Body,
        read: WallTime,
    ) -> Result<Vec<Version>, StoreError> {
        let (all, warm) = (count(body.bytes.len()).max(1), body.warm);
        let mut placed = Vec::with_capacity(body.versions.len());
        let (mut versions, mut body) = (body.versions.as_slice(), body.bytes.as_slice());
        while !versions.is_empty() {
            let limit = FRAME_BYTES.min(self.shared.config.segment_len / 4);
            // Where segments are short, tables must fit as well.
            let most = FRAME_VERSIONS.min(index(u64::from(limit) / VERSION_BYTES));
            let (n, bytes) = piece(versions, limit, most);
            let ((now, later), (units, behind)) =
                (versions.split_at(n), body.split_at(bytes.min(body.len())));
            placed.extend(self.write_frame(region, now, units)?);
            if let Some(open) = &mut self.open {
                // Its share: where the warm ones are is not told apart.
                open.warm += count(units.len()) * warm / all;
                open.read = open.read.max(read);
            }
            (versions, body) = (later, behind);
        }
        Ok(placed)
    }

    /// All of a region is written: its row says where.
    fn close_region(
        &mut self,
        volume: VolumeId,
        region: RegionNo,
        placed: &[Version],
    ) -> Result<(), StoreError> {
        let mut run = Vec::new();
        encode_run(placed, &mut run);
        self.rows.push((keys::settled(self.settle, volume, region), run));
        self.regions.push((volume, region));
        self.bring_in(false)
    }

    fn write_frame(
        &mut self,
        (volume, region): RegionPlace,
        versions: &[Version],
        units: &[u8],
    ) -> Result<Vec<Version>, StoreError> {
        for _ in 0..2 {
            let open = self.opened()?;
            if let Some(laid) = open.writer.run(volume, region, versions) {
                open.write(laid.at, &laid.head, units, laid.padding)?;
                let place = (volume, region);
                open.places = Some((open.places.map_or(place, |(first, _)| first), place));
                let bytes = count(laid.head.len() + units.len()) + u64::from(laid.padding);
                let share = Share { segment: open.writer.segment(), volume, bytes };
                self.take_share(share);
                self.give_way(count(units.len()));
                return Ok(laid.versions);
            }
            self.close()?;
        }
        let (bytes, limit) = (count(units.len()), u64::from(self.shared.config.segment_len));
        Err(StoreError::RegionTooLarge { bytes, limit })
    }

    fn take_share(&mut self, share: Share) {
        match self.shares.last_mut() {
            Some(last) if (last.segment, last.volume) == (share.segment, share.volume) => {
                last.bytes += share.bytes;
            }
            _ => self.shares.push(share),
        }
    }

    fn opened(&mut self) -> Result<&mut Open, StoreError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let (no, file) = self.shared.segments.pool().take()?;
                let length = self.shared.config.segment_len;
                let writer =
                    SettledWriter::begin(self.store, self.shared.segments.new_id(), length, self.settle);
                // Ids are never used twice, whatever becomes of this one.
                self.shared
                    .index
                    .commit(vec![(keys::RESERVED.to_vec(), keys::reserved(self.settle, writer.segment()))])?;
                let open =
                    Open { no, file, writer, unsynced: 0, places: None, warm: 0, read: WallTime::EPOCH };
                // Whatever the file was, it is that no more.
                open.file.write_at(0, &[IoSlice::new(&[0; 4096])])?;
                open
            }
        };
        Ok(self.open.insert(open))
    }

    /// The open segment is whole: its header says so.
    fn close(&mut self) -> Result<(), StoreError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let header = open.writer.header();
        // Noted first: it is given back if the disk fails.
        self.done.push(Finished { no: open.no, segment: open.segment(), read: open.read });
        open.file.sync()?;
        open.file.write_at(0, &[IoSlice::new(&header.encode())])?;
        open.file.sync()?;
        Ok(())
    }

    fn bring_in(&mut self, all: bool) -> Result<(), StoreError> {
        if self.rows.len() >= ROWS_AT_ONCE || all {
            self.shared.index.ingest(Table::Settled, std::mem::take(&mut self.rows))?;
        }
        Ok(())
    }

    /// Commits go first.
    fn give_way(&mut self, bytes: u64) {
        self.worked += bytes;
        if self.worked >= YIELD_EACH {
            self.worked = 0;
            if self.shared.queue.bytes() > 0 {
                std::thread::park_timeout(YIELD);
            }
        }
    }

    /// Nothing of it counts: its files and its rows go.
    fn give_back(&mut self) {
        if self.done.is_empty() && self.open.is_none() {
            return;
        }
        if let Err(e) = remove_settle(&self.shared.index, self.settle) {
            tracing::warn!(
                "rows of settle {}, which came to nothing, stay until the next start: {e}",
                self.settle
            );
        }
        let open = self.open.take().map(|open| open.no);
        for no in self.done.drain(..).map(|d| d.no).chain(open) {
            if let Err(e) = self.shared.segments.pool().give_back(no) {
                tracing::warn!("a segment file cannot be given back: {e}");
            }
        }
    }
}

impl Drop for Rewriter<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Open {
    fn segment(&self) -> SettledSegment {
        let header = self.writer.header();
        let (first, last) = self.places.unwrap_or((RegionRange::ALL.first, RegionRange::ALL.first));
        let warm = u32::try_from(self.warm).unwrap_or(u32::MAX).min(header.end);
        SettledSegment { segment: header.segment, end: header.end, frames: header.frames, first, last, warm }
    }

    fn write(&mut self, at: u32, head: &[u8], units: &[u8], padding: u32) -> std::io::Result<()> {
        let zeroes = [0; 8];
        let padding = zeroes.get(..index(u64::from(padding))).unwrap_or_default();
        let slices: Vec<IoSlice<'_>> =
            [head, units, padding].into_iter().filter(|s| !s.is_empty()).map(IoSlice::new).collect();
        self.file.write_at(u64::from(at), &slices)?;
        self.unsynced += count(head.len() + units.len());
        if self.unsynced >= SYNC_EACH {
            self.unsynced = 0;
            self.file.sync()?;
        }
        Ok(())
    }
}

impl Written<'_> {
    /// What was written; `None` when nothing is left.
    pub(super) fn generation(&self) -> Option<Generation> {
        let r = &self.rewriter;
        let open = r.open.as_ref().map(Open::segment);
        let segments: Vec<_> = r.done.iter().map(|d| d.segment).chain(open).collect();
        let (range, shares) = (RegionRange::ALL, r.shares.clone());
        let generation = Generation { settle: r.settle, range, segments, shares, at: r.now, packs: r.packs };
        (!generation.segments.is_empty()).then_some(generation)
    }

    pub(super) const fn versions(&self) -> u64 {
        self.rewriter.versions
    }

    pub(super) fn bytes(&self) -> u64 {
        let ends = self.generation().map_or_else(Vec::new, |g| g.segments);
        ends.iter().map(|s| u64::from(s.end)).sum()
    }

    /// The regions it holds, in order.
    pub(super) fn regions(&self) -> &[(VolumeId, RegionNo)] {
        &self.rewriter.regions
    }

    /// The manifest may be on the disk: nothing of this may be given back.
    pub(super) const fn is_kept(&self) -> bool {
        self.kept
    }

    /// From here on reads find its segments.
    pub(super) fn make_known(&self) {
        let r = &self.rewriter;
        let open = r.open.as_ref().map(|o| (o.writer.segment(), o.no, o.writer.header().end, o.read));
        let done = r.done.iter().map(|d| (d.segment.segment, d.no, d.segment.end, d.read));
        for (segment, file, end, read) in done.chain(open) {
            r.shared.segments.set_settled(segment, Known { file, end });
            r.shared.heat.note(segment, read);
        }
    }

    /// Reads find them no more.
    pub(super) fn make_unknown(&self) {
        let r = &self.rewriter;
        let open = r.open.as_ref().map(|o| o.writer.segment());
        for segment in r.done.iter().map(|d| d.segment.segment).chain(open) {
            r.shared.segments.forget_settled(segment);
            r.shared.heat.forget(std::iter::once(segment));
        }
    }

    /// Writes the manifest, which has these bytes, and, when everything before is on the disk, the header that makes it count;
    /// returns the segments it lies in.
    ///
    /// # Errors
    /// When the disk fails. Whether it counts is then known after the next start, so nothing of it may be given back.
    pub(super) fn publish(
        &mut self,
        manifest: &Manifest,
        bytes: &[u8],
    ) -> Result<BTreeSet<SegmentId>, StoreError> {
        let room = room(self.rewriter.shared);
        let mut homes = BTreeSet::new();
        let last = if count(bytes.len()) <= room {
            self.lay(bytes.len(), |writer| writer.manifest(bytes))?
        } else {
            let places = self.write_pieces(bytes, room)?;
            homes.extend(places.iter().map(|(segment, _)| *segment));
            let pieces = Pieces::of(manifest, bytes, places).encode();
            self.lay(pieces.len(), |writer| writer.manifest(&pieces))?
        };
        homes.insert(self.seal(&last)?);
        Ok(homes)
    }

    /// Pieces that fill segments without leaving much of them free; they are whole before what says where they lie.
    fn write_pieces(&mut self, bytes: &[u8], room: u64) -> Result<Vec<(SegmentId, u32)>, StoreError> {
        let mut places = Vec::new();
        for piece in bytes.chunks(index(room / 4).clamp(1, PIECE_BYTES)) {
            let laid = self.lay(piece.len(), |writer| writer.piece(piece))?;
            let open = self.rewriter.opened()?;
            open.write(laid.at, &laid.head, &[], laid.padding)?;
            places.push((open.writer.segment(), laid.at));
        }
        self.make_known();
        Ok(places)
    }

    /// Lays a frame, in another segment where the open one has no room for it.
    fn lay(
        &mut self,
        bytes: usize,
        lay: impl Fn(&mut SettledWriter) -> Option<SettledLaid>,
    ) -> Result<SettledLaid, StoreError> {
        for _ in 0..2 {
            if let Some(laid) = lay(&mut self.rewriter.opened()?.writer) {
                return Ok(laid);
            }
            self.rewriter.close()?;
        }
        let limit = u64::from(self.rewriter.shared.config.segment_len);
        Err(StoreError::ListTooLarge { bytes: count(bytes), limit })
    }

    fn seal(&mut self, laid: &SettledLaid) -> Result<SegmentId, StoreError> {
        let open = self.rewriter.opened()?;
        open.write(laid.at, &laid.head, &[], laid.padding)?;
        open.file.sync()?;
        let (header, file, no) = (open.writer.header(), Arc::clone(&open.file), open.no);
        self.kept = true;
        file.write_at(0, &[IoSlice::new(&header.encode())])?;
        file.sync()?;
        self.rewriter.shared.segments.set_settled(header.segment, Known { file: no, end: header.end });
        Ok(header.segment)
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        if self.kept {
            self.rewriter.done.clear();
            self.rewriter.open = None;
        }
    }
}

/// It may be the disk's mood.
fn unreadable(at: &Location, error: &std::io::Error) -> StoreError {
    StoreError::Damaged(format!(
        "byte {} of {}: {error}; the log is not settled from there on, as long as it may be read another time. If it never will, say \
         `chronogate verify VOLUME --acknowledge`: then history is settled past it, and the block is refused until it is put right",
        at.offset, at.segment
    ))
}

const fn segment_of(version: &Version) -> Option<SegmentId> {
    match version.place {
        Place::Zero => None,
        Place::Unit(at) => Some(at.segment),
    }
}

/// A segment of which something cannot be read for so long is settled all the same: what cannot is damaged then like any other block.
const GIVEN_UP: Duration = Duration::from_secs(900);

impl Shared {
    /// Something of a segment cannot be read: has that been so for long?
    fn is_given_up(&self, segment: SegmentId) -> bool {
        let (now, mut unreadable) = (self.age.now(), lock(&self.unreadable));
        let (first, last) = unreadable.entry(segment).or_insert((now, now));
        if now.since(*last) > GIVEN_UP {
            *first = now;
        }
        *last = now;
        now.since(*first) >= GIVEN_UP
    }
}

/// How many of `units`, which are sorted, are read with the first; some are read alone.
fn near(units: &[(Location, usize, usize)], first: Location, is_alone: &dyn Fn(Location) -> bool) -> usize {
    let mut end = first.end();
    let run = units.iter().take_while(|(at, ..)| {
        let fits = at.segment == first.segment
            && !is_alone(*at)
            && at.offset <= end.saturating_add(GAP)
            && at.end().saturating_sub(first.offset) <= LONGEST_READ;
        end = end.max(at.end());
        fits
    });
    run.count().max(1)
}

/// How many versions go into one frame, and the bytes of their units and packs. No pack is cut apart.
fn piece(versions: &[Version], limit: u32, most: usize) -> (usize, usize) {
    let (mut n, mut bytes) = (0, 0u32);
    while let Some(rest) = versions.get(n..).filter(|rest| !rest.is_empty()) {
        let group = rest.get(..first_group(rest)).unwrap_or(rest);
        let after = bytes.saturating_add(places(group).map(Location::bytes).sum());
        if n > 0 && (after > limit || n + group.len() > most) {
            break;
        }
        (n, bytes) = (n + group.len(), after);
    }
    (n, index(u64::from(bytes)))
}
