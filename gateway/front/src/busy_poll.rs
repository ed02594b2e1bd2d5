//! Whether a connection with nothing to do looks again at once or sleeps.
//!
//! A client that sends one request at a time sends the next one microseconds after the answer; to fall asleep and
//! to be woken in between costs more than to look again until it is there (on two idle cores of a virtual machine
//! a third of the round trip). So a connection keeps looking for a moment, as QEMU's event loop and the kernel's
//! `busy_poll` do. Three things keep it from being a waste: others that are ready run first, nobody looks while
//! another connection is awake, and who looked in vain sleeps at once the next times, twice as many each time.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Context;
use std::time::{Duration, Instant};

/// For so long a connection looks.
const WINDOW: Duration = Duration::from_micros(50);
/// After looking in vain over and over it sleeps at once so many times before it looks again.
const MOST_SKIPPED: u32 = 256;

/// Connections of this process that do not sleep: they share its cores, whatever front they belong to.
static AWAKE: AtomicUsize = AtomicUsize::new(0);

/// See the module. One for each connection.
#[derive(Debug)]
pub(crate) struct BusyPoll {
    awake: bool,
    /// Since when it looks.
    since: Option<Instant>,
    /// So many times more it sleeps at once.
    skip: u32,
    /// As often it is to do so after looking in vain once more.
    skip_next: u32,
}

impl BusyPoll {
    pub(crate) const fn new() -> Self {
        Self { awake: false, since: None, skip: 0, skip_next: 1 }
    }

    /// The connection's thread has something to look at.
    pub(crate) fn wake(&mut self) {
        if !std::mem::replace(&mut self.awake, true) {
            AWAKE.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// There was something to do.
    pub(crate) fn note_work(&mut self) {
        if self.since.take().is_some() {
            self.skip_next = 1;
        }
    }

    /// Nothing is to be done: if it is worth it, the task of `cx` is polled again at once.
    pub(crate) fn look_again(&mut self, cx: &mut Context<'_>) -> bool {
        let looks = self.is_worth_it(Instant::now(), AWAKE.load(Ordering::Relaxed) <= 1);
        if looks {
            std::thread::yield_now();
            // Polled once it has put the task at the end of the runtime's queue, behind a look at the sockets.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
        }
        looks
    }

    fn is_worth_it(&mut self, now: Instant, alone: bool) -> bool {
        match self.since {
            Some(since) if alone && now < since + WINDOW => return true,
            Some(_) => {
                self.since = None;
                self.skip = self.skip_next;
                self.skip_next = (self.skip_next * 2).min(MOST_SKIPPED);
            }
            None if !alone => {}
            None if self.skip > 0 => self.skip -= 1,
            None => {
                self.since = Some(now);
                return true;
            }
        }
        false
    }

    /// The connection's thread sleeps from here on.
    pub(crate) fn sleep(&mut self) {
        if std::mem::take(&mut self.awake) {
            AWAKE.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for BusyPoll {
    fn drop(&mut self) {
        self.sleep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many times it sleeps at once before it looks again.
    fn sleeps(poll: &mut BusyPoll, now: Instant) -> u32 {
        (0..).take_while(|_| !poll.is_worth_it(now, true)).map(|_| 1).sum()
    }

    #[test]
    fn who_looks_in_vain_sleeps_ever_longer_and_work_makes_up_for_it() {
        let (mut poll, now) = (BusyPoll::new(), Instant::now());
        for skipped in [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 256] {
            assert_eq!(sleeps(&mut poll, now), skipped);
            assert!(poll.is_worth_it(now + WINDOW / 2, true), "it looks for a while");
            assert!(!poll.is_worth_it(now + WINDOW, true), "and then no more");
        }
        assert_eq!(sleeps(&mut poll, now), 256);
        poll.note_work();
        assert!(poll.is_worth_it(now, true) && !poll.is_worth_it(now + WINDOW, true));
        assert_eq!(sleeps(&mut poll, now), 1);
    }

    #[test]
    fn nobody_looks_while_another_connection_is_awake() {
        let (mut poll, now) = (BusyPoll::new(), Instant::now());
        assert!(!poll.is_worth_it(now, false));
        assert!(poll.is_worth_it(now, true));
        assert!(!poll.is_worth_it(now, false), "one that wakes ends it");
    }
}
