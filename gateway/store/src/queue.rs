//! What waits for its commit: bounded in bytes, refused beyond.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};

use gateway_journal::MetaRecord;
use tap_block::units::count;
use tap_block::{Batch, Lsn};

use crate::error::StoreError;
use crate::sync::{lock, wait};

/// Told once what came of an append: the stream's durable LSN, or why not. Must not block.
pub type Done = Box<dyn FnOnce(Result<Lsn, StoreError>) + Send>;

/// Something to commit.
pub(crate) enum Work {
    Batch(Batch),
    /// In one frame: they count together.
    Meta(Vec<MetaRecord>),
}

pub(crate) struct Job {
    pub(crate) work: Work,
    pub(crate) done: Done,
}

impl Job {
    fn weight(&self) -> u64 {
        match &self.work {
            Work::Batch(batch) => batch.weight(),
            Work::Meta(records) => count(size_of::<MetaRecord>()).saturating_mul(count(records.len())),
        }
    }
}

pub(crate) struct Queue {
    state: Mutex<State>,
    more: Condvar,
    limit: u64,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    bytes: u64,
    closed: bool,
    /// Who wants the group closed that is being gathered.
    group_ends: Vec<Done>,
    /// The open segment is to be left as well.
    leave: bool,
}

impl Queue {
    pub(crate) fn new(limit: u64) -> Self {
        Self { state: Mutex::default(), more: Condvar::new(), limit }
    }

    /// Takes `job` in, or tells it at once why not.
    pub(crate) fn push(&self, job: Job) {
        let mut state = lock(&self.state);
        let weight = job.weight();
        let refusal = if state.closed {
            Some(StoreError::Stopped)
        } else if state.bytes > 0 && state.bytes.saturating_add(weight) > self.limit {
            Some(StoreError::Overloaded)
        } else {
            None
        };
        if let Some(why) = refusal {
            drop(state);
            return (job.done)(Err(why));
        }
        state.bytes += weight;
        state.jobs.push_back(job);
        drop(state);
        self.more.notify_one();
    }

    /// Takes jobs at the front, up to the limits but at least one; none when a group is to be closed instead. `None` when
    /// there are none, and, if it may wait for some, none will come.
    pub(crate) fn take(&self, bytes: u64, jobs: usize, may_wait: bool) -> Option<VecDeque<Job>> {
        let mut state = lock(&self.state);
        while state.jobs.is_empty() && (state.group_ends.is_empty() || !may_wait) {
            if state.closed || !may_wait {
                return None;
            }
            state = wait(&self.more, state);
        }
        let (mut taken, mut sum) = (VecDeque::new(), 0u64);
        while let Some(job) = state.jobs.front() {
            let weight = job.weight();
            if !taken.is_empty() && (sum.saturating_add(weight) > bytes || taken.len() >= jobs) {
                break;
            }
            sum = sum.saturating_add(weight);
            taken.extend(state.jobs.pop_front());
        }
        state.bytes = state.bytes.saturating_sub(sum);
        Some(taken)
    }

    /// Has the group of versions closed that is being gathered, so that it can be settled.
    pub(crate) fn end_group(&self, done: Done) {
        let mut state = lock(&self.state);
        if state.closed {
            drop(state);
            return done(Err(StoreError::Stopped));
        }
        state.group_ends.push(done);
        drop(state);
        self.more.notify_one();
    }

    /// The same, and nothing more is written to the open segment.
    pub(crate) fn leave_segment(&self, done: Done) {
        lock(&self.state).leave = true;
        self.end_group(done);
    }

    /// Who wants the group closed, and whether the open segment is to be left.
    pub(crate) fn take_group_ends(&self) -> (Vec<Done>, bool) {
        let mut state = lock(&self.state);
        let leave = !state.group_ends.is_empty() && std::mem::take(&mut state.leave);
        (std::mem::take(&mut state.group_ends), leave)
    }

    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.state).bytes
    }

    /// No more jobs are taken in; those there are still handed out.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.more.notify_all();
    }
}
