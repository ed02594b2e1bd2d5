//! EXTENDED COPY and RECEIVE COPY RESULTS (SPC-4 sections 6.4, 6.18 to 6.20), within one unit: block to block
//! segments, whole blocks or with byte offsets. A disk is asked to show a segment's content at both places; one that
//! cannot is read and written piece by piece.

use std::collections::VecDeque;

use tap_block::{Answer, Answered, DeviceError, Extent, Op};

use crate::field::{be16, be32, be64, byte, len8, len16, len32, put};
use crate::scsi::blocks::Disk;
use crate::scsi::sense::Sense;
use crate::scsi::unit::Identity;

/// Of one list.
const MAX_TARGETS: usize = 8;
const MAX_SEGMENTS: usize = 64;
const TARGET: usize = 32;
const HEADER: usize = 16;
/// The longest lists of descriptors.
const MAX_DESCRIPTORS: usize = MAX_TARGETS * TARGET + MAX_SEGMENTS * 32;
/// The longest parameter list that is taken at all.
pub(crate) const MAX_LIST: u32 = 64 << 10;
/// Bytes of one segment.
const MAX_SEGMENT: u32 = 256 << 20;
/// Bytes copied at a time.
const PIECE: u64 = 1 << 20;

/// Descriptor types.
const IDENTIFICATION: u8 = 0xe4;
const BLOCKS: u8 = 0x02;
const BYTES: u8 = 0x0a;

const TOO_MANY_TARGETS: Sense = Sense::new(5, 0x2606);
const TOO_MANY_SEGMENTS: Sense = Sense::new(5, 0x2608);
const UNSUPPORTED_TARGET: Sense = Sense::new(5, 0x2607);
const UNSUPPORTED_SEGMENT: Sense = Sense::new(5, 0x2609);
/// COPY ABORTED: a descriptor that names no unit we can reach.
const UNREACHABLE: Sense = Sense::new(0xa, 0x0804);
/// COPY ABORTED: the blocks are not there.
const ABORTED: Sense = Sense::new(0xa, 0x0000);

/// How a copy ended, as RECEIVE COPY RESULTS tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) list: u8,
    pub(crate) complete: bool,
    pub(crate) segments: u16,
    pub(crate) bytes: u64,
}

/// A copy under way.
#[derive(Debug)]
pub(crate) struct Copy {
    list: u8,
    /// The initiator does not ask how it went (LIST ID USAGE is 11b).
    discarded: bool,
    segments: VecDeque<Segment>,
    finished: u16,
    /// Of the first segment.
    done: u64,
    bytes: u64,
    doing: Doing,
}

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// The disk does the whole segment.
    Whole,
    /// A piece is read.
    Reading,
    /// It is written.
    Writing,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    from: Extent,
    to: Extent,
}

impl Copy {
    /// The parameter list, every segment checked before the first is copied.
    pub(crate) fn parse(identity: &Identity, disk: Disk, list: &[u8]) -> Result<Self, Sense> {
        let usage = byte(list, 1) >> 3 & 0x03;
        let empty = Self {
            list: byte(list, 0),
            discarded: usage == 3,
            segments: VecDeque::new(),
            finished: 0,
            done: 0,
            bytes: 0,
            doing: Doing::Whole,
        };
        if list.is_empty() {
            return Ok(empty);
        }
        let (targets, segments) = split(list)?;
        let ours: Vec<bool> = targets.iter().map(|t| is_ours(identity, t)).collect::<Result<_, _>>()?;
        let segments = parse_segments(disk, &ours, segments)?;
        Ok(Self { segments, ..empty })
    }

    /// The stretch that is written to.
    pub(crate) fn target(&self) -> Option<Extent> {
        let start = self.segments.iter().map(|s| s.to.offset()).min()?;
        let end = self.segments.iter().map(|s| s.to.end()).max()?;
        Some(Extent::between(start, end))
    }

    /// The next piece: where from and where to.
    fn piece(&self) -> Option<Segment> {
        let Segment { from, to } = *self.segments.front()?;
        if self.doing == Doing::Whole {
            return Some(Segment { from, to });
        }
        let left = from.length() - self.done;
        let length = left.min(PIECE);
        // A copy onto itself further on goes from the end.
        let at = if to.offset() > from.offset() { left - length } else { self.done };
        let part = |e: Extent| Extent::between(e.offset() + at, e.offset() + at + length);
        Some(Segment { from: part(from), to: part(to) })
    }

    /// What comes first; `None` when there is nothing to copy.
    pub(crate) fn first(&self) -> Option<Op> {
        let Segment { from, to } = self.piece()?;
        Some(match self.doing {
            Doing::Whole => Op::Copy { from, to: to.offset() },
            Doing::Reading | Doing::Writing => Op::Read { extent: from },
        })
    }

    /// What comes next after this; `None` when all is done.
    pub(crate) fn next(&mut self, answered: Answered) -> Result<Option<Op>, DeviceError> {
        match (self.doing, answered) {
            (Doing::Whole, Err(DeviceError::Unsupported(_))) => self.doing = Doing::Reading,
            (_, Err(error)) => return Err(error),
            (Doing::Reading, Ok(answer)) => {
                self.doing = Doing::Writing;
                return Ok(self.write(answer));
            }
            (Doing::Whole | Doing::Writing, Ok(_)) => self.wrote(),
        }
        Ok(self.first())
    }

    /// It was read; it has to be written. Zeroes take no room where they go to either.
    fn write(&self, answer: Answer) -> Option<Op> {
        let to = self.piece()?.to;
        Some(match answer {
            Answer::Zeroes(_) => Op::Zero { extent: to, fua: false, may_trim: true, fast: false },
            answer => Op::Write { offset: to.offset(), data: answer.into_bytes(), fua: false },
        })
    }

    /// It was written.
    fn wrote(&mut self) {
        let Some(piece) = self.piece() else { return };
        self.done += piece.to.length();
        self.bytes += piece.to.length();
        self.doing = Doing::Reading;
        if self.segments.front().is_some_and(|segment| segment.from.length() == self.done) {
            self.segments.pop_front();
            self.finished += 1;
            self.done = 0;
            self.doing = Doing::Whole;
        }
    }

    /// How it went so far, unless nobody asks.
    pub(crate) fn result(&self) -> Option<Copied> {
        let Self { list, finished, bytes, .. } = *self;
        let complete = self.segments.is_empty();
        (!self.discarded).then_some(Copied { list, complete, segments: finished, bytes })
    }
}

/// The two lists of descriptors (section 6.4.1).
fn split(list: &[u8]) -> Result<(&[[u8; TARGET]], &[u8]), Sense> {
    let (targets, segments) =
        (usize::from(be16(list, 2)), usize::try_from(be32(list, 8)).unwrap_or(usize::MAX));
    let descriptors = list.get(HEADER..).ok_or(Sense::PARAMETER_LENGTH)?;
    let total = targets.checked_add(segments).filter(|&total| total <= MAX_DESCRIPTORS);
    let total = total.ok_or(Sense::PARAMETER_LENGTH)?;
    let descriptors = descriptors.get(..total).ok_or(Sense::PARAMETER_LENGTH)?;
    let (targets, segments) = descriptors.split_at(targets);
    let (targets, rest) = targets.as_chunks::<TARGET>();
    if !rest.is_empty() {
        return Err(Sense::PARAMETER_LENGTH);
    }
    if targets.len() > MAX_TARGETS {
        return Err(TOO_MANY_TARGETS);
    }
    Ok((targets, segments))
}

/// Does a target descriptor name this unit?
fn is_ours(identity: &Identity, target: &[u8; TARGET]) -> Result<bool, Sense> {
    if target[0] != IDENTIFICATION {
        return Err(UNSUPPORTED_TARGET);
    }
    let name = target.get(8..8 + usize::from(target[7]).min(20)).unwrap_or_default();
    Ok(target[5] & 0x3f == 0x03 && name == identity.naa.to_be_bytes())
}

fn parse_segments(disk: Disk, ours: &[bool], mut list: &[u8]) -> Result<VecDeque<Segment>, Sense> {
    let mut segments = VecDeque::new();
    while !list.is_empty() {
        let kind = byte(list, 0);
        if kind != BLOCKS && kind != BYTES {
            return Err(UNSUPPORTED_SEGMENT);
        }
        let length = 4 + usize::from(be16(list, 2));
        if length != if kind == BLOCKS { 28 } else { 32 } {
            return Err(Sense::INVALID_FIELD_IN_LIST);
        }
        let descriptor = list.get(..length).ok_or(Sense::PARAMETER_LENGTH)?;
        if segments.len() >= MAX_SEGMENTS {
            return Err(TOO_MANY_SEGMENTS);
        }
        segments.push_back((kind, descriptor));
        list = list.get(length..).unwrap_or_default();
    }
    let parsed = segments.into_iter().map(|(kind, descriptor)| segment(disk, ours, kind, descriptor));
    let parsed: VecDeque<Segment> = parsed.collect::<Result<_, _>>()?;
    Ok(parsed.into_iter().filter(|segment| !segment.from.is_empty()).collect())
}

/// Sections 6.4.6.3 and 6.4.6.9.
fn segment(disk: Disk, ours: &[bool], kind: u8, descriptor: &[u8]) -> Result<Segment, Sense> {
    let reachable = |at: usize| ours.get(usize::from(be16(descriptor, at))).copied().unwrap_or(false);
    if !reachable(4) || !reachable(6) {
        return Err(UNREACHABLE);
    }
    let (length, offsets) = if kind == BLOCKS {
        (u64::from(be16(descriptor, 10)) * disk.block, (0, 0))
    } else {
        (u64::from(be32(descriptor, 8)), (be16(descriptor, 28), be16(descriptor, 30)))
    };
    if length > u64::from(MAX_SEGMENT) {
        return Err(Sense::INVALID_FIELD_IN_LIST);
    }
    let from = disk.stretch(be64(descriptor, 12), u64::from(offsets.0), length).ok_or(ABORTED)?;
    let to = disk.stretch(be64(descriptor, 20), u64::from(offsets.1), length).ok_or(ABORTED)?;
    Ok(Segment { from, to })
}

/// RECEIVE COPY RESULTS with the operating parameters (section 6.18.4).
pub(crate) fn operating_parameters() -> Vec<u8> {
    let kinds = [BLOCKS, BYTES, IDENTIFICATION];
    let mut data = vec![0; 44];
    put(&mut data, 8, &len16(MAX_TARGETS).to_be_bytes());
    put(&mut data, 10, &len16(MAX_SEGMENTS).to_be_bytes());
    put(&mut data, 12, &len32(MAX_DESCRIPTORS).to_be_bytes());
    put(&mut data, 16, &MAX_SEGMENT.to_be_bytes());
    // Copies at a time, in all and of one initiator; granularity of one block of 512.
    put(&mut data, 34, &64_u16.to_be_bytes());
    put(&mut data, 36, &[64, 9]);
    put(&mut data, 43, &[len8(kinds.len())]);
    data.extend_from_slice(&kinds);
    let available = len32(data.len() - 4).to_be_bytes();
    put(&mut data, 0, &available);
    data
}

/// RECEIVE COPY RESULTS with the status of a copy (section 6.18.2).
pub(crate) fn status(copied: Copied) -> Vec<u8> {
    let mut data = vec![0; 12];
    put(&mut data, 0, &8_u32.to_be_bytes());
    put(&mut data, 4, &[if copied.complete { 1 } else { 2 }]);
    put(&mut data, 5, &copied.segments.to_be_bytes());
    put(&mut data, 8, &u32::try_from(copied.bytes).unwrap_or(u32::MAX).to_be_bytes());
    data
}

/// The third-party copy page (section 7.8.17): commands, descriptors, and what copies may be.
pub(crate) fn page() -> Vec<u8> {
    let mut body = Vec::new();
    descriptor(&mut body, 0x0001, &[7, 0x83, 1, 0x00, 0x84, 2, 0x00, 0x03]);
    let mut parameters = vec![0; 28];
    put(&mut parameters, 4, &len16(MAX_TARGETS).to_be_bytes());
    put(&mut parameters, 6, &len16(MAX_SEGMENTS).to_be_bytes());
    put(&mut parameters, 8, &len32(MAX_DESCRIPTORS).to_be_bytes());
    descriptor(&mut body, 0x0004, &parameters);
    descriptor(&mut body, 0x0008, &[3, BLOCKS, BYTES, IDENTIFICATION]);
    body
}

fn descriptor(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let padded = value.len().next_multiple_of(4);
    body.extend_from_slice(&kind.to_be_bytes());
    body.extend_from_slice(&len16(padded).to_be_bytes());
    body.extend_from_slice(value);
    body.resize(body.len() + padded - value.len(), 0);
}
