//! Bounded worker threads, for work that may block.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

type Job = Box<dyn FnOnce() + Send>;

/// Worker threads behind one bounded queue. When the queue is full, whoever submits runs the job itself,
/// which slows the submitter down to what the workers achieve and never loses a job.
///
/// Threads start when they are first needed. Dropping the pool runs what is queued and waits for it.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Mutex<Vec<JoinHandle<()>>>,
    name: String,
    threads: usize,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    queue_limit: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    started: usize,
    closing: bool,
}

impl Pool {
    /// Up to `threads` threads called `name`, with up to `queue_limit` jobs waiting for them. Without threads
    /// every job is run by its submitter.
    #[must_use]
    pub fn new(name: &str, threads: usize, queue_limit: usize) -> Self {
        let queue_limit = if threads == 0 { 0 } else { queue_limit };
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), queue_limit };
        Self { shared: Arc::new(shared), workers: Mutex::default(), name: name.to_owned(), threads }
    }

    /// Runs `job` on a worker, or right here when the queue is full. Jobs must not submit to their own pool
    /// and wait for it. A job that panics takes nothing else down.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.lock();
        if state.jobs.len() >= self.shared.queue_limit {
            drop(state);
            return run(Box::new(job));
        }
        state.jobs.push_back(Box::new(job));
        if state.jobs.len() <= state.idle {
            // Whoever wakes wants the lock: not while it is held here.
            drop(state);
            self.shared.work.notify_one();
        } else if state.started < self.threads {
            state.started += 1;
            drop(state);
            self.start_worker();
        }
    }

    /// Runs `job` on a worker if none waits for one; otherwise it is dropped: for work that nobody waits for.
    pub fn submit_if_idle(&self, job: impl FnOnce() + Send + 'static) {
        if self.queued() == 0 {
            self.submit(job);
        }
    }

    /// Jobs that wait for a worker.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.shared.lock().jobs.len()
    }

    fn start_worker(&self) {
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new().name(self.name.clone()).spawn(move || shared.work());
        match started {
            Ok(handle) => lock(&self.workers).push(handle),
            Err(_) => self.do_without(),
        }
    }

    /// The system has no thread for us. Others will get to the job; if there are none, do it here.
    fn do_without(&self) {
        let mut state = self.shared.lock();
        state.started -= 1;
        let orphan = if state.started == 0 { state.jobs.pop_front() } else { None };
        drop(state);
        if let Some(job) = orphan {
            run(job);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        let me = thread::current().id();
        for worker in lock(&self.workers).drain(..) {
            // The last owner may be a job of our own, which cannot wait for itself.
            if worker.thread().id() != me {
                let _ = worker.join();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            run(job);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closing {
                return None;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

fn run(job: Job) {
    // The panic hook has reported it; the job's tickets complete as they drop.
    let _ = catch_unwind(AssertUnwindSafe(job));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({}, {} threads)", self.name, self.threads)
    }
}

#[cfg(test)]
mod tests;
