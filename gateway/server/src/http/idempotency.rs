//! Acts that are safe to send twice: the same `Idempotency-Key` gives the same outcome, once.
//!
//! An act with a key runs to its end even if its client goes away, so that the repeat finds what became of it.
//! An outcome that says "try again" is not kept. Memory is bounded: the oldest finished key makes room for a
//! new one, and when every key is at work the new act is refused as busy.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cx_api::{Code, Problem};
use tokio::sync::watch;

use super::reply::Reply;
use super::request::Request;

/// The keys remembered.
#[derive(Debug)]
pub(crate) struct Keys {
    limit: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<String, Entry>,
    /// Oldest first.
    order: VecDeque<String>,
}

#[derive(Debug)]
struct Entry {
    fingerprint: u64,
    outcome: watch::Receiver<Option<Reply>>,
}

enum Claim {
    /// Nobody used this key: act, and send the outcome here.
    Act(watch::Sender<Option<Reply>>, watch::Receiver<Option<Reply>>),
    /// The same request came before: its outcome comes here.
    Wait(watch::Receiver<Option<Reply>>),
    Refuse(Problem),
}

impl Keys {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, table: Arc::default() }
    }

    /// The outcome of `act`, or of the act that used this key before.
    pub(crate) async fn once<F>(&self, key: String, request: &Request, act: F) -> Reply
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let outcome = match self.claim(&key, fingerprint(request)) {
            Claim::Refuse(problem) => return problem.into(),
            Claim::Wait(outcome) => outcome,
            Claim::Act(sender, outcome) => {
                tokio::spawn(finish(Arc::clone(&self.table), key, act, sender));
                outcome
            }
        };
        outcome_of(outcome).await
    }

    fn claim(&self, key: &str, fingerprint: u64) -> Claim {
        let mut table = lock(&self.table);
        if let Some(entry) = table.entries.get(key) {
            return match entry.fingerprint == fingerprint {
                true => Claim::Wait(entry.outcome.clone()),
                false => Claim::Refuse(reused(key)),
            };
        }
        if table.entries.len() >= self.limit && !table.forget_oldest_finished() {
            return Claim::Refuse(busy(self.limit));
        }
        let (sender, outcome) = watch::channel(None);
        table.order.push_back(key.to_owned());
        table.entries.insert(key.to_owned(), Entry { fingerprint, outcome: outcome.clone() });
        Claim::Act(sender, outcome)
    }
}

impl Table {
    fn forget_oldest_finished(&mut self) -> bool {
        let finished =
            |key: &String| self.entries.get(key).is_none_or(|entry| entry.outcome.borrow().is_some());
        let Some(at) = self.order.iter().position(finished) else { return false };
        self.order.remove(at).map(|key| self.entries.remove(&key)).is_some()
    }

    fn forget(&mut self, key: &str) {
        self.entries.remove(key);
        self.order.retain(|k| k != key);
    }
}

async fn finish<F>(table: Arc<Mutex<Table>>, key: String, act: F, sender: watch::Sender<Option<Reply>>)
where
    F: Future<Output = Reply> + Send + 'static,
{
    // A task of its own, so that even a panic in the act ends here.
    let crashed = || Reply::from(Problem::new(Code::Internal, "the act ended without an outcome"));
    let reply = tokio::spawn(act).await.unwrap_or_else(|_| crashed());
    if worth_repeating(reply.status) {
        lock(&table).forget(&key);
    }
    sender.send_replace(Some(reply));
}

async fn outcome_of(mut outcome: watch::Receiver<Option<Reply>>) -> Reply {
    let reply = outcome.wait_for(Option::is_some).await.ok().and_then(|r| r.clone());
    let ended = || Problem::new(Code::Unreachable, "the gateway is stopping").fix("repeat the request");
    reply.unwrap_or_else(|| ended().into())
}

/// Would the same request later perhaps end better?
fn worth_repeating(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

fn fingerprint(request: &Request) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&request.method, &request.path, &request.query, request.body.as_ref()).hash(&mut hasher);
    hasher.finish()
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // Every change is made whole before the guard falls, so a poisoned lock hides nothing broken.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reused(key: &str) -> Problem {
    Problem::new(Code::KeyReused, format!("the Idempotency-Key {key:?} came with another request before"))
        .fix("choose a new key for each act")
}

fn busy(limit: usize) -> Problem {
    Problem::new(Code::Busy, format!("{limit} acts with an Idempotency-Key are under way already"))
        .fix("wait for some of them")
}

#[cfg(test)]
#[path = "idempotency/tests.rs"]
mod tests;
