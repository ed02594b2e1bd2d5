//! Hashing what a segment's file holds, at leisure.

use std::io;
use std::time::Duration;

use gateway_journal::Digest;
use gateway_journal::ledger::Hashing;
use tap_block::units::{count, index};
use tap_disk::SegmentFile;

use crate::queue::Queue;

/// What is read at once.
const PIECE: u32 = 1 << 20;
/// While commits wait, so long a pause is made after each piece: a little more than 100 MB/s are left to hashing, so that it gets
/// on under any load.
const YIELD: Duration = Duration::from_millis(8);

/// Bytes that stand in for those of the file.
pub(crate) struct Instead<'a> {
    pub(crate) at: u32,
    pub(crate) bytes: &'a [u8],
}

/// Hashes the first `end` bytes piece by piece, telling of each place reached; `Ok(false)` from `reached` ends it, and
/// then it is `None`.
pub(crate) fn hash(
    file: &SegmentFile,
    end: u32,
    queue: &Queue,
    reached: &mut dyn FnMut(u32, &[u8]) -> bool,
) -> io::Result<Option<Digest>> {
    let (mut hashing, mut at, mut piece) = (Hashing::default(), 0, Vec::new());
    while at < end {
        let len = PIECE.min(end - at);
        piece.resize(index(u64::from(len)), 0);
        file.read_at(u64::from(at), &mut piece)?;
        if !reached(at, &piece) {
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
    Ok(hash(file, end, queue, &mut |_, _| true)?.unwrap_or(Digest::NONE))
}

/// The hash of the first `end` bytes as they are, and as they would be with others in a place.
pub(crate) fn digest_with(
    file: &SegmentFile,
    end: u32,
    instead: &Instead<'_>,
    queue: &Queue,
) -> io::Result<(Digest, Digest)> {
    let mut other = Hashing::default();
    let before = hash(file, end, queue, &mut |at, piece| {
        let mut piece = piece.to_vec();
        instead.put_into(at, &mut piece);
        other.add(&piece);
        true
    })?;
    Ok((before.unwrap_or(Digest::NONE), other.digest()))
}

impl Instead<'_> {
    fn put_into(&self, at: u32, piece: &mut [u8]) {
        let (own, first) = (u64::from(self.at), u64::from(at));
        let (from, to) = (own.max(first), (own + count(self.bytes.len())).min(first + count(piece.len())));
        if from >= to {
            return;
        }
        let source = self.bytes.get(index(from - own)..index(to - own));
        let target = piece.get_mut(index(from - first)..index(to - first));
        if let (Some(source), Some(target)) = (source, target) {
            target.copy_from_slice(source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stand_in_over_the_border_of_pieces() {
        let instead = Instead { at: 6, bytes: &[1, 2, 3, 4] };
        let put = |at: u32| {
            let mut piece = [0; 8];
            instead.put_into(at, &mut piece);
            piece
        };
        assert_eq!(put(0), [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(put(8), [3, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(put(4), [0, 0, 1, 2, 3, 4, 0, 0]);
        assert_eq!(put(16), [0; 8]);
    }
}
