//! Reading the frames of settled segments.

use std::sync::Arc;

use gateway_journal::frame::FRAME_ALIGN;
use gateway_journal::settled::{check_settled, decode_settled_run};
use gateway_journal::{SETTLED_FRAME, SETTLED_FRAME_BYTES, SegmentId, SettledFrame, SettledKind, Version};
use tap_block::units::index;
use tap_disk::SegmentFile;

use crate::chunks::ChunkReader;

/// The frame at `at`: its header and its table, checked.
pub(crate) fn read_frame(
    file: &SegmentFile,
    segment: SegmentId,
    at: u32,
) -> Result<(SettledFrame, Vec<u8>), String> {
    let mut head = vec![0; SETTLED_FRAME];
    file.read_at(u64::from(at), &mut head).map_err(|e| e.to_string())?;
    let frame = SettledFrame::decode(&head).map_err(|e| e.to_string())?;
    if frame.segment != segment || u64::from(at) + u64::from(frame.span) > file.len() {
        return Err("a frame that is not this segment's".into());
    }
    head.resize(SETTLED_FRAME + index(u64::from(frame.table)), 0);
    let (_, table) = head.split_at_mut(SETTLED_FRAME);
    file.read_at(u64::from(at) + u64::from(SETTLED_FRAME_BYTES), table).map_err(|e| e.to_string())?;
    check_settled(&head).map_err(|e| e.to_string())?;
    Ok((frame, head.split_off(SETTLED_FRAME)))
}

/// The versions in a frame.
pub(crate) fn versions_in(frame: &SettledFrame, at: u32, table: &[u8]) -> Result<Vec<Version>, String> {
    match frame.kind {
        SettledKind::Run(..) => decode_settled_run(frame, at, table).map_err(|e| e.to_string()),
        SettledKind::Manifest | SettledKind::Piece => Ok(Vec::new()),
    }
}

/// Where the next sound frame behind `bad` begins; `end` when there is none. A sector that cannot be read holds none.
pub(crate) fn next_sound(file: &Arc<SegmentFile>, segment: SegmentId, bad: u32, end: u32) -> u32 {
    let (mut reader, mut at) = (ChunkReader::new(Arc::clone(file)), bad.saturating_add(FRAME_ALIGN));
    while at < end {
        let begins = SettledFrame::begins(reader.fetch(at, FRAME_ALIGN));
        if begins && read_frame(file, segment, at).is_ok() {
            return at;
        }
        at = at.saturating_add(FRAME_ALIGN);
    }
    end
}
