//! Walking the frames of a segment, and telling a torn tail from damage.
//!
//! ```text
//!   Walk ──sound frame──► Walk at its end
//!    │ bad frame at X
//!    ▼
//!   Probe behind X ──sound frame at Y──► damage X..Y, Walk from Y
//!    │ nothing there
//!    ▼
//!   Over: bytes below the known end are damage, also when the file ends before it; else the tail was torn, or nothing more was written
//! ```
//!
//! A frame that is bad was lost to a crash only if nothing behind it was ever made durable. Three things prove
//! the contrary: the high-water mark, the next segment's word on how this one ended, and a sound frame of a
//! *later* group behind it, for no header of a group is written before the one before is durable (of its units, which
//! prove nothing, some may be).
//!
//! The machine does no I/O: it says which bytes it wants and is given them.

use crate::error::FormatError;
use crate::frame::{
    FRAME_ALIGN, FRAME_HEADER, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, GROUP_ALIGN, check_sum,
};
use crate::segment::{SEGMENT_HEADER, Sealed, StoreId};
use crate::units::SegmentId;

/// The bytes asked for when nothing is known about what comes.
const WALK_READ: u32 = 16 << 10;
const PROBE_READ: u32 = 1 << 20;

/// What is known about a segment before it is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The store.
    pub store: StoreId,
    /// The segment.
    pub segment: SegmentId,
    /// Bytes of its file.
    pub length: u32,
    /// Where to begin, and what the frame there follows.
    pub from: Start,
    /// How the next segment says it ended. Nothing behind that is part of the store.
    pub sealed: Option<Sealed>,
    /// Everything below this byte is known to have been durable.
    pub durable: u32,
}

/// A place between two groups of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The byte.
    pub at: u32,
    /// The number of the frame there.
    pub number: u32,
    /// The number of the group before it.
    pub group: u32,
    /// The hash of the frame before it; `None` when it is not known (the segment's header is damaged).
    pub previous: Option<u64>,
}

impl Start {
    /// Before the first frame; `header` is the hash of the segment's header.
    #[must_use]
    pub const fn of_segment(header: Option<u64>) -> Self {
        Self { at: SEGMENT_HEADER, number: 0, group: 0, previous: header }
    }
}

/// Something found on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A sound frame. Its units are not checked: the caller may, and [`reject`](SegmentScan::reject) it.
    Frame {
        /// Where it begins.
        at: u32,
        /// Its header.
        header: FrameHeader,
        /// Its table.
        table: Vec<u8>,
    },
    /// Bytes that must have been sound once are not.
    Damage {
        /// The first of them.
        from: u32,
        /// The byte behind the last.
        to: u32,
        /// What is wrong at the first.
        why: FormatError,
    },
    /// There is no more.
    Over {
        /// Where the sound frames end.
        end: Start,
        /// The last write was cut off by a crash (before it was acknowledged to anybody).
        torn: bool,
    },
}

/// The walk; see the module.
#[derive(Debug)]
pub struct SegmentScan {
    known: Expected,
    /// Behind the last sound frame.
    place: Start,
    /// Frames that the last one says follow in its group.
    following: u16,
    /// The place before the last frame, for [`SegmentScan::reject`].
    before: Option<(Start, u16)>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// A frame is due at `place`; this many bytes are wanted.
    Walk(u32),
    /// It is bad; looking for a sound one from `at` on, with this many bytes.
    Probe {
        bad: Bad,
        at: u32,
        want: u32,
    },
    Over(bool),
    Done,
}

#[derive(Debug, Clone)]
struct Bad {
    why: FormatError,
    /// Something was written there, if not soundly.
    written: bool,
}

/// What a look at one place gave.
enum Look {
    Frame(Box<FrameHeader>, Vec<u8>, u64),
    More(u32),
    Bad(FormatError),
}

impl SegmentScan {
    /// A walk from `known.from`.
    #[must_use]
    pub const fn new(known: Expected) -> Self {
        Self { known, place: known.from, following: 0, before: None, state: State::Walk(WALK_READ) }
    }

    /// The place behind the last sound frame.
    #[must_use]
    pub const fn place(&self) -> Start {
        self.place
    }

    /// The bytes wanted next, as offset and length within the file; `None` when the walk is over and
    /// [`SegmentScan::give`] has said so.
    #[must_use]
    pub fn want(&self) -> Option<(u32, u32)> {
        let (at, len) = match &self.state {
            State::Walk(len) => (self.place.at, *len),
            State::Probe { at, want, .. } => (*at, *want),
            State::Over(_) => (self.place.at, 0),
            State::Done => return None,
        };
        Some((at, len.min(self.limit().saturating_sub(at))))
    }

    /// Takes the bytes wanted and says what they show; `None` when more are needed. Fewer bytes than wanted mean
    /// that the file ends there.
    pub fn give(&mut self, bytes: &[u8]) -> Option<Found> {
        if let Some((at, wanted)) = self.want()
            && Self::short(bytes, wanted)
        {
            self.known.length = at.saturating_add(u32::try_from(bytes.len()).unwrap_or(0));
        }
        match std::mem::replace(&mut self.state, State::Done) {
            State::Walk(_) => self.walk(bytes),
            State::Probe { bad, at, .. } => self.probe(bad, at, bytes),
            State::Over(torn) => Some(Found::Over { end: self.place, torn }),
            State::Done => None,
        }
    }

    /// The frame given last is not sound after all: its units are not.
    pub fn reject(&mut self) {
        if let Some((place, following)) = self.before.take() {
            (self.place, self.following) = (place, following);
            self.lost(FormatError::Checksum("units"), true);
        }
    }

    /// Where frames may lie at all.
    fn limit(&self) -> u32 {
        self.known.sealed.map_or(self.known.length, |s| s.end.min(self.known.length))
    }

    /// Up to where there were frames once; the file may have become shorter since.
    fn known_end(&self) -> u32 {
        self.known.sealed.map_or(self.known.durable, |s| s.end)
    }

    fn walk(&mut self, bytes: &[u8]) -> Option<Found> {
        if self.place.at >= self.limit() {
            return self.end(FormatError::Short("segment"), false);
        }
        match self.look(bytes) {
            Look::More(len) if self.place.at.saturating_add(len) > self.limit() => {
                self.lost(FormatError::malformed("frame", "it reaches past the segment's end"), true);
                None
            }
            Look::More(len) => {
                self.state = State::Walk(len);
                None
            }
            Look::Frame(header, table, hash) => match self.follows(&header) {
                Ok(()) => Some(self.accept(*header, table, hash)),
                Err(why) => self.miss(why),
            },
            Look::Bad(why) => self.miss(why),
        }
    }

    /// What is there was never ours, or is ours and not whole.
    fn miss(&mut self, why: FormatError) -> Option<Found> {
        let foreign = matches!(
            why,
            FormatError::Magic(_)
                | FormatError::Short(_)
                | FormatError::OtherSegment { .. }
                | FormatError::OtherStore { .. }
        );
        self.lost(why, !foreign);
        None
    }

    fn lost(&mut self, why: FormatError, written: bool) {
        let at = self.place.at;
        self.state = State::Probe { bad: Bad { why, written }, at, want: PROBE_READ };
    }

    fn accept(&mut self, header: FrameHeader, table: Vec<u8>, hash: u64) -> Found {
        let at = self.place.at;
        self.before = Some((self.place, self.following));
        self.place = Start {
            at: at.saturating_add(header.span),
            number: header.number.saturating_add(1),
            group: header.group,
            previous: Some(hash),
        };
        self.following = header.following;
        self.state = State::Walk(WALK_READ);
        Found::Frame { at, header, table }
    }

    /// Reads what claims to be a frame of this segment at the start of `bytes`.
    fn look(&self, bytes: &[u8]) -> Look {
        let header = match FrameHeader::decode(bytes) {
            Ok(header) => header,
            Err(FormatError::Short(_)) if bytes.len() < FRAME_HEADER => {
                return Look::Bad(FormatError::Short("frame"));
            }
            Err(why) => return Look::Bad(why),
        };
        if header.store != self.known.store {
            let (expected, found) = (self.known.store.get(), header.store.get());
            return Look::Bad(FormatError::OtherStore { expected, found });
        }
        if header.segment != self.known.segment {
            return Look::Bad(FormatError::OtherSegment {
                expected: self.known.segment,
                found: header.segment,
            });
        }
        let len = FRAME_HEADER_BYTES.saturating_add(header.table);
        let Some(whole) = usize::try_from(len).ok().and_then(|n| bytes.get(..n)) else {
            return Look::More(len);
        };
        match check_sum(whole) {
            Ok(hash) => {
                let table = whole.get(FRAME_HEADER..).unwrap_or_default().to_vec();
                Look::Frame(Box::new(header), table, hash)
            }
            Err(why) => Look::Bad(why),
        }
    }

    /// Is it the frame that is due at `place`?
    fn follows(&self, header: &FrameHeader) -> Result<(), FormatError> {
        if header.number != self.place.number {
            return Err(FormatError::Chain("number"));
        }
        if self.place.previous.is_some_and(|p| p != header.previous) {
            return Err(FormatError::Chain("hash of the frame before"));
        }
        if self.place.at.saturating_add(header.span) > self.limit() {
            return Err(FormatError::Chain("it reaches past the segment's end"));
        }
        Ok(())
    }

    /// Looks for a sound frame behind the bad one.
    fn probe(&mut self, bad: Bad, from: u32, bytes: &[u8]) -> Option<Found> {
        let step = usize::try_from(FRAME_ALIGN).unwrap_or(8);
        for (i, chunk) in bytes.chunks(step).enumerate() {
            let offset = i * step;
            let Some(at) = u32::try_from(offset).ok().and_then(|o| from.checked_add(o)) else { break };
            if chunk != FRAME_MAGIC || at <= self.place.at {
                continue;
            }
            match self.look(bytes.get(offset..).unwrap_or_default()) {
                Look::Frame(header, ..) if self.proves(&header, at) => {
                    return Some(self.resume(&bad, at, &header));
                }
                // Not all of it is here: again from this place on, with enough bytes.
                Look::More(len)
                    if at.saturating_add(len) <= self.limit() && (at > from || Self::short(bytes, len)) =>
                {
                    self.state = State::Probe { bad, at, want: len.max(PROBE_READ) };
                    return None;
                }
                _ => {}
            }
        }
        self.probe_on(bad, from, bytes.len())
    }

    fn short(bytes: &[u8], len: u32) -> bool {
        usize::try_from(len).is_ok_and(|len| bytes.len() < len)
    }

    /// Nothing in these bytes: on to the next, or the end.
    fn probe_on(&mut self, bad: Bad, from: u32, len: usize) -> Option<Found> {
        // The last header's worth is looked at again, for a frame that begins in it.
        let overlap = FRAME_HEADER_BYTES - FRAME_ALIGN;
        let seen = u32::try_from(len).unwrap_or(u32::MAX);
        let next = from.saturating_add(seen);
        if next < self.limit() && seen > overlap {
            self.state = State::Probe { bad, at: next - overlap, want: PROBE_READ };
            return None;
        }
        self.end(bad.why, bad.written)
    }

    /// No sound frame follows. What is known to have been there is damage; else `torn` says whether something was begun.
    fn end(&mut self, why: FormatError, torn: bool) -> Option<Found> {
        let (from, known) = (self.place.at, self.known_end());
        if from >= known {
            self.state = State::Over(torn);
            return None;
        }
        self.place = Start { at: known.next_multiple_of(GROUP_ALIGN), previous: None, ..self.place };
        self.state = State::Over(false);
        Some(Found::Damage { from, to: known, why })
    }

    /// Does a sound frame at `at` prove that the bad one was durable once, and is it part of the store?
    fn proves(&self, header: &FrameHeader, at: u32) -> bool {
        let due = if self.following > 0 { self.place.group } else { self.place.group.saturating_add(1) };
        let later = header.group > due || (at < self.known_end() && header.group >= due);
        let fits = at.saturating_add(header.span) <= self.limit();
        later && fits && header.number > self.place.number
    }

    fn resume(&mut self, bad: &Bad, at: u32, header: &FrameHeader) -> Found {
        let from = self.place.at;
        self.place =
            Start { at, number: header.number, group: header.group.saturating_sub(1), previous: None };
        self.following = 0;
        self.before = None;
        self.state = State::Walk(WALK_READ);
        Found::Damage { from, to: at, why: bad.why.clone() }
    }
}
