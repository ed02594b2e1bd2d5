//! EXTENDED COPY and RECEIVE COPY RESULTS (SPC-4 sections 6.4, 6.18 to 6.20): block to block segments, whole blocks or with
//! byte offsets, within a unit or between two that the initiator has a session with.
//!
//! Of a segment within one unit the disk is asked to show the content at both places. Between two units the one is asked what it
//! shows, and where that is a base that both stand above the other one shows it as well. All else is read and written piece by
//! piece. Before each operation the initiator's right to it is looked at again: a
//! copy may take minutes, and a unit may be reset, reserved or logged out of meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;

use tap_block::{
    Answer, Answered, BLOCK_SIZE, Base, BlockDevice, DeviceError, Extent, FromBase, Op, Part, Shown,
};

use crate::field::{byte, len8, len16, len32, put};
use crate::scsi::party::Party;
use crate::scsi::reservation::Wants;
use crate::scsi::segments::{self, BLOCKS, BYTES, IDENTIFICATION, MAX_DESCRIPTORS, Named, Segment};
use crate::scsi::segments::{MAX_SEGMENT, MAX_SEGMENTS, MAX_TARGETS};
use crate::scsi::sense::Sense;
use crate::scsi::work::failure;

/// The longest parameter list that is taken at all.
pub(crate) const MAX_LIST: u32 = 64 << 10;
/// Bytes copied at a time.
pub(crate) const PIECE: u64 = 1 << 20;
/// Bytes at a time that are shown and not copied.
const SHOWN: u64 = 16 << 20;

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
    /// The units that segments name, each once.
    parties: Vec<Party>,
    /// What is claimed: where it writes to; and of the unit that the command was sent to a claim on nothing at least, so that
    /// whoever waits there until it is over does.
    claims: Vec<(Party, Extent)>,
    segments: VecDeque<Segment>,
    finished: u16,
    /// Of the first segment.
    done: u64,
    bytes: u64,
    /// The units of the first segment may stand above one base.
    shares: bool,
    piece: Option<Segment>,
    doing: Doing,
}

/// What is under way with a piece.
#[derive(Debug)]
enum Doing {
    /// The disk does the whole segment.
    Whole,
    /// The disk shows what this base has at this place, and the other one shows.
    Showing(Base, u64),
    /// A piece is read.
    Reading,
    /// It is written: the operation under way is the first of these.
    Writing(VecDeque<Op>),
}

/// An operation, and the disk that it is for.
pub(crate) type Errand = (Arc<dyn BlockDevice>, Op);

impl Copy {
    /// The parameter list, every segment checked before the first is copied; `reach` finds the units that it names, and `own` is
    /// the one that it was sent to.
    pub(crate) fn parse(
        list: &[u8],
        own: Party,
        reach: impl Fn(&Named<'_>) -> Option<Party>,
    ) -> Result<Self, Sense> {
        let usage = byte(list, 1) >> 3 & 0x03;
        let mut parties = vec![own];
        let segments = segments::parse(list, &mut parties, reach)?;
        let mut copy = Self {
            list: byte(list, 0),
            discarded: usage == 3,
            claims: claims(&parties, &segments),
            parties,
            segments,
            finished: 0,
            done: 0,
            bytes: 0,
            shares: true,
            piece: None,
            doing: Doing::Whole,
        };
        copy.check()?;
        copy.begin_segment();
        Ok(copy)
    }

    /// One that copies nothing is a write to its own unit, which may not be written.
    fn check(&self) -> Result<(), Sense> {
        if self.segments.is_empty() {
            self.admitted(0, Wants::Write)?;
        }
        self.segments.iter().try_for_each(|segment| {
            self.admitted(segment.to.party, Wants::Write)?;
            self.admitted(segment.from.party, Wants::Read).map(drop)
        })
    }

    pub(crate) fn claims(&self) -> &[(Party, Extent)] {
        &self.claims
    }

    /// The first segment is begun.
    fn begin_segment(&mut self) {
        (self.done, self.shares, self.doing) = (0, true, Doing::Whole);
        self.piece = self.segments.front().copied();
        if self.piece.is_some_and(|segment| !segment.is_within_one()) {
            self.begin_piece();
        }
    }

    /// The next piece of it.
    fn begin_piece(&mut self) {
        let Some(segment) = self.segments.front() else { return };
        let left = segment.length() - self.done;
        // A copy onto itself further on goes from the end.
        let of_length = |length: u64| {
            let at = if segment.is_onto_itself() { left - length } else { self.done };
            segment.part(at, length)
        };
        let rest = of_length(left.min(SHOWN));
        let shown = if self.shares { self.shown(&rest) } else { None };
        (self.piece, self.doing) = match shown.map_or((left, None), |shown| whole_blocks(shown, &rest)) {
            (length, Some((base, at))) => (Some(of_length(length)), Doing::Showing(base, at)),
            (length, None) => (Some(of_length(length.min(left).min(PIECE))), Doing::Reading),
        };
    }

    /// What the one shows, where the other one could.
    fn shown(&self, piece: &Segment) -> Option<Shown> {
        let party = self.parties.get(piece.from.party)?;
        party.unit.device().shown(piece.from.extent).filter(|_| piece.is_cut_alike())
    }

    /// What comes first or next; `None` when all is done.
    pub(crate) fn next(&self) -> Result<Option<Errand>, Sense> {
        let Some(Segment { from, to }) = self.piece else { return Ok(None) };
        // Both: what is read for a unit that takes it no more would only keep those waiting that wait there.
        let from_party = self.admitted(from.party, Wants::Read)?;
        let to_party = self.admitted(to.party, Wants::Write)?;
        let (source, device) = (from_party.unit.device(), to_party.unit.device());
        let copied = |from: Extent| Op::Copy { from, to: to.extent.offset() };
        Ok(match &self.doing {
            Doing::Whole => Some((device.clone(), copied(from.extent))),
            Doing::Showing(base, at) => {
                let there: Arc<dyn BlockDevice> = Arc::new(FromBase::new(device.clone(), *base));
                Some((there, copied(Extent::between(*at, at + from.extent.length()))))
            }
            Doing::Reading => Some((source.clone(), Op::Read { extent: from.extent })),
            Doing::Writing(writes) => writes.front().map(|op| (device.clone(), op.clone())),
        })
    }

    /// May this still be done there?
    fn admitted(&self, party: usize, wants: Wants) -> Result<&Party, Sense> {
        let party = self.parties.get(party).ok_or(Sense::INTERNAL)?;
        party.admit(wants).map(|()| party)
    }

    /// What was to be done is done, or failed.
    pub(crate) fn took(&mut self, answered: Answered) -> Result<(), Sense> {
        match (&mut self.doing, answered) {
            (Doing::Whole | Doing::Showing(..), Err(DeviceError::Unsupported(_))) => {
                self.shares = false;
                self.begin_piece();
            }
            (doing, Err(error)) => return Err(failure(&error, !matches!(doing, Doing::Reading))),
            (Doing::Reading, Ok(answer)) => self.read(answer)?,
            (Doing::Whole | Doing::Showing(..), Ok(_)) => self.wrote(),
            (Doing::Writing(writes), Ok(_)) => {
                writes.pop_front();
                if writes.is_empty() {
                    self.wrote();
                }
            }
        }
        Ok(())
    }

    /// A piece was read; it has to be written.
    fn read(&mut self, answer: Answer) -> Result<(), Sense> {
        let to = self.piece.map(|piece| piece.to.extent);
        let to = to.filter(|to| to.length() == answer.length()).ok_or(Sense::INTERNAL)?;
        self.doing = Doing::Writing(writes(to, answer));
        Ok(())
    }

    /// A piece is where it was to go.
    fn wrote(&mut self) {
        let Some(piece) = self.piece else { return };
        self.done += piece.length();
        self.bytes += piece.length();
        if self.segments.front().is_some_and(|segment| segment.length() > self.done) {
            return self.begin_piece();
        }
        self.segments.pop_front();
        self.finished += 1;
        self.begin_segment();
    }

    /// How it went so far, unless nobody asks.
    pub(crate) fn result(&self) -> Option<Copied> {
        let Self { list, finished, bytes, .. } = *self;
        let complete = self.segments.is_empty();
        (!self.discarded).then_some(Copied { list, complete, segments: finished, bytes })
    }
}

/// In the order of the units' ranks.
fn claims(parties: &[Party], segments: &VecDeque<Segment>) -> Vec<(Party, Extent)> {
    let claim = |(at, party): (usize, &Party)| {
        let here = || segments.iter().map(|s| s.to).filter(|to| to.party == at).map(|to| to.extent);
        let ends = here().map(|e| e.offset()).min().zip(here().map(|e| e.end()).max());
        // The first is the command's own.
        let ends = ends.or((at == 0).then_some((0, 0)));
        ends.map(|(start, end)| (party.clone(), Extent::between(start, end)))
    };
    let mut claims: Vec<(Party, Extent)> = parties.iter().enumerate().filter_map(claim).collect();
    claims.sort_by_key(|(party, _)| party.rank());
    claims
}

/// How much of the start of a piece goes in one way, and whether it need not be moved: whole blocks of a base.
fn whole_blocks(shown: Shown, piece: &Segment) -> (u64, Option<(Base, u64)>) {
    let start = piece.to.extent.offset();
    let head = start.next_multiple_of(BLOCK_SIZE) - start;
    let whole = shown.length.min(piece.length()) / BLOCK_SIZE * BLOCK_SIZE;
    match shown.from {
        Some(from) if head == 0 && whole > 0 => (whole, Some(from)),
        Some(_) if head > 0 => (shown.length.min(head).max(1), None),
        _ => (shown.length.max(1), None),
    }
}

/// What writes `answer` at `to`. Zeroes that take no room take none where they go to either.
fn writes(to: Extent, answer: Answer) -> VecDeque<Op> {
    let parts = match answer {
        Answer::Zeroes(length) => vec![Part::Zeroes(length)],
        Answer::Parts(parts) => parts,
        answer => vec![Part::Data(answer.into_bytes())],
    };
    let mut offset = to.offset();
    let writes = parts.into_iter().map(|part| {
        let start = offset;
        offset += part.length();
        match part {
            Part::Data(data) => Op::Write { offset: start, data, fua: false },
            Part::Zeroes(_) => {
                let extent = Extent::between(start, offset);
                Op::Zero { extent, fua: false, may_trim: true, fast: false }
            }
        }
    });
    writes.collect()
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
