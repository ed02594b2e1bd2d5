//! Files whose header is damaged. What they hold is found out from the frames in them: each names its segment, and no number is
//! given to two segments. How a settled segment ends stands in the manifest as well.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_journal::frame::FRAME_ALIGN;
use gateway_journal::{
    Expected, Found, Manifest, SEGMENT_HEADER, SETTLED_FRAME_BYTES, Sealed, SegmentId, SegmentScan,
    SettledFrame, SettledKind, Start, StoreId,
};
use tap_disk::{FileNo, SegmentFile, SegmentPool};

use crate::chunks::ChunkReader;
use crate::settled::read_frame;

/// Settled segments of which sound frames lie in a file: the one that it holds, and maybe what is left of earlier ones.
pub(super) struct Inside {
    pub(super) file: FileNo,
    pub(super) segments: BTreeMap<SegmentId, Remains>,
}

/// What is left of a settled segment.
#[derive(Default)]
pub(super) struct Remains {
    /// The byte behind its last sound frame.
    pub(super) end: u32,
    /// Sound frames.
    pub(super) frames: u32,
    /// Its manifest, and where that begins.
    pub(super) manifest: Option<(u32, Manifest)>,
}

/// Looks for settled frames in a file.
pub(super) fn look_inside(pool: &SegmentPool, no: FileNo, store: Option<StoreId>) -> Inside {
    let mut inside = Inside { file: no, segments: BTreeMap::new() };
    let Ok(file) = pool.get(no) else { return inside };
    let length = u32::try_from(file.len()).unwrap_or(u32::MAX);
    // Whatever it is, it may be of any length.
    let (mut reader, mut at) = (ChunkReader::new(Arc::clone(&file)), SEGMENT_HEADER);
    while at < length {
        let head = reader.fetch(at, SETTLED_FRAME_BYTES);
        let frame = SettledFrame::begins(head).then(|| SettledFrame::decode(head).ok()).flatten();
        let frame = frame.filter(|frame| Some(frame.store) == store);
        let span = frame.and_then(|frame| take(&mut inside, &file, &frame, at));
        at = at.saturating_add(span.unwrap_or(FRAME_ALIGN));
    }
    inside
}

/// The bytes of a sound frame, which is counted.
fn take(inside: &mut Inside, file: &SegmentFile, frame: &SettledFrame, at: u32) -> Option<u32> {
    let (frame, table) = read_frame(file, frame.segment, at).ok()?;
    let remains = inside.segments.entry(frame.segment).or_default();
    (remains.end, remains.frames) = (at.saturating_add(frame.span), remains.frames.saturating_add(1));
    if frame.kind == SettledKind::Manifest {
        remains.manifest = Manifest::decode(&table).ok().map(|manifest| (at, manifest));
    }
    Some(frame.span.max(FRAME_ALIGN))
}

/// Is a sound frame of this segment of the log in the file?
pub(super) fn holds_log(pool: &SegmentPool, no: FileNo, store: StoreId, sealed: Sealed) -> bool {
    let mut any = false;
    follow(pool, no, (store, sealed.segment), Some(sealed), &mut |_| any = true);
    any
}

/// Where a segment ends that the next one says nothing of: behind its last sound frame.
pub(super) fn end_of_log(pool: &SegmentPool, no: FileNo, which: (StoreId, SegmentId)) -> u32 {
    let mut end = SEGMENT_HEADER;
    follow(pool, no, which, None, &mut |found| {
        if let Found::Frame { at, header, .. } = found {
            end = at.saturating_add(header.span);
        }
    });
    end
}

/// Tells of every frame.
fn follow(
    pool: &SegmentPool,
    no: FileNo,
    (store, segment): (StoreId, SegmentId),
    sealed: Option<Sealed>,
    each: &mut dyn FnMut(&Found),
) {
    let Ok(file) = pool.get(no) else { return };
    let length = u32::try_from(file.len()).unwrap_or(u32::MAX);
    let from = Start::of_segment(None);
    let mut scan = SegmentScan::new(Expected { store, segment, length, from, sealed, durable: 0 });
    let mut reader = ChunkReader::new(file);
    while let Some((at, len)) = scan.want() {
        if let Some(found @ Found::Frame { .. }) = scan.give(reader.fetch(at, len)) {
            each(&found);
        }
    }
}
