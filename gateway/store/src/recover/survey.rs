//! Which file holds which segment.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use gateway_journal::frame::FRAME_HEADER;
use gateway_journal::{
    FrameHeader, Manifest, Mark, SEGMENT_HEADER, Sealed, SegmentHeader, SegmentId, SettledHeader, StoreId,
};
use tap_block::stored::is_zero;
use tap_block::units::index;
use tap_disk::{FileNo, SegmentFile, SegmentPool};
use tracing::{info, warn};

use super::Told;
use super::headless::{Inside, holds_log, look_inside};
use super::manifest::SettledFound;
use super::rivals::{Worth, is_worthless, tell_left_alone};
use super::unclaimed::is_idle;
use crate::chunks::ChunkReader;
use crate::error::{Damage, StoreError};

/// A segment's file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) file: FileNo,
    /// `None` when it is damaged.
    pub(super) header: Option<SegmentHeader>,
    /// Nothing is where the header should be: it may never have been written.
    pub(super) blank: bool,
}

/// The segments that are part of the store.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) store: Option<StoreId>,
    pub(super) pieces: BTreeMap<SegmentId, Piece>,
    /// No segment ever had this id or a later one.
    pub(super) next: SegmentId,
    pub(super) settled: SettledFound,
    /// Files without a sound header that hold nothing that counts.
    idle: Vec<FileNo>,
    /// More files that say they are one of `pieces`.
    rivals: Vec<(SegmentId, Piece)>,
    /// Those of them that may hold what the one that counts does not.
    left_alone: Vec<(SegmentId, FileNo)>,
}

enum Kind {
    Segment(SegmentHeader),
    Settled(SettledHeader),
    /// Frames of the log behind a damaged header; `blank`: behind none.
    Headless {
        store: StoreId,
        segment: SegmentId,
        blank: bool,
    },
    Empty,
    Unknown,
}

impl Survey {
    /// Looks at the start of every file. Files that hold nothing of the store are given back to the pool.
    pub(super) fn make(
        pool: &SegmentPool,
        mark: Option<&Mark>,
        manifest: Option<Vec<u8>>,
        told: Option<&Told<'_>>,
    ) -> Result<Self, StoreError> {
        let seen: Vec<(FileNo, Kind)> = pool.list().into_iter().map(|no| (no, look(pool, no))).collect();
        let settled = manifest.as_ref().and_then(|bytes| Manifest::unseal(bytes).ok()).map(|m| m.store);
        let store = whose(&seen, [mark.map(|m| m.store), settled]);
        let mut survey = Self {
            store,
            pieces: BTreeMap::new(),
            next: SegmentId::new(1),
            settled: SettledFound::default(),
            idle: Vec::new(),
            rivals: Vec::new(),
            left_alone: Vec::new(),
        };
        for (no, kind) in &seen {
            survey.sort_in(*no, kind);
        }
        survey.settled.choose_files(pool, told.filter(|told| told.settle(store) > 0));
        survey.choose_files(pool);
        if let Some(marked) = mark.and_then(|m| m.durable) {
            survey.next = survey.next.max(marked.segment.next());
        }
        let of = |wanted: fn(&Kind) -> bool| {
            seen.iter().filter(move |(_, kind)| wanted(kind)).map(|(no, _)| *no).collect::<Vec<_>>()
        };
        let (spoilt, empty) = (of(|k| matches!(k, Kind::Unknown)), of(|k| matches!(k, Kind::Empty)));
        // The newest manifest may lie in a file that begins with zeroes.
        let lacks = survey.settled.lacks(told.map_or(0, |told| told.settle(store)), manifest.as_deref());
        let also = empty.iter().filter(|_| lacks);
        let inside: Vec<Inside> = spoilt.iter().chain(also).map(|no| look_inside(pool, *no, store)).collect();
        survey.settled =
            std::mem::take(&mut survey.settled).choose(pool, (store, told), manifest, &inside)?;
        survey.settled.find_headless(&inside);
        if survey.settled.misses_some() {
            // The disk may have refused to read a header.
            let inside: Vec<Inside> = empty.iter().map(|no| look_inside(pool, *no, store)).collect();
            survey.settled.find_headless(&inside);
        }
        let known = survey.settled.files.last_key_value().map_or(SegmentId::new(0), |(id, _)| *id);
        survey.next = survey.next.max(known.next());
        survey.drop_leftovers(mark);
        survey.find_headless(pool, mark, [spoilt, empty].concat());
        for (no, kind) in seen {
            let used = survey.is_in(no) || survey.settled.is_in(no);
            let known = !matches!(kind, Kind::Unknown) || survey.idle.contains(&no);
            if !used && known && kind.store().is_none_or(|s| Some(s) == survey.store) {
                pool.give_back(no)?;
            }
        }
        Ok(survey)
    }

    fn sort_in(&mut self, file: FileNo, kind: &Kind) {
        let (segment, header, blank) = match kind {
            Kind::Segment(header) => (header.segment, Some(*header), false),
            Kind::Settled(header) if Some(header.store) != self.store => {
                return warn!("segment file {file} belongs to another store; it is left alone");
            }
            Kind::Settled(header) => {
                self.next = self.next.max(header.segment.next());
                return self.settled.sort_in(file, *header);
            }
            Kind::Headless { segment, blank, .. } => (*segment, None, *blank),
            Kind::Empty | Kind::Unknown => return,
        };
        if kind.store() != self.store {
            return warn!("segment file {file} belongs to another store; it is left alone");
        }
        self.next = self.next.max(segment.next());
        let piece = Piece { file, header, blank };
        match self.pieces.entry(segment) {
            Entry::Vacant(place) => drop(place.insert(piece)),
            Entry::Occupied(_) => self.rivals.push((segment, piece)),
        }
    }

    /// Of several files of one segment of the log the one with more of it counts.
    fn choose_files(&mut self, pool: &SegmentPool) {
        let Some(store) = self.store else { return };
        for (segment, piece) in std::mem::take(&mut self.rivals) {
            let sealed = self.sealed(segment);
            let Some(known) = self.pieces.get_mut(&segment) else { continue };
            let [here, there] = [&*known, &piece].map(|p| Worth::of_log(pool, p, (store, segment), sealed));
            let (loser, best) = match there > here {
                true => (std::mem::replace(known, piece).file, there),
                false => (piece.file, here),
            };
            if !is_worthless(pool, loser, known.file, best) {
                tell_left_alone(segment, loser, known.file);
                self.left_alone.push((segment, loser));
            }
        }
    }

    /// Does this file hold a segment of the log that counts, or what may be worth something of one?
    fn is_in(&self, file: FileNo) -> bool {
        let alone = self.left_alone.iter().any(|(id, f)| *f == file && self.pieces.contains_key(id));
        alone || self.pieces.values().any(|p| p.file == file)
    }

    /// Segments of an earlier life of their file, and such as were begun and never became part of the store.
    fn drop_leftovers(&mut self, mark: Option<&Mark>) {
        let headers: Vec<SegmentHeader> = self.pieces.values().filter_map(|p| p.header).collect();
        let (first, log_from) = (self.log_from(), self.settled.log_from());
        // Earlier programs took a segment that was gone for one that does not count any more.
        let named = |id: SegmentId| {
            let names = |h: &SegmentHeader| h.previous.is_some_and(|p| p.segment == id) && h.first_live <= id;
            id >= log_from && headers.iter().any(names)
        };
        let skipped = |id: SegmentId| {
            // One that names none says with `first_live` what there was: it was begun when the last one was gone.
            headers.iter().any(|h| h.previous.is_some_and(|p| p.segment < id && id < h.segment))
        };
        let marked = mark.and_then(|m| m.durable).map_or(SegmentId::new(0), |d| d.segment);
        let newest = self.pieces.last_key_value().map(|(id, _)| *id);
        self.pieces.retain(|&id, piece| {
            // Frames without a header that nothing vouches for were never synced. One that is damaged was written.
            let torn = piece.blank && Some(id) == newest && id > marked;
            (id >= first || named(id)) && !skipped(id) && !torn
        });
    }

    /// Segments that must be there, and are in files that neither say so nor begin with a sound frame.
    fn find_headless(&mut self, pool: &SegmentPool, mark: Option<&Mark>, files: Vec<FileNo>) {
        let Some(store) = self.store else { return };
        let mut files: Vec<FileNo> = files.into_iter().filter(|no| !self.settled.is_in(*no)).collect();
        for sealed in self.missing(mark.and_then(|m| m.durable).as_ref()) {
            let found = files.iter().position(|no| holds_log(pool, *no, store, sealed));
            if let Some(file) = found.map(|n| files.swap_remove(n)) {
                self.pieces.insert(sealed.segment, Piece { file, header: None, blank: false });
            }
        }
        files.retain(|no| !pool.get(*no).is_ok_and(begins_blank));
        let whole =
            self.missing(mark.and_then(|m| m.durable).as_ref()).is_empty() && !self.settled.misses_some();
        let (first, pieces) = (self.log_from(), &self.pieces);
        let gone = |id: SegmentId| id < first || pieces.contains_key(&id);
        for file in files {
            if whole && is_idle(pool, file, store, &gone) {
                warn!(
                    "segment file {file} has a damaged header and holds nothing that counts: it is used again"
                );
                self.idle.push(file);
            } else {
                warn!("segment file {file} holds neither a segment nor zeroes; it is left alone");
            }
        }
    }

    /// The first segment of the log that may count.
    fn log_from(&self) -> SegmentId {
        let named = self.pieces.values().filter_map(|p| p.header).map(|h| h.first_live).max();
        named.unwrap_or(SegmentId::new(0)).max(self.settled.log_from())
    }

    /// Segments of the log that must be there and are not, and how they ended.
    fn missing(&self, mark: Option<&Sealed>) -> Vec<Sealed> {
        let log_from = self.settled.log_from();
        let headers = self.pieces.values().filter_map(|p| p.header);
        let named = headers.filter_map(|h| h.previous.filter(|p| p.segment >= h.first_live));
        let gone = |s: &Sealed| s.segment >= log_from && !self.pieces.contains_key(&s.segment);
        let mut missing: Vec<Sealed> = named.chain(mark.copied()).filter(gone).collect();
        missing.sort_unstable_by_key(|s| s.segment);
        missing.dedup_by_key(|s| s.segment);
        missing
    }

    /// Is every segment that counts there?
    pub(super) fn is_whole(&self, mark: Option<&Sealed>) -> bool {
        self.missing(mark).is_empty() && self.settled.is_whole()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (SegmentId, FileNo)> {
        self.pieces.iter().map(|(&id, piece)| (id, piece.file))
    }

    /// Segments whose header is damaged.
    pub(super) fn headless(&self) -> Vec<SegmentId> {
        let log = self.pieces.iter().filter(|(_, piece)| piece.header.is_none()).map(|(id, _)| *id);
        log.chain(self.settled.headless.iter().copied()).collect()
    }

    /// How the segment after `segment` says it ended.
    pub(super) fn sealed(&self, segment: SegmentId) -> Option<Sealed> {
        let after = self.pieces.range(segment.next()..).filter_map(|(_, p)| p.header?.previous);
        after.into_iter().find(|sealed| sealed.segment == segment)
    }

    /// Headers that are damaged, and segments that are gone.
    pub(super) fn damage(&self, mark: Option<&Sealed>) -> Vec<Damage> {
        let mut found = Vec::new();
        let mut add = |segment, from, to, detail: &str| {
            warn!("{segment}: {detail}");
            let detail = detail.to_owned();
            found.push(Damage { segment, from, to, detail, lost: Vec::new() });
        };
        for (&segment, piece) in &self.pieces {
            if piece.header.is_none() {
                add(segment, 0, SEGMENT_HEADER, "the segment's header is damaged");
            }
        }
        for sealed in self.missing(mark) {
            add(sealed.segment, 0, sealed.end, "the segment is missing");
        }
        found.sort_unstable_by_key(|d: &Damage| d.segment);
        found.dedup_by_key(|d| (d.segment, d.to));
        found
    }
}

impl Kind {
    const fn store(&self) -> Option<StoreId> {
        match self {
            Self::Segment(header) => Some(header.store),
            Self::Settled(header) => Some(header.store),
            Self::Headless { store, .. } => Some(*store),
            Self::Empty | Self::Unknown => None,
        }
    }
}

/// The store that is said to be here, if anything of it is; else the one that most files are of. Of no file at all, it is what is said.
fn whose(seen: &[(FileNo, Kind)], said: [Option<StoreId>; 2]) -> Option<StoreId> {
    let of = |id: StoreId| seen.iter().filter(|(_, kind)| kind.store() == Some(id)).count();
    let most = seen.iter().filter_map(|(_, kind)| kind.store()).max_by_key(|id| of(*id));
    let mut said = said.into_iter().flatten();
    let first = said.clone().next();
    said.find(|id| of(*id) > 0).or(most).or(first)
}

fn look(pool: &SegmentPool, no: FileNo) -> Kind {
    let Ok(file) = pool.get(no) else { return Kind::Unknown };
    let is_read = is_readable(&file);
    let mut reader = ChunkReader::new(file);
    let head = reader.fetch(0, SEGMENT_HEADER * 2);
    if let Ok(header) = SegmentHeader::decode(head) {
        return Kind::Segment(header);
    }
    if let Ok(header) = SettledHeader::decode(head) {
        return Kind::Settled(header);
    }
    let (header, frames) = head.split_at_checked(index(u64::from(SEGMENT_HEADER))).unwrap_or((head, &[]));
    let frame = frames.get(..FRAME_HEADER).and_then(|bytes| FrameHeader::decode(bytes).ok());
    match frame {
        Some(FrameHeader { store, segment, .. }) => {
            Kind::Headless { store, segment, blank: is_zero(header) && is_read }
        }
        // A settled segment without its header never counted.
        None if is_zero(header) && is_read => Kind::Empty,
        None => {
            info!("segment file {no} has no sound header");
            Kind::Unknown
        }
    }
}

/// Does the disk say what stands at its start? What it does not is taken for zeroes, and may be read another time.
fn is_readable(file: &SegmentFile) -> bool {
    let len = u64::from(SEGMENT_HEADER * 2).min(file.len());
    file.read_at(0, &mut vec![0; index(len)]).is_ok()
}

fn begins_blank(file: Arc<SegmentFile>) -> bool {
    is_zero(ChunkReader::new(file).fetch(0, SEGMENT_HEADER))
}
