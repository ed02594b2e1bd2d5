//! Barrier marks as bytes: four lists of differences to the mark before. There may be a long list of them, written with each group
//! of versions; so a chunk that changes no more is coded once, and all that is left then is to copy bytes.

use prost::encoding::{decode_varint, encode_varint};
use tap_block::{Lsn, MarkId, WallTime};

use super::{MarkPoint, Passed};

/// Of each mark its LSN, its time, its number (from its own time) and when it was received, as packed protobuf fields have them:
/// LSNs as `uint64`, the others as `sint64`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lists(pub(super) [Vec<u8>; 4]);

impl Lists {
    /// Marks that follow one another, but for the first, which depends on the one before it.
    pub(super) fn behind_first(marks: &[MarkPoint]) -> Self {
        let mut lists = Self::default();
        marks.iter().zip(marks.iter().skip(1)).for_each(|(before, mark)| lists.push(mark, Some(before)));
        lists
    }

    pub(super) fn push(&mut self, mark: &MarkPoint, before: Option<&MarkPoint>) {
        let (lsn, at, received) = before.map_or((0, 0, 0), fields);
        let (new_lsn, new_at, new_received) = fields(mark);
        let steps = [
            new_lsn.wrapping_sub(lsn),
            zigzag(new_at.wrapping_sub(at)),
            zigzag(mark.id.get().wrapping_sub(new_at)),
            zigzag(new_received.wrapping_sub(received)),
        ];
        self.0.iter_mut().zip(steps).for_each(|(list, step)| encode_varint(step, list));
    }

    pub(super) fn append(&mut self, more: &Self) {
        self.0.iter_mut().zip(&more.0).for_each(|(list, more)| list.extend_from_slice(more));
    }

    /// Back from bytes; `None` when they are none of ours.
    pub(super) fn decode(lists: [&[u8]; 4]) -> Option<Vec<MarkPoint>> {
        let [mut lsns, mut ats, mut ids, mut all_received] = lists;
        let (mut lsn, mut at, mut received) = (0u64, 0u64, 0u64);
        let mut marks = Vec::new();
        while !lsns.is_empty() {
            lsn = lsn.checked_add(decode_varint(&mut lsns).ok()?)?;
            at = at.wrapping_add(signed(&mut ats)?);
            let id = MarkId::new(at.wrapping_add(signed(&mut ids)?));
            received = received.wrapping_add(signed(&mut all_received)?);
            let at = Passed { lsn: Lsn::new(lsn)?, at: WallTime::from_nanos(at) };
            marks.push(MarkPoint { id, at, received_at: WallTime::from_nanos(received) });
        }
        [ats, ids, all_received].iter().all(|rest| rest.is_empty()).then_some(marks)
    }
}

const fn fields(mark: &MarkPoint) -> (u64, u64, u64) {
    (mark.at.lsn.get(), mark.at.at.nanos(), mark.received_at.nanos())
}

/// A difference as `sint64` has it.
const fn zigzag(step: u64) -> u64 {
    let step = step.cast_signed();
    ((step << 1) ^ (step >> 63)).cast_unsigned()
}

fn signed(list: &mut &[u8]) -> Option<u64> {
    let raw = decode_varint(list).ok()?;
    Some((raw >> 1) ^ (raw & 1).wrapping_neg())
}
