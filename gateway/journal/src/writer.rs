//! Laying frames into a segment: the one place that makes them.

use tap_block::{Batch, Epoch, Lsn, RunId, WallTime};

use crate::frame::{FRAME_ALIGN, FRAME_HEADER, FRAME_HEADER_BYTES, FrameHeader, FrameKind, GROUP_ALIGN};
use crate::meta::{MetaRecord, OWN_STREAM};
use crate::segment::{SEGMENT_HEADER, Sealed, SegmentHeader, StoreId};
use crate::table;
use crate::units::SegmentId;

/// Where the next frame of a segment goes and what it follows.
///
/// Frames are encoded into a [`Group`]; when the group is durable, [`SegmentWriter::commit`] moves on. A group
/// that failed is forgotten and leaves no trace here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentWriter {
    store: StoreId,
    segment: SegmentId,
    length: u32,
    end: u32,
    frames: u32,
    groups: u32,
    last: u64,
}

/// Frames that one sync makes durable, laid out from [`Group::at`] on.
#[derive(Debug, Clone)]
pub struct Group {
    at: u32,
    next: SegmentWriter,
    frames: Vec<Laid>,
}

/// A frame laid out: `head` (header and table) and the batch's body go to `at`, one after the other, zeroes
/// up to `span`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laid {
    /// Where it begins.
    pub at: u32,
    /// Its header; final once the group is [sealed](Group::seal).
    pub header: FrameHeader,
    /// Header and table as bytes.
    pub head: Vec<u8>,
}

impl Laid {
    /// How many zeroes follow the units.
    #[must_use]
    pub const fn padding(&self) -> u32 {
        self.header.span.saturating_sub(self.header.used())
    }
}

impl SegmentWriter {
    /// At the start of a segment that nothing was written to yet.
    #[must_use]
    pub fn begin(header: &SegmentHeader) -> Self {
        Self {
            store: header.store,
            segment: header.segment,
            length: header.length,
            end: SEGMENT_HEADER,
            frames: 0,
            groups: 0,
            last: header.hash(),
        }
    }

    /// Behind the last frame of a segment that was left cleanly; `groups` is that frame's.
    #[must_use]
    pub const fn resume(header: &SegmentHeader, sealed: &Sealed, groups: u32) -> Self {
        Self {
            store: header.store,
            segment: header.segment,
            length: header.length,
            end: sealed.end,
            frames: sealed.frames,
            groups,
            last: sealed.last,
        }
    }

    /// The segment.
    #[must_use]
    pub const fn segment(&self) -> SegmentId {
        self.segment
    }

    /// The number of the last group.
    #[must_use]
    pub const fn group_no(&self) -> u32 {
        self.groups
    }

    /// How the segment stands, and how it ended if nothing more comes.
    #[must_use]
    pub const fn sealed(&self) -> Sealed {
        Sealed { segment: self.segment, end: self.end, frames: self.frames, last: self.last }
    }

    /// An empty group at the segment's end.
    #[must_use]
    pub const fn group(&self) -> Group {
        Group {
            at: self.end,
            next: Self { groups: self.groups.saturating_add(1), ..*self },
            frames: Vec::new(),
        }
    }

    /// The group is durable: what comes next comes behind it.
    pub const fn commit(&mut self, group: &Group) {
        *self = group.next;
    }
}

impl Group {
    /// Where it begins.
    #[must_use]
    pub const fn at(&self) -> u32 {
        self.at
    }

    /// Its frames.
    #[must_use]
    pub fn frames(&self) -> &[Laid] {
        &self.frames
    }

    /// The byte behind its last frame.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.next.end
    }

    /// Lays `batch` behind the frames so far; false when the segment has no room for it (nothing is laid then).
    pub fn push(&mut self, batch: &Batch, received_at: WallTime) -> bool {
        let (first_time, last_time) = table::times(&batch.entries);
        let mut head = vec![0; FRAME_HEADER];
        table::encode_batch(batch, first_time, &mut head);
        let fields = Fields {
            kind: FrameKind::Records,
            entries: batch.entries.len(),
            blocks: batch.lens.len(),
            body: batch.body.len(),
        };
        self.lay(head, &fields, |header| FrameHeader {
            stream: batch.stream,
            run: batch.run,
            epoch: batch.epoch,
            first_lsn: batch.first_lsn,
            first_time,
            last_time,
            received_at,
            ..header
        })
    }

    /// Lays records of the gateway's own stream; `first` is the LSN of the first. As [`Group::push`].
    pub fn push_meta(&mut self, records: &[MetaRecord], first: Lsn, received_at: WallTime) -> bool {
        let mut head = vec![0; FRAME_HEADER];
        table::encode_meta(records, &mut head);
        let fields = Fields { kind: FrameKind::Meta, entries: records.len(), blocks: 0, body: 0 };
        self.lay(head, &fields, |header| FrameHeader {
            first_lsn: first,
            first_time: received_at,
            last_time: received_at,
            received_at,
            ..header
        })
    }

    fn lay(&mut self, head: Vec<u8>, fields: &Fields, fill: impl FnOnce(FrameHeader) -> FrameHeader) -> bool {
        let at = self.next.end;
        let Some(header) = fields.header(&head, &self.next) else { return false };
        // Room is asked for as if the group ended here, since it may.
        let end = at.checked_add(header.span).and_then(|e| e.checked_next_multiple_of(GROUP_ALIGN));
        if end.is_none_or(|e| e > self.next.length) {
            return false;
        }
        self.frames.push(Laid { at, header: fill(header), head });
        self.next.end = at.saturating_add(header.span);
        self.next.frames = self.next.frames.saturating_add(1);
        true
    }

    /// Makes the headers final: the chain of hashes, what follows in the group, the last span.
    pub fn seal(&mut self) {
        let end = self.next.end.next_multiple_of(GROUP_ALIGN);
        let mut following = u16::try_from(self.frames.len()).unwrap_or(u16::MAX);
        for laid in &mut self.frames {
            following = following.saturating_sub(1);
            laid.header.following = following;
            laid.header.previous = self.next.last;
            if following == 0 {
                laid.header.span = end.saturating_sub(laid.at);
            }
            self.next.last = laid.header.seal_into(&mut laid.head);
        }
        self.next.end = end;
    }
}

/// The most frames a group may hold: their number behind a frame is a u16.
pub const MAX_GROUP_FRAMES: usize = 4096;

struct Fields {
    kind: FrameKind,
    entries: usize,
    blocks: usize,
    body: usize,
}

impl Fields {
    /// The header so far; `None` when a length is beyond what a frame can hold.
    fn header(&self, head: &[u8], next: &SegmentWriter) -> Option<FrameHeader> {
        let table = u32::try_from(head.len().checked_sub(FRAME_HEADER)?).ok()?;
        let body = u32::try_from(self.body).ok()?;
        let used = FRAME_HEADER_BYTES.checked_add(table)?.checked_add(body)?;
        Some(FrameHeader {
            store: next.store,
            segment: next.segment,
            number: next.frames,
            previous: 0,
            kind: self.kind,
            following: 0,
            group: next.groups,
            table,
            body,
            span: used.checked_next_multiple_of(FRAME_ALIGN)?,
            entries: u32::try_from(self.entries).ok()?,
            blocks: u32::try_from(self.blocks).ok()?,
            stream: OWN_STREAM,
            run: RunId::new(0),
            epoch: Epoch::new(0),
            first_lsn: Lsn::ZERO,
            first_time: WallTime::EPOCH,
            last_time: WallTime::EPOCH,
            received_at: WallTime::EPOCH,
        })
    }
}
