//! Where a receiver's history of a stream ends, and what may follow.

use std::borrow::Cow;
use std::sync::Arc;

use tap_block::{Action, Batch, Entry, Epoch, Lsn, Marker, RunId, SyncCause};

use super::{Given, SessionError};
use crate::columns;

/// Runs that ended before the present one and are still recognised in repetitions.
const RUNS_REMEMBERED: usize = 64;

/// What a receiver has, as far as repetition and continuation go.
#[derive(Debug)]
pub(super) struct Tail {
    /// The run of the last record; `None` before the first.
    run: Option<RunId>,
    last: Lsn,
    epoch: Epoch,
    /// Ended runs with their last record, oldest first.
    earlier: Vec<Given>,
}

/// What to do with a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All or part of it is new.
    Take(Arc<Batch>),
    /// Every record of it, the last given here, came before, and it holds no copies.
    Repeated(Lsn),
}

impl Tail {
    pub(super) fn new(durable: Option<Given>, given: Vec<Given>) -> Self {
        let mut tail = Self { run: None, last: Lsn::ZERO, epoch: Epoch::new(0), earlier: Vec::new() };
        for step in durable.into_iter().chain(given) {
            tail.advance(step.run, step.last);
        }
        tail
    }

    /// A tail that ends at `last` in a run that nobody remembers: the first batch tells.
    pub(super) fn set_unknown_run(&mut self, last: Lsn) {
        self.last = self.last.max(last);
    }

    fn advance(&mut self, run: RunId, last: Lsn) {
        if self.run != Some(run) {
            if let Some(run) = self.run {
                self.earlier.push(Given { run, last: self.last });
            }
            if self.earlier.len() > RUNS_REMEMBERED {
                self.earlier.remove(0);
            }
            self.run = Some(run);
        }
        self.last = self.last.max(last);
    }

    /// Judges a batch that passed [`columns::check`], and moves on when it is taken.
    pub(super) fn admit(&mut self, batch: Arc<Batch>) -> Result<Verdict, SessionError> {
        if batch.epoch < self.epoch {
            return Err(SessionError::Fenced { found: batch.epoch, current: self.epoch });
        }
        let Some(last) = batch.last_lsn() else { return Ok(Verdict::Take(batch)) };
        let Some(fresh) = self.fresh_part(&batch, last)? else { return Ok(Verdict::Repeated(last)) };
        let fresh = match fresh {
            Cow::Borrowed(_) => batch,
            Cow::Owned(part) => Arc::new(part),
        };
        self.check_continues(&fresh)?;
        self.epoch = fresh.epoch;
        if last > self.last {
            self.advance(fresh.run, last);
        }
        Ok(Verdict::Take(fresh))
    }

    /// The batch without records that came before.
    fn fresh_part<'b>(&self, batch: &'b Batch, last: Lsn) -> Result<Option<Cow<'b, Batch>>, SessionError> {
        if batch.first_lsn > self.last {
            return Ok(Some(Cow::Borrowed(batch)));
        }
        let mut ended = self.earlier.iter();
        let repeats = if self.run.is_none_or(|run| run == batch.run) {
            true
        } else {
            ended.any(|run| run.run == batch.run && last <= run.last)
        };
        if repeats {
            return Ok(columns::without_records_to(batch, self.last).map(Cow::Owned));
        }
        Err(SessionError::SplitHistory { run: batch.run, found: batch.first_lsn, last: self.last })
    }

    /// Do its records follow ours, or explain why not?
    fn check_continues(&self, batch: &Batch) -> Result<(), SessionError> {
        let Some(first) = batch.entries.iter().find(|e| !e.position.is_copy()) else { return Ok(()) };
        let (found, due) = (first.position.lsn(), self.last.next());
        let follows = match self.run {
            Some(run) if run == batch.run => found == due,
            Some(_) => starts(first),
            None => starts(first) || (self.last != Lsn::ZERO && found == due),
        };
        if follows || loses(first) { Ok(()) } else { Err(SessionError::Hole { due, found }) }
    }
}

fn starts(entry: &Entry) -> bool {
    matches!(&entry.action, Action::Mark(mark) if matches!(**mark, Marker::RunStart(_)))
}

/// A hop lost records: this one says that they will not come, and begins to copy what they changed.
fn loses(entry: &Entry) -> bool {
    let lost = |mark: &Marker| matches!(mark, Marker::SyncStart { cause: SyncCause::HopLost });
    matches!(&entry.action, Action::Mark(mark) if lost(mark))
}
