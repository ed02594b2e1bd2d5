//! A SCSI command under way in a session, and the data that an initiator sends for it (RFC 7143 sections
//! 4.2.5 and 11.7).

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tap_block::BLOCK_SIZE;
use tap_block::units::{count, index};

use super::order::Turn;
use super::pieces::Pieces;
use crate::pdu::{Header, NO_TAG, Pdu};
use crate::scsi::sense::Reply;
use crate::scsi::unit::Hold;
use crate::scsi::work::Work;

/// Room for data in pieces at first; it grows as data comes, not as it is announced.
const FIRST_ROOM: usize = 1 << 20;

/// A command under way.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) header: Header,
    /// The nexus it is for, by its place among the session's; `None` for an absent LUN.
    pub(crate) nexus: Option<usize>,
    /// Its place among the tasks there.
    pub(crate) turn: Option<Turn>,
    /// The nexus' epoch when it came.
    pub(crate) epoch: u64,
    pub(crate) work: Option<Work>,
    pub(crate) hold: Option<Arc<Hold>>,
    /// How many of the claims of a copy it has made.
    pub(crate) claimed: usize,
    pub(crate) stage: Stage,
    /// Of what it waits for.
    pub(crate) tag: Option<u64>,
    /// Bytes set aside for it.
    pub(crate) reserved: u64,
    pub(crate) out: DataOut,
    /// What goes to the disk while more of its data comes.
    pub(crate) pieces: Pieces,
    /// An answer decided before all data was there.
    pub(crate) verdict: Option<Reply>,
    /// R2T and Data-In units so far.
    pub(crate) data_units: u32,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its turn has not come.
    Dormant,
    /// Its data is on the way.
    Receiving,
    /// It waits for room.
    Queued,
    /// It waits for its turn on its blocks.
    Claiming,
    /// An operation is under way.
    Running,
    /// It has failed, and waits for what of it is at the disk.
    Landing,
}

/// The data of a write, as far as it has come.
#[derive(Debug, Default)]
pub(crate) struct DataOut {
    /// What the command takes: the lesser of what it speaks of and what the initiator has.
    pub(crate) wanted: u32,
    /// Bytes that came, those that nobody wants included.
    received: u32,
    /// Bytes asked for, or coming unasked.
    requested: u32,
    data: Data,
    /// Bytes that were taken while more was to come.
    taken: u32,
    /// More comes unasked.
    pub(crate) unsolicited: bool,
    /// The most that may come unasked.
    unsolicited_limit: u32,
    next_data_sn: u32,
    pub(crate) r2ts: VecDeque<R2t>,
}

/// The first piece is kept as it is; only a second one makes it a buffer.
#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    One(Bytes),
    Many(BytesMut),
}

/// A request for data under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct R2t {
    ttt: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    received: u32,
    next_data_sn: u32,
}

/// Data out of order, too much of it, or for nothing: a protocol error (section 7.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadData;

impl Task {
    pub(crate) fn reads(&self) -> bool {
        self.header.flags() & 0x40 != 0
    }

    pub(crate) fn writes(&self) -> bool {
        self.header.flags() & 0x20 != 0
    }

    /// Of all that it waits for.
    pub(crate) fn tags(&self) -> impl Iterator<Item = u64> {
        self.tag.into_iter().chain(self.pieces.tags())
    }

    /// Expected data transfer length.
    pub(crate) fn expected(&self) -> u32 {
        self.header.word(20)
    }
}

impl DataOut {
    /// Begins with what came with the command.
    pub(crate) fn new(wanted: u32, immediate: Bytes, unsolicited: Option<u32>) -> Self {
        let received = length(&immediate);
        let mut out = Self {
            wanted,
            received,
            requested: received,
            unsolicited: unsolicited.is_some(),
            unsolicited_limit: unsolicited.unwrap_or(0),
            ..Self::default()
        };
        out.data.add(immediate, wanted, 0);
        out
    }

    /// Less is wanted.
    pub(crate) fn limit(&mut self, wanted: u32) {
        self.wanted = wanted;
        self.data.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
    }

    /// Is there all that is wanted?
    pub(crate) fn is_whole(&self) -> bool {
        self.received >= self.wanted && !self.unsolicited
    }

    /// Takes what there is.
    pub(crate) fn take(&mut self) -> Bytes {
        match std::mem::take(&mut self.data) {
            Data::None => Bytes::new(),
            Data::One(bytes) => bytes,
            Data::Many(bytes) => bytes.freeze(),
        }
    }

    /// Takes what there is of a command that begins at `start` on the disk: all that is left, or so much that it is worth a write. It
    /// ends between blocks of the disk, so that none of them is written in two parts.
    pub(crate) fn take_piece(&mut self, start: u64, least: u64) -> Option<(u64, Bytes)> {
        let (from, there) = (start + u64::from(self.taken), count(self.data.len()));
        let whole = ((from + there) / BLOCK_SIZE * BLOCK_SIZE).saturating_sub(from);
        let length = if self.is_whole() { there } else { whole };
        if length == 0 || !self.is_whole() && length + BLOCK_SIZE <= least {
            return None;
        }
        let piece = self.data.split_to(index(length));
        self.taken += crate::field::len32(piece.len());
        Some((from, piece))
    }

    /// Nothing of it is wanted any more, neither what is there nor what was asked for.
    pub(crate) fn drop_all(&mut self) {
        drop(self.take());
        (self.unsolicited, self.wanted) = (false, 0);
        self.r2ts.clear();
    }

    /// What to ask for next, `None` when all is asked for (section 11.8).
    pub(crate) fn ask(&mut self, ttt: u32, burst: u32) -> Option<R2t> {
        let offset = self.requested.max(self.received);
        let length = self.wanted.saturating_sub(offset).min(burst);
        if length == 0 {
            return None;
        }
        let r2t = R2t { ttt, offset, length, received: 0, next_data_sn: 0 };
        self.requested = offset + length;
        self.r2ts.push_back(r2t);
        Some(r2t)
    }

    /// A Data-Out unit.
    pub(crate) fn put(&mut self, pdu: Pdu) -> Result<(), BadData> {
        let header = pdu.header;
        let (offset, data_sn) = (header.word(40), header.word(36));
        if header.ttt() == NO_TAG {
            let end = offset.checked_add(length(&pdu.data)).ok_or(BadData)?;
            if !self.unsolicited
                || data_sn != self.next_data_sn
                || offset != self.received
                || end > self.unsolicited_limit
            {
                return Err(BadData);
            }
            self.next_data_sn += 1;
            self.unsolicited = !header.is_final();
        } else {
            let r2t = self.r2ts.front_mut().filter(|r2t| r2t.ttt == header.ttt()).ok_or(BadData)?;
            r2t.put(offset, data_sn, length(&pdu.data), header.is_final())?;
            if r2t.received == r2t.length {
                self.r2ts.pop_front();
            }
        }
        self.received = self.received.saturating_add(length(&pdu.data));
        self.data.add(pdu.data, self.wanted, offset);
        Ok(())
    }
}

impl R2t {
    /// DataPDUInOrder is always agreed on (section 13.18).
    fn put(&mut self, offset: u32, data_sn: u32, length: u32, last: bool) -> Result<(), BadData> {
        let end = self.received.checked_add(length).filter(|&end| end <= self.length).ok_or(BadData)?;
        if data_sn != self.next_data_sn
            || offset != self.offset + self.received
            || last != (end == self.length)
        {
            return Err(BadData);
        }
        self.received = end;
        self.next_data_sn += 1;
        Ok(())
    }
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(bytes) => bytes.len(),
            Self::Many(bytes) => bytes.len(),
        }
    }

    /// The first of it.
    fn split_to(&mut self, length: usize) -> Bytes {
        let (first, rest) = match std::mem::take(self) {
            Self::None => return Bytes::new(),
            Self::One(mut bytes) => (bytes.split_to(length.min(bytes.len())), Self::One(bytes)),
            Self::Many(mut bytes) => (bytes.split_to(length.min(bytes.len())).freeze(), Self::Many(bytes)),
        };
        *self = if rest.len() == 0 { Self::None } else { rest };
        first
    }

    fn truncate(&mut self, length: usize) {
        match self {
            Self::None => {}
            Self::One(bytes) => bytes.truncate(length),
            Self::Many(bytes) => bytes.truncate(length),
        }
    }

    /// Adds what is wanted of a piece that begins at `offset`.
    fn add(&mut self, mut piece: Bytes, wanted: u32, offset: u32) {
        piece.truncate(usize::try_from(wanted.saturating_sub(offset)).unwrap_or(0));
        if piece.is_empty() {
            return;
        }
        *self = match std::mem::take(self) {
            Self::None => Self::One(piece),
            Self::One(first) => {
                let left = (wanted - offset.min(wanted)).saturating_add(length(&first));
                let capacity = usize::try_from(left).unwrap_or(0).min(FIRST_ROOM);
                let mut all = BytesMut::with_capacity(capacity);
                all.extend_from_slice(&first);
                all.extend_from_slice(&piece);
                Self::Many(all)
            }
            Self::Many(mut all) => {
                all.extend_from_slice(&piece);
                Self::Many(all)
            }
        };
    }
}

fn length(bytes: &Bytes) -> u32 {
    crate::field::len32(bytes.len())
}
