//! Which file holds which segment.

use std::collections::BTreeMap;

use gateway_journal::frame::FRAME_HEADER;
use gateway_journal::{
    FrameHeader, Mark, SEGMENT_HEADER, Sealed, SegmentHeader, SegmentId, SettledHeader, StoreId,
};
use tap_block::stored::is_zero;
use tap_block::units::index;
use tap_disk::{FileNo, SegmentPool};
use tracing::{info, warn};

use super::manifest::SettledFound;
use crate::chunks::ChunkReader;
use crate::error::{Damage, StoreError};

/// A segment's file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) file: FileNo,
    /// `None` when it is damaged.
    pub(super) header: Option<SegmentHeader>,
}

/// The segments that are part of the store.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) store: Option<StoreId>,
    pub(super) pieces: BTreeMap<SegmentId, Piece>,
    /// No segment ever had this id or a later one.
    pub(super) next: SegmentId,
    pub(super) settled: SettledFound,
}

enum Kind {
    Segment(SegmentHeader),
    Settled(SettledHeader),
    /// Frames behind a damaged header.
    Headless(StoreId, SegmentId),
    Empty,
    Unknown,
}

impl Survey {
    /// Looks at the start of every file. Files that hold nothing of the store are given back to the pool.
    pub(super) fn make(
        pool: &SegmentPool,
        mark: Option<&Mark>,
        manifest: Option<Vec<u8>>,
    ) -> Result<Self, StoreError> {
        let mut seen = Vec::new();
        for no in pool.list() {
            seen.push((no, look(pool, no)));
        }
        let named = mark.map(|m| m.store).filter(|id| seen.iter().any(|(_, k)| k.store() == Some(*id)));
        let store = named.or_else(|| seen.iter().find_map(|(_, kind)| kind.store()));
        let (pieces, settled) = (BTreeMap::new(), SettledFound::default());
        let mut survey = Self { store, pieces, next: SegmentId::new(1), settled };
        for (no, kind) in &seen {
            survey.sort_in(*no, kind);
        }
        if let Some(marked) = mark.and_then(|m| m.durable) {
            survey.next = survey.next.max(marked.segment.next());
        }
        survey.settled = std::mem::take(&mut survey.settled).choose(pool, store, manifest)?;
        survey.drop_leftovers(mark);
        for (no, kind) in seen {
            let used = survey.pieces.values().any(|p| p.file == no)
                || survey.settled.files.iter().any(|(id, (f, _))| *f == no && survey.settled.is_live(*id));
            if !used && !matches!(kind, Kind::Unknown) && kind.store().is_none_or(|s| Some(s) == survey.store)
            {
                pool.give_back(no)?;
            }
        }
        Ok(survey)
    }

    fn sort_in(&mut self, file: FileNo, kind: &Kind) {
        let (segment, header) = match kind {
            Kind::Segment(header) => (header.segment, Some(*header)),
            Kind::Settled(header) => {
                self.next = self.next.max(header.segment.next());
                self.settled.files.insert(header.segment, (file, *header));
                return;
            }
            Kind::Headless(_, segment) => (*segment, None),
            Kind::Empty => return,
            Kind::Unknown => {
                return warn!("segment file {file} holds neither a segment nor zeroes; it is left alone");
            }
        };
        if kind.store() != self.store {
            return warn!("segment file {file} belongs to another store; it is left alone");
        }
        self.next = self.next.max(segment.next());
        let better = self.pieces.get(&segment).is_none_or(|p| p.header.is_none());
        if better {
            self.pieces.insert(segment, Piece { file, header });
        }
    }

    /// Segments of an earlier life of their file, and such as were begun and never became part of the store.
    fn drop_leftovers(&mut self, mark: Option<&Mark>) {
        let headers: Vec<SegmentHeader> = self.pieces.values().filter_map(|p| p.header).collect();
        let first = headers.iter().map(|h| h.first_live).max().unwrap_or(SegmentId::new(0));
        let first = first.max(self.settled.log_from());
        let skipped = |id: SegmentId| {
            headers.iter().any(|h| {
                let previous = h.previous.map_or(SegmentId::new(0), |p| p.segment);
                previous < id && id < h.segment
            })
        };
        let marked = mark.and_then(|m| m.durable).map_or(SegmentId::new(0), |d| d.segment);
        let newest = self.pieces.last_key_value().map(|(id, _)| *id);
        self.pieces.retain(|&id, piece| {
            // Frames without a header that nothing vouches for were never synced.
            let torn = piece.header.is_none() && Some(id) == newest && id > marked;
            id >= first && !skipped(id) && !torn
        });
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (SegmentId, FileNo)> {
        self.pieces.iter().map(|(&id, piece)| (id, piece.file))
    }

    /// How the segment after `segment` says it ended.
    pub(super) fn sealed(&self, segment: SegmentId) -> Option<Sealed> {
        let after = self.pieces.range(segment.next()..).filter_map(|(_, p)| p.header?.previous);
        after.into_iter().find(|sealed| sealed.segment == segment)
    }

    pub(super) fn end_of(&self, segment: SegmentId) -> u32 {
        self.sealed(segment).map_or(SEGMENT_HEADER, |s| s.end)
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
            let Some(header) = piece.header else {
                add(segment, 0, SEGMENT_HEADER, "the segment's header is damaged");
                continue;
            };
            let gone = |s: &Sealed| {
                s.segment >= header.first_live.max(self.settled.log_from())
                    && !self.pieces.contains_key(&s.segment)
            };
            if let Some(sealed) = header.previous.filter(gone) {
                add(sealed.segment, 0, sealed.end, "the segment is missing");
            }
        }
        let log_from = self.settled.log_from();
        if let Some(sealed) = mark.filter(|m| m.segment >= log_from && !self.pieces.contains_key(&m.segment))
        {
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
            Self::Headless(store, _) => Some(*store),
            Self::Empty | Self::Unknown => None,
        }
    }
}

fn look(pool: &SegmentPool, no: FileNo) -> Kind {
    let Ok(file) = pool.get(no) else { return Kind::Unknown };
    let mut reader = ChunkReader::new(file);
    let head = reader.fetch(0, SEGMENT_HEADER * 2);
    if let Ok(header) = SegmentHeader::decode(head) {
        return Kind::Segment(header);
    }
    if let Ok(header) = SettledHeader::decode(head) {
        return Kind::Settled(header);
    }
    let frames = head.get(index(u64::from(SEGMENT_HEADER))..).unwrap_or_default();
    let frame = frames.get(..FRAME_HEADER).and_then(|bytes| FrameHeader::decode(bytes).ok());
    match frame {
        Some(frame) => Kind::Headless(frame.store, frame.segment),
        // A settled segment without its header never counted.
        None if is_zero(head.get(..index(u64::from(SEGMENT_HEADER))).unwrap_or_default()) => Kind::Empty,
        None => {
            info!("segment file {no} has no sound header");
            Kind::Unknown
        }
    }
}
