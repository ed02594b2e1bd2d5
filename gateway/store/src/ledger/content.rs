//! Hashing what a segment's file holds, at leisure.

use std::io;
use std::time::Duration;

use gateway_journal::Digest;
use gateway_journal::ledger::Hashing;
use tap_block::units::index;
use tap_disk::SegmentFile;

use crate::queue::Queue;

/// What is read at once.
const PIECE: u32 = 1 << 20;
/// While commits wait, so long a pause is made after each piece: a little more than 100 MB/s are left to hashing, so that it gets
/// on under any load.
const YIELD: Duration = Duration::from_millis(8);

/// Hashes the first `end` bytes piece by piece, and says of each how long it was; false from `reached` ends it, and then it is
/// `None`.
pub(crate) fn hash(
    file: &SegmentFile,
    end: u32,
    queue: &Queue,
    reached: &mut dyn FnMut(u32) -> bool,
) -> io::Result<Option<Digest>> {
    let (mut hashing, mut at, mut piece) = (Hashing::default(), 0, Vec::new());
    while at < end {
        let len = PIECE.min(end - at);
        piece.resize(index(u64::from(len)), 0);
        file.read_at(u64::from(at), &mut piece)?;
        if !reached(len) {
            return Ok(None);
        }
        hashing.add(&piece);
        at += len;
        if queue.bytes() > 0 {
            std::thread::park_timeout(YIELD);
        }
    }
    Ok(Some(hashing.digest()))
}

/// The hash of the first `end` bytes.
pub(crate) fn digest(file: &SegmentFile, end: u32, queue: &Queue) -> io::Result<Digest> {
    Ok(hash(file, end, queue, &mut |_| true)?.unwrap_or(Digest::NONE))
}
