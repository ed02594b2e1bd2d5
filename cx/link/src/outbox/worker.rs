//! The disk thread: writes groups, reads items back, recycles files. One job at a time, chosen under the lock and
//! done without it.

use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cx_spool::{ItemNo, Load, Reached, SpillGroup};
use tap_block::Monotonic;

use super::spool::Spool;
use super::{End, Shared, State};

/// How often files are recycled and the mark is brought up to date while nothing else happens.
const TIDY_EVERY: Duration = Duration::from_secs(1);

enum Job {
    Load(Load),
    Spill(SpillGroup),
    Tidy { forgotten: ItemNo, everywhere: Reached },
    End(End),
}

struct Worker {
    shared: Arc<Shared>,
    spool: Spool,
    tidy_at: Monotonic,
    /// What the last tidying wrote down.
    tidied: (ItemNo, Reached),
}

pub(super) fn start(shared: Arc<Shared>, spool: Spool) -> io::Result<JoinHandle<()>> {
    let tidy_at = shared.clock.monotonic().plus(TIDY_EVERY);
    let mut worker = Worker { shared, spool, tidy_at, tidied: Default::default() };
    thread::Builder::new().name("spool".to_owned()).spawn(move || worker.run())
}

impl Worker {
    fn run(&mut self) {
        loop {
            match self.wait() {
                Job::Load(load) => self.load(&load),
                Job::Spill(group) => self.spill(&group),
                Job::Tidy { forgotten, everywhere } => self.tidy(forgotten, everywhere),
                Job::End(how) => return self.end(how),
            }
        }
    }

    /// The next job, as soon as there is one.
    fn wait(&mut self) -> Job {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            let now = shared.clock.monotonic();
            if let Some(job) = self.choose(&mut state, now) {
                return job;
            }
            let until = self.wake_at(&state, now);
            state.asleep = Some(until);
            let wait = shared.work.wait_timeout(state, until.since(now));
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
            state.asleep = None;
        }
    }

    fn choose(&mut self, state: &mut State, now: Monotonic) -> Option<Job> {
        if let Some(how) = state.end {
            return Some(Job::End(how));
        }
        if let Some(load) = state.loads.pop_front() {
            return Some(Job::Load(load));
        }
        if state.retry_at.is_some_and(|at| at <= now) {
            state.retry_at = None;
            state.outbox.resume_spill();
        }
        if let Some(group) = state.outbox.poll_spill(now) {
            return Some(Job::Spill(group));
        }
        if now < self.tidy_at {
            return None;
        }
        self.tidy_at = now.plus(TIDY_EVERY);
        let (forgotten, everywhere) = (state.outbox.first(), state.outbox.durable_at_all());
        ((forgotten, everywhere) != self.tidied).then_some(Job::Tidy { forgotten, everywhere })
    }

    fn wake_at(&self, state: &State, now: Monotonic) -> Monotonic {
        let soonest = [state.outbox.spill_due(now), state.retry_at].into_iter().flatten().min();
        soonest.map_or(self.tidy_at, |at| at.min(self.tidy_at))
    }

    fn load(&self, load: &Load) {
        let found: Vec<_> = load.items.iter().map(|no| self.spool.read(*no)).collect();
        for (no, _) in load.items.iter().zip(&found).filter(|(_, batch)| batch.is_none()) {
            tracing::error!(item = %no, "a spooled item cannot be read: its records are lost; check the spool's disk");
        }
        let mut state = self.shared.lock();
        state.outbox.loaded(load, found);
        self.shared.settle(state);
        if let Some(changed) = self.shared.changed.get(load.consumer.get()) {
            changed.notify_one();
        }
    }

    fn spill(&mut self, group: &SpillGroup) {
        let result = self.spool.append(group);
        let mut state = self.shared.lock();
        match result {
            Ok(()) => {
                state.outbox.spilled();
                if state.problem.take().is_some() {
                    tracing::info!("the spool's disk works again");
                }
            }
            Err(e) => {
                state.outbox.spill_failed();
                state.retry_at = Some(self.shared.clock.monotonic().plus(self.shared.retry));
                report(&mut state, &e);
            }
        }
        self.shared.settle(state);
        self.shared.settled.notify_all();
    }

    fn tidy(&mut self, forgotten: ItemNo, everywhere: Reached) {
        match self.spool.forget(forgotten, everywhere) {
            Ok(()) => {
                self.tidied = (forgotten, everywhere);
                let mut state = self.shared.lock();
                if state.retry_at.is_none() {
                    state.problem = None;
                }
            }
            Err(e) => report(&mut self.shared.lock(), &e),
        }
    }

    fn end(&mut self, how: End) {
        if how == End::Clean {
            let (forgotten, everywhere) = {
                let state = self.shared.lock();
                (state.outbox.first(), state.outbox.durable_at_all())
            };
            let closed = self.spool.forget(forgotten, everywhere).and_then(|()| self.spool.close());
            if let Err(e) = closed {
                report(&mut self.shared.lock(), &e);
            }
        }
        self.shared.lock().dead = true;
        self.shared.settled.notify_all();
    }
}

/// Says it once, not at every try.
fn report(state: &mut State, e: &io::Error) {
    let text = format!("the spool's disk fails: {e}; free space or repair it, it is tried again");
    if state.problem.is_none() {
        tracing::warn!("{text}");
    }
    state.problem = Some(text);
}
