//! Large writes: what has come of their data goes to the disk while the rest is still on its way.
//!
//! SBC-3 does not ask that a write is one step, and promises that of none here but COMPARE AND WRITE: each piece has a claim on its
//! blocks of its own, for as long as it is at the disk, so that nobody ever waits for data that an initiator has not sent. The
//! status comes when all of it is written. Once a piece has failed nothing more is written or asked for; what was asked for is
//! still taken, and dropped.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tap_block::units::count;
use tap_block::{Answered, Extent, Op, Output, Ticket};

use super::Session;
use super::task::{Stage, Task};
use crate::connection::Action;
use crate::scsi::sense::{Reply, Sense};
use crate::scsi::unit::Hold;
use crate::scsi::work::{Work, failure};

/// So much is worth a write of its own.
const PIECE: u64 = 256 << 10;

/// The pieces of a command.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// Where the command begins on the disk, if it is written in pieces.
    start: Option<u64>,
    /// By the tags of what they wait for.
    under_way: BTreeMap<u64, Piece>,
}

/// A piece that has come.
#[derive(Debug)]
pub(crate) enum Piece {
    /// It waits for its turn on its blocks.
    Claiming(Op, Arc<Hold>),
    /// It is at the disk.
    Written,
}

impl Pieces {
    /// Of a command for which so much data comes. One whose data ends within a block is refused as a whole, and one that is to be
    /// durable is written as a whole, since it takes a flush.
    pub(super) fn of(work: Option<&Work>, wanted: u64, block: u64) -> Self {
        let is_large = wanted > PIECE && wanted.is_multiple_of(block);
        Self { start: work.and_then(Work::plain_write).filter(|_| is_large), ..Self::default() }
    }

    pub(super) fn are_wanted(&self) -> bool {
        self.start.is_some()
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = u64> {
        self.under_way.keys().copied()
    }

    pub(super) fn remove(&mut self, tag: u64) -> Option<Piece> {
        self.under_way.remove(&tag)
    }
}

impl Task {
    /// Data that is worth a write.
    fn next_piece(&mut self) -> Option<(u64, Bytes)> {
        self.out.take_piece(self.pieces.start?, PIECE)
    }
}

impl Session {
    /// Writes what has come, and asks for more or ends the command.
    pub(super) fn write_pieces(&mut self, itt: u32, output: &mut Output) {
        while let Some((offset, data)) = self.tasks.get_mut(&itt).and_then(Task::next_piece) {
            self.claim_piece(itt, offset, data);
        }
        let Some(task) = self.tasks.get(&itt) else { return };
        if !task.out.is_whole() {
            self.ask(itt, output);
        } else if task.pieces.under_way.is_empty() {
            self.finish(itt, Reply::good(), output);
        }
    }

    fn claim_piece(&mut self, itt: u32, offset: u64, data: Bytes) {
        let tag = self.tag();
        let queue = self.queue.clone();
        let Some(task) = self.tasks.get_mut(&itt) else { return };
        let nexuses = self.membership.as_ref().map_or(&[][..], |m| &m.nexuses);
        let Some(nexus) = task.nexus.and_then(|n| nexuses.get(n)) else { return };
        let extent = Extent::between(offset, offset + count(data.len()));
        let claimed = nexus.claim((extent, false), task.epoch, || Ticket::new(tag, queue));
        // Aborted from elsewhere.
        let Some((hold, free)) = claimed else { return drop(self.forget(itt)) };
        let op = Op::Write { offset, data, fua: false };
        if free {
            return self.submit_piece(itt, op, hold);
        }
        task.pieces.under_way.insert(tag, Piece::Claiming(op, hold));
        self.tags.insert(tag, itt);
    }

    fn submit_piece(&mut self, itt: u32, op: Op, hold: Arc<Hold>) {
        let tag = self.tag();
        let ticket = Ticket::new(tag, self.landing(Some(hold)));
        let nexuses = self.membership.as_ref().map_or(&[][..], |m| &m.nexuses);
        let Some(task) = self.tasks.get_mut(&itt) else { return };
        let Some(nexus) = task.nexus.and_then(|n| nexuses.get(n)) else { return };
        let device = nexus.unit.device().clone();
        task.pieces.under_way.insert(tag, Piece::Written);
        self.tags.insert(tag, itt);
        self.actions.push_back(Action::Submit { device, op, ticket });
    }

    /// What a piece waited for has come.
    pub(super) fn piece_came(&mut self, itt: u32, piece: Piece, answered: Answered, output: &mut Output) {
        let Some(task) = self.tasks.get_mut(&itt) else { return };
        match (piece, answered) {
            (Piece::Claiming(op, hold), _) if task.verdict.is_none() => {
                return self.submit_piece(itt, op, hold);
            }
            (Piece::Written, Err(error)) if task.verdict.is_none() => {
                task.verdict = Some(failure(&error, true).into());
            }
            _ => {}
        }
        match task.stage {
            Stage::Landing => self.conclude(itt, output),
            _ => self.proceed(itt, output),
        }
    }

    /// Ends a command whose answer is decided, once nothing of it is at the disk and nothing that it has asked for is to come.
    pub(super) fn conclude(&mut self, itt: u32, output: &mut Output) {
        let Some(task) = self.tasks.get_mut(&itt) else { return };
        drop(task.out.take());
        if !task.pieces.under_way.is_empty() || !task.out.r2ts.is_empty() {
            return;
        }
        if let Some(reply) = task.verdict.take() {
            self.finish(itt, reply, output);
        }
    }

    /// Ends a command whose data makes no sense, once nothing of it is at the disk.
    pub(super) fn finish_landed(&mut self, itt: u32, sense: Sense, output: &mut Output) {
        let Some(task) = self.tasks.get_mut(&itt) else { return };
        if task.pieces.under_way.is_empty() {
            return self.finish(itt, sense.into(), output);
        }
        task.verdict.get_or_insert(sense.into());
        task.stage = Stage::Landing;
        task.out.drop_all();
    }
}
