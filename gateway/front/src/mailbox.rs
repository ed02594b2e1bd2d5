//! How other threads reach a connection's thread: completions of operations, the order to stop, and that it is worth a look.
//!
//! A completion that comes while the connection is at work (a device that had the answer at hand) is only
//! put down; the system is asked to wake the connection only when it sleeps.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::{fmt, mem};

use tap_block::{Answered, CompletionQueue};

/// Whether, and how, a connection should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Stop {
    /// Not at all.
    #[default]
    Run,
    /// Once what it has been sent is answered.
    Drain,
    /// Now.
    Abort,
}

/// One connection's mailbox. Bounded by the connection's limit on requests under way.
#[derive(Default)]
pub(crate) struct Mailbox {
    letters: Mutex<Letters>,
}

#[derive(Default)]
struct Letters {
    done: Vec<(u64, Answered)>,
    stop: Stop,
    /// Something has changed that the connection looks at by itself.
    nudged: bool,
    /// The connection has ended: nobody reads what comes.
    closed: bool,
    /// Who hears of what comes then.
    heir: Option<Arc<dyn CompletionQueue>>,
    /// There only while the connection sleeps.
    sleeper: Option<Waker>,
}

impl Mailbox {
    /// Moves the completions there are into `done`, which must be empty, and says whether to stop.
    pub(crate) fn take(&self, done: &mut Vec<(u64, Answered)>) -> Stop {
        let mut letters = self.lock();
        mem::swap(&mut letters.done, done);
        letters.nudged = false;
        letters.stop
    }

    /// Lets the connection sleep until something comes; `false` when something has come since it looked.
    pub(crate) fn sleep(&self, seen: Stop, waker: &Waker) -> bool {
        let mut letters = self.lock();
        if letters.nudged || !letters.done.is_empty() || letters.stop != seen {
            return false;
        }
        match &letters.sleeper {
            Some(there) if there.will_wake(waker) => {}
            _ => letters.sleeper = Some(waker.clone()),
        }
        true
    }

    /// The connection is awake and will look for itself.
    pub(crate) fn awake(&self) {
        self.lock().sleeper = None;
    }

    /// Orders a stop; a milder one than ordered before changes nothing.
    pub(crate) fn stop(&self, stop: Stop) {
        let mut letters = self.lock();
        letters.stop = letters.stop.max(stop);
        wake(letters);
    }

    /// Has the connection look at everything again.
    pub(crate) fn nudge(&self) {
        let mut letters = self.lock();
        letters.nudged = true;
        wake(letters);
    }

    /// What is there, and what still comes, goes to `heir` if there is one, and is thrown away else: what was read for a connection
    /// that has ended holds no memory.
    pub(crate) fn close(&self, heir: Option<Arc<dyn CompletionQueue>>) {
        let mut letters = self.lock();
        letters.closed = true;
        letters.heir.clone_from(&heir);
        let unread = mem::take(&mut letters.done);
        drop(letters);
        if let Some(heir) = heir {
            unread.into_iter().for_each(|(tag, answered)| heir.complete(tag, answered));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CompletionQueue for Mailbox {
    fn complete(&self, tag: u64, answered: Answered) {
        let mut letters = self.lock();
        if !letters.closed {
            letters.done.push((tag, answered));
            return wake(letters);
        }
        let heir = letters.heir.clone();
        drop(letters);
        if let Some(heir) = heir {
            heir.complete(tag, answered);
        }
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox")
    }
}

/// Wakes the sleeper, if there is one, without holding the lock.
fn wake(mut letters: MutexGuard<'_, Letters>) {
    let sleeper = letters.sleeper.take();
    drop(letters);
    if let Some(waker) = sleeper {
        waker.wake();
    }
}
