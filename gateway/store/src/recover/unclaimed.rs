//! Files that say nothing of what they are: a bit of the header flipped while they lay ready, say. Those in which nothing can lie
//! that anybody misses are used again.

use gateway_journal::frame::FRAME_ALIGN;
use gateway_journal::{FrameHeader, SEGMENT_HEADER, SegmentId, SettledFrame, StoreId};
use tap_block::units::index;
use tap_disk::{FileNo, SegmentPool};

/// How frames begin, of whatever version.
const LOG: &[u8] = b"CGFRAME";
const SETTLED: &[u8] = b"CGSFRAM";

/// Does a file hold nothing but what is left of settled segments of this store, and of segments of the log that are `gone` for
/// good? Asked when no segment that counts is missing. What cannot be read, is of another store, or of a newer version may be worth
/// something to somebody.
pub(super) fn is_idle(
    pool: &SegmentPool,
    no: FileNo,
    store: StoreId,
    gone: &dyn Fn(SegmentId) -> bool,
) -> bool {
    let Ok(file) = pool.get(no) else { return false };
    let mut bytes = vec![0; index(file.len())];
    if file.read_at(0, &mut bytes).is_err() {
        return false;
    }
    let step = index(u64::from(FRAME_ALIGN));
    let frames = (index(u64::from(SEGMENT_HEADER))..bytes.len()).step_by(step);
    let mut frames = frames.filter_map(|at| bytes.get(at..));
    frames.all(|rest| match rest {
        rest if rest.starts_with(LOG) => {
            FrameHeader::decode(rest).is_ok_and(|frame| frame.store == store && gone(frame.segment))
        }
        rest if rest.starts_with(SETTLED) => {
            SettledFrame::decode(rest).is_ok_and(|frame| frame.store == store)
        }
        _ => true,
    })
}
